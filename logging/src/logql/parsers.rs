//! What stages find in a line: JSON, logfmt, regular expressions, packed lines.

use std::{borrow::Cow, fmt};

use regex::Regex;
use serde::{
    Deserializer as _,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{ast::JsonStep, pipeline::Line};

/// Labels that one line may give: a hostile line must not exhaust memory.
const MOST_LABELS: usize = 256;

/// Levels of objects that are looked into.
const DEEPEST: usize = 32;

/// All values of the line's object; nested names are joined by `_`, arrays and nulls are left out, as in Loki.
pub(super) fn json(line: &mut Line<'_>) {
    let text = line.text.clone();
    let mut found = Vec::new();
    match flatten(&text, String::new(), 0, &mut found) {
        Ok(()) => {
            for (name, value) in &found {
                line.extract(name, value);
            }
        }
        Err(error) => line.fail("JSONParserErr", error.to_string()),
    }
}

fn flatten(text: &str, prefix: String, depth: usize, found: &mut Vec<(String, String)>) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(Flatten { prefix, depth, found })?;
    deserializer.end()
}

struct Flatten<'f> {
    prefix: String,
    depth: usize,
    found: &'f mut Vec<(String, String)>,
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let raw: &RawValue = map.next_value()?;
            let name = label_name(&self.prefix, &key);
            if raw.get().starts_with('{') {
                if self.depth < DEEPEST {
                    flatten(raw.get(), name, self.depth + 1, self.found).map_err(serde::de::Error::custom)?;
                }
            } else if let Some(value) = scalar(raw.get())
                && self.found.len() < MOST_LABELS
                && !self.found.iter().any(|(other, _)| *other == name)
            {
                self.found.push((name, value));
            }
        }
        Ok(())
    }
}

/// A value as a label; `None` for arrays and nulls.
fn scalar(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str(raw).ok(),
        b'[' | b'{' | b'n' => None,
        _ => Some(raw.to_owned()),
    }
}

/// A key as part of a label's name.
fn label_name(prefix: &str, key: &str) -> String {
    let mut name = String::with_capacity(prefix.len() + key.len() + 1);
    if !prefix.is_empty() {
        name.push_str(prefix);
        name.push('_');
    }
    if name.is_empty() && key.starts_with(|c: char| c.is_ascii_digit()) {
        name.push('_');
    }
    name.extend(key.trim().chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }));
    name
}

/// The values at some paths; a missing one gives an empty label.
pub(super) fn json_fields(line: &mut Line<'_>, fields: &[(String, Vec<JsonStep>)]) {
    let text = line.text.clone();
    if let Err(error) = serde_json::from_str::<IgnoredAny>(&text) {
        line.fail("JSONParserErr", error.to_string());
        return;
    }
    for (name, path) in fields {
        let value = path.iter().try_fold(text.trim(), |json, step| walk(json, step));
        let value =
            value.map(|json| scalar(json).unwrap_or_else(|| if json == "null" { String::new() } else { json.to_owned() }));
        match value {
            Some(value) => line.extract(name, &value),
            None => line.miss(name),
        }
    }
}

/// One step into a JSON text.
fn walk<'t>(json: &'t str, step: &JsonStep) -> Option<&'t str> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Walk(step).deserialize(&mut deserializer).ok().flatten()
}

struct Walk<'s>(&'s JsonStep);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            JsonStep::Key(_) => deserializer.deserialize_map(self),
            JsonStep::Index(_) => deserializer.deserialize_seq(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let JsonStep::Key(wanted) = self.0 else { return Ok(None) };
        let mut found = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let value: &RawValue = map.next_value()?;
            if found.is_none() && key == wanted.as_str() {
                found = Some(value.get());
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let JsonStep::Index(wanted) = self.0 else { return Ok(None) };
        let (mut found, mut at) = (None, 0);
        while let Some(value) = seq.next_element::<&RawValue>()? {
            if at == *wanted {
                found = Some(value.get());
            }
            at += 1;
        }
        Ok(found)
    }
}

