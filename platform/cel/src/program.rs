//! An expression, ready to be evaluated.

use std::sync::Arc;

use crate::{
    Bindings, Budget, CompileError, Environment, EvaluationError, Type, Val, Value,
    ast::Expr,
    checker, estimate,
    evaluator::{self, Regexes},
    fold::fold,
    parser,
};

/// A parsed and checked expression; cheap to clone.
#[derive(Clone, Debug)]
pub struct Program(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: String,
    result: Type,
    result_name: String,
    max_cost: u64,
    names: Vec<String>,
    runtime: Expr,
    regexes: Regexes,
}

impl Program {
    /// Parses and checks an expression.
    ///
    /// # Errors
    ///
    /// Syntax, undeclared names, unknown functions and, where types are known, types that do not fit; in cel-go's words.
    pub fn compile(environment: &Environment, source: &str) -> Result<Self, CompileError> {
        let (expr, ids) = parser::parse(source)?;
        let checked = checker::check(environment, source, expr, ids)?;
        let max_cost = estimate::max_cost(environment, &checked);
        let result = &checked.types[checked.expr.id];
        let (result, result_name) = (result.kind(), result.to_string());
        let mut regexes = Regexes::new();
        let mut runtime = checked.expr;
        fold(&mut runtime, &mut regexes);
        let source = source.to_owned();
        Ok(Self(Arc::new(Inner { source, result, result_name, max_cost, names: checked.names, runtime, regexes })))
    }

    /// The expression.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// What kind of value it has, if that is known.
    #[must_use]
    pub fn result_type(&self) -> Type {
        self.0.result
    }

    /// Its type as cel-go writes it, such as `list(string)`.
    #[must_use]
    pub fn result_type_name(&self) -> &str {
        &self.0.result_name
    }

    /// What an evaluation may cost at most, from what schemas say of sizes (`cel.EstimateCost`).
    #[must_use]
    pub fn max_cost(&self) -> u64 {
        self.0.max_cost
    }

    /// Whether it uses a name of its environment.
    #[must_use]
    pub fn uses(&self, name: &str) -> bool {
        self.0.names.iter().any(|other| other == name)
    }

    pub(crate) fn runtime(&self) -> &Expr {
        &self.0.runtime
    }

    pub(crate) fn regexes(&self) -> &Regexes {
        &self.0.regexes
    }

    /// Evaluates.
    ///
    /// # Errors
    ///
    /// Those of the expression, or that it or all before it cost too much.
    pub fn evaluate(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<Value, EvaluationError> {
        evaluator::evaluate(self, bindings, budget)?.into_owned()
    }

    /// Evaluates, without copying what the result holds of an object.
    ///
    /// # Errors
    ///
    /// As [`Self::evaluate`].
    pub fn evaluate_borrowed<'a>(&self, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Val<'a>, EvaluationError> {
        evaluator::evaluate(self, bindings, budget)
    }

    /// Evaluates to a truth value.
    ///
    /// # Errors
    ///
    /// As [`Self::evaluate`]; and when the value is something else.
    pub fn evaluate_bool(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<bool, EvaluationError> {
        let value = evaluator::evaluate(self, bindings, budget)?;
        let refuse = || EvaluationError::Type(format!("expected bool, got {}", value.type_name()).into());
        value.as_bool().ok_or_else(refuse)
    }

    /// Evaluates to a string.
    ///
    /// # Errors
    ///
    /// As [`Self::evaluate`]; and when the value is something else.
    pub fn evaluate_string(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<String, EvaluationError> {
        let value = evaluator::evaluate(self, bindings, budget)?;
        let refuse = || EvaluationError::Type(format!("expected string, got {}", value.type_name()).into());
        value.as_str().map(str::to_owned).ok_or_else(refuse)
    }
}
