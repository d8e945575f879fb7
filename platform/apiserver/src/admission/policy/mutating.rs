//! Policies that change what is written.
//!
//! Follows `policy/mutating/{dispatcher,reinvocationcontext}.go` and `policy/generic/policy_dispatcher.go`.

use std::{collections::HashSet, sync::Arc};

use pharos_api::registry::Kind;
use pharos_cel::{Budget, RUNTIME_BUDGET};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    definition::{Binding, Hook, Mutations, Policy},
    exempt,
    metrics::error_type,
    params::{self, Param},
    patch,
};
use crate::{
    admission::{
        Attributes, Operation,
        conditions::Matched,
        expression::{self, Asker, Failure, Input},
        versions,
    },
    convert,
    status::{self, Status},
};

/// A policy as a binding applies it with one parameter.
type Id = (String, String, Option<(String, String)>);

/// What is remembered of a write between its two rounds: a policy that wants to see what others have done after it is
/// applied again.
#[derive(Default)]
pub(crate) struct Mutation {
    again: bool,
    /// Applied already, and to be applied again after a change.
    applied: HashSet<Id>,
    /// To be applied again.
    due: HashSet<Id>,
    /// What the policies have made of the object.
    output: Option<Value>,
}

impl Mutation {
    fn changed(&mut self) {
        self.due.extend(self.applied.drain());
    }
}

/// A policy to apply.
struct Invocation<'a> {
    policy: &'a Policy<Mutations>,
    binding: &'a Binding,
    /// In which version.
    kind: Arc<Kind>,
    request: Arc<Value>,
    param: Param,
}

impl Invocation<'_> {
    fn id(&self) -> Id {
        (self.policy.name.clone(), self.binding.name.clone(), self.param.id.clone())
    }
}

/// A policy that could not be applied, and what its failure policy does not forgive.
struct Problem {
    message: String,
    /// `Invalid` for an expression, nothing for a misconfiguration.
    reason: &'static str,
}

/// Lets the policies change the object of a write. Whether one did: then the built-in plugins look at it again, and after them,
/// once, the policies that ask to.
pub(crate) async fn mutate(
    attributes: &Attributes<'_>,
    mutation: &mut Mutation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<bool, Status> {
    let hooks = attributes.api.0.policies.mutating.load_full();
    if hooks.is_empty() || attributes.operation == Operation::Delete || exempt(attributes) {
        return Ok(false);
    }
    let mut problems = Vec::new();
    let mut invocations = Vec::new();
    for hook in hooks.iter() {
        collect(attributes, hook, object, old, &mut invocations, &mut problems).await;
    }
    let mut any = false;
    if !invocations.is_empty() {
        if mutation.again && mutation.output.as_ref() != Some(&*object) {
            mutation.changed();
        }
        any = apply_all(attributes, mutation, object, old, invocations, &mut problems).await?;
        if any || !mutation.applied.is_empty() {
            mutation.output = Some(object.clone());
        }
    }
    mutation.again = true;
    match problems.first() {
        None => Ok(any),
        Some(first) => {
            let reason = if first.reason.is_empty() { "Forbidden" } else { first.reason };
            let causes = problems.iter().map(|problem| json!({"message": problem.message})).collect();
            let refused = super::forbidden(attributes, Some(object), "admission request denied by policy");
            Err(refused.with_message(first.message.clone()).with_code(403, reason).with_causes(causes))
        }
    }
}

/// What of a policy is to be applied to a write.
async fn collect<'a>(
    attributes: &Attributes<'_>,
    hook: &'a Hook<Mutations>,
    object: &Value,
    old: Option<&Value>,
    invocations: &mut Vec<Invocation<'a>>,
    problems: &mut Vec<Problem>,
) {
    let policy = &*hook.policy;
    let mut misconfigured = |binding: Option<&Binding>, error: &str| {
        let what = if binding.is_some() { "binding" } else { "policy" };
        note(problems, policy, binding, format!("failed to configure {what}: {error}"), "");
    };
    let how = match policy.criteria.invocation(attributes, Some(object), old) {
        Ok(Some(how)) => how,
        Ok(None) => return,
        Err(status) => return misconfigured(None, status.message()),
    };
    if let Err(error) = params::known(attributes, policy.param_kind.as_ref()) {
        return misconfigured(None, &error);
    }
    let kind = Arc::new(how.kind(attributes.kind).clone());
    let request = Arc::new(expression::request(attributes, &kind));
    for binding in &hook.bindings {
        let covered = binding.criteria.as_ref().map(|criteria| criteria.invocation(attributes, Some(object), old));
        match covered.transpose() {
            Ok(Some(None)) => continue,
            Ok(_) => {}
            Err(status) => {
                misconfigured(Some(binding), status.message());
                continue;
            }
        }
        match params::collect(attributes, policy.param_kind.as_ref(), binding.params.as_ref()).await {
            Ok(params) => invocations.extend(params.into_iter().map(|param| Invocation {
                policy,
                binding,
                kind: kind.clone(),
                request: request.clone(),
                param,
            })),
            Err(error) => misconfigured(Some(binding), &error),
        }
    }
}

