//! What the cluster's names mean: an immutable snapshot, of which a change makes the next one by sharing all but the change.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ahash::RandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::name::{self, WireName};

type Map<K, V> = imbl::GenericHashMap<K, V, RandomState, DefaultSharedPtr>;

/// A service's name: the labels `<service>.<namespace>` in lower case and wire form, without an end.
pub(crate) type ServiceKey = Box<[u8]>;

/// All names of the cluster at one moment. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Index {
    services: Map<ServiceKey, Arc<ServiceRecords>>,
    /// Namespaces by their label.
    namespaces: Map<Box<[u8]>, ()>,
    /// What has an address, as the answer to a reverse query.
    reverse: Map<IpAddr, Arc<Reverse>>,
    /// Which pods have an address, if pods are verified.
    pods: Map<(Box<[u8]>, IpAddr), usize>,
    /// When something changed last, as seconds since 1970: the zone's serial.
    pub(crate) serial: u32,
    /// Whether all objects have been listed: only then does a missing name not exist.
    pub(crate) synced: bool,
}

/// What has an address: each a name of labels below `svc`, in wire form without an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The Services whose cluster address it is.
    pub services: Vec<Box<[u8]>>,
    /// Endpoints with it, one for each Service that selects them.
    pub endpoints: Vec<Box<[u8]>>,
}

/// The records of one Service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServiceRecords {
    pub kind: ServiceKind,
    /// Endpoints that are ready, or published although they are not; in order of label and address, none twice.
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    Cluster { ips: Vec<IpAddr>, ports: Vec<Port> },
    Headless,
    External(WireName),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// In lower case; empty if it has none.
    pub name: Box<[u8]>,
    /// In lower case, `tcp`.
    pub protocol: Box<[u8]>,
    pub number: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Its label below the service's name.
    pub label: Box<[u8]>,
    pub ip: IpAddr,
    pub ports: Arc<[Port]>,
}

// === impl Index ===

impl Index {
    pub(crate) fn service(&self, key: &[u8]) -> Option<&Arc<ServiceRecords>> {
        self.services.get(key)
    }

    pub(crate) fn has_namespace(&self, label: &[u8]) -> bool {
        self.namespaces.contains_key(label)
    }

    pub(crate) fn reverse(&self, ip: &IpAddr) -> Option<&Arc<Reverse>> {
        self.reverse.get(ip)
    }

    pub(crate) fn has_pod(&self, namespace: &[u8], ip: IpAddr) -> bool {
        self.pods.contains_key(&(namespace.into(), ip))
    }

    /// Sets or removes a service; says whether its records changed.
    pub(crate) fn set_service(&mut self, key: ServiceKey, records: Option<ServiceRecords>) -> bool {
        let old = self.services.get(&key).cloned();
        if old.as_deref() == records.as_ref() {
            return false;
        }
        for (ip, name) in old.iter().flat_map(|old| old.reverse_names(&key)) {
            if let Some(reverse) = self.reverse.get_mut(&ip) {
                let changed = Arc::make_mut(reverse);
                changed.services.retain(|n| *n != name);
                changed.endpoints.retain(|n| *n != name);
                if changed.services.is_empty() && changed.endpoints.is_empty() {
                    self.reverse.remove(&ip);
                }
            }
        }
        let Some(records) = records else {
            self.services.remove(&key);
            return true;
        };
        for (ip, name) in records.reverse_names(&key) {
            let reverse = Arc::make_mut(self.reverse.entry(ip).or_default());
            let cluster = matches!(&records.kind, ServiceKind::Cluster { ips, .. } if ips.contains(&ip)) && name == key;
            let names = if cluster { &mut reverse.services } else { &mut reverse.endpoints };
            if let Err(at) = names.binary_search(&name) {
                names.insert(at, name);
            }
        }
        self.services.insert(key, Arc::new(records));
        true
    }

    pub(crate) fn set_namespace(&mut self, name: &str, exists: bool) -> bool {
        let label: Box<[u8]> = name.as_bytes().into();
        if exists { self.namespaces.insert(label, ()).is_none() } else { self.namespaces.remove(&label).is_some() }
    }

    pub(crate) fn add_pod(&mut self, namespace: &str, ip: IpAddr) {
        *self.pods.entry((namespace.as_bytes().into(), ip)).or_insert(0) += 1;
    }

