//! Label selectors, after apimachinery's `labels/selector.go`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::ParseError;
use crate::names;
use crate::status::go_quote;

/// A conjunction of requirements on labels; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: BTreeSet<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `in (…)`.
    In,
    /// `notin (…)`.
    NotIn,
    /// `=`.
    Equals,
    /// `==`.
    DoubleEquals,
    /// `!=`.
    NotEquals,
    /// `>`.
    GreaterThan,
    /// `<`.
    LessThan,
    /// The key alone.
    Exists,
    /// `!` before the key.
    DoesNotExist,
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Selects nothing.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the text form: `a=b,c!=d,e in (f,g),h notin (),i,!j`.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Parser { tokens: lex(text), at: 0 }.requirements().map_err(ParseError)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Reads a `metav1.LabelSelector`. None or null selects nothing, `{}` everything.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn from_value(selector: Option<&Value>) -> Result<Self, ParseError> {
        let Some(selector) = selector.filter(|v| !v.is_null()) else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement::new(key, Operator::Equals, BTreeSet::from([value])).map_err(ParseError)?);
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |name| expression.get(name).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(ParseError(format!("{} is not a valid label selector operator", go_quote(other)))),
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(Requirement::new(text("key"), operator, values).map_err(ParseError)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }

    /// Requires exactly these labels, unchecked (the selector of a Service or ReplicationController).
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let requirement = |(key, value): (&str, &str)| Requirement {
            key: key.to_owned(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.to_owned()]),
        };
        Self { requirements: labels.into_iter().map(requirement).collect(), nothing: false }
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether nothing is selected by definition.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether an object with these labels is selected.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }

    /// Whether an object with the labels in this JSON map is selected.
    pub fn matches_labels(&self, labels: Option<&Value>) -> bool {
        self.matches(|key| labels?.get(key)?.as_str())
    }

    /// Whether this object is selected.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches_labels(object.pointer("/metadata/labels"))
    }

    /// The selector in text form.
    pub fn text(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, operator, values } = self;
        let values = values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        match operator {
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In | Operator::NotIn => write!(f, "{key} {} ({values})", operator.text()),
            _ => write!(f, "{key}{}{values}", operator.text()),
        }
    }
}

impl Operator {
    fn text(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::NotIn => "notin",
            Self::Equals => "=",
            Self::DoubleEquals => "==",
            Self::NotEquals => "!=",
            Self::GreaterThan => ">",
            Self::LessThan => "<",
            Self::Exists => "exists",
            Self::DoesNotExist => "!",
        }
    }
}

impl Requirement {
    /// Checks and makes a requirement.
    ///
    /// # Errors
    /// The text of upstream's `field.Error`.
    pub fn new(key: &str, operator: Operator, values: BTreeSet<String>) -> Result<Self, String> {
        let invalid = |path: &str, value: &str, detail: &str| format!("{path}: Invalid value: {value}: {detail}");
        let errors = names::qualified_name(key);
        if !errors.is_empty() {
            return Err(invalid("key", &go_quote(key), &errors.join("; ")));
        }
        let list = format!("[]string{{{}}}", values.iter().map(|v| go_quote(v)).collect::<Vec<_>>().join(", "));
        let problem = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => "for 'in', 'notin' operators, values set can't be empty",
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                "exact-match compatibility requires one single value"
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                "values set must be empty for exists and does not exist"
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                "for 'Gt', 'Lt' operators, exactly one value is required"
            }
            Operator::GreaterThan | Operator::LessThan if values.iter().any(|v| v.parse::<i64>().is_err()) => {
                "for 'Gt', 'Lt' operators, the value must be an integer"
            }
            _ => "",
        };
        if !problem.is_empty() {
            return Err(invalid("values", &list, problem));
        }
        for (i, value) in values.iter().enumerate() {
            let errors = names::label_value(value);
            if !errors.is_empty() {
                return Err(invalid(&format!("values[{i}][{key}]"), &go_quote(value), &errors.join("; ")));
            }
        }
        Ok(Self { key: key.to_owned(), operator, values })
    }

    /// Whether a label of this value (or its absence) satisfies the requirement.
    pub fn matches(&self, label: Option<&str>) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => label.is_some_and(|l| self.values.contains(l)),
            Operator::NotIn | Operator::NotEquals => label.is_none_or(|l| !self.values.contains(l)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let (Some(label), Some(value)) = (label.and_then(number), self.values.first().and_then(|v| number(v))) else {
                    return false;
                };
                if self.operator == Operator::GreaterThan { label > value } else { label < value }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Error(String),
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier(String),
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Error(text) | Self::Identifier(text) => text,
            Self::End => "",
            Self::Close => ")",
            Self::Comma => ",",
            Self::Not => "!",
            Self::DoubleEquals => "==",
            Self::Equals => "=",
            Self::Greater => ">",
            Self::In => "in",
            Self::Less => "<",
            Self::NotEquals => "!=",
            Self::NotIn => "notin",
            Self::Open => "(",
        }
    }

    fn symbol(text: &str) -> Option<Self> {
        Some(match text {
            ")" => Self::Close,
            "," => Self::Comma,
            "!" => Self::Not,
            "==" => Self::DoubleEquals,
            "=" => Self::Equals,
            ">" => Self::Greater,
            "<" => Self::Less,
            "!=" => Self::NotEquals,
            "(" => Self::Open,
            _ => return None,
        })
    }
}

