//! Templates of `line_format` and `label_format`: the part of Go's text/template that Loki's users write.
//!
//! Text with `{{ … }}`: fields (`.label`), strings, numbers, pipelines, parentheses, `if`/`else if`/`else`/`end`, trimming (`{{-`, `-}}`),
//! comments, and the functions of [`call`]. Anything else is refused when the query is read.

use regex::Regex;

use super::{pipeline::Line, units};

mod functions;
use functions::{Value, arity, call};

/// A parsed template.
#[derive(Clone, Debug)]
pub(crate) struct Template(Vec<Node>);

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Print(Pipe),
    /// Conditions with what they lead to; the last may be without one.
    If(Vec<(Option<Pipe>, Vec<Node>)>),
}

/// Commands; each gets what the one before it gave as its last argument.
#[derive(Clone, Debug)]
struct Pipe(Vec<Command>);

#[derive(Clone, Debug)]
enum Command {
    Value(Operand),
    Call(String, Vec<Operand>),
}

#[derive(Clone, Debug)]
enum Operand {
    Field(String),
    Literal(Value),
    Pipe(Box<Pipe>),
    /// A function without arguments.
    Call(String),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = pieces(text)?.into_iter();
        let (nodes, end) = nodes(&mut pieces, 0)?;
        match end {
            None => Ok(Self(nodes)),
            Some(word) => Err(format!("unexpected {{{{{word}}}}}")),
        }
    }

    /// The text for a line.
    pub(crate) fn render(&self, line: &Line<'_>) -> Result<String, String> {
        let mut text = String::new();
        render(&self.0, line, &mut text)?;
        Ok(text)
    }
}

fn render(nodes: &[Node], line: &Line<'_>, text: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(piece) => text.push_str(piece),
            Node::Print(pipe) => text.push_str(&pipe.value(line)?.text()),
            Node::If(branches) => {
                for (condition, body) in branches {
                    let holds = match condition {
                        Some(condition) => condition.value(line)?.is_true(),
                        None => true,
                    };
                    if holds {
                        render(body, line, text)?;
                        break;
                    }
                }
            }
        }
    }
    Ok(())
}

impl Pipe {
    fn value(&self, line: &Line<'_>) -> Result<Value, String> {
        let mut last = None;
        for command in &self.0 {
            last = Some(match command {
                Command::Value(operand) => operand.value(line)?,
                Command::Call(name, operands) => {
                    let arguments = operands.iter().map(|operand| operand.value(line)).chain(last.map(Ok));
                    call(name, &arguments.collect::<Result<Vec<_>, _>>()?, line)?
                }
            });
        }
        Ok(last.unwrap_or_else(|| Value::Text(String::new())))
    }
}

impl Operand {
    fn value(&self, line: &Line<'_>) -> Result<Value, String> {
        match self {
            Self::Field(name) => Ok(Value::Text(line.get(name).to_owned())),
            Self::Literal(value) => Ok(value.clone()),
            Self::Pipe(pipe) => pipe.value(line),
            Self::Call(name) => call(name, &[], line),
        }
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Text and actions, with whitespace trimmed where an action says so.
fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let end = action_end(after).ok_or("unclosed action")?;
        let (mut action, next) = (&after[..end], &after[end + 2..]);
        let mut before = if trim_next { before.trim_start() } else { before };
        if let Some(trimmed) = action.strip_prefix("- ") {
            action = trimmed;
            before = before.trim_end();
        }
        trim_next = action.ends_with(" -");
        action = action.strip_suffix(" -").unwrap_or(action).trim();
        pieces.push(Piece::Text(before.to_owned()));
        if !action.starts_with("/*") {
            pieces.push(Piece::Action(action.to_owned()));
        }
        rest = next;
    }
    pieces.push(Piece::Text(if trim_next { rest.trim_start() } else { rest }.to_owned()));
    Ok(pieces)
}

/// Where `}}` closes an action, outside its strings.
fn action_end(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// Nodes up to the end, or to an `else` or `end`, which is returned.
fn nodes(pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<(Vec<Node>, Option<String>), String> {
    if depth > 16 {
        return Err("nested too deeply".to_owned());
    }
    let mut nodes_ = Vec::new();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Text(text) if text.is_empty() => {}
            Piece::Text(text) => nodes_.push(Node::Text(text)),
            Piece::Action(action) => {
                let word = action.split_whitespace().next().unwrap_or_default();
                match word {
                    "end" | "else" => return Ok((nodes_, Some(action))),
                    "if" => nodes_.push(branches(action["if".len()..].trim(), pieces, depth)?),
                    "range" | "with" | "define" | "template" | "block" | "break" | "continue" => {
                        return Err(format!("{word} is not supported"));
                    }
                    _ => nodes_.push(Node::Print(pipe(&action)?)),
                }
            }
        }
    }
    Ok((nodes_, None))
}

