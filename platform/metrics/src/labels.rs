//! Label sets and what selects them.

use std::{fmt, sync::Arc};

use regex::Regex;

/// The label that holds a metric's name.
pub const METRIC_NAME: &str = "__name__";

/// A shared string: label names and values repeat a lot, so the store keeps one copy of each.
pub type Sym = Arc<str>;

/// A label set in order of names; no value is empty. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Sym, Sym)]>);

/// Collects labels for a [`Labels`]. The last value of a name wins; an empty value removes the label.
#[derive(Clone, Debug, Default)]
pub struct Builder(Vec<(Sym, Sym)>);

/// One condition on a label; a missing label counts as an empty value.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The label's name.
    pub name: String,
    /// The condition's value as written.
    pub value: String,
    /// The kind of condition.
    pub op: MatchOp,
}

/// The kinds of conditions.
#[derive(Clone, Debug)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends; `.` matches a newline too.
    Regex(Regex),
    /// `!~`
    NotRegex(Regex),
}

// === impl Labels ===

impl Default for Labels {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl Labels {
    /// Labels from pairs in any order.
    pub fn from_pairs<N: Into<Sym>, V: Into<Sym>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut builder = Builder::default();
        for (name, value) in pairs {
            builder.set(name.into(), value.into());
        }
        builder.build()
    }

    /// A label's value; empty if there is no such label.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| &**n == name).map_or("", |(_, v)| v)
    }

    /// The metric's name, or an empty string.
    #[must_use]
    pub fn name(&self) -> &str {
        self.get(METRIC_NAME)
    }

    /// Whether there is a label of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| &**n == name)
    }

    /// All pairs in order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &(Sym, Sym)> {
        self.0.iter()
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The labels that `keep` wants.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.0.iter().all(|(n, _)| keep(n)) {
            return self.clone();
        }
        Self(self.0.iter().filter(|(n, _)| keep(n)).cloned().collect())
    }

    /// These labels without the metric's name.
    #[must_use]
    pub fn without_name(&self) -> Self {
        self.filter(|name| name != METRIC_NAME)
    }

    /// A builder that starts from these labels.
    #[must_use]
    pub fn builder(&self) -> Builder {
        Builder(self.0.to_vec())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `{a="1", b="2"}`, the metric's name among the labels, as upstream prints label sets in errors.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, (name, value)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{name}={}", quoted(value))?;
        }
        f.write_str("}")
    }
}

/// A string as Go's `strconv.Quote` writes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Whether a name can be written without quotes.
#[must_use]
pub fn is_legacy_label_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_') && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

// === impl Builder ===

impl Builder {
    /// Sets a label.
    pub fn set(&mut self, name: impl Into<Sym>, value: impl Into<Sym>) -> &mut Self {
        let (name, value) = (name.into(), value.into());
        match self.0.iter().position(|(n, _)| *n == name) {
            Some(at) => self.0[at].1 = value,
            None => self.0.push((name, value)),
        }
        self
    }

    /// A label's value; empty if there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| &**n == name).map_or("", |(_, v)| v)
    }

    /// Removes a label.
    pub fn remove(&mut self, name: &str) -> &mut Self {
        self.0.retain(|(n, _)| &**n != name);
        self
    }

    /// The label set.
    #[must_use]
    pub fn build(mut self) -> Labels {
        self.0.retain(|(_, v)| !v.is_empty());
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        Labels(self.0.into())
    }
}

// === impl Matcher ===

impl Matcher {
    /// `name="value"`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into(), op: MatchOp::Equal }
    }

    /// Whether a value meets the condition.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        match &self.op {
            MatchOp::Equal => self.value == value,
            MatchOp::NotEqual => self.value != value,
            MatchOp::Regex(regex) => regex.is_match(value),
            MatchOp::NotRegex(regex) => !regex.is_match(value),
        }
    }

    /// Whether all conditions hold of a label set.
    #[must_use]
    pub fn all_match(matchers: &[Self], labels: &Labels) -> bool {
        matchers.iter().all(|m| m.matches(labels.get(&m.name)))
    }

    /// The values that an alternation of plain words, such as `a|b|c`, can match; `None` for any other regex.
    pub(crate) fn words(&self) -> Option<Vec<&str>> {
        let plain = |w: &str| w.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-/: ".contains(&b));
        let words: Vec<&str> = self.value.split('|').collect();
        words.iter().all(|w| plain(w)).then_some(words)
    }
}

/// A regex of PromQL: anchored at both ends, `.` matches newlines.
///
/// # Errors
/// The regex engine's own words when the expression is wrong.
pub fn anchored_regex(expression: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(&format!("^(?s:{expression})$")).size_limit(1 << 20).build()
}
