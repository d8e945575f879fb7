//! Policies that refuse.
//!
//! Follows `policy/validating/{dispatcher,validator}.go`.

use std::{collections::BTreeMap, time::Duration};

use pharos_cel::{Budget, RUNTIME_BUDGET};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    definition::{Action, Binding, Hook, Policy, Validation, Validations},
    exempt,
    metrics::error_type,
    params,
};
use crate::{
    admission::{
        Attributes,
        conditions::Matched,
        expression::{self, Asker, Failure, Input},
        versions,
    },
    status::Status,
};

/// The longest message a `messageExpression` may give (`MaxEvaluatedMessageExpressionSizeBytes`).
const MAX_MESSAGE_BYTES: usize = 5 * 1024;
/// The longest value of an audit annotation; the rest is cut off.
const MAX_ANNOTATION_BYTES: usize = 10 * 1024;
/// How many failures the audit annotation tells.
const MAX_FAILURES: usize = 50;
const FAILURES: &str = "validation.policy.admission.k8s.io/validation_failure";
/// After an evaluation that cost more, others have their turn: about 10 ms of work.
const YIELD_COST: u64 = 100_000;

/// What one validation comes to.
#[derive(Debug, Clone, PartialEq)]
struct Decision {
    deny: bool,
    /// Whether it could not be evaluated; the failure policy has decided.
    error: bool,
    message: String,
    reason: String,
    elapsed: Duration,
}

impl Decision {
    fn error(fail_open: bool, message: String, elapsed: Duration) -> Self {
        Decision { deny: !fail_open, error: true, message, reason: String::new(), elapsed }
    }

    fn error_type(&self) -> &'static str {
        let admitted = !self.deny && !self.error;
        error_type((!admitted).then_some(self.message.as_str()))
    }
}

/// What a policy comes to for one parameter.
#[derive(Debug, Default)]
struct Verdict {
    decisions: Vec<Decision>,
    annotations: Vec<(String, String)>,
    /// Annotations that could not be made.
    broken: Vec<(String, Duration)>,
    cost: u64,
}

impl Verdict {
    fn error(fail_open: bool, message: String) -> Self {
        Verdict { decisions: vec![Decision::error(fail_open, message, Duration::ZERO)], ..Verdict::default() }
    }
}

/// One entry of the audit annotation of failures.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidationFailure {
    message: String,
    policy: String,
    binding: String,
    expression_index: usize,
    validation_actions: Vec<&'static str>,
}

/// What is denied.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

/// One write on its way past the policies.
struct Run<'a> {
    attributes: &'a Attributes<'a>,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
    /// `namespaceObject`, once it is needed.
    namespace: Option<Value>,
    denials: Vec<Denial>,
    failures: Vec<ValidationFailure>,
}

/// Lets the policies refuse a write. Of several refusals the first in order is told.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    let hooks = attributes.api.0.policies.validating.load_full();
    if hooks.is_empty() || exempt(attributes) {
        return Ok(());
    }
    let mut run = Run { attributes, object, old, namespace: None, denials: Vec::new(), failures: Vec::new() };
    for hook in hooks.iter() {
        run.hook(hook).await?;
    }
    run.finish()
}

