use super::*;

/// What a template computes with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
}

impl Value {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => units::sample(*number),
            Self::Bool(value) => value.to_string(),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Integer(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Bool(value) => *value,
        }
    }

    fn float(&self) -> f64 {
        match self {
            Self::Text(text) => text.trim().parse().unwrap_or_default(),
            Self::Integer(number) => *number as f64,
            Self::Float(number) => *number,
            Self::Bool(value) => f64::from(u8::from(*value)),
        }
    }

    fn integer(&self) -> i64 {
        match self {
            Self::Integer(number) => *number,
            other => other.float() as i64,
        }
    }
}

/// The fewest and the most arguments of a function.
pub(super) fn arity(name: &str) -> Option<(usize, usize)> {
    Some(match name {
        "__line__" | "__timestamp__" => (0, 0),
        "ToLower" | "lower" | "ToUpper" | "upper" | "title" | "trim" | "TrimSpace" | "len" | "int" | "float64" | "not"
        | "bytes" | "duration" | "duration_seconds" | "urlencode" | "urldecode" | "ceil" | "floor" | "unixEpoch" => (1, 1),
        "default" | "trimAll" | "trimSuffix" | "trimPrefix" | "Trim" | "TrimLeft" | "TrimRight" | "TrimPrefix" | "TrimSuffix"
        | "trunc" | "contains" | "hasPrefix" | "hasSuffix" | "indent" | "repeat" | "count" | "eq" | "ne" | "lt" | "le" | "gt"
        | "ge" | "sub" | "div" | "mod" | "subf" | "divf" | "min" | "max" => (2, 2),
        "substr" | "replace" | "regexReplaceAll" | "regexReplaceAllLiteral" | "alignLeft" | "alignRight" => (2, 3),
        "Replace" => (4, 4),
        "add" | "mul" | "addf" | "mulf" | "and" | "or" => (2, 16),
        "printf" => (1, 16),
        "print" => (0, 16),
        _ => return None,
    })
}

