use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use pharos_api::quantity::Quantity;

/// What a container without requests is taken to use when nodes are scored (`DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const DEFAULT_MILLICORES: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of resources: CPU in millicores, everything else in its own unit (bytes, pods, devices).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources(BTreeMap<String, i64>);

impl Resources {
    /// The amounts of a resource list; CPU is rounded up to a millicore, the others to a whole.
    pub(crate) fn parse(list: Option<&BTreeMap<String, Text>>) -> Self {
        let amounts = list.into_iter().flatten().filter_map(|(name, text)| {
            let quantity = Quantity::parse(&text.0).ok()?;
            let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            Some((name.clone(), amount))
        });
        Self(amounts.collect())
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            let highest = self.0.entry(name.clone()).or_default();
            *highest = (*highest).max(*amount);
        }
    }
}

/// What a pod asks for, and what it is taken to use when nodes are scored.
///
/// The highest of what runs at once: all containers with the sidecars, or one init container with the sidecars started
/// before it; requests of the pod as a whole override both; the overhead is added.
/// Follows `PodRequests` in `k8s.io/component-helpers/resource`.
pub(crate) fn of_pod(pod: &Pod) -> (Resources, Resources) {
    let requests = total(pod, |resources| Resources::parse(resources.and_then(|r| r.requests.as_ref())));
    let scored = total(pod, |resources| {
        let mut amounts = Resources::parse(resources.and_then(|r| r.requests.as_ref()));
        amounts.0.entry("cpu".into()).or_insert(DEFAULT_MILLICORES);
        amounts.0.entry("memory".into()).or_insert(DEFAULT_MEMORY_BYTES);
        amounts
    });
    (requests, scored)
}

fn total(pod: &Pod, requests: impl Fn(Option<&ResourceRequirements>) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests(container.resources.as_ref()));
    }
    let (mut sidecars, mut highest) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let wanted = requests(container.resources.as_ref());
        if is_sidecar(container) {
            sidecars.add(&wanted);
            highest.raise_to(&sidecars);
        } else {
            let mut at_once = sidecars.clone();
            at_once.add(&wanted);
            highest.raise_to(&at_once);
        }
    }
    running.add(&sidecars);
    running.raise_to(&highest);
    for (name, amount) in Resources::parse(spec.resources.as_ref().and_then(|r| r.requests.as_ref())).0 {
        running.0.insert(name, amount);
    }
    running.add(&Resources::parse(spec.overhead.as_ref()));
    running.0.retain(|_, amount| *amount != 0);
    running
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(spec: serde_json::Value, expected: &[(&str, i64)]) {
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {}, "spec": spec})).unwrap();
        assert_eq!(of_pod(&pod).0.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn requests_of_pods() {
        check(
            serde_json::json!({"containers": [
                {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "0.25", "example.com/x": 2}}}]}),
            &[("cpu", 350), ("example.com/x", 2), ("memory", 1 << 20)],
        );
        check(
            serde_json::json!({
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
                "initContainers": [
                    {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                    {"name": "i", "resources": {"requests": {"cpu": "200m"}}}],
                "overhead": {"cpu": "10m"}}),
            &[("cpu", 260)],
        );
        check(
            serde_json::json!({
                "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}}}],
                "resources": {"requests": {"cpu": "2"}}}),
            &[("cpu", 2000)],
        );
        check(serde_json::json!({"containers": [{"name": "a"}]}), &[]);
    }
}
