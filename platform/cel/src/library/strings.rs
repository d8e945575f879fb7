//! Strings: the standard functions and `google/cel-go/ext/strings.go` (version 2), which count characters.

use super::convert;
use crate::{EvaluationError, Val, time};

/// Longer than any object; no string is made longer.
const MAX_LENGTH: usize = 32 << 20;

type Outcome<'a> = Result<Val<'a>, EvaluationError>;

/// A function of strings; none if it is something else.
pub(crate) fn call<'a>(function: &str, args: &[Val<'a>]) -> Option<Outcome<'a>> {
    let text = match args {
        [Val::String(text), ..] => &**text,
        [Val::List(list)] if function == "join" => return Some(list.items().and_then(|items| join(&items, ""))),
        [Val::List(list), Val::String(separator)] if function == "join" => {
            return Some(list.items().and_then(|items| join(&items, separator)));
        }
        _ => return None,
    };
    Some(match (function, &args[1..]) {
        ("contains", [Val::String(other)]) => Ok(Val::Bool(text.contains(&**other))),
        ("startsWith", [Val::String(other)]) => Ok(Val::Bool(text.starts_with(&**other))),
        ("endsWith", [Val::String(other)]) => Ok(Val::Bool(text.ends_with(&**other))),
        ("charAt", [Val::Int(at)]) => char_at(text, *at),
        ("indexOf", [Val::String(other)]) => index_of(text, other, 0),
        ("indexOf", [Val::String(other), Val::Int(from)]) => index_of(text, other, *from),
        ("lastIndexOf", [Val::String(other)]) => last_index_of(text, other, None),
        ("lastIndexOf", [Val::String(other), Val::Int(from)]) => last_index_of(text, other, Some(*from)),
        ("lowerAscii", []) => Ok(Val::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::text(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::text(text.trim())),
        ("replace", [Val::String(from), Val::String(to)]) => replace(text, from, to, -1),
        ("replace", [Val::String(from), Val::String(to), Val::Int(count)]) => replace(text, from, to, *count),
        ("split", [Val::String(separator)]) => Ok(split(text, separator, -1)),
        ("split", [Val::String(separator), Val::Int(limit)]) => Ok(split(text, separator, *limit)),
        ("substring", [Val::Int(from)]) => substring(text, *from, None),
        ("substring", [Val::Int(from), Val::Int(to)]) => substring(text, *from, Some(*to)),
        ("format", [Val::List(args)]) => args.items().and_then(|args| format(text, &args)),
        ("strings.quote", []) => Ok(Val::text(quote(text))),
        _ => return None,
    })
}

fn outside<'a>(at: i64) -> Outcome<'a> {
    Err(EvaluationError::new(format!("index out of range: {at}")))
}

fn char_at<'a>(text: &str, at: i64) -> Outcome<'a> {
    let length = text.chars().count();
    match usize::try_from(at) {
        Ok(index) if index <= length => Ok(Val::text(text.chars().nth(index).map(String::from).unwrap_or_default())),
        _ => outside(at),
    }
}

fn index_of<'a>(text: &str, other: &str, from: i64) -> Outcome<'a> {
    let characters: Vec<char> = text.chars().collect();
    let wanted: Vec<char> = other.chars().collect();
    let Ok(start) = usize::try_from(from) else { return outside(from) };
    if start > characters.len() || (start == characters.len() && start > 0) {
        return outside(from);
    }
    if wanted.is_empty() {
        return Ok(Val::Int(from));
    }
    let found = characters[start..].windows(wanted.len()).position(|part| part == wanted);
    Ok(Val::Int(found.and_then(|at| i64::try_from(at + start).ok()).unwrap_or(-1)))
}

