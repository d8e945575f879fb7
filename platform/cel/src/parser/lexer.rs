//! Tokens.

use std::sync::Arc;

use super::strings;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// Operators, brackets and the words `in`, `true`, `false` and `null`.
    Symbol(&'static str),
    Ident(Arc<str>),
    /// An identifier between backquotes.
    Escaped(Arc<str>),
    Int(String),
    Uint(String),
    Double(String),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    End,
}

impl Token {
    /// The way errors show it.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Symbol(text) => (*text).to_owned(),
            Self::Ident(text) => text.to_string(),
            Self::Escaped(text) => format!("`{text}`"),
            Self::Int(text) | Self::Double(text) => text.clone(),
            Self::Uint(text) => format!("{text}u"),
            Self::Text(text) => format!("\"{text}\""),
            Self::Bytes(bytes) => format!("b\"{}\"", String::from_utf8_lossy(bytes)),
            Self::End => "<EOF>".to_owned(),
        }
    }

    pub(super) fn starts_expression(&self) -> bool {
        match self {
            Self::Symbol(text) => matches!(*text, "[" | "{" | "(" | "." | "-" | "!" | "true" | "false" | "null"),
            Self::Escaped(_) | Self::End => false,
            _ => true,
        }
    }
}

/// Tokens with their places, ending with [`Token::End`], and what is none.
pub(super) struct Lexed {
    pub(super) tokens: Vec<(Token, usize)>,
    pub(super) errors: Vec<(usize, String)>,
}

/// Longer ones first.
const SYMBOLS: [&str; 23] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/"];

pub(super) fn lex(source: &str) -> Lexed {
    let characters: Vec<char> = source.chars().collect();
    let mut lexed = Lexed { tokens: Vec::new(), errors: Vec::new() };
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let length = match rest[0] {
            ' ' | '\t' | '\r' | '\n' | '\u{c}' => 1,
            '/' if rest.get(1) == Some(&'/') => rest.iter().take_while(|c| **c != '\n').count(),
            _ => match token(rest) {
                Ok((token, length)) => {
                    lexed.tokens.push((token, at));
                    length
                }
                Err(length) => {
                    let text: String = rest[..length].iter().collect();
                    lexed.errors.push((at, format!("Syntax error: token recognition error at: '{text}'")));
                    length
                }
            },
        };
        at += length;
    }
    lexed.tokens.push((Token::End, characters.len()));
    lexed
}

/// A token and its length, or the length of what is none.
fn token(rest: &[char]) -> Result<(Token, usize), usize> {
    if let Some(string) = strings::literal(rest) {
        return string;
    }
    let first = rest[0];
    let second_is_digit = rest.get(1).is_some_and(char::is_ascii_digit);
    if first.is_ascii_digit() || (first == '.' && second_is_digit) {
        return Ok(number(rest));
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let word: String = rest.iter().take_while(|c| c.is_ascii_alphanumeric() || **c == '_').collect();
        let length = word.len();
        let token = match word.as_str() {
            "in" => Token::Symbol("in"),
            "true" => Token::Symbol("true"),
            "false" => Token::Symbol("false"),
            "null" => Token::Symbol("null"),
            _ => Token::Ident(word.into()),
        };
        return Ok((token, length));
    }
    if first == '`' {
        let inner = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/' | ' ');
        let word: String = rest[1..].iter().take_while(|c| inner(c)).collect();
        let length = word.len();
        return match rest.get(length + 1) {
            Some('`') if length > 0 => Ok((Token::Escaped(word.into()), length + 2)),
            _ => Err(length + 1),
        };
    }
    if first == '%' {
        return Ok((Token::Symbol("%"), 1));
    }
    let matches = |symbol: &&&str| symbol.chars().enumerate().all(|(index, c)| rest.get(index) == Some(&c));
    match SYMBOLS.iter().find(matches) {
        Some(symbol) => Ok((Token::Symbol(symbol), symbol.len())),
        // ANTLR takes what follows half an operator with it.
        None if matches!(first, '|' | '&' | '=') && rest.len() > 1 => Err(2),
        None => Err(1),
    }
}

fn number(rest: &[char]) -> (Token, usize) {
    let digits = |from: usize| rest[from..].iter().take_while(|c| c.is_ascii_digit()).count();
    let is_unsigned = |at: usize| matches!(rest.get(at), Some('u' | 'U'));
    if rest[0] == '0' && rest.get(1) == Some(&'x') && rest.get(2).is_some_and(char::is_ascii_hexdigit) {
        let length = 2 + rest[2..].iter().take_while(|c| c.is_ascii_hexdigit()).count();
        let text = rest[..length].iter().collect();
        return if is_unsigned(length) { (Token::Uint(text), length + 1) } else { (Token::Int(text), length) };
    }
    let mut length = digits(0);
    let mut double = false;
    if rest.get(length) == Some(&'.') && rest.get(length + 1).is_some_and(char::is_ascii_digit) {
        double = true;
        length += 1 + digits(length + 1);
    }
    if matches!(rest.get(length), Some('e' | 'E')) {
        let sign = usize::from(matches!(rest.get(length + 1), Some('+' | '-')));
        if rest.get(length + 1 + sign).is_some_and(char::is_ascii_digit) {
            double = true;
            length += 1 + sign + digits(length + 1 + sign);
        }
    }
    let text: String = rest[..length].iter().collect();
    if double {
        return (Token::Double(text), length);
    }
    if is_unsigned(length) { (Token::Uint(text), length + 1) } else { (Token::Int(text), length) }
}
