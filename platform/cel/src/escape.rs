//! How expressions name members that are no identifiers.
//!
//! `staging/src/k8s.io/apiserver/pkg/cel/escaping.go`.

use pharos_api::names::is_reserved_in_expressions;

/// The name that expressions use for a member; none if they cannot name it.
#[must_use]
pub fn escape(name: &str) -> Option<String> {
    if is_reserved_in_expressions(name) {
        return Some(format!("__{name}__"));
    }
    let first = name.chars().next()?;
    if first.is_ascii_digit() || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/')) {
        return None;
    }
    if !(first.is_ascii_alphabetic() || matches!(first, '_' | '.' | '-' | '/')) {
        return None;
    }
    let text = name.replace("__", "__underscores__");
    Some(text.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, wanted) in [
            ("", None),
            ("a", Some("a")),
            ("a.b", Some("a__dot__b")),
            ("a-b", Some("a__dash__b")),
            ("a/b", Some("a__slash__b")),
            ("a__b", Some("a__underscores__b")),
            ("a_b", Some("a_b")),
            ("namespace", Some("__namespace__")),
            ("if", Some("__if__")),
            ("int", Some("int")),
            ("4a", None),
            ("a$", None),
            ("ä", None),
        ] {
            assert_eq!(escape(name).as_deref(), wanted, "{name}");
        }
    }
}
