//! PodSecurity: a namespace's labels say which of the Pod Security Standards its pods must meet, and of which violations
//! clients are warned and audit logs told.
//!
//! Follows `pod-security-admission/admission/admission.go` and `plugin/pkg/admission/security/podsecurity/admission.go`.

mod configuration;
mod metrics;
pub(crate) mod policy;
mod standards;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use pharos_api::{object::Object, validation::FieldError};
use pharos_store::Scope;
use serde_json::Value;
use tokio::time::Instant;

use super::{Attributes, Operation};
use crate::{
    api::Api,
    status::{self, Status},
};
pub use configuration::Configuration;
use metrics::{Decision, Metrics, Mode};
use policy::{Level, PREFIX, Policy, Standard};
use standards::{Pod, Violation};

/// How many pods of a namespace are looked at when it is to enforce more than before.
const MAX_PODS: usize = 3000;

/// For how long.
const MAX_CHECK: Duration = Duration::from_secs(1);

/// After how many of them others get a turn.
const TURN: usize = 64;

/// The plugin.
pub(crate) struct PodSecurity {
    metrics: Metrics,
}

impl PodSecurity {
    pub(crate) fn new(registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        Ok(PodSecurity { metrics: Metrics::new(registry)? })
    }
}

/// What a write is to PodSecurity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Pod,
    Namespace,
    /// Something with a template of pods: told of, never refused.
    Controller,
}

impl Subject {
    fn of(group: &str, resource: &str) -> Option<Self> {
        Some(match (group, resource) {
            ("", "pods") => Subject::Pod,
            ("", "namespaces") => Subject::Namespace,
            ("", "replicationcontrollers" | "podtemplates")
            | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
            | ("batch", "jobs" | "cronjobs") => Subject::Controller,
            _ => return None,
        })
    }

    /// Whether a write of a subresource cannot change what is looked at.
    fn ignores(self, subresource: &str) -> bool {
        match self {
            Subject::Pod => {
                matches!(subresource, "exec" | "attach" | "binding" | "eviction" | "log" | "portforward" | "proxy" | "status")
            }
            Subject::Namespace | Subject::Controller => !subresource.is_empty(),
        }
    }
}

/// One write, looked at.
struct Review<'a> {
    attributes: &'a Attributes<'a>,
    subject: Subject,
    configuration: &'a Configuration,
    metrics: &'a Metrics,
}

/// Refuses pods that do not meet the standard their namespace enforces, and namespaces whose labels make no sense.
///
/// # Errors
///
/// 403 for pods, 422 for namespaces.
pub(super) async fn validate(attributes: &Attributes<'_>, object: &Value, old: Option<&Value>) -> Result<(), Status> {
    let Some(subject) = Subject::of(&attributes.kind.group, &attributes.kind.plural) else { return Ok(()) };
    let written = matches!(attributes.operation, Operation::Create | Operation::Update);
    if !written || subject.ignores(attributes.subresource) {
        return Ok(());
    }
    let inner = &attributes.api.0;
    let configuration = &inner.config.pod_security;
    let review = Review { attributes, subject, configuration, metrics: &inner.pod_security.metrics };
    match subject {
        Subject::Namespace => review.namespace(object, old).await,
        Subject::Pod | Subject::Controller => review.workload(object, old),
    }
}

