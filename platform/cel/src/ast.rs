//! Expressions as trees, with macros expanded.

use std::sync::Arc;

use crate::Value;

/// The name of what a comprehension gathers its result in. No expression can write it.
pub(crate) const ACCUMULATOR: &str = "@result";

/// One expression.
#[derive(Debug, Clone)]
pub(crate) struct Expr {
    /// Its index in the checker's tables.
    pub(crate) id: usize,
    /// Where it is in the source, in characters.
    pub(crate) at: usize,
    /// How deep what is below it is nested.
    pub(crate) height: usize,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Literal(Value),
    Ident(Arc<str>),
    /// `operand.field`, or whether there is such a field.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
    },
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// Items, and whether each is optional.
    List(Vec<(Expr, bool)>),
    Map(Vec<Entry>),
    /// A message.
    Struct {
        name: Arc<str>,
        fields: Vec<Field>,
    },
    Comprehension(Box<Comprehension>),
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Arc<str>,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// What macros become: `accumulator` starts as `init` and becomes `step` for each element of `range` while `condition` holds.
#[derive(Debug, Clone)]
pub(crate) struct Comprehension {
    pub(crate) range: Expr,
    /// The element; with `variable2` its index or key.
    pub(crate) variable: Arc<str>,
    pub(crate) variable2: Option<Arc<str>>,
    pub(crate) accumulator: Arc<str>,
    pub(crate) init: Expr,
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
    /// `cel.bind`: nothing but a name for `init` in `result`.
    pub(crate) bind: bool,
}
