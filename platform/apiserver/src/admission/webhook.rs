//! Admission webhooks: other servers that change or refuse what is written here.
//!
//! Follows `apiserver/pkg/admission/plugin/webhook`. The configurations are kept compiled in memory and replaced when one
//! changes; a request no rule matches costs a few comparisons of strings. Mutating webhooks are asked one after the
//! other, in the order of their configurations' names; validating webhooks all at once.

mod call; // One webhook asked;
mod configuration; // who they are,
mod matching; // whom they are asked about,
mod metrics;
mod mutating; // and the two ways of asking all.
mod review;
mod validating;

use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

pub(crate) use configuration::{follow, prime, validate_configuration};
pub(crate) use mutating::{Mutation, mutate};
pub(crate) use validating::validate;

use super::{Attributes, Operation, Options};
use configuration::Hook;

const GROUP: &str = "admissionregistration.k8s.io";
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
}

/// Whether no webhook is asked about a write, whatever the rules say.
fn exempt(attributes: &Attributes<'_>) -> bool {
    if attributes.options == Options::Unreviewed {
        return true;
    }
    let kind = attributes.kind;
    // What decides about everything else must stay changeable (`rules.IsExemptAdmissionConfigurationResource`).
    if kind.group == GROUP && (kind.plural == MUTATING || kind.plural == VALIDATING || kind.plural.contains("admissionpolic")) {
        return true;
    }
    attributes.user.username == "system:apiserver" && !attributes.api.0.webhooks.bootstrapped.load(Ordering::Acquire)
}

/// The namespace of a write as webhooks see it: a Namespace is in itself.
fn namespace<'a>(attributes: &Attributes<'a>) -> &'a str {
    if is_namespace(attributes) { attributes.name } else { attributes.namespace }
}

fn is_namespace(attributes: &Attributes<'_>) -> bool {
    attributes.kind.group.is_empty() && attributes.kind.plural == "namespaces"
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl Options<'_> {
    fn dry_run(self) -> bool {
        match self {
            Options::Create(options) | Options::Update(options) => options.dry_run,
            Options::Delete(options) => options.dry_run,
            Options::None | Options::Unreviewed => false,
        }
    }

    /// As the API writes them.
    fn to_value(self) -> Value {
        let mut value = match self {
            Options::Create(options) => options.to_value("CreateOptions"),
            Options::Update(options) => options.to_value("UpdateOptions"),
            Options::Delete(options) => options.to_value(),
            Options::None | Options::Unreviewed => return Value::Null,
        };
        if self.dry_run() {
            value["dryRun"] = json!(["All"]);
        }
        value
    }
}
