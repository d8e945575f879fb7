//! `endpoint`: the older way to tell which pods stand behind a Service (`pkg/controller/endpoint`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use pharos_client::{Event, Key, Next, Recorder, Regarding};

use crate::{
    Result,
    endpoint_slice::{HEADLESS, TriggerTimes, find_port, selected, set_trigger, subset_member, wake_services},
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
    pod_control::namespace_is_terminating,
    pods,
};

const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// More addresses are cut off and the object says so.
const CAPACITY: usize = 1000;

pub(crate) fn start(env: &Env) {
    let queue = env.queue("endpoint");
    let client = env.client("endpoint-controller");
    let recorder = env.recorder(&client, "endpoint-controller");
    let put = queue.clone();
    env.informers.services.on_event(move |event| put.add(Key::of(&**event.object())));
    wake_services(env, &queue);
    let put = queue.clone();
    env.informers.endpoints.on_event(move |event| {
        // Whoever deletes or breaks ours gets it back.
        if !matches!(event, Event::Added(_)) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (env_, triggers) = (env.clone(), Arc::new(TriggerTimes::default()));
    queue.spawn_workers(&env.ctx, 5, move |key| {
        let (env, client, recorder, triggers) = (env_.clone(), client.clone(), recorder.clone(), triggers.clone());
        async move { sync(&env, client, &recorder, &triggers, &key).await }
    });
}

async fn sync(env: &Env, client: Client, recorder: &Recorder, triggers: &TriggerTimes, key: &Key) -> Result<Next> {
    let api: Api<Endpoints> = Api::namespaced(client, &key.namespace);
    let current = env.informers.endpoints.get(key);
    let Some(service) = env.informers.services.get(key) else {
        triggers.forget(key);
        if current.is_some_and(|endpoints| owners::labels(&*endpoints).get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)) {
            gone_is_fine(api.delete(&key.name, &DeleteParams::default()).await).during("delete endpoints", key)?;
        }
        return Ok(Next::Done);
    };
    let spec = service.spec.clone().unwrap_or_default();
    if spec.selector.as_ref().is_none_or(|labels| labels.is_empty()) || spec.type_.as_deref() == Some("ExternalName") {
        return Ok(Next::Done);
    }
    let pods = selected(env, &service);
    let trigger = triggers.observe(&service, &pods);
    let Some(endpoints) = wanted(&service, &pods, current.as_deref(), trigger) else { return Ok(Next::Done) };
    let (verb, result) = match current {
        None => ("create", api.create(&PostParams::default(), &endpoints).await),
        Some(_) => ("update", api.replace(&key.name, &PostParams::default(), &endpoints).await),
    };
    match result {
        Ok(_) => Ok(Next::Done),
        Err(error) if namespace_is_terminating(&error) => Ok(Next::Done),
        Err(error) => {
            if !pharos_client::is_conflict(&error) {
                let reason = if verb == "create" { "FailedToCreateEndpoint" } else { "FailedToUpdateEndpoint" };
                let regarding = Regarding { kind: "Endpoints".into(), ..Regarding::of(&*service) };
                recorder.warning(&regarding, reason, format!("Failed to {verb} endpoint {key}: {error}"));
            }
            Err(error).during("write endpoints", key)
        }
    }
}

/// The object as it is to be, or `None` if it is so already.
fn wanted(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>, trigger: Option<Timestamp>) -> Option<Endpoints> {
    let spec = service.spec.clone().unwrap_or_default();
    let mut labels = owners::labels(service).clone();
    labels.remove(HEADLESS);
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.0.into(), MANAGED_BY.1.into());
    let (subsets, cut) = truncated(subsets(service, pods));
    let mut endpoints = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    let before = endpoints.clone();
    endpoints.subsets = (!subsets.is_empty()).then_some(subsets);
    endpoints.metadata.labels = Some(labels);
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if cut {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    endpoints.metadata.annotations = endpoints.metadata.annotations.take().filter(|a| !a.is_empty());
    if current.is_some() && endpoints == before {
        return None;
    }
    set_trigger(&mut endpoints.metadata, trigger);
    Some(endpoints)
}

type Address = (String, bool);

/// Subsets of ports that share exactly the same addresses (`RepackSubsets`).
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let even_unready = spec.publish_not_ready_addresses.unwrap_or_default();
    let v6 = match spec.ip_families.as_ref().and_then(|families| families.first()) {
        Some(family) => family == "IPv6",
        None => spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).is_some_and(|ip| ip.is_ipv6()),
    };
    let ports = spec.ports.clone().unwrap_or_default();
    let mut addresses: BTreeMap<Address, EndpointAddress> = BTreeMap::new();
    let mut by_port: BTreeMap<(String, i32, String, Option<String>), BTreeSet<Address>> = BTreeMap::new();
    let mut without_port: BTreeSet<Address> = BTreeSet::new();
    for pod in pods.iter().filter(|pod| subset_member(pod, even_unready)) {
        let status = pod.status.clone().unwrap_or_default();
        let many = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip);
        let Some(ip) = many.chain(status.pod_ip).find(|ip| ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == v6)) else {
            continue;
        };
        let pod_spec = pod.spec.clone().unwrap_or_default();
        let key = (ip.clone(), even_unready || pods::is_ready(pod));
        let address = EndpointAddress {
            ip,
            node_name: pod_spec.node_name,
            hostname: pod_spec.hostname.filter(|name| !name.is_empty()).filter(|_| pod_spec.subdomain == service.metadata.name),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..ObjectReference::default()
            }),
        };
        if ports.is_empty() {
            without_port.insert(key.clone());
        }
        for port in &ports {
            if let Some(number) = find_port(pod, port) {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                let port = (port.name.clone().unwrap_or_default(), number, protocol, port.app_protocol.clone());
                by_port.entry(port).or_default().insert(key.clone());
            }
        }
        addresses.insert(key, address);
    }
    let mut by_addresses: BTreeMap<BTreeSet<Address>, Vec<EndpointPort>> = BTreeMap::new();
    if !without_port.is_empty() {
        by_addresses.insert(without_port, Vec::new());
    }
    for ((name, port, protocol, app_protocol), set) in by_port {
        by_addresses.entry(set).or_default().push(EndpointPort {
            name: (!name.is_empty()).then_some(name),
            port,
            protocol: Some(protocol),
            app_protocol,
        });
    }
    let some = |list: Vec<EndpointAddress>| (!list.is_empty()).then_some(list);
    let of = |set: &BTreeSet<Address>, ready: bool| {
        some(set.iter().filter(|(_, r)| *r == ready).filter_map(|key| addresses.get(key).cloned()).collect())
    };
    by_addresses
        .into_iter()
        .map(|(set, ports)| EndpointSubset {
            addresses: of(&set, true),
            not_ready_addresses: of(&set, false),
            ports: (!ports.is_empty()).then_some(ports),
        })
        .collect()
}

