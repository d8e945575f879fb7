//! A value and the path to it, and the checks many fields share.

use std::borrow::Cow;
use std::net::IpAddr;

use serde_json::Value;

use super::address;
use crate::names;
use crate::quantity::Quantity;
use crate::status::{ErrorType, FieldError};

/// What validation collects.
pub(super) type Errors = Vec<FieldError>;

/// A place in an object. What is absent is there as null.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    value: &'a Value,
    path: Cow<'a, str>,
}

impl<'a> At<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, path: Cow::Borrowed("") }
    }

    pub(super) fn field(&self, name: &str) -> At<'a> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { value: self.value.get(name).unwrap_or(&Value::Null), path: path.into() }
    }

    /// The items of a list.
    pub(super) fn items(&self) -> impl Iterator<Item = At<'a>> + use<'a> {
        let path = self.path.clone();
        let list: &'a [Value] = self.value.as_array().map_or(&[], Vec::as_slice);
        list.iter().enumerate().map(move |(index, value)| At { value, path: format!("{path}[{index}]").into() })
    }

    /// The entries of a map, each at the path `map[key]`.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, At<'a>)> + use<'a> {
        let path = self.path.clone();
        self.value
            .as_object()
            .into_iter()
            .flatten()
            .map(move |(key, value)| (key.as_str(), At { value, path: format!("{path}[{key}]").into() }))
    }

    /// An entry of a map, at the path `map[key]`.
    pub(super) fn key(&self, key: &str) -> At<'a> {
        At { value: self.value.get(key).unwrap_or(&Value::Null), path: format!("{}[{key}]", self.path).into() }
    }

    /// The same value at the path upstream tells it at, where that is not its own.
    pub(super) fn told_at(&self, path: impl Into<String>) -> At<'a> {
        At { value: self.value, path: Cow::Owned(path.into()) }
    }

    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    pub(super) fn path(&self) -> String {
        self.path.to_string()
    }

    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The strings of a list.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let list: &'a [Value] = self.value.as_array().map_or(&[], Vec::as_slice);
        list.iter().filter_map(Value::as_str)
    }

    pub(super) fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub(super) fn is_true(&self) -> bool {
        self.value.as_bool().unwrap_or(false)
    }

    pub(super) fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    pub(super) fn len(&self) -> usize {
        match self.value {
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// The field errors below are made of.
    pub(super) fn invalid(&self, detail: impl Into<String>) -> FieldError {
        FieldError::invalid(self.path(), self.value.clone(), detail)
    }

    pub(super) fn required(&self, detail: &str) -> FieldError {
        FieldError::required(self.path(), detail)
    }

    pub(super) fn forbidden(&self, detail: impl Into<String>) -> FieldError {
        FieldError::forbidden(self.path(), detail)
    }

    /// Upstream leaves such a value out of its message.
    pub(super) fn invalid_unshown(&self, detail: impl Into<String>) -> FieldError {
        FieldError { ty: ErrorType::InvalidUnshown, field: self.path(), value: Value::Null, detail: detail.into() }
    }

    pub(super) fn unsupported(&self, allowed: &[&str]) -> FieldError {
        FieldError::not_supported(self.path(), self.value.clone(), allowed)
    }

    pub(super) fn duplicate(&self) -> FieldError {
        FieldError::duplicate(self.path(), self.value.clone())
    }

    /// Must be given; says whether it is.
    pub(super) fn must_be_set(&self, detail: &str, errors: &mut Errors) -> bool {
        let empty = match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if empty {
            errors.push(self.required(detail));
        }
        !empty
    }

    /// Must be one of these, if given.
    pub(super) fn one_of(&self, allowed: &[&str], errors: &mut Errors) {
        if !self.text().is_empty() && !allowed.contains(&self.text()) {
            errors.push(FieldError::not_supported(self.path(), self.text(), allowed));
        }
    }

    /// Must be one of these, and given.
    pub(super) fn must_be_one_of(&self, allowed: &[&str], errors: &mut Errors) {
        if self.must_be_set("", errors) {
            self.one_of(allowed, errors);
        }
    }

    pub(super) fn non_negative(&self, errors: &mut Errors) {
        if self.int().is_some_and(|n| n < 0) {
            errors.push(self.invalid("must be greater than or equal to 0"));
        }
    }

    pub(super) fn positive(&self, errors: &mut Errors) {
        if self.int().is_some_and(|n| n <= 0) {
            errors.push(self.invalid("must be greater than zero"));
        }
    }

    pub(super) fn within(&self, low: i64, high: i64, errors: &mut Errors) {
        if self.int().is_some_and(|n| n < low || n > high) {
            errors.push(self.invalid(format!("must be between {low} and {high}, inclusive")));
        }
    }

    pub(super) fn port(&self, errors: &mut Errors) {
        self.within(1, 65535, errors);
    }

    /// Must be no longer than so many bytes.
    pub(super) fn at_most_bytes(&self, most: usize, errors: &mut Errors) {
        if self.text().len() > most {
            errors.push(FieldError::too_long(self.path(), most));
        }
    }

    /// Must have no more items than these; says whether it does.
    pub(super) fn at_most_items(&self, most: usize, errors: &mut Errors) -> bool {
        if self.len() > most {
            errors.push(FieldError::too_many(self.path(), self.len(), most));
        }
        self.len() <= most
    }

    /// The name of a kind, resource or object that must be given and fit into a path.
    pub(super) fn must_be_path_segment(&self, errors: &mut Errors) {
        if self.must_be_set("", errors) {
            self.all(names::path_segment(self.text()), errors);
        }
    }

    /// `ValidateQualifiedName`, of an empty text too.
    pub(super) fn qualified(&self, errors: &mut Errors) {
        self.all(names::qualified_name(self.text()), errors);
    }

    /// `ValidateCSIDriverName`: a lower-case subdomain, but for its case, of at most 63 bytes.
    pub(super) fn driver_name(&self, errors: &mut Errors) {
        if self.text().is_empty() {
            errors.push(self.required(""));
        }
        self.at_most_bytes(63, errors);
        self.all(names::dns1123_subdomain(&self.text().to_lowercase()), errors);
    }

    /// `IsDomainPrefixedPath`: `acme.io/foo`.
    pub(super) fn domain_prefixed_path(&self, errors: &mut Errors) {
        const PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
        if !self.must_be_set("", errors) {
            return;
        }
        match self.text().split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty()) {
            None => errors.push(self.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")")),
            Some((host, path)) => {
                let complaints = names::dns1123_subdomain(host);
                errors.extend(complaints.into_iter().map(|detail| FieldError::invalid(self.path(), host, detail)));
                if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
                    errors.push(FieldError::invalid(self.path(), path, names::regex_error("Invalid path", PATH, &[])));
                }
            }
        }
    }

    /// A port by number or by name.
    pub(super) fn port_or_name(&self, errors: &mut Errors) {
        match self.value {
            Value::String(name) => self.all(port_name(name), errors),
            _ => {
                if self.int().is_none_or(|n| !(1..=65535).contains(&n)) {
                    errors.push(FieldError::invalid(
                        self.path(),
                        self.int().unwrap_or(0),
                        "must be between 1 and 65535, inclusive",
                    ));
                }
            }
        }
    }

    /// Reports each of a name check's complaints.
    pub(super) fn all(&self, complaints: Vec<String>, errors: &mut Errors) {
        errors.extend(complaints.into_iter().map(|detail| self.invalid(detail)));
    }

    pub(super) fn subdomain(&self, errors: &mut Errors) {
        if !self.text().is_empty() {
            self.all(names::dns1123_subdomain(self.text()), errors);
        }
    }

    pub(super) fn label(&self, errors: &mut Errors) {
        if !self.text().is_empty() {
            self.all(names::dns1123_label(self.text()), errors);
        }
    }

    /// `IsValidIPForLegacyField`, if given.
    pub(super) fn ip(&self, errors: &mut Errors) {
        if !self.text().is_empty() {
            self.must_be_ip(errors);
        }
    }

    /// `IsValidIPForLegacyField`.
    pub(super) fn must_be_ip(&self, errors: &mut Errors) {
        match address::ip(self.text()) {
            Ok(_) => {}
            Err(why) => errors.push(self.invalid(why)),
        }
    }

    /// `IsValidCIDRForLegacyField`; gives the block, if it is one.
    pub(super) fn cidr(&self, errors: &mut Errors) -> Option<(IpAddr, u8)> {
        match address::cidr(self.text()) {
            Ok(block) => Some(block),
            Err(why) => {
                errors.push(self.invalid(why));
                None
            }
        }
    }

    /// A path below a volume: relative, without `..`.
    pub(super) fn descending_path(&self, errors: &mut Errors) {
        if self.text().starts_with('/') {
            errors.push(self.invalid("must be a relative path"));
        }
        if self.text().split('/').any(|part| part == "..") {
            errors.push(self.invalid("must not contain '..'"));
        }
    }

    pub(super) fn quantity(&self) -> Option<Quantity> {
        (!self.is_absent()).then(|| Quantity::from_value(self.value).ok()).flatten()
    }

    /// Must be what it was.
    pub(super) fn immutable(&self, old: &Value, errors: &mut Errors) {
        if self.value != old {
            errors.push(self.invalid("field is immutable"));
        }
    }

    /// A label selector's syntax.
    pub(super) fn label_selector(&self, errors: &mut Errors) {
        let labels = self.field("matchLabels");
        super::meta::labels(&labels, errors);
        for expression in self.field("matchExpressions").items() {
            let (key, operator, values) = (expression.field("key"), expression.field("operator"), expression.field("values"));
            match operator.text() {
                "In" | "NotIn" if values.len() == 0 => {
                    errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"))
                }
                "Exists" | "DoesNotExist" if values.len() > 0 => {
                    errors.push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                _ => errors.push(operator.invalid("not a valid selector operator")),
            }
            key.all(names::qualified_name(key.text()), errors);
            values.items().for_each(|value| value.all(names::label_value(value.text()), errors));
        }
    }
}

/// `IsValidPortName`: an IANA service name.
pub(super) fn port_name(name: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if name.len() > 15 {
        complaints.push("must be no more than 15 characters".to_owned());
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || name.is_empty() {
        complaints.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        complaints.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        complaints.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        complaints.push("must not begin or end with a hyphen".to_owned());
    }
    complaints
}
