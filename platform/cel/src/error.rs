//! What can go wrong: when an expression is compiled, and when it is evaluated.

use std::{fmt, sync::Arc};

/// Why an expression was not accepted.
///
/// Its text is that of cel-go's `Issues.String()`: one entry an error, each with its place and the line it is in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct CompileError {
    pub(crate) text: String,
}

impl CompileError {
    /// An error of the whole expression.
    pub(crate) fn nowhere(message: &str) -> Self {
        Self { text: format!("ERROR: <input>:-1:0: {message}") }
    }

    /// Errors at places of a source, in the order of their places.
    pub(crate) fn at(source: &str, mut places: Vec<(usize, String)>) -> Self {
        places.sort_by_key(|(at, _)| *at);
        places.dedup();
        let texts: Vec<String> = places.iter().map(|(at, message)| shown(source, *at, message)).collect();
        Self { text: texts.join("\n") }
    }
}

/// One error the way cel-go shows it: place, message, the line, and a mark below it.
fn shown(source: &str, at: usize, message: &str) -> String {
    let (mut line, mut start) = (1, 0);
    let characters: Vec<char> = source.chars().collect();
    for (index, character) in characters.iter().enumerate().take(at) {
        if *character == '\n' {
            line += 1;
            start = index + 1;
        }
    }
    let column = at.min(characters.len()).saturating_sub(start);
    let text: String = characters[start.min(characters.len())..].iter().take_while(|c| **c != '\n').collect();
    let text = text.replace('\t', " ");
    let mark: String = characters[start.min(characters.len())..]
        .iter()
        .take(column)
        .map(|character| if character.len_utf8() > 1 { '\u{ff0e}' } else { '.' })
        .collect();
    // A mark below a wide character is wide too.
    let wide = characters.get(start + column).is_some_and(|character| character.len_utf8() > 1);
    let end = if wide { '\u{ff3e}' } else { '^' };
    format!("ERROR: <input>:{line}:{}: {message}\n | {text}\n | {mark}{end}", column + 1)
}

/// Why an evaluation has no value. Texts are cel-go's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvaluationError {
    /// An error of the expression, such as `no such key: x` or `division by zero`; logical operators may absorb it.
    Failed(Arc<str>),
    /// One evaluation cost more than [`PER_CALL_LIMIT`](crate::PER_CALL_LIMIT).
    CostLimit,
    /// The budget of all evaluations is used up.
    Budget,
    /// The value has another type than was asked for.
    Type(Arc<str>),
}

impl EvaluationError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self::Failed(text.into().into())
    }

    /// No function takes values of these types.
    pub(crate) fn overload() -> Self {
        Self::Failed("no such overload".into())
    }

    /// Whether a logical operator whose other side decides may ignore it.
    pub(crate) fn is_absorbable(&self) -> bool {
        matches!(self, Self::Failed(_))
    }

    /// Whether a limit of cost ended the evaluation, so that nothing more should be evaluated.
    #[must_use]
    pub fn is_out_of_cost(&self) -> bool {
        matches!(self, Self::CostLimit | Self::Budget)
    }
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Type(text) => f.write_str(text),
            Self::CostLimit => f.write_str("operation cancelled: actual cost limit exceeded"),
            Self::Budget => {
                f.write_str("validation failed due to running out of cost budget, no further validation rules will be run")
            }
        }
    }
}

impl std::error::Error for EvaluationError {}
