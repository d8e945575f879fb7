//! `fieldPath`: a JSON path of names only, such as `.spec['my-field']`.

use serde_json::Value;

/// The path the way errors write it, if the schema has such a field.
pub(super) fn normalized(path: &str, schema: &Value) -> Option<String> {
    let mut schema = schema;
    let mut shown = String::new();
    let mut rest = path.trim_end_matches('\n');
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (name, after) = if let Some(inner) = rest.strip_prefix('.') {
            let end = inner.find(['.', '[', ']']).unwrap_or(inner.len());
            if end == 0 {
                return None;
            }
            (inner[..end].to_owned(), &inner[end..])
        } else {
            quoted(rest.strip_prefix("['")?)?
        };
        if schema["properties"].is_object() {
            schema = schema["properties"].get(&name)?;
            if !shown.is_empty() {
                shown.push('.');
            }
            shown.push_str(&name);
        } else if schema["additionalProperties"].is_object() {
            schema = &schema["additionalProperties"];
            shown.push_str(&format!("[{name}]"));
        } else {
            return None;
        }
        rest = after;
    }
    Some(shown)
}

/// A name in single quotes, of which the first is gone already, and what comes after its bracket.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\'' => return Some((name, text[at + 1..].strip_prefix(']')?)),
            '\\' => name.push(match characters.next()?.1 {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                other @ ('\'' | '\\') => other,
                _ => return None,
            }),
            other => name.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "object", "properties": {"b-c": {"type": "string"}, "it's": {"type": "string"}, "m": map}}}});
        for (path, wanted) in [
            (".a", Some("a")),
            (".a.b-c", Some("a.b-c")),
            (".a['b-c']", Some("a.b-c")),
            ("['a']['it\\'s']", Some("a.it's")),
            (".a.m.x", Some("a.m[x]")),
            ("", None),
            ("a", None),
            (".", None),
            (".b", None),
            (".a[0]", None),
            (".a['b-c'", None),
        ] {
            assert_eq!(normalized(path, &schema).as_deref(), wanted, "{path}");
        }
    }
}