    pub(crate) fn remove_pod(&mut self, namespace: &str, ip: IpAddr) {
        let key = (namespace.as_bytes().into(), ip);
        match self.pods.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.pods.remove(&key);
            }
        }
    }
}

// === impl ServiceRecords ===

impl ServiceRecords {
    /// The records of a Service with its slices.
    pub(crate) fn new(service: &Service, slices: &[Arc<EndpointSlice>]) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let target = name::parse(spec.external_name.as_deref()?).ok()?;
            return Some(Self { kind: ServiceKind::External(target), endpoints: Vec::new() });
        }
        let endpoints = endpoints(slices, spec.publish_not_ready_addresses == Some(true));
        let first = spec.cluster_ip.as_deref().unwrap_or_default();
        if first.eq_ignore_ascii_case("None") {
            return Some(Self { kind: ServiceKind::Headless, endpoints });
        }
        let all = spec.cluster_ips.as_deref().filter(|ips| !ips.is_empty());
        let mut ips: Vec<IpAddr> = match all {
            Some(ips) => ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
            None => first.parse().into_iter().collect(),
        };
        ips.dedup();
        if ips.is_empty() {
            return None; // Its address is still to be allocated.
        }
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|p| Port::new(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect();
        Some(Self { kind: ServiceKind::Cluster { ips, ports }, endpoints })
    }

    fn reverse_names(&self, key: &[u8]) -> Vec<(IpAddr, Box<[u8]>)> {
        let mut names = Vec::new();
        if let ServiceKind::Cluster { ips, .. } = &self.kind {
            names.extend(ips.iter().map(|ip| (*ip, Box::from(key))));
        }
        names.extend(self.endpoints.iter().map(|endpoint| {
            let mut name = Vec::with_capacity(1 + endpoint.label.len() + key.len());
            name::push_label(&mut name, &endpoint.label);
            name.extend_from_slice(key);
            (endpoint.ip, name.into_boxed_slice())
        }));
        names
    }
}

impl Port {
    fn new(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Self> {
        Some(Self {
            name: name.unwrap_or_default().to_ascii_lowercase().into_bytes().into(),
            protocol: protocol.unwrap_or("TCP").to_ascii_lowercase().into_bytes().into(),
            number: u16::try_from(number).ok()?,
        })
    }
}

/// The key of a service in the index; `None` if the names are no labels.
pub(crate) fn service_key(namespace: &str, name: &str) -> Option<ServiceKey> {
    if name.is_empty() || namespace.is_empty() || name.len() > 63 || namespace.len() > 63 {
        return None;
    }
    let mut key = Vec::with_capacity(name.len() + namespace.len() + 2);
    name::push_label(&mut key, name.as_bytes());
    name::push_label(&mut key, namespace.as_bytes());
    Some(key.into_boxed_slice())
}

/// A pod's addresses, unless it has ended or is being deleted.
pub(crate) fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed" | "Unknown"));
    if ended || pod.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let mut ips: Vec<IpAddr> = all.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

fn endpoints(slices: &[Arc<EndpointSlice>], publish_not_ready: bool) -> Vec<Endpoint> {
    // Slices repeat an endpoint while the controller moves it; the union of its ports is what it has.
    let mut found: BTreeMap<(Box<[u8]>, IpAddr), Vec<Port>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let ports = slice.ports.iter().flatten();
        let ports: Vec<_> = ports.filter_map(|p| Port::new(p.name.as_deref(), p.protocol.as_deref(), p.port?)).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if !ready && !publish_not_ready {
                continue;
            }
            for ip in endpoint.addresses.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
                let label = endpoint.hostname.clone().filter(|h| !h.is_empty() && h.len() <= 63);
                let label = label.unwrap_or_else(|| name::dashed(&ip)).to_ascii_lowercase();
                let known = found.entry((label.into_bytes().into(), ip)).or_default();
                for port in &ports {
                    if !known.contains(port) {
                        known.push(port.clone());
                    }
                }
            }
        }
    }
    let mut shared: Vec<Arc<[Port]>> = Vec::new();
    found
        .into_iter()
        .map(|((label, ip), ports)| {
            let ports = shared.iter().find(|known| known[..] == ports[..]).cloned().unwrap_or_else(|| {
                let new: Arc<[Port]> = ports.into();
                shared.push(new.clone());
                new
            });
            Endpoint { label, ip, ports }
        })
        .collect()
}
