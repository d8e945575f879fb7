//! Field selectors, after apimachinery's `fields/selector.go`.

use std::fmt;

use super::ParseError;
use crate::status::go_quote;

/// A conjunction of terms on fields; the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

/// One term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field: `metadata.name`, `spec.nodeName` …
    pub field: String,
    /// What it is compared with.
    pub value: String,
    /// Whether it must equal the value, or differ from it.
    pub equal: bool,
}

impl FieldSelector {
    /// Selects everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Requires one field to have a value.
    pub fn one(field: &str, value: &str) -> Self {
        Self { terms: vec![Term { field: field.to_owned(), value: value.to_owned(), equal: true }] }
    }

    /// Renames the fields.
    pub fn rename(&mut self, new_name: impl Fn(&str) -> Option<String>) {
        for term in &mut self.terms {
            if let Some(name) = new_name(&term.field) {
                term.field = name;
            }
        }
    }

    /// Parses the text form: `a=b,c!=d,e==f`, with `\` before `,`, `=` and `\` in values.
    ///
    /// # Errors
    /// With upstream's text.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, operator, value)) = split_term(part) else {
                return Err(ParseError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(Term { field: field.to_owned(), value: unescape(value)?, equal: operator != "!=" });
        }
        terms.sort_by(|a, b| a.field.cmp(&b.field));
        Ok(Self { terms })
    }

    /// Refuses fields the kind cannot be selected by. `extra` lists those besides `metadata.name` and (for namespaced kinds)
    /// `metadata.namespace`.
    ///
    /// # Errors
    /// With the text of upstream's conversion functions, which differs between kinds with and without extra fields.
    pub fn check<'a>(&self, namespaced: bool, extra: impl IntoIterator<Item = &'a str> + Clone) -> Result<(), ParseError> {
        for Term { field, .. } in &self.terms {
            let metadata = field == "metadata.name" || (field == "metadata.namespace" && namespaced);
            if metadata || extra.clone().into_iter().any(|e| e == field) {
                continue;
            }
            let none = extra.clone().into_iter().next().is_none();
            return Err(ParseError(match none {
                true => {
                    format!("{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", go_quote(field))
                }
                false => format!("field label not supported: {field}"),
            }));
        }
        Ok(())
    }

    /// Whether everything is selected.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms, sorted by field.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The value a field must have, if the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether an object with these field values is selected; an absent field counts as empty.
    pub fn matches<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.terms.iter().all(|t| (value(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Term { field, value, equal }) in self.terms.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{}{field}{}{value}", if i == 0 { "" } else { "," }, if *equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn split_term(term: &str) -> Option<(&str, &str, &str)> {
    let mut escaped = false;
    for (i, c) in term.char_indices() {
        if escaped || c == '\\' {
            escaped = !escaped;
            continue;
        }
        let rest = &term[i..];
        for operator in ["!=", "==", "="] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], operator, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(ParseError(format!("invalid field selector: invalid escape sequence: \\{c}"))),
                None => return Err(ParseError("invalid field selector: invalid escape sequence: \\".to_owned())),
            },
            ',' | '=' => return Err(ParseError(format!("invalid field selector: unescaped character in value: {c}"))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_and_match() {
        let fields = |f: &str| match f {
            "metadata.name" => Some("a"),
            "x" => Some("b,c=d"),
            _ => None,
        };
        let cases = [
            ("", true),
            ("metadata.name=a", true),
            ("metadata.name==a", true),
            ("metadata.name!=a", false),
            ("metadata.name=a,x=b\\,c\\=d", true),
            (",metadata.name=a,", true),
            ("status.phase=", true),
            ("status.phase!=Running", true),
        ];
        for (text, expected) in cases {
            let selector = FieldSelector::parse(text).unwrap();
            assert_eq!(selector.matches(fields), expected, "{text}");
            assert_eq!(FieldSelector::parse(&selector.to_string()), Ok(selector));
        }
    }

    #[test]
    fn errors() {
        let cases = [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
            ("a=\\x", "invalid field selector: invalid escape sequence: \\x"),
        ];
        for (text, error) in cases {
            assert_eq!(FieldSelector::parse(text), Err(ParseError(error.to_owned())), "{text}");
        }
        let selector = FieldSelector::parse("spec.foo=1").unwrap();
        assert_eq!(selector.check(true, ["spec.nodeName"]).unwrap_err().0, "field label not supported: spec.foo");
        assert_eq!(
            selector.check(true, []).unwrap_err().0,
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}
