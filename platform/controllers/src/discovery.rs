use kube::{Client, api::ApiResource};

/// A resource that the API server serves, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Served {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
    /// Whether it can be scaled by a subresource.
    pub(crate) scale: bool,
}

impl Served {
    pub(crate) fn api_resource(&self) -> ApiResource {
        let api_version = if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) };
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version,
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// `deployments.apps`, or `pods` for the core group.
    pub(crate) fn name(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Everything that the API server serves, and the groups whose own server did not say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) resources: Vec<Served>,
    pub(crate) stale: Vec<String>,
}

/// Asks the API server in two requests. Each resource is named once, in the first version that serves it.
pub(crate) async fn discover(client: &Client) -> kube::Result<Discovered> {
    let mut found = Discovered::default();
    let mut groups = client.list_core_api_versions_aggregated().await?.items;
    groups.extend(client.list_api_groups_aggregated().await?.items);
    for group in groups {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        for version in group.versions {
            let text = version.version.unwrap_or_default();
            if version.freshness.as_deref() == Some("Stale") {
                found.stale.push(format!("{name}/{text}"));
            }
            for resource in version.resources {
                let plural = resource.resource.unwrap_or_default();
                let scale = resource.subresources.iter().any(|one| one.subresource.as_deref() == Some("scale"));
                if found.resources.iter().any(|known| known.group == name && known.plural == plural) {
                    continue;
                }
                found.resources.push(Served {
                    group: name.clone(),
                    version: text.clone(),
                    kind: resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default(),
                    plural,
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    verbs: resource.verbs,
                    scale,
                });
            }
        }
    }
    Ok(found)
}