fn branches(condition: &str, pieces: &mut std::vec::IntoIter<Piece>, depth: usize) -> Result<Node, String> {
    let mut branches = Vec::new();
    let mut condition = Some(pipe(condition)?);
    loop {
        let (body, end) = nodes(pieces, depth + 1)?;
        let last = condition.is_none();
        branches.push((condition.take(), body));
        match end.as_deref() {
            Some("end") => return Ok(Node::If(branches)),
            Some("else") if !last => {}
            Some(action) if !last => match action["else".len()..].trim().strip_prefix("if ") {
                Some(next) => condition = Some(pipe(next)?),
                None => return Err(format!("unexpected {{{{{action}}}}}")),
            },
            _ => return Err("unexpected end of if".to_owned()),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Word {
    Field(String),
    Name(String),
    Literal(Value),
    Open,
    Close,
    Bar,
}

fn pipe(text: &str) -> Result<Pipe, String> {
    let words = words(text)?;
    let mut at = 0;
    let pipe = pipe_of(&words, &mut at, 0)?;
    if at == words.len() { Ok(pipe) } else { Err(format!("unexpected \")\" in {text}")) }
}

fn pipe_of(words: &[Word], at: &mut usize, depth: usize) -> Result<Pipe, String> {
    if depth > 16 {
        return Err("nested too deeply".to_owned());
    }
    let mut commands = Vec::new();
    loop {
        let mut operands = Vec::new();
        let name = match words.get(*at) {
            Some(Word::Name(name)) => {
                *at += 1;
                Some(name.clone())
            }
            _ => None,
        };
        while let Some(word) = words.get(*at) {
            operands.push(match word {
                Word::Bar | Word::Close => break,
                Word::Field(name) => Operand::Field(name.clone()),
                Word::Literal(value) => Operand::Literal(value.clone()),
                Word::Name(name) => {
                    check(name, 0)?;
                    Operand::Call(name.clone())
                }
                Word::Open => {
                    *at += 1;
                    let inner = pipe_of(words, at, depth + 1)?;
                    if words.get(*at) != Some(&Word::Close) {
                        return Err("unclosed left paren".to_owned());
                    }
                    Operand::Pipe(Box::new(inner))
                }
            });
            *at += 1;
        }
        commands.push(match (name, operands.len()) {
            (Some(name), count) => {
                check(&name, count + usize::from(!commands.is_empty()))?;
                Command::Call(name, operands)
            }
            (None, 1) if commands.is_empty() => Command::Value(operands.remove(0)),
            (None, 0) => return Err("missing value for command".to_owned()),
            (None, _) => return Err("can't give argument to non-function".to_owned()),
        });
        if words.get(*at) != Some(&Word::Bar) {
            return Ok(Pipe(commands));
        }
        *at += 1;
    }
}

/// Whether there is such a function, and whether it takes so many arguments.
fn check(name: &str, count: usize) -> Result<(), String> {
    let Some((least, most)) = arity(name) else { return Err(format!("function {name:?} not defined")) };
    if (least..=most).contains(&count) {
        Ok(())
    } else {
        Err(format!("wrong number of args for {name}: want {least} got {count}"))
    }
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(c) = rest.chars().next() {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let (word, used) = match c {
            '|' => (Word::Bar, 1),
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            '.' => {
                let end = rest[1..].find(|c| !is_name(c)).map_or(rest.len(), |at| at + 1);
                (Word::Field(rest[1..end].to_owned()), end)
            }
            '`' => {
                let end = rest[1..].find('`').ok_or("unterminated raw quoted string")?;
                (Word::Literal(Value::Text(rest[1..=end].to_owned())), end + 2)
            }
            '"' => {
                let end = string_end(rest).ok_or("unterminated quoted string")?;
                let value = serde_json::from_str(&rest[..end]).map_err(|_| format!("bad string {}", &rest[..end]))?;
                (Word::Literal(Value::Text(value)), end)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end = rest[1..].find(|c: char| !c.is_ascii_digit() && c != '.').map_or(rest.len(), |at| at + 1);
                let number = &rest[..end];
                let value = match number.parse() {
                    Ok(integer) => Value::Integer(integer),
                    Err(_) => Value::Float(number.parse().map_err(|_| format!("bad number syntax: {number:?}"))?),
                };
                (Word::Literal(value), end)
            }
            c if is_name(c) => {
                let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
                let word = match &rest[..end] {
                    "true" => Word::Literal(Value::Bool(true)),
                    "false" => Word::Literal(Value::Bool(false)),
                    name => Word::Name(name.to_owned()),
                };
                (word, end)
            }
            c => return Err(format!("unexpected {c:?} in command")),
        };
        words.push(word);
        rest = rest[used..].trim_start();
    }
    Ok(words)
}

/// Behind the closing quote of the string that a text begins with.
fn string_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}
