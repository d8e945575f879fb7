//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, for updates and roll-backs
//! (`pkg/controller/history`).

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, PostParams},
};
use pharos_api::names;
use pharos_client::{Key, is_already_exists};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    Result,
    env::Env,
    error::{During as _, Error, gone_is_fine},
    owners,
    selector::Selector,
};

/// The label of pods and of a DaemonSet's revisions.
pub(crate) const HASH: &str = "controller-revision-hash";

/// What a revision keeps: a patch that puts the template back. `kubectl rollout undo` applies it.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision keeps.
pub(crate) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or_default()
}

/// The revisions of an owner, oldest first, and which of them is of the present template.
pub(crate) struct History {
    pub(crate) all: Vec<ControllerRevision>,
    pub(crate) current: ControllerRevision,
}

/// Claims revisions, and makes or moves up that of the present template. A collision of names is counted in `collisions`,
/// and the caller writes it down before it tries again.
pub(crate) async fn sync<O>(
    env: &Env,
    client: &Client,
    owner: &O,
    selector: &Selector,
    template: &PodTemplateSpec,
    collisions: &mut Option<i32>,
) -> Result<History>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let key = Key::of(owner);
    let candidates = owners::candidates(&env.informers.revisions_by_owner, &key.namespace, owners::uid(owner));
    let matches = |revision: &ControllerRevision| selector.matches(owners::labels(revision));
    let claimed = owners::claim_all(client, owner, candidates, matches).await?;
    let mut all: Vec<ControllerRevision> =
        claimed.iter().map(|revision: &Arc<ControllerRevision>| (**revision).clone()).collect();
    all.sort_by_key(|revision| (number(revision), owners::name(revision).to_owned()));
    let wanted = data(template);
    let next = all.last().map_or(0, number) + 1;
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &key.namespace);
    if let Some(at) = all.iter().rposition(|revision| revision.data.0 == wanted) {
        if at + 1 == all.len() {
            let current = all[at].clone();
            return Ok(History { all, current });
        }
        // A roll-back: the old revision becomes the newest.
        let mut moved = all.remove(at);
        moved.revision = Some(next);
        let moved =
            api.replace(owners::name(&moved), &PostParams::default(), &moved).await.during("move up a revision of", &key)?;
        all.push(moved.clone());
        return Ok(History { all, current: moved });
    }
    let hash = names::template_hash(&wanted, collisions.map(i64::from));
    let mut labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(HASH.into(), hash.clone());
    labels.insert("controller.kubernetes.io/hash".into(), hash.clone());
    let revision = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", key.name)),
            namespace: Some(key.namespace.to_string()),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![owners::reference_to(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(wanted.clone()),
        revision: Some(next),
    };
    let current = match api.create(&PostParams::default(), &revision).await {
        Err(error) if is_already_exists(&error) => {
            let existing = api.get(owners::name(&revision)).await.during("get a revision of", &key)?;
            if existing.data.0 != wanted || owners::controller_of(&existing).is_none_or(|o| o.uid != owners::uid(owner)) {
                *collisions = Some(collisions.unwrap_or_default() + 1);
                return Err(Error::refused("create a revision of", &key, "another revision has its name"));
            }
            existing
        }
        result => result.during("create a revision of", &key)?,
    };
    all.push(current.clone());
    Ok(History { all, current })
}

/// Deletes revisions beyond the limit, oldest first, unless they are in use.
pub(crate) async fn trim(
    client: &Client,
    history: &History,
    limit: i32,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Result<()> {
    let idle: Vec<&ControllerRevision> = history
        .all
        .iter()
        .filter(|revision| owners::uid(*revision) != owners::uid(&history.current) && !in_use(revision))
        .collect();
    let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
    for revision in idle.into_iter().take(surplus) {
        let key = Key::of(revision);
        let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &key.namespace);
        gone_is_fine(api.delete(&key.name, &DeleteParams::default()).await).during("delete revision", &key)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_comes_back() {
        let template = PodTemplateSpec {
            metadata: Some(ObjectMeta { labels: Some([("a".to_owned(), "b".to_owned())].into()), ..ObjectMeta::default() }),
            spec: None,
        };
        let revision = ControllerRevision { data: RawExtension(data(&template)), ..ControllerRevision::default() };
        assert_eq!(revision.data.0["spec"]["template"]["$patch"], "replace");
        assert_eq!(template_of(&revision), Some(template));
    }
}
