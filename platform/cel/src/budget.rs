//! What evaluations may cost, in upstream's units: about 50 ns of work each.
//!
//! Numbers from `staging/src/k8s.io/apiserver/pkg/apis/cel/config.go`.

use crate::EvaluationError;

/// What one evaluation may cost, about 0.1 s.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// What all evaluations for one object may cost, about 1 s.
pub const RUNTIME_BUDGET: u64 = 10_000_000;

/// What all match conditions of one webhook or policy binding may cost.
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// What several evaluations may cost together.
#[derive(Debug, Clone)]
pub struct Budget {
    limit: u64,
    spent: u64,
}

impl Budget {
    /// Nothing spent yet.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, spent: 0 }
    }

    /// What evaluations have cost so far.
    #[must_use]
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// What is left.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.spent)
    }

    /// # Errors
    ///
    /// When that is more than what was left.
    pub(crate) fn spend(&mut self, cost: u64) -> Result<(), EvaluationError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > self.limit { Err(EvaluationError::Budget) } else { Ok(()) }
    }
}
