//! Validating webhooks, all at once.
//!
//! Follows `plugin/webhook/validating/dispatcher.go`.

use serde_json::Value;
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
    status::Status,
};

/// Lets the webhooks refuse a write. Of several refusals the first in order is told.
pub(crate) async fn validate(attributes: &Attributes<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), Status> {
    let hooks = attributes.api.0.webhooks.validating.load_full();
    if hooks.is_empty() || exempt(attributes) {
        return Ok(());
    }
    let mut asked = Vec::new();
    for hook in hooks.iter() {
        if let Some(how) = invocation(attributes, hook, Step::Validating, object, old).await? {
            asked.push((hook, how));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let answers = asked.iter().enumerate().map(|(index, (hook, how))| async move {
        let start = Instant::now();
        let failure = one(attributes, hook, how, object, old).await.err();
        call::settle(attributes, hook, Step::Validating, (0, index), start, failure)
    });
    let answers = futures::future::join_all(answers).await;
    attributes.elsewhere.add(begun.elapsed());
    answers.into_iter().collect()
}

async fn one(
    attributes: &Attributes<'_>,
    hook: &Hook,
    how: &Invocation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Failure> {
    let kind = how.kind(attributes.kind);
    let shown = versions::shown(attributes, kind, object).await.map_err(Failure::Other)?;
    let shown_old = versions::shown(attributes, kind, old).await.map_err(Failure::Other)?;
    call::ask(attributes, hook, kind, Step::Validating, shown.as_ref().or(object), shown_old.as_ref().or(old)).await.map(drop)
}
