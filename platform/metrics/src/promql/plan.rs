//! What a query is: the parser's tree, checked and lowered into types of our own. The only file that knows the parser.

use std::time::{Duration, SystemTime};

use promql_parser::{
    label::{MatchOp as ParsedOp, Matchers},
    parser::{self, Expr, LabelModifier, VectorMatchCardinality, token, value::ValueType},
};

use super::tokens;
use crate::labels::{METRIC_NAME, MatchOp, Matcher, anchored_regex};

/// An expression.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    Number(f64),
    Text(String),
    Selector(Selector),
    /// `selector[range]`, in milliseconds.
    Range(Selector, i64),
    Subquery(Box<Subquery>),
    Call(&'static str, Vec<Node>),
    Aggregate(Box<Aggregate>),
    Binary(Box<Binary>),
    Negate(Box<Node>),
}

/// Which series, and as of when.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) shift: Shift,
}

/// `offset` in milliseconds and `@`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shift {
    pub(crate) offset: i64,
    pub(crate) at: Option<At>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    Start,
    End,
    Time(i64),
}

#[derive(Clone, Debug)]
pub(crate) struct Subquery {
    pub(crate) expr: Node,
    pub(crate) range: i64,
    pub(crate) step: Option<i64>,
    pub(crate) shift: Shift,
}

#[derive(Clone, Debug)]
pub(crate) struct Aggregate {
    pub(crate) op: AggregateOp,
    pub(crate) expr: Node,
    pub(crate) param: Option<Node>,
    pub(crate) labels: Vec<String>,
    pub(crate) without: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
}

#[derive(Clone, Debug)]
pub(crate) struct Binary {
    pub(crate) op: Op,
    pub(crate) lhs: Node,
    pub(crate) rhs: Node,
    pub(crate) bool: bool,
    pub(crate) matching: Matching,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Unless,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Matching {
    pub(crate) on: bool,
    pub(crate) labels: Vec<String>,
    pub(crate) group: Group,
    pub(crate) include: Vec<String>,
}

/// Which side may have many series for one of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Group {
    #[default]
    OneToOne,
    Left,
    Right,
}

/// The type of an expression's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Scalar,
    Text,
    Vector,
    Matrix,
}

/// Parses and checks a query.
///
/// # Errors
/// The text says what is wrong, without a position: the parser gives none.
pub(crate) fn parse(query: &str) -> Result<Node, String> {
    lower(&tree(query)?)
}

/// The query in upstream's layout.
pub(crate) fn format(query: &str) -> Result<String, String> {
    Ok(tree(query)?.prettify())
}

/// The parser's tree, no deeper than a stack allows.
fn tree(query: &str) -> Result<Expr, String> {
    tokens::check_depth(query)?;
    parser::parse(query)
}

/// The matchers of a series selector, as in `match[]`.
pub(crate) fn parse_selector(text: &str) -> Result<Vec<Matcher>, String> {
    match (parse(text)?, tokens::after_selector(text)) {
        (_, Some(what)) => Err(format!("unexpected {what}")),
        (Node::Selector(selector), None) => Ok(selector.matchers),
        // A number that reads like a name.
        (_, None) => Err(format!("unexpected number {:?}", text.trim())),
    }
}

// === impl Type ===

impl Type {
    pub(crate) fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Text => "string",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
        }
    }
}

// === impl Node ===

impl Node {
    pub(crate) fn kind(&self) -> Type {
        match self {
            Self::Number(_) => Type::Scalar,
            Self::Text(_) => Type::Text,
            Self::Selector(_) | Self::Aggregate(_) => Type::Vector,
            Self::Range(..) | Self::Subquery(_) => Type::Matrix,
            Self::Call("scalar" | "time" | "pi", _) => Type::Scalar,
            Self::Call(..) => Type::Vector,
            Self::Negate(inner) => inner.kind(),
            Self::Binary(b) => {
                if b.lhs.kind() == Type::Scalar && b.rhs.kind() == Type::Scalar {
                    Type::Scalar
                } else {
                    Type::Vector
                }
            }
        }
    }
}

// === impl Op ===

