//! Named formats of strings: `format.dns1123Label()`, `format.named("uuid")` and so on.
//!
//! Names and what each checks from `staging/src/k8s.io/apiserver/pkg/cel/library/format.go`.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pharos_api::names;
use regex::Regex;

use super::url::Url;
use crate::time;

/// A format of strings.
#[derive(Debug)]
pub struct Format {
    /// Its name.
    pub(crate) name: &'static str,
    /// How long the expression is that upstream checks it with, for costs.
    pub(crate) regex_size: u64,
    check: fn(&str) -> Vec<String>,
}

impl Format {
    /// What is wrong with a string.
    pub(crate) fn check(&self, text: &str) -> Vec<String> {
        (self.check)(text)
    }

    /// The format of a name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.name == name)
    }
}

static FORMATS: [Format; 13] = [
    Format { name: "dns1123Label", regex_size: 30, check: |text| label(text, false) },
    Format { name: "dns1123Subdomain", regex_size: 60, check: |text| subdomain(text, false) },
    Format { name: "dns1035Label", regex_size: 30, check: |text| label_1035(text, false) },
    Format { name: "qualifiedName", regex_size: 60, check: names::qualified_name },
    Format { name: "dns1123LabelPrefix", regex_size: 30, check: |text| label(text, true) },
    Format { name: "dns1123SubdomainPrefix", regex_size: 60, check: |text| subdomain(text, true) },
    Format { name: "dns1035LabelPrefix", regex_size: 30, check: |text| label_1035(text, true) },
    Format { name: "labelValue", regex_size: 40, check: names::label_value },
    Format { name: "uri", regex_size: 1447, check: |text| Url::parse(text).err().into_iter().map(|why| strip(&why)).collect() },
    Format { name: "uuid", regex_size: 70, check: uuid },
    Format { name: "byte", regex_size: 138, check: byte },
    Format { name: "date", regex_size: 125, check: |text| one(time::date(text).is_some(), "invalid date") },
    Format { name: "datetime", regex_size: 125, check: |text| one(time::timestamp(text).is_some(), "invalid datetime") },
];

fn one(ok: bool, text: &str) -> Vec<String> {
    if ok { Vec::new() } else { vec![text.to_owned()] }
}

fn strip(text: &str) -> String {
    text.strip_prefix("URL parse error during conversion from string: ").unwrap_or(text).to_owned()
}

/// A name that something is appended to may end in `-`.
fn prefix(text: &str, is_prefix: bool) -> String {
    match text.strip_suffix('-') {
        Some(rest) if is_prefix && !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn label(text: &str, is_prefix: bool) -> Vec<String> {
    names::dns1123_label(&prefix(text, is_prefix))
}

fn subdomain(text: &str, is_prefix: bool) -> Vec<String> {
    names::dns1123_subdomain(&prefix(text, is_prefix))
}

fn label_1035(text: &str, is_prefix: bool) -> Vec<String> {
    names::dns1035_label(&prefix(text, is_prefix))
}

fn uuid(text: &str) -> Vec<String> {
    static PATTERN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$").ok());
    one(PATTERN.as_ref().is_some_and(|pattern| pattern.is_match(text)), "does not match the UUID format")
}

fn byte(text: &str) -> Vec<String> {
    one(!text.is_empty() && STANDARD.decode(text).is_ok(), "invalid base64")
}