/// `key=value key="quoted value"`
pub(super) fn logfmt(line: &mut Line<'_>, strict: bool, keep_empty: bool, fields: &[(String, String)]) {
    let text = line.text.clone();
    let mut found: Vec<(String, Cow<'_, str>)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && found.len() < MOST_LABELS {
        match pair(rest) {
            Ok((key, value, after)) => {
                if !key.is_empty() && (keep_empty || !value.is_empty()) {
                    found.push((key.to_owned(), value));
                }
                rest = after.trim_start();
            }
            Err(after) if !strict => rest = after.trim_start(),
            Err(_) => {
                line.fail("LogfmtParserErr", format!("logfmt syntax error at pos {}", text.len() - rest.len() + 1));
                break;
            }
        }
    }
    if fields.is_empty() {
        let mut seen: Vec<String> = Vec::new();
        for (key, value) in found {
            let name = label_name("", &key);
            if !seen.contains(&name) {
                line.extract(&name, &value);
                seen.push(name);
            }
        }
    } else {
        for (name, source) in fields {
            match found.iter().find(|(key, _)| key == source) {
                Some((_, value)) => line.extract(name, value),
                None => line.miss(name),
            }
        }
    }
}

/// The first pair of a text and what follows; or, if it is malformed, what follows the word.
fn pair(text: &str) -> Result<(&str, Cow<'_, str>, &str), &str> {
    let end = text.find(|c: char| c.is_whitespace() || c == '=' || c == '"').unwrap_or(text.len());
    let (key, rest) = text.split_at(end);
    let word_end = |rest: &str| rest.find(char::is_whitespace).unwrap_or(rest.len());
    let Some(value) = rest.strip_prefix('=') else {
        if rest.starts_with('"') {
            return Err(&rest[word_end(rest)..]);
        }
        return Ok((key, Cow::Borrowed(""), rest));
    };
    if key.is_empty() {
        return Err(&rest[word_end(rest)..]);
    }
    let Some(quoted) = value.strip_prefix('"') else {
        let end = word_end(value);
        if value[..end].contains('"') {
            return Err(&value[end..]);
        }
        return Ok((key, Cow::Borrowed(&value[..end]), &value[end..]));
    };
    let mut escaped = false;
    let mut any_escape = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                any_escape = true;
            }
            '"' => {
                let inner = &quoted[..at];
                let value = if any_escape { Cow::Owned(unescaped(inner)) } else { Cow::Borrowed(inner) };
                return Ok((key, value, &quoted[at + 1..]));
            }
            _ => {}
        }
    }
    Err("")
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => plain.push('\n'),
            Some('t') => plain.push('\t'),
            Some('r') => plain.push('\r'),
            Some('u') => {
                let rest = chars.as_str();
                // Go writes four digits, Rust any number in braces.
                let (code, used) = match rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                    Some((code, _)) => (code, code.len() + 2),
                    None => (rest.get(..4).unwrap_or(rest), rest.len().min(4)),
                };
                if let Some(c) = u32::from_str_radix(code, 16).ok().and_then(char::from_u32) {
                    plain.push(c);
                    chars = rest.get(used..).unwrap_or_default().chars();
                }
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

/// The named groups of a regular expression.
pub(super) fn regexp(line: &mut Line<'_>, regex: &Regex) {
    let text = line.text.clone();
    let Some(captures) = regex.captures(&text) else { return };
    for (at, name) in regex.capture_names().enumerate() {
        if let (Some(name), Some(value)) = (name, captures.get(at)) {
            line.extract(name, value.as_str());
        }
    }
}

/// A line that Promtail packed: its labels, and `_entry` as the line.
pub(super) fn unpack(line: &mut Line<'_>) {
    let text = line.text.clone();
    let object: serde_json::Map<String, serde_json::Value> = match serde_json::from_str(&text) {
        Ok(object) => object,
        Err(error) => return line.fail("JSONParserErr", error.to_string()),
    };
    for (name, value) in object {
        match (name.as_str(), value) {
            ("_entry", serde_json::Value::String(entry)) => line.text = Cow::Owned(entry),
            (name, serde_json::Value::String(value)) => line.extract(&label_name("", name), &value),
            _ => {}
        }
    }
}