/// Calls a function that [`arity`] knows, with as many arguments as it takes.
pub(super) fn call(name: &str, arguments: &[Value], line: &Line<'_>) -> Result<Value, String> {
    let text = |at: usize| arguments.get(at).map(Value::text).unwrap_or_default();
    let integer = |at: usize| arguments.get(at).map(Value::integer).unwrap_or_default();
    let float = |at: usize| arguments.get(at).map(Value::float).unwrap_or_default();
    let said = |text: &str| Ok(Value::Text(text.to_owned()));
    let set = |cut: &str, from: &str, left: bool, right: bool| {
        let inside = |c: char| cut.contains(c);
        let from = if left { from.trim_start_matches(inside) } else { from };
        Ok(Value::Text(if right { from.trim_end_matches(inside) } else { from }.to_owned()))
    };
    match name {
        "__line__" => said(&line.text),
        "__timestamp__" => {
            said(&jiff::Timestamp::from_nanosecond(i128::from(line.time)).map(|t| t.to_string()).unwrap_or_default())
        }
        "unixEpoch" => said(&text(0).parse::<jiff::Timestamp>().map(|t| t.as_second().to_string()).map_err(|e| e.to_string())?),
        "ToLower" | "lower" => said(&text(0).to_lowercase()),
        "ToUpper" | "upper" => said(&text(0).to_uppercase()),
        "title" => said(&title(&text(0))),
        "trim" | "TrimSpace" => said(text(0).trim()),
        "len" => Ok(Value::Integer(text(0).len() as i64)),
        "int" => Ok(Value::Integer(integer(0))),
        "float64" => Ok(Value::Float(float(0))),
        "not" => Ok(Value::Bool(!arguments[0].is_true())),
        "bytes" => Ok(Value::Float(units::bytes(&text(0)).unwrap_or_default())),
        "duration" | "duration_seconds" => Ok(Value::Float(units::duration_seconds(&text(0)).unwrap_or_default())),
        "urlencode" => said(&percent_encoding::utf8_percent_encode(&text(0), percent_encoding::NON_ALPHANUMERIC).to_string()),
        "urldecode" => said(&percent_encoding::percent_decode_str(&text(0)).decode_utf8_lossy()),
        "ceil" => Ok(Value::Float(float(0).ceil())),
        "floor" => Ok(Value::Float(float(0).floor())),
        "default" => Ok(arguments[if arguments[1].is_true() { 1 } else { 0 }].clone()),
        "trimAll" => set(&text(0), &text(1), true, true),
        "Trim" => set(&text(1), &text(0), true, true),
        "TrimLeft" => set(&text(1), &text(0), true, false),
        "TrimRight" => set(&text(1), &text(0), false, true),
        "trimPrefix" => said(text(1).strip_prefix(&text(0)).unwrap_or(&text(1))),
        "trimSuffix" => said(text(1).strip_suffix(&text(0)).unwrap_or(&text(1))),
        "TrimPrefix" => said(text(0).strip_prefix(&text(1)).unwrap_or(&text(0))),
        "TrimSuffix" => said(text(0).strip_suffix(&text(1)).unwrap_or(&text(0))),
        "trunc" => said(&truncated(&text(1), integer(0))),
        "contains" => Ok(Value::Bool(text(1).contains(&text(0)))),
        "hasPrefix" => Ok(Value::Bool(text(1).starts_with(&text(0)))),
        "hasSuffix" => Ok(Value::Bool(text(1).ends_with(&text(0)))),
        "indent" => {
            let pad = " ".repeat(integer(0).clamp(0, 256) as usize);
            said(&text(1).lines().map(|line| format!("{pad}{line}")).collect::<Vec<_>>().join("\n"))
        }
        "repeat" => {
            said(&text(1).chars().cycle().take(text(1).chars().count() * integer(0).clamp(0, 1024) as usize).collect::<String>())
        }
        "count" => Ok(Value::Integer(regex(&text(0))?.find_iter(&text(1)).count() as i64)),
        "eq" | "ne" | "lt" | "le" | "gt" | "ge" => Ok(Value::Bool(compare(name, &arguments[0], &arguments[1]))),
        "add" => Ok(Value::Integer(arguments.iter().fold(0, |sum, value| sum.wrapping_add(value.integer())))),
        "mul" => Ok(Value::Integer(arguments.iter().fold(1, |product: i64, value| product.wrapping_mul(value.integer())))),
        "sub" => Ok(Value::Integer(integer(0).wrapping_sub(integer(1)))),
        "div" => integer(0).checked_div(integer(1)).map(Value::Integer).ok_or("integer divide by zero".to_owned()),
        "mod" => integer(0).checked_rem(integer(1)).map(Value::Integer).ok_or("integer divide by zero".to_owned()),
        "min" => Ok(Value::Integer(integer(0).min(integer(1)))),
        "max" => Ok(Value::Integer(integer(0).max(integer(1)))),
        "addf" => Ok(Value::Float(arguments.iter().map(Value::float).sum())),
        "mulf" => Ok(Value::Float(arguments.iter().map(Value::float).product())),
        "subf" => Ok(Value::Float(float(0) - float(1))),
        "divf" => Ok(Value::Float(float(0) / float(1))),
        "and" => Ok(arguments.iter().find(|value| !value.is_true()).unwrap_or(&arguments[arguments.len() - 1]).clone()),
        "or" => Ok(arguments.iter().find(|value| value.is_true()).unwrap_or(&arguments[arguments.len() - 1]).clone()),
        "substr" => {
            let (start, end, text) = (integer(0).max(0) as usize, integer(1), text(2));
            let end = if end < 0 { usize::MAX } else { end as usize };
            said(&text.chars().take(end).skip(start).collect::<String>())
        }
        "replace" => said(&text(2).replace(&text(0), &text(1))),
        "Replace" => match integer(3) {
            count if count < 0 => said(&text(0).replace(&text(1), &text(2))),
            count => said(&text(0).replacen(&text(1), &text(2), count as usize)),
        },
        "regexReplaceAll" => said(&regex(&text(0))?.replace_all(&text(1), text(2).as_str())),
        "regexReplaceAllLiteral" => said(&regex(&text(0))?.replace_all(&text(1), regex::NoExpand(&text(2)))),
        "alignLeft" => said(&aligned(&text(1), integer(0), true)),
        "alignRight" => said(&aligned(&text(1), integer(0), false)),
        "print" => said(&arguments.iter().map(Value::text).collect::<String>()),
        "printf" => said(&printf(&text(0), &arguments[1..])),
        _ => Err(format!("function {name:?} not defined")),
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|_| format!("error parsing regexp: {pattern}"))
}

