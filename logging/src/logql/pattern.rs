//! `pattern` and `|>`: text with `<captures>` in it.

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    /// Without a name for `<_>`.
    Capture(Option<String>),
}

impl Pattern {
    /// For the stage `pattern`: at least one capture has a name.
    pub(crate) fn parser(text: &str) -> Result<Self, String> {
        let pattern = Self::split(text)?;
        let names: Vec<_> = pattern.names().collect();
        if names.is_empty() {
            return Err("at least one capture is required".to_owned());
        }
        if let Some(twice) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(format!("duplicate capture name ({}): invalid expression", twice.1));
        }
        Ok(pattern)
    }

    /// For the filter `|>`: no capture has a name.
    pub(crate) fn filter(text: &str) -> Result<Self, String> {
        let pattern = Self::split(text)?;
        let named = pattern.names().next().map(|name| format!("named captures are not allowed: <{name}>"));
        named.map_or(Ok(pattern), Err)
    }

    fn split(text: &str) -> Result<Self, String> {
        let mut parts: Vec<Part> = Vec::new();
        let mut rest = text;
        let mut literal = String::new();
        while let Some(c) = rest.chars().next() {
            let capture = rest.strip_prefix('<').and_then(|inner| inner.split_once('>')).filter(|(name, _)| is_name(name));
            if let Some((name, after)) = capture {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                } else if matches!(parts.last(), Some(Part::Capture(_))) {
                    return Err(format!("found consecutive capture: invalid expression: {text}"));
                }
                parts.push(Part::Capture((name != "_").then(|| name.to_owned())));
                rest = after;
            } else {
                literal.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if parts.is_empty() { Err("empty pattern".to_owned()) } else { Ok(Self { parts }) }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Capture(name) => name.as_deref(),
            Part::Text(_) => None,
        })
    }

    /// What the named captures hold; a capture whose end is missing takes the rest, as in Loki.
    pub(crate) fn captures<'p, 'l>(&'p self, line: &'l str) -> Vec<(&'p str, &'l str)> {
        let (mut rest, mut parts) = (line, self.parts.as_slice());
        let mut found = Vec::new();
        if let [Part::Text(text), after @ ..] = parts {
            let Some(after_text) = rest.strip_prefix(text.as_str()) else { return found };
            (rest, parts) = (after_text, after);
        }
        while let [Part::Capture(name), after @ ..] = parts {
            let split = match after.first() {
                Some(Part::Text(text)) => rest.split_once(text.as_str()),
                _ => None,
            };
            let missed = split.is_none();
            let (value, next) = split.unwrap_or((rest, ""));
            if let Some(name) = name {
                found.push((name.as_str(), value));
            }
            if missed {
                break;
            }
            rest = next;
            parts = &after[1..];
        }
        found
    }

    /// Whether the whole line is such a one.
    pub(crate) fn matches(&self, line: &str) -> bool {
        let mut rest = line;
        let last = self.parts.len() - 1;
        for (at, part) in self.parts.iter().enumerate() {
            let Part::Text(text) = part else { continue };
            if at == 0 {
                let Some(after) = rest.strip_prefix(text.as_str()) else { return false };
                rest = after;
                if last == 0 {
                    return true;
                }
            } else if at == last {
                return rest.ends_with(text.as_str());
            } else {
                let Some((_, after)) = rest.split_once(text.as_str()) else { return false };
                rest = after;
            }
        }
        true
    }

    /// Text that any matching line contains.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Capture(_) => None,
        })
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_lie_between_literals() {
        let pattern = Pattern::parser(r#"<ip> - <_> "<method> <path>" <status>"#).unwrap();
        let found = pattern.captures(r#"10.0.0.1 - bob "GET /a b" 200"#);
        assert_eq!(found, [("ip", "10.0.0.1"), ("method", "GET"), ("path", "/a b"), ("status", "200")]);
        assert_eq!(Pattern::parser("level=<level> x").unwrap().captures("lvl=a x"), []);
        assert!(Pattern::parser("<_>").is_err());
        assert!(Pattern::parser("<a><b>").is_err());
    }

    #[test]
    fn a_filter_matches_whole_lines() {
        let pattern = Pattern::filter("<_> failed: <_> ms").unwrap();
        assert!(pattern.matches("call failed: 3 ms"));
        assert!(!pattern.matches("call failed: 3 s"));
        assert!(Pattern::filter("<a> x").is_err());
    }
}
