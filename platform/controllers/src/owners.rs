//! Who controls an object: owner references, adoption and release (`pkg/controller/controller_ref_manager.go`).

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
};
use pharos_client::{Index, Key};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{During as _, Error, Result, gone_is_fine};

/// The reference to the object's controller, if it has one.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Where an object is found by its controller's UID, or as an orphan of its namespace.
pub(crate) fn term<K: Resource>(object: &K) -> String {
    match controller_of(object) {
        Some(owner) => owner.uid.clone(),
        None => orphan_term(object.meta().namespace.as_deref().unwrap_or_default()),
    }
}

fn orphan_term(namespace: &str) -> String {
    format!("orphans of {namespace}")
}

/// The key of an object's controller if that is of the given kind (any version of its group).
pub(crate) fn controller_key<O, K>(object: &K) -> Option<Key>
where
    O: Resource<DynamicType = ()>,
    K: Resource,
{
    let owner = controller_of(object)?;
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == O::kind(&()) && group == O::group(&()))
        .then(|| Key::new(object.meta().namespace.as_deref().unwrap_or_default(), owner.name.as_str()))
}

/// A controlling reference to an object.
pub(crate) fn reference_to<O: Resource<DynamicType = ()>>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The labels of an object.
pub(crate) fn labels<K: Resource>(object: &K) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    object.meta().labels.as_ref().unwrap_or(&NONE)
}

/// The UID of an object.
pub(crate) fn uid<K: Resource>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// The name of an object.
pub(crate) fn name<K: Resource>(object: &K) -> &str {
    object.meta().name.as_deref().unwrap_or_default()
}

/// Whether the object is being deleted.
pub(crate) fn is_deleting<K: Resource>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// What is to become of an object that an owner could control.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is the owner's.
    Keep,
    /// It becomes the owner's.
    Adopt,
    /// It is the owner's no longer.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Decides on one object, as `ClaimObject`.
pub(crate) fn claim<K: Resource>(owner_uid: &str, owner_deleting: bool, object: &K, matches: bool) -> Claim {
    match controller_of(object) {
        Some(owner) if owner.uid != owner_uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner_deleting => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner_deleting || !matches || is_deleting(object) => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The objects that are the owner's or could become so: its own, and the orphans of its namespace.
pub(crate) fn candidates<K>(index: &Index<K>, namespace: &str, owner_uid: &str) -> Vec<Arc<K>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut objects = index.get(owner_uid);
    objects.extend(index.get(&orphan_term(namespace)));
    objects
}

/// Adopts and releases until what is returned is the owner's. `client` acts for the owner's controller.
pub(crate) async fn claim_all<O, K>(
    client: &Client,
    owner: &O,
    objects: Vec<Arc<K>>,
    matches: impl Fn(&K) -> bool,
) -> Result<Vec<Arc<K>>>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut ours = Vec::with_capacity(objects.len());
    let mut verified = false;
    for object in objects {
        let key = Key::of(&*object);
        match claim(uid(owner), is_deleting(owner), &*object, matches(&object)) {
            Claim::Keep => ours.push(object),
            Claim::Ignore => {}
            Claim::Adopt => {
                if !verified {
                    verify_live(client, owner).await?;
                    verified = true;
                }
                let patch = json!({"metadata": {"uid": uid(&*object), "ownerReferences": [reference_to(owner)]}});
                let adopted = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                if let Some(adopted) = gone_is_fine(adopted).during("adopt", &key)? {
                    ours.push(Arc::new(adopted));
                }
            }
            Claim::Release => {
                let patch = json!({"metadata": {
                    "uid": uid(&*object), "ownerReferences": [{"$patch": "delete", "uid": uid(owner)}]}});
                let released = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
                gone_is_fine(released).during("release", &key)?;
            }
        }
    }
    Ok(ours)
}

/// Nothing is adopted by an owner that is gone or going, whatever the cache says.
async fn verify_live<O>(client: &Client, owner: &O) -> Result<()>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let key = Key::of(owner);
    let live = Api::<O>::namespaced(client.clone(), &key.namespace).get(&key.name).await.during("get", &key)?;
    if uid(&live) != uid(owner) {
        return Err(Error::refused("adopt for", &key, "the owner was deleted and made anew"));
    }
    if is_deleting(&live) {
        return Err(Error::refused("adopt for", &key, "the owner has just been deleted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    #[test]
    fn claims() {
        let pod = |owner: Option<&str>, deleting: bool| {
            let mut pod = Pod::default();
            pod.metadata.owner_references =
                owner.map(|uid| vec![OwnerReference { uid: uid.into(), controller: Some(true), ..OwnerReference::default() }]);
            pod.metadata.deletion_timestamp = deleting.then(|| crate::env::seconds(jiff::Timestamp::UNIX_EPOCH));
            pod
        };
        for (owner, pod_deleting, owner_deleting, matches, expected) in [
            (Some("a"), false, false, true, Claim::Keep),
            (Some("a"), false, true, true, Claim::Keep),
            (Some("a"), false, false, false, Claim::Release),
            (Some("a"), false, true, false, Claim::Ignore),
            (Some("b"), false, false, true, Claim::Ignore),
            (None, false, false, true, Claim::Adopt),
            (None, true, false, true, Claim::Ignore),
            (None, false, true, true, Claim::Ignore),
            (None, false, false, false, Claim::Ignore),
        ] {
            assert_eq!(claim("a", owner_deleting, &pod(owner, pod_deleting), matches), expected, "{owner:?} {matches}");
        }
    }
}
