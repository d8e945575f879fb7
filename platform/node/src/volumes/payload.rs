//! What the files of configMap, secret, downwardAPI and projected volumes hold.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume, VolumeProjection},
};

use super::{
    Sources,
    atomic_writer::{File, Files},
    ownership::Owner,
};
use crate::fields;

/// A token of the pod's service account that a volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenWanted {
    /// Whom it is for; empty for the API server.
    pub(crate) audience: String,
    /// How long it is to last, in seconds.
    pub(crate) expiration_seconds: i64,
}

/// The tokens a pod's volumes ask for.
pub(crate) fn tokens_wanted(pod: &Pod) -> Vec<TokenWanted> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten())
        .flat_map(|volume| volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()))
        .filter_map(|source| source.service_account_token.as_ref())
        .map(|token| TokenWanted {
            audience: token.audience.clone().unwrap_or_default(),
            expiration_seconds: token.expiration_seconds.unwrap_or(3600),
        })
        .collect()
}

/// The plugin and files of a volume, if it is one of files.
pub(super) fn of(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources<'_>,
    owner: &Owner,
) -> Result<Option<(&'static str, Files)>, String> {
    let mode = |mode: Option<i32>| permissions(mode.unwrap_or(0o644));
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let keys =
            Keys { items: source.items.as_deref(), mode: mode(source.default_mode), optional: source.optional.unwrap_or(false) };
        config_map(&source.name, &keys, sources, &mut files)?;
        return Ok(Some(("configmap", files)));
    }
    if let Some(source) = &volume.secret {
        let keys =
            Keys { items: source.items.as_deref(), mode: mode(source.default_mode), optional: source.optional.unwrap_or(false) };
        secret(source.secret_name.as_deref().unwrap_or_default(), &keys, sources, &mut files)?;
        return Ok(Some(("secret", files)));
    }
    if let Some(source) = &volume.downward_api {
        downward(source.items.as_deref(), mode(source.default_mode), pod, sources, &mut files)?;
        return Ok(Some(("downward-api", files)));
    }
    if let Some(source) = &volume.projected {
        for part in source.sources.iter().flatten() {
            projection(part, mode(source.default_mode), pod, sources, owner, &mut files)?;
        }
        return Ok(Some(("projected", files)));
    }
    Ok(None)
}

fn projection(
    part: &VolumeProjection,
    mode: u32,
    pod: &Pod,
    sources: &Sources<'_>,
    owner: &Owner,
    files: &mut Files,
) -> Result<(), String> {
    if let Some(source) = &part.config_map {
        let keys = Keys { items: source.items.as_deref(), mode, optional: source.optional.unwrap_or(false) };
        config_map(&source.name, &keys, sources, files)?;
    }
    if let Some(source) = &part.secret {
        let keys = Keys { items: source.items.as_deref(), mode, optional: source.optional.unwrap_or(false) };
        secret(&source.name, &keys, sources, files)?;
    }
    if let Some(source) = &part.downward_api {
        downward(source.items.as_deref(), mode, pod, sources, files)?;
    }
    if let Some(source) = &part.service_account_token {
        let wanted = TokenWanted {
            audience: source.audience.clone().unwrap_or_default(),
            expiration_seconds: source.expiration_seconds.unwrap_or(3600),
        };
        let token = sources.tokens.get(&wanted).ok_or("failed to fetch token: not there yet")?;
        // As upstream: only the pod's own user or group may read it where one is known.
        let mode = if owner.fs_group.is_some() || owner.user.is_some() { 0o600 } else { mode };
        files.insert(source.path.clone(), File { data: token.clone().into_bytes(), mode, user: owner.user });
    }
    if part.cluster_trust_bundle.is_some() {
        return Err("ClusterTrustBundle projection is not supported by this node".to_owned());
    }
    if part.pod_certificate.is_some() {
        return Err("PodCertificate projection is not supported by this node".to_owned());
    }
    Ok(())
}

struct Keys<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: u32,
    optional: bool,
}

fn config_map(name: &str, keys: &Keys<'_>, sources: &Sources<'_>, files: &mut Files) -> Result<(), String> {
    let empty = ConfigMap::default();
    let map = match sources.objects.config_map(name) {
        Ok(map) => map,
        Err(_) if keys.optional => &empty,
        Err(error) => return Err(error),
    };
    let mut data: BTreeMap<&str, &[u8]> =
        map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
    data.extend(map.binary_data.iter().flatten().map(|(key, ByteString(value))| (key.as_str(), value.as_slice())));
    select(&data, keys, files).map_err(|key| format!("configmap references non-existent config key: {key}"))
}

