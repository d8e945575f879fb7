//! Admission webhooks: other servers that change or refuse what is written here.
//!
//! Follows `apiserver/pkg/admission/plugin/webhook`. The configurations are kept compiled in memory and replaced when one
//! changes; a request no rule matches costs a few comparisons of strings. Mutating webhooks are asked one after the
//! other, in the order of their configurations' names; validating webhooks all at once.

mod call; // One webhook asked;
mod configuration; // who they are,
mod metrics;
mod mutating; // and the two ways of asking all.
mod review;
mod validating;

use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde_json::Value;

pub(crate) use configuration::{follow, prime};
pub(crate) use mutating::{Mutation, mutate};
pub(crate) use validating::validate;

use super::{
    Attributes, GROUP,
    conditions::Matched,
    expression::{self, Asker, Input},
    matching::Invocation,
    versions,
};
use crate::status::Status;
use configuration::Hook;
use metrics::Step;

const MUTATING: &str = "mutatingwebhookconfigurations";
const VALIDATING: &str = "validatingwebhookconfigurations";

/// All webhooks, in the order they are asked.
pub(crate) struct Webhooks {
    mutating: ArcSwap<Vec<Hook>>,
    validating: ArcSwap<Vec<Hook>>,
    metrics: metrics::Metrics,
    /// Whether the objects every cluster has are there. Until then the server's own writes pass by: the webhooks may
    /// run in this very cluster, which without those objects does not come up.
    bootstrapped: AtomicBool,
}

impl Webhooks {
    pub(crate) fn new(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(Webhooks {
            mutating: ArcSwap::default(),
            validating: ArcSwap::default(),
            metrics: metrics::Metrics::new(registry)?,
            bootstrapped: AtomicBool::new(false),
        })
    }

    pub(crate) fn bootstrapped(&self) {
        self.bootstrapped.store(true, Ordering::Release);
    }

    pub(super) fn is_bootstrapped(&self) -> bool {
        self.bootstrapped.load(Ordering::Acquire)
    }
}

/// Whether no webhook is asked about a write, whatever the rules say.
fn exempt(attributes: &Attributes<'_>) -> bool {
    let kind = attributes.kind;
    // What decides about everything else must stay changeable (`rules.IsExemptAdmissionConfigurationResource`).
    let configures = kind.group == GROUP && (kind.plural == MUTATING || kind.plural == VALIDATING);
    configures || super::exempt(attributes)
}

/// Whether and how a webhook is asked about a write.
async fn invocation(
    attributes: &Attributes<'_>,
    hook: &Hook,
    step: Step,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Option<Invocation>, Status> {
    let Some(how) = hook.criteria.invocation(attributes, object, old)? else { return Ok(None) };
    if hook.conditions.is_empty() {
        return Ok(Some(how));
    }
    let kind = how.kind(attributes.kind);
    let shown = versions::shown(attributes, kind, object).await?;
    let shown_old = versions::shown(attributes, kind, old).await?;
    let asker = Asker(attributes);
    let request = expression::request(attributes, kind);
    let input = Input::new(&request, shown.as_ref().or(object), shown_old.as_ref().or(old), &asker);
    match hook.conditions.hold(attributes, &input) {
        Matched::Yes => Ok(Some(how)),
        Matched::No => {
            let step = if step == Step::Mutating { "admit" } else { "validate" };
            attributes.api.0.match_conditions.excluded(&hook.name, "webhook", step, attributes.operation);
            Ok(None)
        }
        Matched::Failed(error) => {
            tracing::warn!(webhook = hook.name, error, "match conditions not evaluated: failing closed");
            Err(attributes.forbidden(&error))
        }
    }
}
