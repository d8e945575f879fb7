//! `endpointslicemirroring`: Endpoints that people write for a Service without selector become slices
//! (`pkg/controller/endpointslicemirroring`).

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    core::v1::{EndpointAddress, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
};
use pharos_client::{Event, Key, Next};

use crate::{
    endpoint_slice::{self, SERVICE_NAME, Written, is_managed_by, pack},
    env::Env,
    owners,
};

const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
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
                    pack(service, CONTROLLER, &ours, wanted(endpoints))
                }
                _ if ours.is_empty() => return Ok(Next::Done),
                _ => endpoint_slice::Changes { delete: ours, ..Default::default() },
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

/// Endpoints with the ports they share, by address type.
type ByAddressType = std::collections::BTreeMap<&'static str, Vec<(Vec<EndpointPort>, Vec<Endpoint>)>>;

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