impl Run<'_> {
    async fn hook(&mut self, hook: &Hook<Validations>) -> Result<(), Status> {
        let (attributes, policy) = (self.attributes, &*hook.policy);
        let how = match policy.criteria.invocation(attributes, self.object, self.old) {
            Ok(Some(how)) => how,
            Ok(None) => return Ok(()),
            Err(status) => {
                self.misconfigured(policy, None, status.message());
                return Ok(());
            }
        };
        if let Err(error) = params::known(attributes, policy.param_kind.as_ref()) {
            self.misconfigured(policy, None, &error);
            return Ok(());
        }
        let kind = how.kind(attributes.kind);
        let mut shown: Option<(Option<Value>, Option<Value>)> = None;
        let request = expression::request(attributes, kind);
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in &hook.bindings {
            let covered = binding.criteria.as_ref().map(|criteria| criteria.invocation(attributes, self.object, self.old));
            match covered.transpose() {
                Ok(Some(None)) => continue,
                Ok(_) => {}
                Err(status) => {
                    self.misconfigured(policy, Some(binding), status.message());
                    continue;
                }
            }
            let params = match params::collect(attributes, policy.param_kind.as_ref(), binding.params.as_ref()).await {
                Ok(params) if params.is_empty() => continue,
                Ok(params) => params,
                Err(error) => {
                    self.misconfigured(policy, Some(binding), &error);
                    continue;
                }
            };
            if shown.is_none() {
                let object = versions::shown(attributes, kind, self.object).await;
                let both = match object {
                    Ok(object) => versions::shown(attributes, kind, self.old).await.map(|old| (object, old)),
                    Err(status) => Err(status),
                };
                match both {
                    Ok(both) => shown = Some(both),
                    Err(status) => {
                        let error = format!("failed to convert object version: {}", status.message());
                        self.misconfigured(policy, Some(binding), &error);
                        continue;
                    }
                }
            }
            self.find_namespace()?;
            for param in &params {
                let (object, old) = shown.as_ref().map_or((None, None), |(object, old)| (object.as_ref(), old.as_ref()));
                let (object, old) = (object.or(self.object), old.or(self.old));
                let verdict = {
                    let asker = Asker(attributes);
                    let input = Input::new(&request, object, old, &asker);
                    let namespace = self.namespace.as_ref().unwrap_or(&Value::Null);
                    evaluate(attributes, policy, &input.with_params(&param.value, namespace))
                };
                let cost = verdict.cost;
                self.settle(policy, binding, verdict, &mut annotations);
                if cost > YIELD_COST {
                    tokio::task::yield_now().await;
                }
            }
        }
        for (key, values) in annotations {
            attributes.audit.annotate(&format!("{}/{key}", policy.name), &values.join(", "));
        }
        Ok(())
    }

    /// Looks up the namespace of the write, once.
    fn find_namespace(&mut self) -> Result<(), Status> {
        if self.namespace.is_none() {
            self.namespace = Some(super::namespace_of(self.attributes)?);
        }
        Ok(())
    }

    /// A policy or binding that cannot be applied: its failure policy decides.
    fn misconfigured(&mut self, policy: &Policy<Validations>, binding: Option<&Binding>, error: &str) {
        if policy.fail_open {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.denials.push(Denial {
            policy: policy.name.clone(),
            binding: binding.map(|binding| binding.name.clone()),
            message: format!("failed to configure {what}: {error}"),
            reason: String::new(),
        });
    }

    /// Does what a binding wants done about a verdict.
    fn settle(
        &mut self,
        policy: &Policy<Validations>,
        binding: &Binding,
        verdict: Verdict,
        annotations: &mut BTreeMap<String, Vec<String>>,
    ) {
        let metrics = &self.attributes.api.0.policies.metrics;
        let count = |decision: &Decision, action: &str| {
            metrics.validated(&policy.name, &binding.name, decision.error_type(), action, decision.elapsed);
        };
        for (index, decision) in verdict.decisions.into_iter().enumerate() {
            if !decision.deny {
                if decision.error {
                    count(&decision, "allow");
                }
                continue;
            }
            for action in &binding.actions {
                match action {
                    Action::Deny => {
                        count(&decision, "deny");
                        self.denials.push(Denial {
                            policy: policy.name.clone(),
                            binding: Some(binding.name.clone()),
                            message: decision.message.clone(),
                            reason: decision.reason.clone(),
                        });
                    }
                    Action::Audit => {
                        count(&decision, "audit");
                        self.failures.push(ValidationFailure {
                            message: decision.message.clone(),
                            policy: policy.name.clone(),
                            binding: binding.name.clone(),
                            expression_index: index,
                            validation_actions: binding.actions.iter().map(|action| action.as_str()).collect(),
                        });
                    }
                    Action::Warn => {
                        count(&decision, "warn");
                        self.attributes.warn(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                            policy.name, binding.name, decision.message
                        ));
                    }
                }
            }
        }
        for (key, value) in verdict.annotations {
            let values = annotations.entry(key).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
        for (message, elapsed) in verdict.broken {
            let decision = Decision::error(false, message, elapsed);
            count(&decision, "deny");
            self.denials.push(Denial {
                policy: policy.name.clone(),
                binding: Some(binding.name.clone()),
                message: decision.message,
                reason: String::new(),
            });
        }
    }

    fn finish(mut self) -> Result<(), Status> {
        if !self.failures.is_empty() {
            self.failures.truncate(MAX_FAILURES);
            let text = serde_json::to_string(&self.failures).unwrap_or_default();
            self.attributes.audit.annotate(FAILURES, &text);
        }
        match self.denials.first() {
            None => Ok(()),
            Some(denial) => Err(refusal(self.attributes, self.object, denial)),
        }
    }
}

/// The `Status` of a refusal: a `Forbidden` with the validation's own reason.
fn refusal(attributes: &Attributes<'_>, object: Option<&Value>, denial: &Denial) -> Status {
    let policy = &denial.policy;
    let message = match &denial.binding {
        Some(binding) => {
            format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {}", denial.message)
        }
        None => format!("ValidatingAdmissionPolicy '{policy}' denied request: {}", denial.message),
    };
    let (code, reason) = match denial.reason.as_str() {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    };
    super::forbidden(attributes, object, &message)
        .with_code(code, reason)
        .with_causes(vec![serde_json::json!({"message": message})])
}

