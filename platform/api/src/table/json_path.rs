//! The JSON paths of printer columns: fields, indices, wildcards and filters on one field.

use std::cmp::Ordering;

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter(JsonPath, Comparison, Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Exists,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Parses a path such as `.status.conditions[?(@.type=="Ready")].status`, with or without braces around it.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[') {
                let end = closing(tail)?;
                steps.push(bracket(tail[..end].trim())?);
                rest = &tail[end + 1..];
                continue;
            }
            let tail = rest.strip_prefix('.').or(steps.is_empty().then_some(rest))?;
            let (name, tail) = field(tail);
            match name.as_str() {
                "" if tail.starts_with('[') || (tail.is_empty() && steps.is_empty()) => {}
                "" => return None,
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = tail;
        }
        Some(Self(steps))
    }

    /// The first value the path leads to.
    pub fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.all(value).into_iter().next()
    }

    /// Every value the path leads to.
    pub fn all<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.0.iter().fold(vec![value], |at, step| at.into_iter().flat_map(|value| step.follow(value)).collect())
    }
}

/// A field name up to the next `.` or `[`; `\` takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            c => name.push(c),
        }
    }
    (name, "")
}

/// The place of the bracket that closes the one before the text.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Field(name.to_owned()));
    }
    let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) else {
        return text.parse().ok().map(Step::Index);
    };
    let operators = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = operators
        .into_iter()
        .filter_map(|(text, op)| Some((filter.find(text)?, text, op)))
        .min_by_key(|(at, text, _)| (*at, std::cmp::Reverse(text.len())));
    let path = |text: &str| JsonPath::parse(text.trim().strip_prefix('@')?);
    let Some((at, operator, comparison)) = found else {
        return Some(Step::Filter(path(filter)?, Comparison::Exists, Value::Null));
    };
    let literal = filter[at + operator.len()..].trim();
    let value = match unquote(literal) {
        Some(text) => Value::from(text),
        None => serde_json::from_str(literal).ok()?,
    };
    Some(Step::Filter(path(&filter[..at])?, comparison, value))
}

impl Step {
    fn follow<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match (self, value) {
            (Self::Field(name), Value::Object(map)) => map.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let index = if *index < 0 { index + length } else { *index };
                usize::try_from(index).ok().and_then(|i| items.get(i)).into_iter().collect()
            }
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(map)) => map.values().collect(),
            (Self::Filter(path, comparison, literal), Value::Array(items)) => {
                items.iter().filter(|item| path.first(item).is_some_and(|found| comparison.holds(found, literal))).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Comparison {
    fn holds(self, found: &Value, literal: &Value) -> bool {
        let order = match (found, literal) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ => None,
        };
        match self {
            Self::Exists => true,
            Self::Equal => order.map_or(found == literal, Ordering::is_eq),
            Self::NotEqual => order.map_or(found != literal, Ordering::is_ne),
            Self::Less => order.is_some_and(Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order.is_some_and(Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let value = json!({"a": {"b.c": 1, "d-e": [10, 20, 30]}, "l": [{"t": "x", "v": 1}, {"t": "y", "v": 2}]});
        let cases = [
            (".a.b\\.c", json!([1])),
            (".a['b.c']", json!([1])),
            ("{.a.d-e[1]}", json!([20])),
            (".a.d-e[-1]", json!([30])),
            (".a.d-e[*]", json!([10, 20, 30])),
            (".l[?(@.t==\"y\")].v", json!([2])),
            (".l[?(@.t=='y')].v", json!([2])),
            (".l[?(@.v>1)].t", json!(["y"])),
            (".l[?(@.t!='y')].v", json!([1])),
            (".l[*].t", json!(["x", "y"])),
            (".zzz.q", json!([])),
        ];
        for (path, expected) in cases {
            let found: Vec<Value> =
                JsonPath::parse(path).unwrap_or_else(|| panic!("{path}")).all(&value).into_iter().cloned().collect();
            assert_eq!(Value::Array(found), expected, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a..b"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