/// No more addresses than an object may hold: ready ones first.
fn truncated(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|s| count(&s.addresses) + count(&s.not_ready_addresses)).sum();
    if total <= CAPACITY {
        return (subsets, false);
    }
    let mut room = CAPACITY;
    for ready in [true, false] {
        for subset in &mut subsets {
            let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
            if let Some(addresses) = list {
                addresses.truncate(room);
                room -= addresses.len();
            }
            *list = list.take().filter(|addresses| !addresses.is_empty());
        }
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (subsets, true)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::{ServicePort, ServiceSpec},
        apimachinery::pkg::util::intstr::IntOrString,
    };

    use super::*;
    use crate::pods::testing::pod;

    #[test]
    fn subsets_tell_ready_and_unready_apart() {
        let backend = |name: &str, ip: &str, ready| {
            let mut pod = pod(name, "n1", "Running", ready);
            pod.status.as_mut().unwrap().pod_ip = Some(ip.into());
            Arc::new(pod)
        };
        let port = |name: &str, number| ServicePort {
            name: Some(name.into()),
            port: number,
            target_port: Some(IntOrString::Int(number + 8000)),
            ..ServicePort::default()
        };
        let mut service = Service::default();
        service.metadata.name = Some("web".into());
        service.spec = Some(ServiceSpec { ports: Some(vec![port("a", 1), port("b", 2)]), ..ServiceSpec::default() });
        let pods = [backend("a", "10.0.0.1", Some(1)), backend("b", "10.0.0.2", None), backend("c", "", None)];
        let made = wanted(&service, &pods, None, Some(Timestamp::UNIX_EPOCH)).unwrap();
        let subsets = made.subsets.clone().unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subsets[0].ports.as_ref().unwrap().iter().map(|p| p.port).collect::<Vec<_>>(), [8001, 8002]);
        assert!(made.metadata.annotations.is_some(), "when the change happened");
        assert_eq!(wanted(&service, &pods, Some(&made), None), None, "nothing changed, nothing to write");
    }
}