/// What a policy comes to for one parameter.
fn evaluate(attributes: &Attributes<'_>, policy: &Policy<Validations>, input: &Input<'_>) -> Verdict {
    let fail_open = policy.fail_open;
    if let Some(why) = policy.variables.broken() {
        return Verdict::error(fail_open, why.to_owned());
    }
    match policy.conditions.hold_with(attributes, input, &policy.variables) {
        Matched::Yes => {}
        Matched::No => return Verdict::default(),
        Matched::Failed(error) => return Verdict::error(fail_open, error),
    }
    let bindings = input.bindings(&policy.variables);
    let mut budget = Budget::new(RUNTIME_BUDGET);
    let mut verdict = Verdict::default();
    for validation in &policy.rules.validations {
        let start = Instant::now();
        let outcome = validation.expression.evaluate(&bindings, &mut budget);
        let elapsed = start.elapsed();
        verdict.decisions.push(match outcome {
            Err(Failure::Budget(error)) => return Verdict::error(fail_open, error),
            Err(Failure::Expression(error)) => Decision::error(fail_open, error, elapsed),
            Ok(value) if value.as_bool() == Some(true) => {
                Decision { deny: false, error: false, message: String::new(), reason: String::new(), elapsed }
            }
            Ok(_) => match message(validation, input, policy, &mut budget) {
                Ok(message) => Decision { deny: true, error: false, message, reason: validation.reason.clone(), elapsed },
                Err(error) => Decision::error(fail_open, format!("failed messageExpression: {error}"), elapsed),
            },
        });
    }
    verdict.cost = budget.spent();
    if let Err(error) = annotate(policy, input, &mut verdict) {
        return Verdict::error(fail_open, error);
    }
    verdict
}

/// What whoever is refused is told: what `messageExpression` says, else `message`, else the expression.
fn message(
    validation: &Validation,
    input: &Input<'_>,
    policy: &Policy<Validations>,
    budget: &mut Budget,
) -> Result<String, String> {
    let said = match &validation.message_expression {
        None => None,
        Some(expression) => match expression.evaluate(&input.bindings(&policy.variables), budget) {
            Err(Failure::Budget(error)) => return Err(error),
            Err(Failure::Expression(error)) => {
                tracing::debug!(policy = policy.name, error, "messageExpression not evaluated");
                None
            }
            Ok(value) => value.as_str().map(|text| text.trim().to_owned()),
        },
    };
    let said = said.filter(|text| !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n'));
    Ok(said.unwrap_or_else(|| match validation.message.trim() {
        "" => format!("failed expression: {}", validation.expression.source.trim()),
        message => message.to_owned(),
    }))
}

/// Makes the audit annotations, with a budget of their own.
fn annotate(policy: &Policy<Validations>, input: &Input<'_>, verdict: &mut Verdict) -> Result<(), String> {
    if policy.rules.annotations.is_empty() {
        return Ok(());
    }
    let bindings = input.bindings(&policy.variables);
    let mut budget = Budget::new(RUNTIME_BUDGET);
    for annotation in &policy.rules.annotations {
        let start = Instant::now();
        match annotation.value.evaluate(&bindings, &mut budget) {
            Err(Failure::Budget(error)) => return Err(error),
            Err(Failure::Expression(_)) if policy.fail_open => {}
            Err(Failure::Expression(error)) => verdict.broken.push((error, start.elapsed())),
            Ok(pharos_cel::Value::Null) => {}
            Ok(value) => match value.as_str() {
                Some(text) if text.trim().is_empty() => {}
                Some(text) => verdict.annotations.push((annotation.key.clone(), cut(text.trim()).to_owned())),
                None => verdict.broken.push((
                    format!(
                        "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or \
                         null.",
                        annotation.value.source,
                        value.type_name()
                    ),
                    start.elapsed(),
                )),
            },
        }
    }
    verdict.cost += budget.spent();
    Ok(())
}

/// The beginning of a text, not more than an annotation may have.
fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_ANNOTATION_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_are_cut_between_characters() {
        let long = format!("{}é", "a".repeat(MAX_ANNOTATION_BYTES - 1));
        assert_eq!(cut(&long).len(), MAX_ANNOTATION_BYTES - 1);
        assert_eq!(cut("short"), "short");
    }

    #[test]
    fn decisions_are_counted_by_error() {
        let decision = |deny, error, message: &str| Decision {
            deny,
            error,
            message: message.to_owned(),
            reason: String::new(),
            elapsed: Duration::ZERO,
        };
        for (decision, wanted) in [
            (decision(false, false, ""), "no_error"),
            (decision(true, false, "too many"), "invalid_error"),
            (decision(true, true, "compilation error: x"), "compile_error"),
            (decision(false, true, "expression 'x' resulted in error: y"), "invalid_error"),
        ] {
            assert_eq!(decision.error_type(), wanted, "{decision:?}");
        }
    }
}
