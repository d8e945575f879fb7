//! From text to a tree.
//!
//! The grammar and most texts of errors are those of `google/cel-go/parser`. Where ANTLR would go on after a syntax error, this
//! stops and tells the first.

mod lexer; // Tokens,
mod macros; // macros,
mod strings; // and string literals.

use std::sync::Arc;

use lexer::{Lexed, Token};

use crate::{
    CompileError, Value,
    ast::{Entry, Expr, Field, Kind},
};

/// The longest expression, in characters.
const MAX_SIZE: usize = 100_000;

/// How deep expressions may be nested. (Upstream: 250. Here a level must fit in the stack of any thread, unoptimised too.)
pub(crate) const MAX_DEPTH: usize = 100;

const EXPRESSION: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
                          IDENTIFIER}";

/// Parses an expression: the tree, and how many ids it has.
///
/// # Errors
///
/// Syntax, in cel-go's words.
pub(crate) fn parse(source: &str) -> Result<(Expr, usize), CompileError> {
    let size = source.chars().count();
    if size > MAX_SIZE {
        return Err(CompileError::nowhere(&format!("expression code point size exceeds limit: size: {size}, limit {MAX_SIZE}")));
    }
    let Lexed { tokens, errors } = lexer::lex(source);
    let mut parser = Parser { tokens, at: 0, depth: 0, ids: 0, errors };
    let expr = parser.whole();
    if parser.depth > MAX_DEPTH {
        return Err(too_deep());
    }
    match expr {
        Some(expr) if parser.errors.is_empty() => Ok((expr, parser.ids)),
        _ => Err(CompileError::at(source, parser.errors)),
    }
}