fn lex(text: &str) -> Vec<Token> {
    let special = |c: char| "=!(),><".contains(c);
    let space = |c: char| " \t\r\n".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(space);
    while let Some(first) = rest.chars().next() {
        let length = match special(first) {
            true if rest.len() > 1 && Token::symbol(rest.get(..2).unwrap_or_default()).is_some() => 2,
            true => 1,
            false => rest.find(|c| special(c) || space(c)).unwrap_or(rest.len()),
        };
        let (token, tail) = rest.split_at(length);
        tokens.push(match token {
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ if special(first) => {
                Token::symbol(token).unwrap_or_else(|| Token::Error(format!("error expected: keyword found '{token}'")))
            }
            _ => Token::Identifier(token.to_owned()),
        });
        rest = tail.trim_start_matches(space);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    /// The next token where a value may stand: `in` and `notin` are plain words there.
    fn peek(&self) -> Token {
        match self.tokens.get(self.at) {
            Some(word @ (Token::In | Token::NotIn)) => Token::Identifier(word.text().to_owned()),
            Some(token) => token.clone(),
            None => Token::End,
        }
    }

    fn next(&mut self) -> Token {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::Identifier(_) | Token::Not => {
                    let requirement = self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                    requirements.push(requirement);
                    match self.next() {
                        Token::End => return Ok(requirements),
                        Token::Comma => match self.peek() {
                            Token::Identifier(_) | Token::Not => {}
                            other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                        },
                        other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
                    }
                }
                Token::End => return Ok(requirements),
                other => return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut token = self.next();
        let negated = token == Token::Not;
        if negated {
            token = self.next();
        }
        let Token::Identifier(key) = token else {
            return Err(format!("found '{}', expected: identifier", token.text()));
        };
        let errors = names::qualified_name(&key);
        if !errors.is_empty() {
            return Err(format!("<nil>: Invalid value: {}: {}", go_quote(&key), errors.join("; ")));
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, BTreeSet::new());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => self.exact_value()?,
        };
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let token = self.tokens.get(self.at).cloned().unwrap_or(Token::End);
        self.at += 1;
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            other => return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text())),
        })
    }

    fn exact_value(&mut self) -> Result<BTreeSet<String>, String> {
        if matches!(self.peek(), Token::End | Token::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        match self.next() {
            Token::Identifier(value) => Ok(BTreeSet::from([value])),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let open = self.next();
        if open != Token::Open {
            return Err(format!("found '{}' expected: '('", open.text()));
        }
        match self.peek() {
            Token::Identifier(_) | Token::Comma => {
                let values = self.identifiers()?;
                match self.next() {
                    Token::Close => Ok(values),
                    other => Err(format!("found '{}', expected: ')'", other.text())),
                }
            }
            Token::Close => {
                self.next();
                Ok(BTreeSet::new())
            }
            other => Err(format!("found '{}', expected: ',', ')' or identifier", other.text())),
        }
    }

    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        loop {
            match self.next() {
                Token::Identifier(value) => {
                    values.insert(value);
                    match self.peek() {
                        Token::Comma => {}
                        Token::Close => return Ok(values),
                        other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek() {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.next();
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_form() {
        let labels = json!({"a": "1", "b": "x", "in": "y", "n": "5"});
        let cases = [
            ("", true),
            ("a=1", true),
            ("a==1", true),
            ("a = 1 , b=x", true),
            ("a!=1", false),
            ("z!=1", true),
            ("a in (1,2)", true),
            ("a in (2, 3)", false),
            ("a notin (2)", true),
            ("z notin (2)", true),
            ("a", true),
            ("!a", false),
            ("! z", true),
            ("in=y", true),
            ("in in (y)", true),
            ("n>4", true),
            ("n<5", false),
            ("b>1", false),
            ("a=,b", false),
            ("z in (,q)", false),
        ];
        for (text, expected) in cases {
            let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches_labels(Some(&labels)), expected, "{text}");
            assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector), "{text}");
        }
    }

    #[test]
    fn errors() {
        let cases = [
            ("a,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in 1", "unable to parse requirement: found '1' expected: '('"),
            ("a in (1", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a in ()",
                "unable to parse requirement: values: Invalid value: []string{}: for 'in', 'notin' operators, values set can't be \
                 empty",
            ),
            ("a=1)", "found ')', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values: Invalid value: []string{\"x\"}: for 'Gt', 'Lt' operators, the value must be \
                 an integer",
            ),
        ];
        for (text, error) in cases {
            assert_eq!(LabelSelector::parse(text), Err(ParseError(error.to_owned())), "{text}");
        }
        let error = LabelSelector::parse("a=-x").unwrap_err().0;
        assert!(
            error.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-x\": a valid label must"),
            "{error}"
        );
        let error = LabelSelector::parse("_a=x").unwrap_err().0;
        assert!(error.starts_with("unable to parse requirement: <nil>: Invalid value: \"_a\": name part must"), "{error}");
    }

    #[test]
    fn object_form() {
        let labels = json!({"a": "1"});
        let cases = [
            (Value::Null, false),
            (json!({}), true),
            (json!({"matchLabels": {"a": "1"}}), true),
            (json!({"matchLabels": {"a": "2"}}), false),
            (json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}), true),
            (json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}), false),
        ];
        for (selector, expected) in cases {
            assert_eq!(LabelSelector::from_value(Some(&selector)).unwrap().matches_labels(Some(&labels)), expected, "{selector}");
        }
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
        assert_eq!(LabelSelector::from_value(Some(&bad)).unwrap_err().0, "\"Is\" is not a valid label selector operator");
    }
}