fn last_index_of<'a>(text: &str, other: &str, from: Option<i64>) -> Outcome<'a> {
    let characters: Vec<char> = text.chars().collect();
    let wanted: Vec<char> = other.chars().collect();
    let length = i64::try_from(characters.len()).unwrap_or(i64::MAX);
    if let Some(from) = from
        && (from < 0 || (from >= length && from > 0))
    {
        return outside(from);
    }
    if wanted.is_empty() {
        return Ok(Val::Int(from.unwrap_or(length)));
    }
    if wanted.len() > characters.len() {
        return Ok(Val::Int(-1));
    }
    let last = characters.len() - wanted.len();
    let start = from.and_then(|from| usize::try_from(from).ok()).map_or(last, |from| from.min(last));
    let found = (0..=start).rev().find(|at| characters[*at..*at + wanted.len()] == wanted[..]);
    Ok(Val::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

fn replace<'a>(text: &str, from: &str, to: &str, count: i64) -> Outcome<'a> {
    let found = if from.is_empty() { text.len() + 1 } else { text.matches(from).count() };
    if found.min(usize::try_from(count).unwrap_or(usize::MAX)).saturating_mul(to.len()) > MAX_LENGTH {
        return Err(EvaluationError::CostLimit);
    }
    Ok(Val::text(match usize::try_from(count) {
        Ok(count) => text.replacen(from, to, count),
        Err(_) => text.replace(from, to),
    }))
}

fn split<'a>(text: &str, separator: &str, limit: i64) -> Val<'a> {
    let limit = match limit {
        0 => return Val::list(Vec::new()),
        limit => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    if separator.is_empty() {
        // Every character, the rest together.
        let characters: Vec<char> = text.chars().collect();
        let alone = characters.len().min(limit - 1);
        let mut parts: Vec<Val<'a>> = characters[..alone].iter().map(|character| Val::text(character.to_string())).collect();
        if alone < characters.len() {
            parts.push(Val::text(characters[alone..].iter().collect::<String>()));
        }
        return Val::list(parts);
    }
    Val::list(text.splitn(limit, separator).map(Val::text).collect())
}

fn substring<'a>(text: &str, from: i64, to: Option<i64>) -> Outcome<'a> {
    let characters: Vec<char> = text.chars().collect();
    let Some(start) = usize::try_from(from).ok().filter(|start| *start <= characters.len()) else { return outside(from) };
    let end = match to {
        None => characters.len(),
        Some(to) => match usize::try_from(to).ok().filter(|end| *end <= characters.len()) {
            Some(end) => end,
            None => return outside(to),
        },
    };
    if start > end {
        let to = to.unwrap_or_default();
        return Err(EvaluationError::new(format!("invalid substring range. start: {from}, end: {to}")));
    }
    Ok(Val::text(characters[start..end].iter().collect::<String>()))
}

fn join<'a>(items: &[Val<'a>], separator: &str) -> Outcome<'a> {
    let parts: Option<Vec<&str>> = items.iter().map(Val::as_str).collect();
    match parts {
        Some(parts) => Ok(Val::text(parts.join(separator))),
        None => Err(EvaluationError::overload()),
    }
}

fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{b}' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn format<'a>(template: &str, args: &[Val<'a>]) -> Outcome<'a> {
    let mut text = String::new();
    let mut args = args.iter().enumerate();
    let mut characters = template.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        if characters.next_if_eq(&'%').is_some() {
            text.push('%');
            continue;
        }
        let mut precision = None;
        if characters.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().filter(|precision| *precision <= 100);
            if precision.is_none() {
                return Err(EvaluationError::new("could not parse formatting clause: error while parsing precision"));
            }
        }
        let Some(verb) = characters.next() else {
            return Err(EvaluationError::new("unexpected end of string"));
        };
        let Some((at, value)) = args.next() else {
            return Err(EvaluationError::new(format!("index {} out of range", args.len())));
        };
        let part = clause(verb, precision, value)
            .map_err(|why| EvaluationError::new(format!("error during formatting: {why} (argument {at})")))?;
        text.push_str(&part);
        if text.len() > MAX_LENGTH {
            return Err(EvaluationError::CostLimit);
        }
    }
    Ok(Val::text(text))
}