fn too_deep() -> CompileError {
    CompileError::nowhere(&format!("expression recursion limit exceeded: {MAX_DEPTH}"))
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    at: usize,
    /// How deep the parser is; above [`MAX_DEPTH`] for good once that was too deep.
    depth: usize,
    ids: usize,
    errors: Vec<(usize, String)>,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |(token, _)| token)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        self.tokens.get(self.at + ahead).map_or(&Token::End, |(token, _)| token)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(0, |(_, at)| *at)
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn eat(&mut self, symbol: &str) -> bool {
        let found = self.is(symbol);
        if found {
            self.at += 1;
        }
        found
    }

    fn is(&self, symbol: &str) -> bool {
        matches!(self.peek(), Token::Symbol(found) if *found == symbol)
    }

    fn refuse(&mut self, at: usize, message: impl Into<String>) {
        self.errors.push((at, message.into()));
    }

    fn syntax(&mut self, message: &str) {
        let at = self.place();
        self.refuse(at, format!("Syntax error: {message}"));
    }

    fn expect(&mut self, symbol: &str) -> Option<()> {
        if self.eat(symbol) {
            return Some(());
        }
        let found = self.peek().shown();
        if *self.peek() == Token::End {
            self.syntax(&format!("missing '{symbol}' at '{found}'"));
        } else {
            self.syntax(&format!("mismatched input '{found}' expecting '{symbol}'"));
        }
        None
    }

    /// A node; none, and no way on, when it is too high.
    fn node(&mut self, at: usize, kind: Kind) -> Option<Expr> {
        let id = self.ids;
        self.ids += 1;
        let height = height(&kind) + 1;
        if height > MAX_DEPTH {
            self.depth = MAX_DEPTH + 1;
            return None;
        }
        Some(Expr { id, at, height, kind })
    }

    fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Option<Expr> {
        self.node(at, Kind::Call { function: function.into(), target: None, args })
    }

    fn literal(&mut self, at: usize, value: Value) -> Option<Expr> {
        self.node(at, Kind::Literal(value))
    }

    fn whole(&mut self) -> Option<Expr> {
        let expr = self.expr()?;
        if *self.peek() != Token::End {
            let found = self.peek().shown();
            let last = *self.peek_at(1) == Token::End;
            let word = if last { "extraneous" } else { "mismatched" };
            self.syntax(&format!("{word} input '{found}' expecting <EOF>"));
            return None;
        }
        Some(expr)
    }

    fn expr(&mut self) -> Option<Expr> {
        if self.depth >= MAX_DEPTH {
            self.depth = MAX_DEPTH + 1;
            return None;
        }
        self.depth += 1;
        let expr = self.ternary();
        if self.depth <= MAX_DEPTH {
            self.depth -= 1;
        }
        expr
    }

    fn ternary(&mut self) -> Option<Expr> {
        let condition = self.chain(true)?;
        let at = self.place();
        if !self.eat("?") {
            return Some(condition);
        }
        let yes = self.chain(true)?;
        self.expect(":")?;
        let no = self.expr()?;
        self.call(at, "_?_:_", vec![condition, yes, no])
    }

    /// A chain of `||` of chains of `&&`. Long ones become trees that are balanced rather than deep.
    fn chain(&mut self, or: bool) -> Option<Expr> {
        let (symbol, function) = if or { ("||", "_||_") } else { ("&&", "_&&_") };
        let mut terms = vec![if or { self.chain(false)? } else { self.binary(0)? }];
        let mut places = Vec::new();
        loop {
            let at = self.place();
            if !self.eat(symbol) {
                return self.balance(function, terms, &places);
            }
            places.push(at);
            terms.push(if or { self.chain(false)? } else { self.binary(0)? });
        }
    }

    fn balance(&mut self, function: &str, mut terms: Vec<Expr>, places: &[usize]) -> Option<Expr> {
        if terms.len() == 1 {
            return terms.pop();
        }
        let middle = terms.len().div_ceil(2);
        let right = terms.split_off(middle);
        let left = self.balance(function, terms, &places[..middle - 1])?;
        let right = self.balance(function, right, &places[middle..])?;
        self.call(places[middle - 1], function, vec![left, right])
    }

    /// Operators that bind at least so strongly.
    fn binary(&mut self, strength: u8) -> Option<Expr> {
        let mut left = self.unary()?;
        loop {
            let (function, binds) = match self.peek() {
                Token::Symbol("<") => ("_<_", 1),
                Token::Symbol("<=") => ("_<=_", 1),
                Token::Symbol(">") => ("_>_", 1),
                Token::Symbol(">=") => ("_>=_", 1),
                Token::Symbol("==") => ("_==_", 1),
                Token::Symbol("!=") => ("_!=_", 1),
                Token::Symbol("in") => ("@in", 1),
                Token::Symbol("+") => ("_+_", 2),
                Token::Symbol("-") => ("_-_", 2),
                Token::Symbol("*") => ("_*_", 3),
                Token::Symbol("/") => ("_/_", 3),
                Token::Symbol("%") => ("_%_", 3),
                _ => return Some(left),
            };
            if binds <= strength {
                return Some(left);
            }
            let at = self.place();
            self.at += 1;
            let right = self.binary(binds)?;
            left = self.call(at, function, vec![left, right])?;
        }
    }

    fn unary(&mut self) -> Option<Expr> {
        let at = self.place();
        if self.is("!") {
            let mut odd = false;
            while self.eat("!") {
                odd = !odd;
            }
            let operand = self.member(false)?;
            return if odd { self.call(at, "!_", vec![operand]) } else { Some(operand) };
        }
        let mut odd = false;
        while self.is("-") {
            // The last one before a number is a part of it.
            if matches!(self.peek_at(1), Token::Int(_) | Token::Double(_)) {
                self.at += 1;
                let operand = self.member(true)?;
                return if odd { self.call(at, "-_", vec![operand]) } else { Some(operand) };
            }
            self.at += 1;
            odd = !odd;
        }
        let operand = self.member(false)?;
        if odd { self.call(at, "-_", vec![operand]) } else { Some(operand) }
    }

    fn member(&mut self, negative: bool) -> Option<Expr> {
        let mut expr = self.primary(negative)?;
        loop {
            let at = self.place();
            expr = if self.eat(".") {
                self.after_dot(expr, at)?
            } else if self.eat("[") {
                let optional = self.eat("?");
                let index = self.expr()?;
                self.expect("]")?;
                self.call(at, if optional { "_[?_]" } else { "_[_]" }, vec![expr, index])?
            } else {
                return Some(expr);
            };
        }
    }

    fn after_dot(&mut self, operand: Expr, at: usize) -> Option<Expr> {
        let optional = self.eat("?");
        let name_at = self.place();
        let (name, escaped) = match self.peek() {
            Token::Ident(name) => (name.clone(), false),
            Token::Escaped(name) => (name.clone(), true),
            other => {
                let found = other.shown();
                self.syntax(&format!("no viable alternative at input '.{found}'"));
                return None;
            }
        };
        self.at += 1;
        if optional {
            let field = self.literal(name_at, Value::text(name))?;
            return self.call(at, "_?._", vec![operand, field]);
        }
        let open = self.place();
        if escaped || !self.eat("(") {
            return self.node(at, Kind::Select { operand: Box::new(operand), field: name, test: false });
        }
        let args = self.arguments()?;
        self.member_call(open, &name, operand, args)
    }

    fn arguments(&mut self) -> Option<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(")") {
            return Some(args);
        }
        loop {
            args.push(self.expr()?);
            if !self.eat(",") {
                self.expect(")")?;
                return Some(args);
            }
        }
    }

    fn primary(&mut self, negative: bool) -> Option<Expr> {
        let at = self.place();
        if self.is("(") {
            self.at += 1;
            let expr = self.expr()?;
            self.expect(")")?;
            return Some(expr);
        }
        match self.peek() {
            Token::Symbol("[") => self.list(at),
            Token::Symbol("{") => self.map(at),
            Token::Symbol(".") | Token::Ident(_) => self.name(at),
            _ => self.constant(at, negative),
        }
    }

    fn constant(&mut self, at: usize, negative: bool) -> Option<Expr> {
        let value = match self.advance() {
            Token::Int(text) => match integer(&text, negative) {
                Some(value) => Value::Int(value),
                None => return self.invalid(at, "invalid int literal"),
            },
            Token::Uint(text) => match unsigned(&text) {
                Some(value) => Value::Uint(value),
                None => return self.invalid(at, "invalid uint literal"),
            },
            Token::Double(text) => match text.parse::<f64>() {
                Ok(value) if value.is_finite() => Value::Double(if negative { -value } else { value }),
                _ => return self.invalid(at, "invalid double literal"),
            },
            Token::Text(text) => Value::text(text),
            Token::Bytes(bytes) => Value::Bytes(bytes),
            Token::Symbol("true") => Value::Bool(true),
            Token::Symbol("false") => Value::Bool(false),
            Token::Symbol("null") => Value::Null,
            other => {
                self.at -= 1;
                // One token too many, or none that could be the right one?
                let extra = other != Token::End && self.peek_at(1).starts_expression();
                let word = if extra { "extraneous" } else { "mismatched" };
                self.syntax(&format!("{word} input '{}' expecting {EXPRESSION}", other.shown()));
                return None;
            }
        };
        let at = if negative { self.tokens.get(self.at.saturating_sub(2)).map_or(at, |(_, at)| *at) } else { at };
        self.literal(at, value)
    }

    fn invalid(&mut self, at: usize, message: &str) -> Option<Expr> {
        self.refuse(at, message);
        None
    }

    fn list(&mut self, at: usize) -> Option<Expr> {
        self.expect("[")?;
        let mut items = Vec::new();
        while !self.eat("]") {
            let optional = self.eat("?");
            items.push((self.expr()?, optional));
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        self.node(at, Kind::List(items))
    }

    fn map(&mut self, at: usize) -> Option<Expr> {
        self.expect("{")?;
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Kind::Map(entries))
    }

    /// A name, a call of a function, or a message.
    fn name(&mut self, at: usize) -> Option<Expr> {
        let mut path = self.message_path();
        let global = self.eat(".");
        let Token::Ident(name) = self.peek().clone() else {
            let found = self.peek().shown();
            self.syntax(&format!("no viable alternative at input '.{found}'"));
            return None;
        };
        if let Some(length) = path.take() {
            return self.message(length);
        }
        self.at += 1;
        if pharos_api::names::is_reserved_in_expressions(&name) {
            self.refuse(at, format!("reserved identifier: {name}"));
        }
        let open = self.place();
        if self.eat("(") {
            let args = self.arguments()?;
            return self.global_call(open, &name, args);
        }
        let _ = global; // There is one container only: the root.
        self.node(at, Kind::Ident(name))
    }

    /// How many tokens `a.b.C` has, if a `{` comes after them.
    fn message_path(&self) -> Option<usize> {
        let mut length = usize::from(self.is("."));
        let start = length;
        while matches!(self.peek_at(length), Token::Ident(_)) {
            length += 1;
            match self.peek_at(length) {
                Token::Symbol("{") => return Some(length - start),
                Token::Symbol(".") => length += 1,
                _ => return None,
            }
        }
        None
    }

    fn message(&mut self, length: usize) -> Option<Expr> {
        let mut name = String::new();
        for _ in 0..length {
            name.push_str(&self.advance().shown());
        }
        let at = self.place();
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let field: Arc<str> = match self.advance() {
                Token::Ident(name) | Token::Escaped(name) => name,
                other => {
                    self.at -= 1;
                    self.syntax(&format!(
                        "mismatched input '{}' expecting {{'}}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}}",
                        other.shown()
                    ));
                    return None;
                }
            };
            self.expect(":")?;
            fields.push(Field { name: field, value: self.expr()?, optional });
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Kind::Struct { name: name.into(), fields })
    }
}