impl Review<'_> {
    /// A pod, or what has a template of one.
    fn workload(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        let Attributes { api, namespace, user, .. } = *self.attributes;
        let exempt = |list: &[String], name: &str| !name.is_empty() && list.iter().any(|exempt| exempt == name);
        if exempt(&self.configuration.exempt_namespaces, namespace) {
            return self.exempt("namespace");
        }
        if exempt(&self.configuration.exempt_usernames, &user.username) {
            return self.exempt("user");
        }
        let enforces = self.subject == Subject::Pod;
        let Some(labels) = labels_of(api, namespace) else {
            self.metrics.error(true, self.attributes, self.subject);
            let why = format!("failed to lookup namespace {namespace:?}");
            self.annotate("error", &why);
            return if enforces { Err(status::internal(why)) } else { Ok(()) };
        };
        let (policy, errors) = Policy::of_labels(&labels, self.configuration.defaults);
        if errors.is_empty() && enforces && policy.fully_privileged() {
            self.count(Decision::Allow, policy.enforce, Mode::Enforce);
            self.annotate("enforce-policy", "privileged:latest");
            return Ok(());
        }
        let told = [policy.audit, policy.warn].iter().any(|standard| standard.level != Level::Privileged);
        if errors.is_empty() && !enforces && !told {
            return Ok(());
        }
        if enforces && old.is_some_and(|old| !is_significant(object, old)) {
            return Ok(());
        }
        let Some(template) = template(&self.attributes.kind.plural, object) else { return Ok(()) };
        if is_exempt_class(self.configuration, &template["spec"]) {
            return self.exempt("runtimeClass");
        }
        self.evaluate(policy, &errors, Pod::of(template))
    }

    fn evaluate(&self, policy: Policy, errors: &[FieldError], pod: Pod<'_>) -> Result<(), Status> {
        if !errors.is_empty() {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let text = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
            self.annotate("error", &format!("Failed to parse policy: {text}"));
            self.metrics.error(false, self.attributes, self.subject);
        }
        let mut refused = None;
        if self.subject == Subject::Pod {
            self.annotate("enforce-policy", &policy.enforce.to_string());
            let found = standards::violations(policy.enforce, pod);
            let decision = if found.is_empty() { Decision::Allow } else { Decision::Deny };
            self.count(decision, policy.enforce, Mode::Enforce);
            if !found.is_empty() {
                refused = Some(self.attributes.forbidden(&told("violates", policy.enforce, &found)));
            }
        }
        let found = standards::violations(policy.audit, pod);
        if !found.is_empty() {
            self.annotate("audit-violations", &told("would violate", policy.audit, &found));
            self.count(Decision::Deny, policy.audit, Mode::Audit);
        }
        // Who is refused needs no warning.
        if let Some(status) = refused {
            return Err(status);
        }
        let found = standards::violations(policy.warn, pod);
        if !found.is_empty() {
            self.attributes.warn(told("would violate", policy.warn, &found));
            self.count(Decision::Deny, policy.warn, Mode::Warn);
        }
        Ok(())
    }

    async fn namespace(&self, namespace: &Value, old: Option<&Value>) -> Result<(), Status> {
        let name = self.attributes.name;
        let defaults = self.configuration.defaults;
        let labels = &namespace["metadata"]["labels"];
        let (policy, errors) = Policy::of_labels(labels, defaults);
        let before = old.map(|old| Policy::of_labels(&old["metadata"]["labels"], defaults));
        let unchanged = before.as_ref().is_some_and(|(_, before)| *before == errors);
        if !errors.is_empty() && !unchanged {
            return Err(status::invalid("", "Namespace", name, &errors));
        }
        if let Some((before, _)) = before {
            let (new, old) = (policy.enforce, before.enforce);
            if new == old || new.level == Level::Privileged || new.version == old.version && new.level <= old.level {
                return Ok(());
            }
        }
        if self.configuration.exempt_namespaces.iter().any(|exempt| exempt == name) {
            policy.exempt_warning(name, labels, defaults).into_iter().for_each(|text| self.attributes.warn(text));
            return Ok(());
        }
        if old.is_some() {
            let warnings = check_pods(self.attributes.api, self.configuration, name, policy.enforce).await;
            warnings.into_iter().for_each(|text| self.attributes.warn(text));
        }
        Ok(())
    }

    fn exempt(&self, why: &str) -> Result<(), Status> {
        self.metrics.exemption(self.attributes, self.subject);
        self.annotate("exempt", why);
        Ok(())
    }

    fn count(&self, decision: Decision, standard: Standard, mode: Mode) {
        self.metrics.evaluation(decision, standard, mode, self.attributes, self.subject);
    }

    fn annotate(&self, key: &str, value: &str) {
        if self.attributes.audit.is_on() {
            self.attributes.audit.annotate(&format!("{PREFIX}{key}"), value);
        }
    }
}

fn told(verb: &str, standard: Standard, found: &[Violation]) -> String {
    format!("{verb} PodSecurity \"{standard}\": {}", standards::details(found))
}

/// The labels of a namespace, out of the cache, which has every acknowledged write.
fn labels_of(api: &Api, namespace: &str) -> Option<Value> {
    let kind = api.0.resources.lookup("", "v1", "namespaces")?;
    let object = api.0.storage.cache(&kind).ok()?.get("", namespace).0?;
    let mut object: Value = serde_json::from_slice(object.bytes()).ok()?;
    Some(object["metadata"]["labels"].take())
}

