use std::collections::BTreeMap;

/// Replaces `$(NAME)` by its value and `$$` by `$`; an unknown name stays as it stands, with its `$()`.
///
/// Follows `k8s.io/kubernetes/third_party/forked/golang/expansion`.
pub(crate) fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('(') {
            match after.find(')') {
                Some(end) => {
                    let name = &after[..end];
                    match lookup(name) {
                        Some(value) => out.push_str(&value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &after[end + 1..];
                }
                None => {
                    out.push_str("$(");
                    rest = after;
                }
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// [`expand`] from a map of variables.
pub(crate) fn expand_from(input: &str, variables: &BTreeMap<String, String>) -> String {
    expand(input, |name| variables.get(name).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_as_upstream() {
        let variables = BTreeMap::from([("A".to_owned(), "a".to_owned()), ("EMPTY".to_owned(), String::new())]);
        for (input, expect) in [
            ("$(A)", "a"),
            ("x$(A)y$(A)", "xaya"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$", "$$"),
            ("$(B)", "$(B)"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("end$", "end$"),
            ("$(EMPTY)|", "|"),
            ("$(", "$("),
            ("ü$(A)ü", "üaü"),
        ] {
            assert_eq!(expand_from(input, &variables), expect, "{input}");
        }
    }
}
