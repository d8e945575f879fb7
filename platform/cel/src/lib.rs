//! Kubernetes' flavour of the [Common Expression Language](https://cel.dev).
//!
//! An [`Environment`] says which names an expression may use, and of what type they are. [`Program::compile`] parses and checks
//! an expression, [`Program::evaluate`] evaluates it over [`Bindings`] and pays for it from a [`Budget`].
//!
//! Everything here is pure: no I/O, no async, and bounded. An expression has at most 100,000 characters and is nested at most
//! 100 deep; what an evaluation costs is counted in upstream's units ([`PER_CALL_LIMIT`]), so is what it may cost at most
//! ([`Program::max_cost`]).
//!
//! Why its own and not a crate: what upstream refuses, and with which text, hangs on the type checker, on cel-go's expansion
//! of macros and on the costs of each step; the crates there are have neither.

mod ast; // Trees,
mod authorizer; // questions to the authorizer,
mod bindings; // values of names,
mod budget; // costs,
mod checker; // types,
mod declaration; // schemas,
mod environment; // names and their types,
mod error; // errors,
mod escape; // names of members,
mod estimate; // estimated costs,
mod evaluator; // values of expressions,
mod fold; // constants,
mod functions; // which functions there are,
mod library; // what they do,
mod message; // names of messages,
mod parser; // text,
mod program; // all of it in one,
mod time; // moments,
mod types; // types
mod value; // and values.

pub use authorizer::{Authorizer, CheckAttributes, CheckDecision};
pub use bindings::Bindings;
pub use budget::{Budget, MATCH_CONDITIONS_BUDGET, PER_CALL_LIMIT, RUNTIME_BUDGET};
pub use declaration::Declaration;
pub use environment::Environment;
pub use error::{CompileError, EvaluationError};
pub use escape::escape;
pub use program::Program;
pub use types::Type;
pub use value::{Opaque, Val, Value};

#[cfg(test)]
mod tests;
