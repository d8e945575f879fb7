//! An expression, ready to be evaluated.

use std::sync::Arc;

use crate::{Bindings, Budget, CompileError, Environment, EvaluationError, Type, Value};

/// A parsed and checked expression; cheap to clone.
#[derive(Clone, Debug)]
pub struct Program(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: String,
    result: Type,
    max_cost: u64,
    names: Vec<String>,
}

impl Program {
    /// Parses and checks an expression.
    ///
    /// # Errors
    ///
    /// Syntax, undeclared names, unknown functions and, where types are known, types that do not fit; in cel-go's words.
    pub fn compile(_environment: &Environment, source: &str) -> Result<Self, CompileError> {
        Err(CompileError::at(source, vec![(0, "the evaluator is not there yet".to_owned())]))
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

    /// Evaluates.
    ///
    /// # Errors
    ///
    /// Those of the expression, or that it or all before it cost too much.
    pub fn evaluate(&self, _bindings: &Bindings<'_>, _budget: &mut Budget) -> Result<Value, EvaluationError> {
        Err(EvaluationError::new("the evaluator is not there yet"))
    }

    /// Evaluates to a truth value.
    ///
    /// # Errors
    ///
    /// As [`Self::evaluate`]; and when the value is something else.
    pub fn evaluate_bool(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<bool, EvaluationError> {
        let value = self.evaluate(bindings, budget)?;
        let refuse = || EvaluationError::Type(format!("expected bool, got {}", value.type_name()).into());
        value.as_bool().ok_or_else(refuse)
    }

    /// Evaluates to a string.
    ///
    /// # Errors
    ///
    /// As [`Self::evaluate`]; and when the value is something else.
    pub fn evaluate_string(&self, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<String, EvaluationError> {
        let value = self.evaluate(bindings, budget)?;
        let refuse = || EvaluationError::Type(format!("expected string, got {}", value.type_name()).into());
        value.as_str().map(str::to_owned).ok_or_else(refuse)
    }
}
