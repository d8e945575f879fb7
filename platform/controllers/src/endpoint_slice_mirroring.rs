//! `endpointslicemirroring`: Endpoints that people write for a Service without selector become slices
//! (`pkg/controller/endpointslicemirroring`).

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{EndpointAddress, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
};
use pharos_client::{Event, Key, Next};

use crate::{
    endpoint_slice::{self, Changes, SERVICE_NAME, Written, is_managed_by, pack},
    env::Env,
    owners,
};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// Annotations that say something of the Endpoints object itself.
const NOT_MIRRORED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset beyond these are left out (`--mirroring-max-endpoints-per-subset`).
const MAX_PER_SUBSET: usize = 1000;

pub(crate) fn start(env: &Env) {
    let queue = env.queue("endpoint_slice_mirroring");
    let client = env.client("endpointslicemirroring-controller");
    let slices = endpoint_slice::by_service(env);
    let written = Arc::new(Written::default());
    let put = queue.clone();
    env.informers.endpoints.on_event(move |event| put.add(Key::of(&**event.object())));
    let put = queue.clone();
    env.informers.services.on_event(move |event| put.add(Key::of(&**event.object())));
    let (put, gone) = (queue.clone(), written.clone());
    env.informers.endpoint_slices.on_event(move |event| {
        let slice = event.object();
        let Some(name) = owners::labels(&**slice).get(SERVICE_NAME).filter(|_| is_managed_by(slice, CONTROLLER)) else { return };
        let service = Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name.as_str());
        if let Event::Deleted(slice) = event {
            gone.gone(&service, slice);
        }
        put.add(service);
    });
    let env_ = env.clone();
    queue.spawn_workers(&env.ctx, 5, move |key| {
        let (env, client, slices, written) = (env_.clone(), client.clone(), slices.clone(), written.clone());
        async move {
            let cached = slices.get(&key.to_string());
            if written.is_ahead_of(&key, &cached) {
                return Ok::<_, crate::Error>(Next::Done);
            }
            let ours: Vec<_> = cached.into_iter().filter(|slice| is_managed_by(slice, CONTROLLER)).collect();
            let service = env.informers.services.get(&key);
            let endpoints = env.informers.endpoints.get(&key);
            let changes = match (&service, &endpoints) {
                (Some(service), Some(endpoints)) if is_mirrored(service, endpoints) => {
                    let mut changes = pack(service, CONTROLLER, &ours, wanted(endpoints));
                    annotate(&mut changes, &ours, &annotations(endpoints));
                    changes
                }
                _ if ours.is_empty() => return Ok(Next::Done),
                _ => Changes { delete: ours, ..Default::default() },
            };
            written.apply(&client, &key, changes).await?;
            Ok(Next::Done)
        }
    });
}

/// Only what a person wrote, for a Service that nobody else tells the endpoints of.
fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let skipped = owners::labels(endpoints).get("endpointslice.kubernetes.io/skip-mirror").is_some_and(|v| v == "true");
    let elected =
        endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key("control-plane.alpha.kubernetes.io/leader"));
    let selects = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|labels| !labels.is_empty());
    !skipped && !elected && !selects && !owners::is_deleting(endpoints)
}

/// What slices take of the annotations of Endpoints: all but when they last changed, and what kubectl applied.
fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !NOT_MIRRORED.contains(&name.as_str()));
    annotations
}

/// Gives every slice these annotations; those that have others are written for that alone.
fn annotate(changes: &mut Changes, ours: &[Arc<EndpointSlice>], annotations: &BTreeMap<String, String>) {
    let have = |slice: &EndpointSlice| slice.metadata.annotations.clone().unwrap_or_default();
    for slice in ours.iter().filter(|slice| !owners::is_deleting(&***slice) && have(slice) != *annotations) {
        let same = |other: &EndpointSlice| owners::name(other) == owners::name(&**slice);
        if !changes.update.iter().any(same) && !changes.delete.iter().any(|other| same(other)) {
            changes.update.push((**slice).clone());
        }
    }
    for slice in changes.create.iter_mut().chain(&mut changes.update) {
        slice.metadata.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    }
}

/// Endpoints with the ports they share, by address type.
type ByAddressType = BTreeMap<&'static str, Vec<(Vec<EndpointPort>, Vec<Endpoint>)>>;

fn wanted(endpoints: &Endpoints) -> ByAddressType {
    let mut wanted = ByAddressType::default();
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(unready).take(MAX_PER_SUBSET) {
            let family = match address.ip.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            let groups = wanted.entry(family).or_default();
            match groups.iter_mut().find(|(known, _)| *known == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint(address, ready)),
                None => groups.push((ports.clone(), vec![endpoint(address, ready)])),
            }
        }
    }
    wanted
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: Some(ready), terminating: None }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::EndpointSubset;

    use super::*;

    #[test]
    fn annotations_are_mirrored() {
        let mut endpoints = Endpoints::default();
        endpoints.metadata.annotations =
            Some([("a", "1"), (NOT_MIRRORED[0], "x"), (NOT_MIRRORED[1], "y")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let wanted = annotations(&endpoints);
        assert_eq!(wanted, [("a".to_owned(), "1".to_owned())].into());
        let slice = |name: &str, annotations: Option<&BTreeMap<String, String>>| {
            let mut slice = EndpointSlice::default();
            (slice.metadata.name, slice.metadata.annotations) = (Some(name.into()), annotations.cloned());
            slice
        };
        let ours = [slice("same", Some(&wanted)), slice("other", None), slice("gone", None)].map(Arc::new);
        let mut changes = Changes { create: vec![slice("new", None)], delete: vec![ours[2].clone()], ..Changes::default() };
        annotate(&mut changes, &ours, &wanted);
        assert_eq!(changes.create, [slice("new", Some(&wanted))]);
        assert_eq!(changes.update, [slice("other", Some(&wanted))]);
        annotate(&mut changes, &[], &BTreeMap::new());
        assert_eq!(changes.update, [slice("other", None)]);
    }

    #[test]
    fn families_part() {
        let address = |ip: &str| EndpointAddress { ip: ip.into(), ..EndpointAddress::default() };
        let endpoints = Endpoints {
            subsets: Some(vec![EndpointSubset {
                addresses: Some(vec![address("10.0.0.1"), address("fd00::1")]),
                not_ready_addresses: Some(vec![address("10.0.0.2")]),
                ..EndpointSubset::default()
            }]),
            ..Endpoints::default()
        };
        let wanted = wanted(&endpoints);
        assert_eq!((wanted["IPv4"][0].1.len(), wanted["IPv6"][0].1.len()), (2, 1));
        assert!(is_mirrored(&Service::default(), &endpoints));
    }
}
