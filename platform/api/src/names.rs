//! Names: generated ones, hashes that are part of names, and the rules names follow with upstream's messages.

use std::sync::LazyLock;

use rand::Rng as _;
use regex::Regex;
use serde_json::Value;

/// The letters of generated names: no vowels, so no words; nothing easily confused (apimachinery's `util/rand`).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// What is left of a base for the five random letters, within 63.
const MAX_GENERATED_BASE: usize = 58;

/// A random string in the alphabet of generated names.
pub fn random(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// A name for an object that has only `generateName`.
pub fn generate(base: &str) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], random(5))
}

/// Maps a string into the alphabet of generated names (`rand.SafeEncodeString`).
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// The hash of a pod template that is part of a ReplicaSet's or revision's name. Upstream hashes a Go dump, which nothing else
/// can reproduce; this is FNV-1a of the template's JSON with sorted keys, and as stable.
pub fn template_hash(template: &Value, collision_count: Option<i64>) -> String {
    let mut hash = Fnv::new();
    hash.value(template);
    if let Some(count) = collision_count {
        hash.bytes(&count.to_le_bytes());
    }
    safe_encode(&hash.0.to_string())
}

/// Words that the expression language CEL keeps for itself, and so cannot be names in it.
const EXPRESSION_WORDS: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether expressions cannot use a word as a name.
#[must_use]
pub fn is_reserved_in_expressions(word: &str) -> bool {
    EXPRESSION_WORDS.contains(&word)
}

/// FNV-1a in 32 bits.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    let mut hash = Fnv::new();
    hash.bytes(bytes);
    hash.0
}

struct Fnv(u32);

impl Fnv {
    fn new() -> Self {
        Self(0x811c_9dc5)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u32::from(b)).wrapping_mul(0x0100_0193);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().filter(|(_, v)| !v.is_null()).collect();
                entries.sort_by_key(|(key, _)| *key);
                self.bytes(b"{");
                for (key, value) in entries {
                    self.bytes(key.as_bytes());
                    self.bytes(b"\0");
                    self.value(value);
                }
                self.bytes(b"}");
            }
            Value::Array(items) => {
                self.bytes(b"[");
                items.iter().for_each(|item| self.value(item));
                self.bytes(b"]");
            }
            scalar => {
                self.bytes(scalar.to_string().as_bytes());
                self.bytes(b"\0");
            }
        }
    }
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                             and end with an alphanumeric character";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                                 and must start and end with an alphanumeric character";
const WILDCARD_MESSAGE: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
                                consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
const UNDERSCORED: &str = r"_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const UNDERSCORED_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or \
                                   '.', and must start and end with an alphanumeric character";
const LABEL_1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                                  alphabetic character, and end with an alphanumeric character";
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                                 alphanumeric character";
const LABEL_VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                                   and must start and end with an alphanumeric character";

fn anchored(pattern: &str) -> Regex {
    Regex::new(&format!("^(?:{pattern})$")).expect("the patterns here are constant and well formed")
}

static LABEL_REGEX: LazyLock<Regex> = LazyLock::new(|| anchored(LABEL));
static SUBDOMAIN_REGEX: LazyLock<Regex> = LazyLock::new(|| anchored(SUBDOMAIN));
static LABEL_1035_REGEX: LazyLock<Regex> = LazyLock::new(|| anchored(LABEL_1035));
static QUALIFIED_REGEX: LazyLock<Regex> = LazyLock::new(|| anchored(QUALIFIED));
static LABEL_VALUE_REGEX: LazyLock<Regex> = LazyLock::new(|| anchored(LABEL_VALUE));

/// `MESSAGE (e.g. 'A',  or 'B', regex used for validation is 'PATTERN')`, as upstream's `RegexError`.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// `must be no more than N bytes`, as upstream's `MaxLenError`.
pub fn max_len_error(max_bytes: usize) -> String {
    format!("must be no more than {max_bytes} bytes")
}

/// What is wrong with an RFC 1123 label, if anything.
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push(max_len_error(63));
    }
    if !LABEL_REGEX.is_match(text) {
        errors.push(match SUBDOMAIN_REGEX.is_match(text) {
            true => "must not contain dots".to_owned(),
            false => regex_error(LABEL_MESSAGE, LABEL, &["my-name", "123-abc"]),
        });
    }
    errors
}