fn clause(verb: char, precision: Option<usize>, value: &Val<'_>) -> Result<String, String> {
    let wrong = |wanted: &str| Err(format!("{wanted} clause can only be used on other types, was given {}", value.type_name()));
    match (verb, value) {
        ('s', value) => shown(value),
        ('d', Val::Int(value)) => Ok(value.to_string()),
        ('d', Val::Uint(value)) => Ok(value.to_string()),
        ('d', Val::Double(value)) if !value.is_finite() => Ok(not_finite(*value)),
        ('f', value) => match number(value) {
            Some(value) if !value.is_finite() => Ok(not_finite(value)),
            Some(value) => Ok(format!("{value:.*}", precision.unwrap_or(6))),
            None => wrong("fixed-point"),
        },
        ('e', value) => match number(value) {
            Some(value) if !value.is_finite() => Ok(not_finite(value)),
            Some(value) => Ok(scientific(value, precision.unwrap_or(6))),
            None => wrong("scientific"),
        },
        ('b', Val::Int(value)) => Ok(signed(*value, |value| format!("{value:b}"))),
        ('b', Val::Uint(value)) => Ok(format!("{value:b}")),
        ('b', Val::Bool(value)) => Ok(u8::from(*value).to_string()),
        ('o', Val::Int(value)) => Ok(signed(*value, |value| format!("{value:o}"))),
        ('o', Val::Uint(value)) => Ok(format!("{value:o}")),
        ('x', Val::Int(value)) => Ok(signed(*value, |value| format!("{value:x}"))),
        ('x', Val::Uint(value)) => Ok(format!("{value:x}")),
        ('x', Val::String(text)) => Ok(text.bytes().map(|byte| format!("{byte:02x}")).collect()),
        ('x', Val::Bytes(bytes)) => Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        ('X', value) => clause('x', None, value).map(|text| text.to_uppercase()),
        ('d', _) => wrong("decimal"),
        ('b', _) => wrong("binary"),
        ('o', _) => wrong("octal"),
        ('x', _) => wrong("hex"),
        _ => Err(format!("could not parse formatting clause: unrecognized formatting clause \"{verb}\"")),
    }
}

fn signed(value: i64, digits: fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

fn not_finite(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
}

#[expect(clippy::cast_precision_loss, reason = "the nearest is wanted")]
fn number(value: &Val<'_>) -> Option<f64> {
    match value {
        Val::Double(value) => Some(*value),
        Val::Int(value) => Some(*value as f64),
        Val::Uint(value) => Some(*value as f64),
        _ => None,
    }
}

/// `3.140000×10⁰⁰`, as version 2 of the library has it.
fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let raised: String = format!("{:02}", exponent.abs())
        .chars()
        .filter_map(|digit| Some(['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'][usize::try_from(digit.to_digit(10)?).ok()?]))
        .collect();
    format!("{digits}×10{}{raised}", if exponent < 0 { "⁻" } else { "" })
}

/// A value as `%s` shows it.
fn shown(value: &Val<'_>) -> Result<String, String> {
    Ok(match value {
        Val::Null => "null".to_owned(),
        Val::String(text) => text.to_string(),
        Val::Bool(value) => value.to_string(),
        Val::Int(value) => value.to_string(),
        Val::Uint(value) => value.to_string(),
        Val::Double(value) if !value.is_finite() => not_finite(*value),
        Val::Double(value) => convert::shortest(*value),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Duration(nanos) => time::seconds(*nanos),
        Val::Timestamp(moment) => moment.to_string(),
        Val::Type(name) => name.to_string(),
        Val::List(list) => {
            let items = list.items().map_err(|error| error.to_string())?;
            let items: Result<Vec<String>, String> = items.iter().map(inner).collect();
            format!("[{}]", items?.join(", "))
        }
        Val::Map(map) => {
            let entries = map.entries().map_err(|error| error.to_string())?;
            let mut parts = Vec::new();
            for (key, value) in &entries {
                parts.push(format!("{}: {}", inner(key)?, inner(value)?));
            }
            format!("{{{}}}", parts.join(", "))
        }
        other => {
            let takes = "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps";
            return Err(format!("string clause can only be used on {takes}, was given {}", other.type_name()));
        }
    })
}

/// A value inside of a list or map.
fn inner(value: &Val<'_>) -> Result<String, String> {
    match value {
        Val::String(text) => Ok(quote(text)),
        Val::Duration(nanos) => Ok(format!("duration({})", quote(&time::seconds(*nanos)))),
        Val::Timestamp(moment) => Ok(format!("timestamp({})", quote(&moment.to_string()))),
        Val::Double(value) if value.is_finite() => Ok(format!("{value:.6}")),
        other => shown(other),
    }
}