impl Op {
    pub(crate) fn is_comparison(self) -> bool {
        matches!(self, Self::Eq | Self::Ne | Self::Lt | Self::Le | Self::Gt | Self::Ge)
    }

    pub(crate) fn is_set(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

fn lower(expr: &Expr) -> Result<Node, String> {
    Ok(match expr {
        Expr::NumberLiteral(number) => Node::Number(number.val),
        Expr::StringLiteral(text) => Node::Text(text.val.clone()),
        Expr::Paren(paren) => lower(&paren.expr)?,
        Expr::Unary(unary) => Node::Negate(Box::new(lower(&unary.expr)?)),
        Expr::VectorSelector(selector) => Node::Selector(lower_selector(selector)?),
        Expr::MatrixSelector(matrix) => Node::Range(lower_selector(&matrix.vs)?, millis(matrix.range)?),
        Expr::Subquery(sub) => Node::Subquery(Box::new(Subquery {
            expr: lower(&sub.expr)?,
            range: millis(sub.range)?,
            step: sub.step.map(millis).transpose()?.filter(|step| *step > 0),
            shift: shift(sub.offset.as_ref(), sub.at.as_ref())?,
        })),
        Expr::Call(call) => {
            let args = call.args.args.iter().map(|arg| lower(arg)).collect::<Result<_, _>>()?;
            if !super::functions::is_known(call.func.name) {
                return Err(format!("function {:?} is not supported", call.func.name));
            }
            Node::Call(call.func.name, args)
        }
        Expr::Aggregate(aggregate) => lower_aggregate(aggregate)?,
        Expr::Binary(binary) => lower_binary(binary)?,
        Expr::Extension(_) => return Err("expression is not supported".to_owned()),
    })
}

fn lower_aggregate(aggregate: &parser::AggregateExpr) -> Result<Node, String> {
    let op = match aggregate.op.id() {
        token::T_SUM => AggregateOp::Sum,
        token::T_AVG => AggregateOp::Avg,
        token::T_COUNT => AggregateOp::Count,
        token::T_MIN => AggregateOp::Min,
        token::T_MAX => AggregateOp::Max,
        token::T_GROUP => AggregateOp::Group,
        token::T_STDDEV => AggregateOp::Stddev,
        token::T_STDVAR => AggregateOp::Stdvar,
        token::T_TOPK => AggregateOp::Topk,
        token::T_BOTTOMK => AggregateOp::Bottomk,
        token::T_COUNT_VALUES => AggregateOp::CountValues,
        token::T_QUANTILE => AggregateOp::Quantile,
        token::T_LIMITK => AggregateOp::Limitk,
        _ => return Err(format!("aggregation {} is not supported", aggregate.op)),
    };
    let param = aggregate.param.as_ref().map(|p| lower(p)).transpose()?;
    let wanted = match op {
        AggregateOp::CountValues => Some(Type::Text),
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Quantile | AggregateOp::Limitk => Some(Type::Scalar),
        _ => None,
    };
    if param.as_ref().map(Node::kind) != wanted {
        let (wanted, got) = (wanted.map_or("no parameter", Type::documented), param.map_or("nothing", |p| p.kind().documented()));
        return Err(format!("expected type {wanted} in aggregation parameter, got {got}"));
    }
    let (labels, without) = match &aggregate.modifier {
        None => (Vec::new(), false),
        Some(LabelModifier::Include(labels)) => (labels.labels.clone(), false),
        Some(LabelModifier::Exclude(labels)) => (labels.labels.clone(), true),
    };
    Ok(Node::Aggregate(Box::new(Aggregate { op, expr: lower(&aggregate.expr)?, param, labels, without })))
}

fn lower_binary(binary: &parser::BinaryExpr) -> Result<Node, String> {
    let op = match binary.op.id() {
        token::T_ADD => Op::Add,
        token::T_SUB => Op::Sub,
        token::T_MUL => Op::Mul,
        token::T_DIV => Op::Div,
        token::T_MOD => Op::Mod,
        token::T_POW => Op::Pow,
        token::T_ATAN2 => Op::Atan2,
        token::T_EQLC => Op::Eq,
        token::T_NEQ => Op::Ne,
        token::T_LSS => Op::Lt,
        token::T_LTE => Op::Le,
        token::T_GTR => Op::Gt,
        token::T_GTE => Op::Ge,
        token::T_LAND => Op::And,
        token::T_LOR => Op::Or,
        token::T_LUNLESS => Op::Unless,
        _ => return Err(format!("operator {} is not supported", binary.op)),
    };
    for side in [&binary.lhs, &binary.rhs] {
        if !matches!(side.value_type(), ValueType::Scalar | ValueType::Vector) {
            return Err("binary expression must contain only scalar and instant vector types".to_owned());
        }
    }
    let (mut matching, mut returns_bool) = (Matching::default(), false);
    if let Some(modifier) = &binary.modifier {
        returns_bool = modifier.return_bool;
        if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
            return Err("the modifiers fill, fill_left and fill_right are not supported".to_owned());
        }
        match &modifier.matching {
            Some(LabelModifier::Include(labels)) => (matching.on, matching.labels) = (true, labels.labels.clone()),
            Some(LabelModifier::Exclude(labels)) => matching.labels = labels.labels.clone(),
            None => {}
        }
        match &modifier.card {
            VectorMatchCardinality::ManyToOne(labels) => {
                (matching.group, matching.include) = (Group::Left, labels.labels.clone())
            }
            VectorMatchCardinality::OneToMany(labels) => {
                (matching.group, matching.include) = (Group::Right, labels.labels.clone())
            }
            VectorMatchCardinality::OneToOne | VectorMatchCardinality::ManyToMany => {}
        }
    }
    let (lhs, rhs) = (lower(&binary.lhs)?, lower(&binary.rhs)?);
    Ok(Node::Binary(Box::new(Binary { op, lhs, rhs, bool: returns_bool, matching })))
}

fn lower_selector(selector: &parser::VectorSelector) -> Result<Selector, String> {
    let Matchers { matchers: parsed, or_matchers } = &selector.matchers;
    if !or_matchers.is_empty() {
        return Err("unexpected \"or\" in label matching".to_owned());
    }
    let mut matchers = Vec::with_capacity(parsed.len() + 1);
    if let Some(name) = &selector.name {
        matchers.push(Matcher::equal(METRIC_NAME, name.clone()));
    }
    for m in parsed {
        let regex = || {
            // The parser tells apart `{` as repetition and as a plain character, as Go does: its pattern is the better one.
            let pattern = match &m.op {
                ParsedOp::Re(regex) | ParsedOp::NotRe(regex) => regex.as_str(),
                _ => m.value.as_str(),
            };
            let inner = pattern.strip_prefix("^(?:").and_then(|p| p.strip_suffix(")$")).unwrap_or(pattern);
            anchored_regex(inner).map_err(|error| format!("error parsing regexp: {error}"))
        };
        let op = match &m.op {
            ParsedOp::Equal => MatchOp::Equal,
            ParsedOp::NotEqual => MatchOp::NotEqual,
            ParsedOp::Re(_) => MatchOp::Regex(regex()?),
            ParsedOp::NotRe(_) => MatchOp::NotRegex(regex()?),
        };
        matchers.push(Matcher { name: m.name.clone(), value: m.value.clone(), op });
    }
    Ok(Selector { matchers, shift: shift(selector.offset.as_ref(), selector.at.as_ref())? })
}

fn shift(offset: Option<&parser::Offset>, at: Option<&parser::AtModifier>) -> Result<Shift, String> {
    let offset = match offset {
        None => 0,
        Some(parser::Offset::Pos(duration)) => millis(*duration)?,
        Some(parser::Offset::Neg(duration)) => -millis(*duration)?,
    };
    let at = match at {
        None => None,
        Some(parser::AtModifier::Start) => Some(At::Start),
        Some(parser::AtModifier::End) => Some(At::End),
        Some(parser::AtModifier::At(time)) => Some(At::Time(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => millis(after)?,
            Err(before) => -millis(before.duration())?,
        })),
    };
    Ok(Shift { offset, at })
}

fn millis(duration: Duration) -> Result<i64, String> {
    i64::try_from(duration.as_millis()).ok().filter(|ms| *ms < i64::MAX / 4).ok_or_else(|| "duration out of range".to_owned())
}
