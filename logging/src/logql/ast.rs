use std::net::IpAddr;

use regex::Regex;

use super::{pattern::Pattern, template::Template};
use crate::entry::Labels;

/// A query.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Log(LogExpr),
    Number(f64),
    /// `vector(1)`
    Vector(f64),
    Range(Box<RangeAggregation>),
    Aggregation(Box<Aggregation>),
    Binary(Box<Binary>),
    LabelReplace(Box<LabelReplace>),
}

/// `{…} | …`
#[derive(Clone, Debug)]
pub(crate) struct LogExpr {
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatchOp {
    Equal,
    NotEqual,
    Regex,
    NotRegex,
}

/// `name="value"`
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    pub(crate) name: String,
    pub(crate) op: MatchOp,
    pub(crate) value: String,
    /// Of the whole value.
    pub(crate) regex: Option<Regex>,
}

#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Filter(LineFilter),
    /// With the labels to extract, or all: name and path.
    Json(Vec<(String, Vec<JsonStep>)>),
    Logfmt {
        strict: bool,
        keep_empty: bool,
        fields: Vec<(String, String)>,
    },
    Regexp(Regex),
    Pattern(Pattern),
    Unpack,
    LineFormat(Template),
    LabelFormat(Vec<(String, Format)>),
    Decolorize,
    Drop(Vec<LabelChoice>),
    Keep(Vec<LabelChoice>),
    Labels(LabelFilter),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum JsonStep {
    Key(String),
    Index(usize),
}

/// `|= "a" or "b"`: a line must, or must not, match any.
#[derive(Clone, Debug)]
pub(crate) struct LineFilter {
    pub(crate) negated: bool,
    pub(crate) any: Vec<LineMatch>,
}

#[derive(Clone, Debug)]
pub(crate) enum LineMatch {
    Contains(String),
    Regex(Regex),
    Pattern(Pattern),
    Ip(IpRange),
}

#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// Takes another label's value, and that label away.
    Rename(String),
    Template(Template),
}

/// A label's name, or one with a value to match.
#[derive(Clone, Debug)]
pub(crate) enum LabelChoice {
    Name(String),
    Matching(Matcher),
}

#[derive(Clone, Debug)]
pub(crate) enum LabelFilter {
    Matches(Matcher),
    Compare { name: String, op: Comparison, to: f64, unit: Unit },
    Ip { name: String, negated: bool, range: IpRange },
    And(Box<LabelFilter>, Box<LabelFilter>),
    Or(Box<LabelFilter>, Box<LabelFilter>),
}

/// How a label's value is read as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Number,
    /// In seconds.
    Duration,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

/// `ip("…")`: an address, a range or a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct IpRange {
    pub(crate) first: IpAddr,
    pub(crate) last: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeOp {
    Rate,
    RateCounter,
    Count,
    BytesRate,
    Bytes,
    Avg,
    Sum,
    Min,
    Max,
    Stdvar,
    Stddev,
    Quantile,
    First,
    Last,
    Absent,
}

/// `rate({…}[5m])`
#[derive(Clone, Debug)]
pub(crate) struct RangeAggregation {
    pub(crate) op: RangeOp,
    pub(crate) log: LogExpr,
    pub(crate) unwrap: Option<Unwrap>,
    /// Nanoseconds.
    pub(crate) range: i64,
    /// Nanoseconds.
    pub(crate) offset: i64,
    /// Of a quantile.
    pub(crate) parameter: f64,
    pub(crate) grouping: Option<Grouping>,
}

/// `| unwrap duration(took)`, and the filters after it.
#[derive(Clone, Debug)]
pub(crate) struct Unwrap {
    pub(crate) label: String,
    pub(crate) unit: Unit,
    pub(crate) filters: Vec<LabelFilter>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Grouping {
    pub(crate) without: bool,
    pub(crate) labels: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregationOp {
    Sum,
    Avg,
    Max,
    Min,
    Count,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    Sort,
    SortDesc,
}

/// `sum by (app) (…)`
#[derive(Clone, Debug)]
pub(crate) struct Aggregation {
    pub(crate) op: AggregationOp,
    pub(crate) expr: Expr,
    /// Of topk and bottomk.
    pub(crate) parameter: usize,
    pub(crate) grouping: Grouping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Or,
    And,
    Unless,
    Compare(Comparison),
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
}

#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) op: BinaryOp,
    pub(crate) left: Expr,
    pub(crate) right: Expr,
    /// A comparison gives 0 or 1 and drops nothing.
    pub(crate) to_bool: bool,
    pub(crate) matching: Matching,
}

/// Which samples of two vectors belong together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Matching {
    /// By these labels, or by all but these.
    pub(crate) on: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) group: Option<Group>,
}

/// One side may have several samples for one of the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) left: bool,
    /// Labels that are taken from the other side.
    pub(crate) include: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct LabelReplace {
    pub(crate) expr: Expr,
    pub(crate) destination: String,
    pub(crate) replacement: String,
    pub(crate) source: String,
    /// Of the whole value.
    pub(crate) regex: Regex,
}

impl Matcher {
    pub(crate) fn new(name: &str, op: MatchOp, value: &str) -> Result<Self, regex::Error> {
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(whole(value)?),
        };
        Ok(Self { name: name.to_owned(), op, value: value.to_owned(), regex })
    }

    /// Whether a value, empty if the label is missing, is such a one.
    pub(crate) fn matches(&self, value: &str) -> bool {
        let found = match &self.regex {
            Some(regex) => regex.is_match(value),
            None => value == self.value,
        };
        found == matches!(self.op, MatchOp::Equal | MatchOp::Regex)
    }
}

impl LogExpr {
    /// Whether the selector takes a stream.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        selects(&self.matchers, labels)
    }
}

/// Whether a stream matches all.
pub(crate) fn selects(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
}

impl Comparison {
    pub(crate) fn holds(self, left: f64, right: f64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
        }
    }
}

impl Expr {
    /// Whether it gives lines.
    pub(crate) fn is_log(&self) -> bool {
        matches!(self, Self::Log(_))
    }
}

/// A regular expression that matches whole values.
pub(crate) fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?s:{pattern})$"))
}
