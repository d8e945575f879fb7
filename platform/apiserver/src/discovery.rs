//! `/api`, `/apis` and below: what can be asked for.

use std::{cmp::Reverse, collections::HashSet};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use pharos_api::{
    discovery::{self, Aggregated},
    registry::Registry,
};
use pharos_transport::Response;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::{
    api::Api,
    negotiate,
    resources::Document,
    respond,
    status::{self, Status},
};

const AGGREGATED: &str = "APIGroupDiscoveryList";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Answers a discovery path, or `None` if it is not one.
pub(crate) fn answer(api: &Api, path: &str, headers: &HeaderMap) -> Option<Result<Response, Status>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["api"] => Some(root(api, headers, true)),
        ["apis"] => Some(root(api, headers, false)),
        ["api", version] => Some(resources(api, headers, "", version)),
        ["apis", group] => Some(group_document(api, headers, group)),
        ["apis", group, version] => Some(resources(api, headers, group, version)),
        _ => None,
    }
}

/// The list of groups, aggregated with their resources where the client knows that form.
fn root(api: &Api, headers: &HeaderMap, core: bool) -> Result<Response, Status> {
    for range in negotiate::ranges(headers) {
        let aggregated = range.param("as") == Some(AGGREGATED) && range.param("g") == Some("apidiscovery.k8s.io");
        let plain = range.param("as").is_none();
        let media = range.media.as_str();
        let protobuf = media == PROTOBUF;
        if !protobuf && !matches!(media, "application/json" | "*/*" | "application/*") {
            continue;
        }
        let (name, version) = match range.param("v") {
            Some("v2") if aggregated => ("v2", Aggregated::V2),
            Some("v2beta1") if aggregated => ("v2beta1", Aggregated::V2Beta1),
            _ if plain => return plain_root(api, protobuf, core),
            _ => continue,
        };
        let form = if protobuf { "+protobuf" } else { "" };
        let key = format!("{}?{name}{form}", if core { "/api" } else { "/apis" });
        let document = api.0.resources.document(&key, |registry| {
            let mut list = discovery::aggregated(registry, core, version);
            if !core {
                append_foreign(api, &mut list);
            }
            if protobuf { discovery::protobuf(&list).map(hashed) } else { Some(document(&list)) }
        });
        let document = document.ok_or_else(status::no_such_resource)?;
        let content_type = match (name, protobuf) {
            ("v2", false) => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            ("v2", true) => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            (_, false) => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            (_, true) => "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        };
        return Ok(with_etag(headers, &document, content_type));
    }
    Err(status::not_acceptable())
}

/// Whether the client likes protobuf best of what a plain document comes in.
fn wants_protobuf(headers: &HeaderMap) -> bool {
    let plain = negotiate::ranges(headers).into_iter().filter(|range| range.param("as").is_none());
    let known = |media: &str| matches!(media, PROTOBUF | "application/json" | "*/*" | "application/*");
    plain.map(|range| range.media).find(|media| known(media)).is_some_and(|media| media == PROTOBUF)
}

/// A document that is not kept.
fn written(value: &Value, protobuf: bool) -> Result<Response, Status> {
    if !protobuf {
        return Ok(respond::json_document(StatusCode::OK, value));
    }
    let body = discovery::protobuf(value).ok_or_else(|| status::internal("a discovery document without a protobuf form"))?;
    Ok(respond::bytes(StatusCode::OK, PROTOBUF, body))
}

fn plain_root(api: &Api, protobuf: bool, core: bool) -> Result<Response, Status> {
    let value = if core {
        let config = &api.0.config;
        discovery::api_versions(&format!("{}:{}", config.advertise_address, config.secure_port))
    } else {
        let mut list = discovery::group_list(&api.0.resources.registry());
        if let Some(groups) = list["groups"].as_array_mut() {
            let foreign = foreign(api);
            foreign.iter().for_each(|foreign| add_group(groups, foreign));
            sort(api, groups, &foreign, |group| &group["name"]);
        }
        list
    };
    written(&value, protobuf)
}

fn group_document(api: &Api, headers: &HeaderMap, group: &str) -> Result<Response, Status> {
    let mut groups: Vec<Value> = discovery::group(&api.0.resources.registry(), group).into_iter().collect();
    foreign(api).iter().filter(|foreign| foreign.group == group).for_each(|foreign| add_group(&mut groups, foreign));
    let mut found = groups.pop().ok_or_else(status::no_such_resource)?;
    found["kind"] = json!("APIGroup");
    found["apiVersion"] = json!("v1");
    written(&found, wants_protobuf(headers))
}

fn resources(api: &Api, headers: &HeaderMap, group: &str, version: &str) -> Result<Response, Status> {
    let protobuf = wants_protobuf(headers);
    let key = format!("/apis/{group}/{version}{}", if protobuf { "+protobuf" } else { "" });
    let found = api.0.resources.document(&key, |registry: &Registry| {
        let list = discovery::resource_list(registry, group, version).or_else(|| {
            let groups = api.0.mounts.groups();
            let mounted = groups.iter().find(|mounted| mounted.group == group && mounted.version == version)?;
            Some(json!({
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": format!("{group}/{version}"),
                "resources": mounted.resources,
            }))
        })?;
        if protobuf { discovery::protobuf(&list).map(hashed) } else { Some(document(&list)) }
    });
    let document = found.ok_or_else(status::no_such_resource)?;
    Ok(respond::bytes(StatusCode::OK, if protobuf { PROTOBUF } else { "application/json" }, document.body))
}

/// A group version that others answer: a mount, or another API server.
struct Foreign {
    group: String,
    version: String,
    /// Its group's place among the others, where high ones come first.
    priority: i64,
    /// The `APIResource` entries.
    resources: Vec<Value>,
}

/// The place of mounted groups: that of the metrics server's APIService, which they stand for.
const MOUNTED_PRIORITY: i64 = 100;

fn foreign(api: &Api) -> Vec<Foreign> {
    let aggregation = &api.0.aggregation;
    let mounted = api.0.mounts.groups().into_iter().map(|mounted| Foreign {
        group: mounted.group.to_owned(),
        version: mounted.version.to_owned(),
        priority: MOUNTED_PRIORITY,
        resources: mounted.resources,
    });
    // Whoever registers another server for a mount's group wants that one.
    let mut all: Vec<Foreign> =
        mounted.filter(|mounted| aggregation.find(&format!("/apis/{}/{}", mounted.group, mounted.version)).is_none()).collect();
    all.extend(aggregation.served().into_iter().map(|(remote, found)| Foreign {
        group: remote.group.clone(),
        version: remote.version.clone(),
        priority: remote.priority().0,
        resources: found.resources.clone(),
    }));
    all
}

/// Adds a group version to a list of groups.
fn add_group(groups: &mut Vec<Value>, foreign: &Foreign) {
    let version = json!({"groupVersion": format!("{}/{}", foreign.group, foreign.version), "version": foreign.version});
    let known = groups.iter_mut().find(|group| group["name"] == foreign.group);
    match known.and_then(|group| group["versions"].as_array_mut()) {
        Some(versions) => versions.push(version),
        None => groups.push(json!({"name": foreign.group, "versions": [version], "preferredVersion": version})),
    }
}

/// Adds the group versions of others to an aggregated document.
fn append_foreign(api: &Api, list: &mut Value) {
    let Some(items) = list["items"].as_array_mut() else { return };
    let foreign = foreign(api);
    for foreign in &foreign {
        let version = json!({"version": foreign.version, "resources": aggregated_resources(foreign), "freshness": "Current"});
        let known = items.iter_mut().find(|item| item["metadata"]["name"] == foreign.group);
        match known.and_then(|item| item["versions"].as_array_mut()) {
            Some(versions) => versions.push(version),
            None => items.push(json!({"metadata": {"name": foreign.group, "creationTimestamp": null}, "versions": [version]})),
        }
    }
    sort(api, items, &foreign, |item| &item["metadata"]["name"]);
}

/// Puts groups in the order of the priorities of their APIServices; the highest of a group's versions counts.
fn sort(api: &Api, groups: &mut [Value], foreign: &[Foreign], name: fn(&Value) -> &Value) {
    if foreign.is_empty() {
        return; // They are in order.
    }
    let registry = api.0.resources.registry();
    let own: HashSet<&str> = registry.kinds().map(|kind| &*kind.group).collect();
    let priority = |group: &Value| {
        let name = name(group).as_str().unwrap_or_default();
        let others = foreign.iter().filter(|foreign| foreign.group == name).map(|foreign| foreign.priority);
        others.chain(own.contains(name).then(|| discovery::group_priority(name))).max()
    };
    groups.sort_by_cached_key(|group| Reverse(priority(group)));
}

/// `APIResource` entries in the form of aggregated discovery, subresources below their resources.
fn aggregated_resources(foreign: &Foreign) -> Vec<Value> {
    let text = |resource: &Value, field: &str, otherwise: &str| {
        resource[field].as_str().filter(|text| !text.is_empty()).unwrap_or(otherwise).to_owned()
    };
    let kind = |resource: &Value| {
        json!({
            "group": text(resource, "group", &foreign.group),
            "version": text(resource, "version", &foreign.version),
            "kind": resource["kind"],
        })
    };
    let mut all: Vec<Value> = Vec::new();
    for resource in &foreign.resources {
        let name = resource["name"].as_str().unwrap_or_default();
        if let Some((parent, below)) = name.split_once('/') {
            let entry = json!({"subresource": below, "responseKind": kind(resource), "verbs": resource["verbs"]});
            if let Some(parent) = all.iter_mut().find(|other| other["resource"] == parent) {
                match parent["subresources"].as_array_mut() {
                    Some(subresources) => subresources.push(entry),
                    None => parent["subresources"] = json!([entry]),
                }
            }
            continue;
        }
        let mut entry = json!({
            "resource": name,
            "responseKind": kind(resource),
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"],
            "verbs": resource["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                entry[field] = resource[field].clone();
            }
        }
        all.push(entry);
    }
    all
}

pub(crate) fn document(value: &Value) -> Document {
    hashed(serde_json::to_vec(value).unwrap_or_default())
}

/// A document under the hash of its bytes.
fn hashed(body: Vec<u8>) -> Document {
    let etag = format!("\"{}\"", hex::encode_upper(Sha512::digest(&body)));
    Document::new(body, etag)
}

/// The document, or 304 if the client has it.
pub(crate) fn with_etag(headers: &HeaderMap, document: &Document, content_type: &'static str) -> Response {
    let has = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|etag| etag.trim() == document.etag));
    let mut response = if has {
        let mut response = respond::bytes(StatusCode::NOT_MODIFIED, content_type, bytes::Bytes::new());
        response.headers_mut().remove(header::CONTENT_TYPE);
        response
    } else {
        respond::bytes(StatusCode::OK, content_type, document.body.clone())
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    if let Ok(etag) = HeaderValue::from_str(&document.etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}
