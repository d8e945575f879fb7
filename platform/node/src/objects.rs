use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};

/// A kind of object that pods read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// An object of the pod's namespace that the pod reads.
pub(crate) type Reference = (Kind, String);

/// What a pod reads, as it is now. A name that is there with `None` is known not to exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    /// ConfigMaps by name.
    pub(crate) config_maps: BTreeMap<String, Option<Arc<ConfigMap>>>,
    /// Secrets by name.
    pub(crate) secrets: BTreeMap<String, Option<Arc<Secret>>>,
}

impl Objects {
    /// A ConfigMap, or upstream's text for its absence.
    pub(crate) fn config_map(&self, name: &str) -> Result<&ConfigMap, String> {
        self.config_maps.get(name).and_then(|o| o.as_deref()).ok_or_else(|| format!("configmap \"{name}\" not found"))
    }

    /// A Secret, or upstream's text for its absence.
    pub(crate) fn secret(&self, name: &str) -> Result<&Secret, String> {
        self.secrets.get(name).and_then(|o| o.as_deref()).ok_or_else(|| format!("secret \"{name}\" not found"))
    }
}

/// Everything a pod reads through volumes, variables and pull secrets.
pub(crate) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    let Some(spec) = &pod.spec else { return all };
    let mut add = |kind, name: &str| {
        if !name.is_empty() {
            all.insert((kind, name.to_owned()));
        }
    };
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(source) = &volume.secret {
            add(Kind::Secret, source.secret_name.as_deref().unwrap_or_default());
        }
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(source) = &source.config_map {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &source.secret {
                add(Kind::Secret, &source.name);
            }
        }
    }
    for reference in spec.image_pull_secrets.iter().flatten() {
        add(Kind::Secret, &reference.name);
    }
    for (_, container) in crate::names::containers(pod) {
        for (kind, name) in of_container(&container) {
            add(kind, &name);
        }
    }
    all
}

fn of_container(container: &Container) -> Vec<Reference> {
    let mut all = Vec::new();
    for source in container.env_from.iter().flatten() {
        all.extend(source.config_map_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
        all.extend(source.secret_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
    }
    for source in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        all.extend(source.config_map_key_ref.iter().map(|r| (Kind::ConfigMap, r.name.clone())));
        all.extend(source.secret_key_ref.iter().map(|r| (Kind::Secret, r.name.clone())));
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_all_references() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "cm"}},
                    {"name": "b", "secret": {"secretName": "se"}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"name": "pcm"}}, {"secret": {"name": "pse"}}]}},
                ],
                "containers": [{
                    "name": "c",
                    "envFrom": [{"configMapRef": {"name": "ecm"}}],
                    "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "ese", "key": "k"}}}],
                }],
            }
        }))
        .unwrap();
        let names: Vec<String> = references(&pod).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["cm", "ecm", "pcm", "ese", "pse", "pull", "se"]);
    }
}
