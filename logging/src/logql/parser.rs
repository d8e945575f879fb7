//! Recursive descent over the grammar of Loki's `syntax.y`.

mod metric;
mod stages;

use super::{
    ParseError,
    ast::*,
    lexer::{self, Placed, Token},
};

/// The deepest nesting that is read: a query must not exhaust the stack.
const DEEPEST: usize = 64;

/// The most operators of a query, `and` and `or` between label filters included. A chain such as `1 + 1 + 1` is read by a loop
/// but makes a tree as deep as it is long, and the evaluation takes 4 KB of stack for each operator in a debug build.
const MOST_OPERATORS: usize = 250;

/// Reads a query.
///
/// # Errors
/// Loki's words, with line and column.
pub(crate) fn parse(text: &str) -> Result<Expr, ParseError> {
    let mut parser = Parser::new(text)?;
    let expr = parser.expression(0)?;
    parser.end()?;
    check(&expr)?;
    Ok(expr)
}

/// Reads a stream selector alone. An empty one, `{}`, takes all streams.
pub(crate) fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut parser = Parser::new(text)?;
    let matchers = parser.selector()?;
    parser.end()?;
    Ok(matchers)
}

struct Parser {
    tokens: Vec<Placed>,
    at: usize,
    depth: usize,
    operators: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl Parser {
    fn new(text: &str) -> Parsed<Self> {
        Ok(Self { tokens: lexer::tokens(text)?, at: 0, depth: 0, operators: 0 })
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at].token
    }

    fn peek_after(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].token
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.at].token.clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let Placed { line, column, .. } = self.tokens[self.at];
        Err(ParseError::At { line, column, message: message.into() })
    }

    fn unexpected<T>(&self, expecting: &str) -> Parsed<T> {
        let name = self.peek().name();
        let expecting = if expecting.is_empty() { String::new() } else { format!(", expecting {expecting}") };
        self.fail(format!("syntax error: unexpected {name}{expecting}"))
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Identifier(found) if found == word)
    }

    fn accept(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.take();
        }
        found
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.take();
        }
        found
    }

    fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.accept(symbol) { Ok(()) } else { self.unexpected(symbol) }
    }

    fn identifier(&mut self) -> Parsed<String> {
        match self.peek() {
            Token::Identifier(_) => match self.take() {
                Token::Identifier(name) => Ok(name),
                _ => self.unexpected("IDENTIFIER"),
            },
            _ => self.unexpected("IDENTIFIER"),
        }
    }

    fn string(&mut self) -> Parsed<String> {
        match self.peek().clone() {
            Token::String(text) => {
                self.take();
                Ok(text)
            }
            _ => self.unexpected("STRING"),
        }
    }

    fn end(&self) -> Parsed<()> {
        if *self.peek() == Token::End { Ok(()) } else { self.unexpected("") }
    }

    /// Runs a part that may contain itself.
    fn nested<T>(&mut self, part: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEEPEST {
            return self.fail("expression is nested too deeply");
        }
        self.depth += 1;
        let parsed = part(self);
        self.depth -= 1;
        parsed
    }

    /// Counts what makes the tree one level deeper without nesting.
    fn operates(&mut self) -> Parsed<()> {
        if self.operators >= MOST_OPERATORS {
            return self.fail(format!("expression has more than {MOST_OPERATORS} operators"));
        }
        self.operators += 1;
        Ok(())
    }

    /// `{a="b", c=~"d"}`
    fn selector(&mut self) -> Parsed<Vec<Matcher>> {
        self.expect("{")?;
        let mut matchers = Vec::new();
        while !self.accept("}") {
            if !matchers.is_empty() {
                self.expect(",")?;
                if self.accept("}") {
                    break;
                }
            }
            let name = self.identifier()?;
            matchers.push(self.matcher(&name)?);
        }
        Ok(matchers)
    }

    /// What follows a label's name.
    fn matcher(&mut self, name: &str) -> Parsed<Matcher> {
        let op = match self.peek() {
            Token::Symbol("=") => MatchOp::Equal,
            Token::Symbol("!=") => MatchOp::NotEqual,
            Token::Symbol("=~") => MatchOp::Regex,
            Token::Symbol("!~") => MatchOp::NotRegex,
            _ => return self.unexpected("= or != or =~ or !~"),
        };
        self.take();
        let value = self.string()?;
        Matcher::new(name, op, &value).or_else(|error| self.fail(regex_message(&error)))
    }

    fn number(&mut self) -> Parsed<f64> {
        let negative = self.accept("-");
        if !negative {
            self.accept("+");
        }
        match *self.peek() {
            Token::Number(number) => {
                self.take();
                Ok(if negative { -number } else { number })
            }
            _ => self.unexpected("NUMBER"),
        }
    }

    /// Nanoseconds.
    fn duration(&mut self) -> Parsed<i64> {
        match *self.peek() {
            Token::Duration(seconds, _) => {
                self.take();
                Ok((seconds * 1e9) as i64)
            }
            _ => self.unexpected("DURATION"),
        }
    }

    /// `(a, b)`
    fn names(&mut self) -> Parsed<Vec<String>> {
        self.expect("(")?;
        let mut names = Vec::new();
        while !self.accept(")") {
            if !names.is_empty() {
                self.expect(",")?;
            }
            names.push(self.identifier()?);
        }
        Ok(names)
    }
}

fn regex_message(error: &regex::Error) -> String {
    let text = error.to_string();
    format!("error parsing regexp: {}", text.lines().last().unwrap_or(&text).trim_start_matches("error: "))
}

/// What the grammar cannot say.
fn check(expr: &Expr) -> Parsed<()> {
    let log = |log: &LogExpr| {
        let selective = log.matchers.iter().any(|matcher| match matcher.op {
            MatchOp::Equal | MatchOp::Regex => !matcher.matches(""),
            MatchOp::NotEqual | MatchOp::NotRegex => false,
        });
        if selective {
            return Ok(());
        }
        Err(ParseError::Whole(
            "queries require at least one regexp or equality matcher that does not have an empty-compatible value. For instance, \
             app=~\".*\" does not meet this requirement, but app=~\".+\" will"
                .to_owned(),
        ))
    };
    match expr {
        Expr::Log(expr) => log(expr),
        Expr::Number(_) | Expr::Vector(_) => Ok(()),
        Expr::Range(range) => log(&range.log),
        Expr::Aggregation(aggregation) => check(&aggregation.expr),
        Expr::LabelReplace(replace) => check(&replace.expr),
        Expr::Binary(binary) => check(&binary.left).and_then(|()| check(&binary.right)),
    }
}