/// What is wrong with an RFC 1123 subdomain, if anything.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_len_error(253));
    }
    if !SUBDOMAIN_REGEX.is_match(text) {
        errors.push(regex_error(SUBDOMAIN_MESSAGE, SUBDOMAIN, &["example.com"]));
    }
    errors
}

/// What is wrong with `*.` and an RFC 1123 subdomain, if anything.
pub fn wildcard_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_len_error(253));
    }
    if !text.strip_prefix("*.").is_some_and(|rest| SUBDOMAIN_REGEX.is_match(rest)) {
        errors.push(regex_error(WILDCARD_MESSAGE, &format!(r"\*\.{SUBDOMAIN}"), &["*.example.com"]));
    }
    errors
}

/// What is wrong with an RFC 1123 subdomain that may have underscores, as a search path of DNS, if anything.
pub fn underscored_subdomain(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 253 {
        errors.push(max_len_error(253));
    }
    let fits = text.split('.').all(|label| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = label.strip_prefix('_').unwrap_or(label).as_bytes();
        edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    });
    if !fits {
        errors.push(regex_error(UNDERSCORED_MESSAGE, UNDERSCORED, &["example.com"]));
    }
    errors
}

/// What is wrong with an RFC 1035 label, if anything.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push(max_len_error(63));
    }
    if !LABEL_1035_REGEX.is_match(text) {
        errors.push(regex_error(LABEL_1035_MESSAGE, LABEL_1035, &["my-name", "abc-123"]));
    }
    errors
}

/// What is wrong with the key of a label or annotation, if anything.
pub fn qualified_name(text: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let parts: Vec<&str> = text.split('/').collect();
    let mut errors = Vec::new();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            match prefix.is_empty() {
                true => errors.push("prefix part must be non-empty".to_owned()),
                false => errors.extend(dns1123_subdomain(prefix).into_iter().map(|e| format!("prefix part {e}"))),
            }
            *name
        }
        _ => {
            let error = regex_error(QUALIFIED_MESSAGE, QUALIFIED, &examples);
            let more = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a qualified name {error}{more}")];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", max_len_error(63)));
    }
    if !QUALIFIED_REGEX.is_match(name) {
        errors.push(format!("name part {}", regex_error(QUALIFIED_MESSAGE, QUALIFIED, &examples)));
    }
    errors
}

/// What is wrong with the value of a label, if anything.
pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 63 {
        errors.push(max_len_error(63));
    }
    if !LABEL_VALUE_REGEX.is_match(text) {
        errors.push(regex_error(LABEL_VALUE_MESSAGE, LABEL_VALUE, &["MyValue", "my_value", "12345"]));
    }
    errors
}

/// What is wrong with a name that only has to fit into a path, if anything.
pub fn path_segment(text: &str) -> Vec<String> {
    if text == "." || text == ".." {
        return vec![format!("may not be '{text}'")];
    }
    ["/", "%"].iter().filter(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn generated() {
        let name = generate("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate(&"x".repeat(80)).len(), 63);
        assert_eq!(safe_encode("09az"), "4fvs");
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
    }

    #[test]
    fn hash_ignores_order_and_nulls() {
        let a = template_hash(&json!({"a": 1, "b": [true, "x"], "c": null}), None);
        assert_eq!(a, template_hash(&json!({"b": [true, "x"], "a": 1}), None));
        assert_ne!(a, template_hash(&json!({"b": [true, "x"], "a": 1}), Some(1)));
    }

    #[test]
    fn rules() {
        assert_eq!(
            dns1123_label("A_b"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
              alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(dns1123_subdomain("a.b-c.d").is_empty());
        assert!(!dns1123_subdomain("a..b").is_empty());
        assert!(!dns1035_label("1a").is_empty());
        assert!(qualified_name("example.com/My_Name").is_empty());
        assert_eq!(qualified_name("/x"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/b/c").len(), 1);
        assert!(label_value("").is_empty() && !label_value("-x").is_empty());
        assert_eq!(path_segment("a/b%"), ["may not contain '/'", "may not contain '%'"]);
    }
}