fn secret(name: &str, keys: &Keys<'_>, sources: &Sources<'_>, files: &mut Files) -> Result<(), String> {
    let empty = Secret::default();
    let secret = match sources.objects.secret(name) {
        Ok(secret) => secret,
        Err(_) if keys.optional => &empty,
        Err(error) => return Err(error),
    };
    let data: BTreeMap<&str, &[u8]> =
        secret.data.iter().flatten().map(|(key, ByteString(value))| (key.as_str(), value.as_slice())).collect();
    select(&data, keys, files).map_err(|key| format!("references non-existent secret key: {key}"))
}

/// Adds the chosen keys, or all; the error is a key that is not there.
fn select(data: &BTreeMap<&str, &[u8]>, keys: &Keys<'_>, files: &mut Files) -> Result<(), String> {
    let file = |data: &[u8], mode| File { data: data.to_vec(), mode, user: None };
    match keys.items.filter(|items| !items.is_empty()) {
        None => files.extend(data.iter().map(|(key, value)| ((*key).to_owned(), file(value, keys.mode)))),
        Some(items) => {
            for item in items {
                match data.get(item.key.as_str()) {
                    Some(value) => {
                        let mode = item.mode.map_or(keys.mode, permissions);
                        files.insert(item.path.clone(), file(value, mode));
                    }
                    None if keys.optional => {}
                    None => return Err(item.key.clone()),
                }
            }
        }
    }
    Ok(())
}

fn downward(
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
    pod: &Pod,
    sources: &Sources<'_>,
    files: &mut Files,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(pod, selector, sources.place)?,
            (None, Some(selector)) => fields::resource(pod, selector, "", sources.place)?,
            (None, None) => return Err(format!("file {:?} has neither fieldRef nor resourceFieldRef", item.path)),
        };
        let mode = item.mode.map_or(mode, permissions);
        files.insert(item.path.clone(), File { data: text.into_bytes(), mode, user: None });
    }
    Ok(())
}

fn permissions(mode: i32) -> u32 {
    mode.unsigned_abs() & 0o777
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use serde_json::{Value, json};

    use super::*;
    use crate::{fields::Place, objects::Objects};

    fn check(volume: Value, expect: Result<&[(&str, &str, u32)], &str>) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "b"}}})).unwrap();
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v"}, "binaryData": {"b": "AQ=="}})).unwrap();
        let objects = Objects { config_maps: [("cm".to_owned(), Some(Arc::new(map)))].into(), ..Objects::default() };
        let token = TokenWanted { audience: String::new(), expiration_seconds: 3600 };
        let (tokens, claims, place) = ([(token, "jwt".to_owned())].into(), BTreeMap::new(), Place::default());
        let sources = Sources { pod_dir: Path::new("/"), objects: &objects, tokens: &tokens, claims: &claims, place: &place };
        let mut volume_ = json!({"name": "v"});
        volume_.as_object_mut().unwrap().extend(volume.as_object().unwrap().clone());
        let volume: Volume = serde_json::from_value(volume_).unwrap();
        let found = of(&pod, &volume, &sources, &Owner::default()).map(|found| {
            let (_, files) = found.unwrap();
            files.into_iter().map(|(name, f)| (name, String::from_utf8(f.data).unwrap(), f.mode)).collect::<Vec<_>>()
        });
        let expect = expect
            .map(|list| list.iter().map(|(n, d, m)| ((*n).to_owned(), (*d).to_owned(), *m)).collect::<Vec<_>>())
            .map_err(str::to_owned);
        assert_eq!(found, expect);
    }

    #[test]
    fn contents() {
        check(json!({"configMap": {"name": "cm"}}), Ok(&[("b", "\u{1}", 0o644), ("k", "v", 0o644)]));
        check(
            json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [{"key": "k", "path": "x/y"}]}}),
            Ok(&[("x/y", "v", 0o400)]),
        );
        check(
            json!({"configMap": {"name": "cm", "items": [{"key": "no", "path": "x"}]}}),
            Err("configmap references non-existent config key: no"),
        );
        check(json!({"configMap": {"name": "gone"}}), Err("configmap \"gone\" not found"));
        check(json!({"configMap": {"name": "gone", "optional": true}}), Ok(&[]));
        check(json!({"secret": {"secretName": "gone"}}), Err("secret \"gone\" not found"));
        check(
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}, "mode": 288}]}},
            ]}}),
            Ok(&[("labels", "a=\"b\"", 0o440), ("token", "jwt", 0o644)]),
        );
    }
}
