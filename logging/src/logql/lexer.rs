use super::ParseError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Identifier(String),
    String(String),
    Number(f64),
    /// Seconds, and as it was written.
    Duration(f64, String),
    Bytes(f64),
    /// `--strict`
    Flag(String),
    Symbol(&'static str),
    End,
}

/// A token and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) line: usize,
    pub(super) column: usize,
}

/// Longest first.
const SYMBOLS: [&str; 32] = [
    "|=", "|~", "|>", "!=", "!~", "!>", "=~", "==", ">=", "<=", "{", "}", "(", ")", "[", "]", ",", "|", "=", ">", "<", "+", "-",
    "*", "/", "%", "^", ".", ":", ";", "$", "@",
];

impl Token {
    /// As Loki names it in errors.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Identifier(name) if is_keyword(name) => name.clone(),
            Self::Identifier(_) => "IDENTIFIER".to_owned(),
            Self::String(_) => "STRING".to_owned(),
            Self::Number(_) => "NUMBER".to_owned(),
            Self::Duration(..) => "DURATION".to_owned(),
            Self::Bytes(_) => "BYTES".to_owned(),
            Self::Flag(_) => "PARSER_FLAG".to_owned(),
            Self::Symbol(symbol) => (*symbol).to_owned(),
            Self::End => "$end".to_owned(),
        }
    }
}

fn is_keyword(name: &str) -> bool {
    matches!(
        name,
        "by" | "without" | "on" | "ignoring" | "bool" | "offset" | "unwrap" | "json" | "logfmt" | "or" | "and" | "unless"
    )
}

pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, ParseError> {
    let mut lexer = Lexer { text, at: 0, line: 1, column: 1 };
    let mut tokens = Vec::new();
    loop {
        let placed = lexer.next()?;
        let done = placed.token == Token::End;
        tokens.push(placed);
        if done {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    column: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, bytes: usize) -> &'a str {
        let eaten = &self.rest()[..bytes];
        for c in eaten.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.at += bytes;
        eaten
    }

    fn eat_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest().find(|c| !keep(c)).unwrap_or(self.rest().len());
        self.eat(end)
    }

    fn next(&mut self) -> Result<Placed, ParseError> {
        loop {
            self.eat_while(char::is_whitespace);
            if !self.rest().starts_with('#') {
                break;
            }
            self.eat_while(|c| c != '\n');
        }
        let (line, column) = (self.line, self.column);
        let fail = |message: String| ParseError::At { line, column, message };
        let rest = self.rest();
        let token = match rest.chars().next() {
            None => Token::End,
            Some('"' | '\'') => Token::String(self.quoted().map_err(fail)?),
            Some('`') => {
                let Some(end) = rest[1..].find('`') else { return Err(fail("literal not terminated".to_owned())) };
                Token::String(self.eat(end + 2)[1..=end].to_owned())
            }
            Some(c) if c.is_ascii_digit() || (c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                self.number().map_err(fail)?
            }
            Some(c) if c.is_alphabetic() || c == '_' => {
                Token::Identifier(self.eat_while(|c| c.is_alphanumeric() || c == '_').to_owned())
            }
            Some('-') if rest.starts_with("--") && rest[2..].starts_with(|c: char| c.is_ascii_alphabetic()) => {
                self.eat(2);
                Token::Flag(self.eat_while(|c| c.is_ascii_alphabetic() || c == '-').to_owned())
            }
            Some(c) => match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => {
                    self.eat(symbol.len());
                    Token::Symbol(symbol)
                }
                None => return Err(fail(format!("syntax error: unexpected character {c:?}"))),
            },
        };
        Ok(Placed { token, line, column })
    }

    /// A Go string literal.
    fn quoted(&mut self) -> Result<String, String> {
        let rest = self.rest();
        let quote = rest.as_bytes()[0] as char;
        let mut value = String::new();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.eat(at + 1);
                    return Ok(value);
                }
                '\n' => break,
                '\\' => {
                    let Some((_, escaped)) = chars.next() else { break };
                    let mut code = |digits: usize, radix: u32, first: &str| {
                        let text: String = first.chars().chain(chars.by_ref().take(digits).map(|(_, c)| c)).collect();
                        u32::from_str_radix(&text, radix).ok().and_then(char::from_u32).ok_or("invalid character literal")
                    };
                    value.push(match escaped {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        'a' => '\u{7}',
                        'b' => '\u{8}',
                        'f' => '\u{c}',
                        'v' => '\u{b}',
                        '\\' | '"' | '\'' => escaped,
                        'x' => code(2, 16, "")?,
                        'u' => code(4, 16, "")?,
                        'U' => code(8, 16, "")?,
                        '0'..='7' => code(2, 8, &escaped.to_string())?,
                        _ => return Err("invalid char escape".to_owned()),
                    });
                }
                c => value.push(c),
            }
        }
        Err("literal not terminated".to_owned())
    }

    fn number(&mut self) -> Result<Token, String> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let mut end = 0;
        while end < bytes.len() {
            let exponent = matches!(bytes[end], b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E') && {
                bytes[..end - 1].iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
            };
            if !(bytes[end].is_ascii_alphanumeric() || bytes[end] == b'.' || exponent || !bytes[end].is_ascii()) {
                break;
            }
            end += 1;
        }
        let text = self.eat(end);
        let hex = text.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        if let Some(number) = hex.map(|hex| hex as f64).or_else(|| text.parse().ok()) {
            Ok(Token::Number(number))
        } else if let Some(seconds) = super::units::duration_seconds(text) {
            Ok(Token::Duration(seconds, text.to_owned()))
        } else if let Some(bytes) = super::units::bytes(text) {
            Ok(Token::Bytes(bytes))
        } else {
            Err(format!("syntax error: bad number {text}"))
        }
    }
}
