//! Mutating webhooks, one after the other.
//!
//! Follows `plugin/webhook/mutating/{dispatcher,reinvocationcontext}.go`.

use std::collections::HashSet;

use pharos_api::patch;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    Attributes,
    call::{self, Failure},
    configuration::Hook,
    exempt, invocation,
    metrics::Step,
};
use crate::{
    admission::{matching::Invocation, versions},
    convert,
    status::{self, Status},
};

/// What is remembered of a write between its two rounds: a webhook that wants to see what others have done after it is
/// asked again.
#[derive(Default)]
pub(crate) struct Mutation {
    again: bool,
    /// Asked already, and to be asked again after a change.
    asked: HashSet<(String, usize)>,
    /// To be asked again.
    due: HashSet<(String, usize)>,
    /// What the webhooks have made of the object.
    output: Option<Value>,
}

impl Mutation {
    fn changed(&mut self) {
        self.due.extend(self.asked.drain());
    }
}

/// Lets the webhooks change the object of a write. Whether one did: then the built-in plugins look at it again, and
/// after them, once, the webhooks that ask to.
pub(crate) async fn mutate(
    attributes: &Attributes<'_>,
    mutation: &mut Mutation,
    mut object: Option<&mut Value>,
    old: Option<&Value>,
) -> Result<bool, Status> {
    let hooks = attributes.api.0.webhooks.mutating.load_full();
    if hooks.is_empty() || exempt(attributes) {
        return Ok(false);
    }
    if mutation.again && mutation.output.as_ref() != object.as_deref() {
        mutation.changed();
    }
    let mut any = false;
    let round = u8::from(mutation.again);
    for (index, hook) in hooks.iter().enumerate() {
        let Some(how) = invocation(attributes, hook, Step::Mutating, object.as_deref(), old).await? else { continue };
        if mutation.again && !mutation.due.contains(&hook.id) {
            continue;
        }
        let start = Instant::now();
        let outcome = one(attributes, hook, &how, (round, index), object.as_deref(), old).await;
        attributes.elsewhere.add(start.elapsed());
        let (changed, failure) = match outcome {
            Ok(changed) => (changed, None),
            Err(failure) => (None, Some(failure)),
        };
        let mutated = matches!(changed, Some((_, true)));
        if let (Some((new, differs)), Some(object)) = (changed, object.as_deref_mut()) {
            *object = new;
            if differs {
                any = true;
                mutation.changed();
            }
        }
        if hook.reinvoke {
            mutation.asked.insert(hook.id.clone());
        }
        annotate(attributes, hook, (round, index), "mutation", json!({"mutated": mutated}));
        call::settle(attributes, hook, Step::Mutating, (round, index), start, failure)?;
    }
    // Compared with what policies and plugins make of it for the next round, if somebody wants to see that.
    if any || !mutation.asked.is_empty() {
        mutation.output = object.as_deref().cloned();
    }
    mutation.again = true;
    Ok(any)
}

/// Writes down what a webhook did (`webhookAnnotator`).
fn annotate(attributes: &Attributes<'_>, hook: &Hook, (round, index): (u8, usize), what: &str, mut value: Value) {
    if !attributes.audit.is_on() {
        return;
    }
    value["configuration"] = json!(hook.id.0);
    value["webhook"] = json!(hook.name);
    let key = format!("{what}.webhook.admission.k8s.io/round_{round}_index_{index}");
    attributes.audit.annotate(&key, &value.to_string());
}

/// What one webhook makes of the object, and whether it changes it.
async fn one(
    attributes: &Attributes<'_>,
    hook: &Hook,
    how: &Invocation,
    turn: (u8, usize),
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<(Value, bool)>, Failure> {
    let kind = how.kind(attributes.kind);
    let shown = versions::shown(attributes, kind, object).await.map_err(Failure::Other)?;
    let shown_old = versions::shown(attributes, kind, old).await.map_err(Failure::Other)?;
    let shown = shown.as_ref().or(object);
    let answer = call::ask(attributes, hook, kind, Step::Mutating, shown, shown_old.as_ref().or(old)).await?;
    if answer.patch.is_empty() || answer.patch == b"[]" {
        return Ok(None);
    }
    let Some(shown) = shown else {
        return Err(Failure::Other(status::internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        ))));
    };
    if answer.patch_type != "JSONPatch" {
        return Err(Failure::Call(format!("unsupported patch type {:?}", answer.patch_type)));
    }
    let broken = |why: String| Failure::Other(status::internal(why));
    let patched = patch::json::apply(shown, &answer.patch).map_err(|error| broken(error.message))?;
    let new = versions::reread(attributes, kind, patched).map_err(broken)?.0;
    for field in ["name", "namespace", "uid"] {
        if new["metadata"][field] != shown["metadata"][field] {
            return Err(broken(format!(
                "admission webhook {:?} attempted to modify metadata.{field}, which is immutable",
                hook.name
            )));
        }
    }
    if attributes.audit.is_on() {
        let patch: Value = serde_json::from_slice(&answer.patch).unwrap_or_default();
        annotate(attributes, hook, turn, "patch", json!({"patch": patch, "patchType": "JSONPatch"}));
    }
    let differs = new != *shown;
    let new = convert::between(attributes.api, kind, attributes.kind, new).await.map_err(Failure::Other)?;
    Ok(Some((new, differs)))
}