fn compare(name: &str, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::Text(left), Value::Text(right)) => Some(left.cmp(right)),
        (left, right) => left.float().partial_cmp(&right.float()),
    };
    match name {
        "eq" => order.is_some_and(|order| order.is_eq()),
        "ne" => order.is_none_or(|order| order.is_ne()),
        "lt" => order.is_some_and(|order| order.is_lt()),
        "le" => order.is_some_and(|order| order.is_le()),
        "gt" => order.is_some_and(|order| order.is_gt()),
        _ => order.is_some_and(|order| order.is_ge()),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    let capital = |c: char| {
        let upper = std::mem::replace(&mut start, !c.is_alphanumeric());
        if upper { c.to_uppercase().collect::<String>() } else { c.to_string() }
    };
    text.chars().map(capital).collect()
}

fn truncated(text: &str, length: i64) -> String {
    let count = text.chars().count();
    match usize::try_from(length) {
        Ok(length) => text.chars().take(length).collect(),
        Err(_) => text.chars().skip(count.saturating_sub(length.unsigned_abs() as usize)).collect(),
    }
}

fn aligned(text: &str, width: i64, left: bool) -> String {
    let width = width.clamp(0, 4096) as usize;
    let count = text.chars().count();
    let pad = " ".repeat(width.saturating_sub(count));
    if left {
        text.chars().take(width).collect::<String>() + &pad
    } else {
        pad + &text.chars().skip(count.saturating_sub(width)).collect::<String>()
    }
}

/// `%s %v %d %f %q %%` with flags `-` and `0`, width and precision.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut text = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut spec = String::new();
        while let Some(c) = chars.next_if(|c| c.is_ascii_digit() || matches!(c, '-' | '.' | '+')) {
            spec.push(c);
        }
        let Some(verb) = chars.next() else { break };
        if verb == '%' {
            text.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            text.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let (width, precision) =
            spec.trim_start_matches(['-', '+']).split_once('.').unwrap_or((spec.trim_start_matches(['-', '+']), ""));
        let precision: Option<usize> = precision.parse().ok().filter(|precision| *precision <= 64);
        let shown = match verb {
            'd' => value.integer().to_string(),
            'f' | 'e' | 'g' => format!("{:.*}", precision.unwrap_or(6), value.float()),
            'q' => format!("{:?}", value.text()),
            _ => match precision {
                Some(most) => value.text().chars().take(most).collect(),
                None => value.text(),
            },
        };
        let columns: usize = width.trim_start_matches('0').parse().unwrap_or(0).min(4096);
        let pad = columns.saturating_sub(shown.chars().count());
        match (spec.starts_with('-'), width.starts_with('0') && verb != 's') {
            (true, _) => text.push_str(&(shown + &" ".repeat(pad))),
            (false, true) => text.push_str(&("0".repeat(pad) + &shown)),
            (false, false) => text.push_str(&(" ".repeat(pad) + &shown)),
        }
    }
    text
}
