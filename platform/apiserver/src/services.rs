//! Where a Service's endpoints are, for this server's own connections to them.

use pharos_api::registry::Kind;
use pharos_store::Scope;
use rand::seq::IndexedRandom as _;
use serde_json::Value;

use crate::{api::Api, status::Status, storage};

/// A Service as the caches have it.
pub(crate) fn service(api: &Api, namespace: &str, name: &str) -> Option<Value> {
    let kind = kind(api, "", "services")?;
    let cache = api.0.storage.cache(&kind).ok()?;
    serde_json::from_slice(cache.get(namespace, name).0?.bytes()).ok()
}

fn kind(api: &Api, group: &str, resource: &str) -> Option<std::sync::Arc<Kind>> {
    api.0.resources.lookup(group, "v1", resource)
}

/// The ready endpoints of a Service's port, as addresses and ports; `port_name` is the port's, empty if it has none.
pub(crate) fn endpoints(api: &Api, namespace: &str, name: &str, port_name: &str) -> Result<Vec<(String, u64)>, Status> {
    let mut places = Vec::new();
    let Some(kind) = kind(api, "discovery.k8s.io", "endpointslices") else { return Ok(places) };
    let snapshot = api.0.storage.cache(&kind)?.snapshot();
    let scope = Scope::Namespace(namespace.to_owned());
    for (_, object) in snapshot.iter(&scope, None) {
        if object.label("kubernetes.io/service-name") != Some(name) {
            continue;
        }
        let slice = storage::parse(object.bytes())?;
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let Some(port) = port.and_then(|port| port["port"].as_u64()) else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            if endpoint["conditions"]["ready"] != false {
                let addresses = endpoint["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
                places.extend(addresses.map(|address| (address.to_owned(), port)));
            }
        }
    }
    Ok(places)
}

/// One endpoint of a Service by the number of its port: what upstream's `ResolveEndpoint` does
/// (`apiserver/pkg/util/proxy/proxy.go`). It needs no service proxy between this server and the pods.
///
/// # Errors
///
/// In upstream's words, if there is nothing to connect to.
pub(crate) fn resolve(api: &Api, namespace: &str, name: &str, port: u64) -> Result<(String, u64), String> {
    let service = service(api, namespace, name).ok_or_else(|| format!("service \"{name}\" not found"))?;
    match service["spec"]["type"].as_str() {
        None | Some("ClusterIP" | "LoadBalancer" | "NodePort") => {}
        Some("ExternalName") => {
            let host = service["spec"]["externalName"].as_str().unwrap_or_default();
            return Ok((host.to_owned(), port));
        }
        Some(other) => return Err(format!("unsupported service type \"{other}\"")),
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|candidate| candidate["port"].as_u64() == Some(port));
    let found = found.ok_or_else(|| format!("no service port {port} found for service \"{name}\""))?;
    let port_name = found["name"].as_str().unwrap_or_default();
    let places = endpoints(api, namespace, name, port_name).map_err(|status| status.message().to_owned())?;
    places.choose(&mut rand::rng()).cloned().ok_or_else(|| format!("no endpoints available for service \"{name}\""))
}