/// Where an object has its pod: itself, or its template.
fn template<'a>(resource: &str, object: &'a Value) -> Option<&'a Value> {
    let template = match resource {
        "pods" => object,
        "podtemplates" => &object["template"],
        "cronjobs" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => &object["spec"]["template"],
    };
    template.is_object().then_some(template)
}

fn is_exempt_class(configuration: &Configuration, spec: &Value) -> bool {
    let class = spec["runtimeClassName"].as_str().filter(|class| !class.is_empty());
    class.is_some_and(|class| configuration.exempt_runtime_classes.iter().any(|exempt| exempt == class))
}

/// Whether an update of a pod changes something that is looked at: of what can be changed, images and ephemeral containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    fn list<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
        pod["spec"][field].as_array().map_or(&[], Vec::as_slice)
    }
    let differs = |field: &str| {
        let (new, old) = (list(new, field), list(old, field));
        new.len() != old.len() || new.iter().zip(old).any(|(new, old)| new["image"] != old["image"])
    };
    let ephemeral = list(old, "ephemeralContainers");
    let added = |container: &Value| {
        let before = ephemeral.iter().find(|before| before["name"] == container["name"]);
        before.is_none_or(|before| before["image"] != container["image"])
    };
    differs("containers") || differs("initContainers") || list(new, "ephemeralContainers").iter().any(added)
}