fn height(kind: &Kind) -> usize {
    let tallest = |exprs: &[&Expr]| exprs.iter().map(|expr| expr.height).max().unwrap_or(0);
    match kind {
        Kind::Literal(_) | Kind::Ident(_) => 0,
        Kind::Select { operand, .. } => operand.height,
        Kind::Call { target, args, .. } => {
            let args = args.iter().map(|arg| arg.height).max().unwrap_or(0);
            args.max(target.as_ref().map_or(0, |target| target.height))
        }
        Kind::List(items) => items.iter().map(|(item, _)| item.height).max().unwrap_or(0),
        Kind::Map(entries) => entries.iter().map(|entry| entry.key.height.max(entry.value.height)).max().unwrap_or(0),
        Kind::Struct { fields, .. } => fields.iter().map(|field| field.value.height).max().unwrap_or(0),
        Kind::Comprehension(inner) => tallest(&[&inner.range, &inner.init, &inner.condition, &inner.step, &inner.result]),
    }
}

fn integer(text: &str, negative: bool) -> Option<i64> {
    let value = unsigned_wide(text)?;
    i64::try_from(if negative { -value } else { value }).ok()
}

fn unsigned(text: &str) -> Option<u64> {
    u64::try_from(unsigned_wide(text)?).ok()
}

fn unsigned_wide(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        Some(digits) => i128::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