fn note(problems: &mut Vec<Problem>, policy: &Policy<Mutations>, binding: Option<&Binding>, why: String, reason: &'static str) {
    if policy.fail_open {
        return;
    }
    let message = match binding {
        Some(binding) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name),
        None => format!("policy {:?} denied request: {why}", policy.name),
    };
    problems.push(Problem { message, reason });
}

/// Applies policies one after the other, each to what those before it made of the object.
async fn apply_all(
    attributes: &Attributes<'_>,
    mutation: &mut Mutation,
    object: &mut Value,
    old: Option<&Value>,
    invocations: Vec<Invocation<'_>>,
    problems: &mut Vec<Problem>,
) -> Result<bool, Status> {
    let namespace = super::namespace_of(attributes)?;
    let mut any = false;
    for invocation in invocations {
        let Invocation { policy, binding, .. } = invocation;
        let kind = &*invocation.kind;
        let internal = |status: Status| status::internal(status.message());
        let shown = versions::shown(attributes, kind, Some(object)).await.map_err(internal)?;
        let shown_old = versions::shown(attributes, kind, old).await.map_err(internal)?;
        let converted = shown.is_some();
        let mut current = shown.unwrap_or_else(|| object.clone());
        let context = Context { attributes, invocation: &invocation, old: shown_old.as_ref().or(old), namespace: &namespace };
        if let Some(why) = policy.variables.broken() {
            note(problems, policy, Some(binding), why.to_owned(), "Invalid");
            continue;
        }
        match context.conditions(&current) {
            Matched::Yes => {}
            Matched::No => continue,
            Matched::Failed(error) => {
                note(problems, policy, Some(binding), error, "Invalid");
                continue;
            }
        }
        if mutation.again && !mutation.due.contains(&invocation.id()) {
            continue;
        }
        let before = current.clone();
        context.change(&mut current, problems)?;
        if current != before {
            any = true;
            mutation.changed();
            *object = if converted {
                let back = convert::between(attributes.api, kind, attributes.kind, current).await;
                back.map_err(|status| status::internal(format!("failed to convert object: {}", status.message())))?
            } else {
                current
            };
        }
        if policy.rules.reinvoke {
            mutation.applied.insert(invocation.id());
        }
        tokio::task::yield_now().await;
    }
    Ok(any)
}

/// One policy on one object.
struct Context<'a> {
    attributes: &'a Attributes<'a>,
    invocation: &'a Invocation<'a>,
    old: Option<&'a Value>,
    namespace: &'a Value,
}

impl Context<'_> {
    fn input<'b>(&'b self, object: &'b Value, asker: &'b Asker<'b>) -> Input<'b> {
        let Invocation { request, param, .. } = self.invocation;
        Input::new(request, Some(object), self.old, asker).with_params(&param.value, self.namespace)
    }

    fn conditions(&self, object: &Value) -> Matched {
        let policy = self.invocation.policy;
        let asker = Asker(self.attributes);
        policy.conditions.hold_with(self.attributes, &self.input(object, &asker), &policy.variables)
    }

    /// Makes the policy's changes in turn. One that fails leaves the object as it found it.
    fn change(&self, object: &mut Value, problems: &mut Vec<Problem>) -> Result<(), Status> {
        let Invocation { policy, binding, .. } = *self.invocation;
        let metrics = &self.attributes.api.0.policies.metrics;
        for index in 0..policy.rules.mutations.len() {
            let start = Instant::now();
            let outcome = self.one(index, object);
            let error = match &outcome {
                Ok(_) => None,
                Err(patch::Error::Mutation(text)) => Some(text.clone()),
                Err(patch::Error::Refused(status)) => Some(status.message().to_owned()),
            };
            metrics.mutated(&policy.name, &binding.name, error_type(error.as_deref()), start.elapsed());
            match outcome {
                Ok(new) => *object = new,
                Err(patch::Error::Mutation(text)) => note(problems, policy, Some(binding), text, "Invalid"),
                Err(patch::Error::Refused(status)) => return Err(status),
            }
        }
        Ok(())
    }

    fn one(&self, index: usize, object: &Value) -> Result<Value, patch::Error> {
        let Invocation { policy, .. } = *self.invocation;
        let change = &policy.rules.mutations[index];
        let asker = Asker(self.attributes);
        let input = self.input(object, &asker);
        let mut budget = Budget::new(RUNTIME_BUDGET);
        let value =
            change.expression.evaluate(&input.bindings(&policy.variables), &mut budget).map_err(|failure| match failure {
                Failure::Expression(text) => patch::Error::Mutation(text),
                Failure::Budget(text) => patch::Error::Mutation(text),
            })?;
        patch::apply(self.attributes, &self.invocation.kind, change.kind, object, &value)
    }
}