/// What a client is told of the pods of a namespace that would not be let in again.
async fn check_pods(api: &Api, configuration: &Configuration, namespace: &str, enforce: Standard) -> Vec<String> {
    let deadline = Instant::now() + MAX_CHECK;
    let Some(kind) = api.0.resources.lookup("", "v1", "pods") else { return Vec::new() };
    let Ok(cache) = api.0.storage.cache(&kind) else {
        return vec!["failed to list pods while checking new PodSecurity enforce level".to_owned()];
    };
    let pods: Vec<Arc<Object>> =
        cache.snapshot().iter(&Scope::Namespace(namespace.to_owned()), None).map(|(_, pod)| pod.clone()).collect();
    let mut queue = Queue::default();
    let mut total = pods.len();
    for (index, pod) in pods.iter().enumerate() {
        let Ok(pod) = serde_json::from_slice::<Value>(pod.bytes()) else { continue };
        if is_exempt_class(configuration, &pod["spec"]) {
            total -= 1;
        } else {
            queue.push(pod);
        }
        if index % TURN == 0 {
            tokio::task::yield_now().await;
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    let mut findings = Findings::default();
    let mut checked = 0;
    for pod in queue.into_pods() {
        checked += 1;
        let found = standards::violations(enforce, Pod::of(&pod));
        if !found.is_empty() {
            findings.add(pod["metadata"]["name"].as_str().unwrap_or_default(), standards::reasons(&found));
        }
        if checked % TURN == 0 {
            tokio::task::yield_now().await;
        }
        if Instant::now() >= deadline {
            break;
        }
    }
    findings.warnings(namespace, enforce, checked, total)
}

/// Pods in the order in which they are worth looking at: the first of each controller before its copies.
#[derive(Default)]
struct Queue {
    first: Vec<Value>,
    copies: Vec<Value>,
    controllers: HashSet<String>,
}

impl Queue {
    fn push(&mut self, pod: Value) {
        let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let controller = owners.into_iter().find(|owner| owner["controller"] == true).and_then(|owner| owner["uid"].as_str());
        let copy = controller.is_some_and(|uid| !self.controllers.insert(uid.to_owned()));
        let list = if copy { &mut self.copies } else { &mut self.first };
        if list.len() < MAX_PODS {
            list.push(pod);
        }
    }

    fn into_pods(self) -> impl Iterator<Item = Value> {
        self.first.into_iter().chain(self.copies).take(MAX_PODS)
    }
}

/// What is wrong with which pods: by what is wrong, the first pod's name and how many there are.
#[derive(Default)]
struct Findings(BTreeMap<String, (String, usize)>);

impl Findings {
    fn add(&mut self, pod: &str, reasons: String) {
        let (first, count) = self.0.entry(reasons).or_insert_with(|| (pod.to_owned(), 0));
        if pod < first.as_str() {
            pod.clone_into(first);
        }
        *count += 1;
    }

    fn warnings(self, namespace: &str, enforce: Standard, checked: usize, total: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        if checked < total {
            warnings
                .push(format!("new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"));
        }
        if !self.0.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let one = |(reasons, (pod, count)): (String, (String, usize))| match count {
            1 => format!("{pod}: {reasons}"),
            2 => format!("{pod} (and 1 other pod): {reasons}"),
            _ => format!("{pod} (and {} other pods): {reasons}", count - 1),
        };
        let mut pods: Vec<String> = self.0.into_iter().map(one).collect();
        pods.sort();
        warnings.extend(pods);
        warnings
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_that_matter() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "i"}], "initContainers": [{"name": "b", "image": "i"}],
            "ephemeralContainers": [{"name": "e", "image": "i"}]}});
        let with = |pointer: &str, value: Value| {
            let mut changed = pod.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            changed
        };
        let second = json!([{"name": "e", "image": "i"}, {"name": "f", "image": "i"}]);
        for (new, significant) in [
            (pod.clone(), false),
            (with("/spec/containers/0", json!({"name": "a", "image": "i", "resources": {}})), false),
            (with("/spec/containers/0/image", json!("j")), true),
            (with("/spec/initContainers/0/image", json!("j")), true),
            (with("/spec/initContainers", json!([])), true),
            (with("/spec/ephemeralContainers/0/image", json!("j")), true),
            (with("/spec/ephemeralContainers", second), true),
            (with("/spec/ephemeralContainers", json!([])), false),
        ] {
            assert_eq!(is_significant(&new, &pod), significant, "{new}");
        }
    }

    #[test]
    fn subresources_that_cannot_change_a_pod() {
        for (group, resource, subresource, ignored) in [
            ("", "pods", "", Some(false)),
            ("", "pods", "ephemeralcontainers", Some(false)),
            ("", "pods", "resize", Some(false)),
            ("", "pods", "status", Some(true)),
            ("", "pods", "binding", Some(true)),
            ("apps", "deployments", "scale", Some(true)),
            ("batch", "cronjobs", "", Some(false)),
            ("", "namespaces", "finalize", Some(true)),
            ("", "services", "", None),
            ("extensions", "deployments", "", None),
        ] {
            let subject = Subject::of(group, resource);
            assert_eq!(subject.map(|subject| subject.ignores(subresource)), ignored, "{resource}/{subresource}");
        }
    }

    #[test]
    fn finds_templates() {
        let spec = json!({"metadata": {}, "spec": {"a": 1}});
        for (resource, object) in [
            ("pods", spec.clone()),
            ("podtemplates", json!({"template": spec})),
            ("deployments", json!({"spec": {"template": spec}})),
            ("cronjobs", json!({"spec": {"jobTemplate": {"spec": {"template": spec}}}})),
        ] {
            assert_eq!(template(resource, &object), Some(&spec), "{resource}");
        }
        assert_eq!(template("replicationcontrollers", &json!({"spec": {}})), None);
    }

    #[test]
    fn pods_are_told_of_in_groups() {
        let mut findings = Findings::default();
        for (pod, reasons) in [("c", "host ports"), ("b", "privileged"), ("a", "privileged"), ("d", "z"), ("e", "z"), ("f", "z")]
        {
            findings.add(pod, reasons.to_owned());
        }
        let enforce = Standard { level: Level::Baseline, ..Standard::default() };
        assert_eq!(
            findings.warnings("n", enforce, 6, 9),
            [
                "new PodSecurity enforce level only checked against the first 6 of 9 existing pods",
                "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "a (and 1 other pod): privileged",
                "c: host ports",
                "d (and 2 other pods): z",
            ]
        );
        assert!(Findings::default().warnings("n", enforce, 9, 9).is_empty());
    }

    #[test]
    fn one_pod_of_each_controller_comes_first() {
        let owned = |name: &str, uid: &str| {
            let owners = json!([{"uid": "other"}, {"uid": uid, "controller": true}]);
            json!({"metadata": {"name": name, "ownerReferences": owners}})
        };
        let mut queue = Queue::default();
        for pod in [owned("a1", "a"), owned("a2", "a"), json!({"metadata": {"name": "b"}}), owned("c1", "c")] {
            queue.push(pod);
        }
        let names: Vec<Value> = queue.into_pods().map(|pod| pod["metadata"]["name"].clone()).collect();
        assert_eq!(names, ["a1", "b", "c1", "a2"]);
    }
}
