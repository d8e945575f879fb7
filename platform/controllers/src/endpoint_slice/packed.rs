use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{HEADLESS, MANAGED_BY, SERVICE_NAME, trigger_times::set_trigger, wanted::Wanted};
use crate::owners;

/// How many endpoints a slice holds (`--max-endpoints-per-slice`).
const MAX_ENDPOINTS: usize = 100;

/// What has to be written.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

impl Changes {
    /// Writes down when the change happened that brought these about. That alone is no reason to write a slice.
    pub(super) fn set_trigger(&mut self, at: Option<Timestamp>) {
        self.create.iter_mut().chain(&mut self.update).for_each(|slice| set_trigger(&mut slice.metadata, at));
    }
}

/// Labels that slices take from their Service, besides those that say whose they are.
fn labels(service: &Service, controller: &str, current: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let reserved = [SERVICE_NAME, MANAGED_BY, HEADLESS];
    let mut labels: BTreeMap<String, String> = owners::labels(service).clone();
    labels.retain(|key, _| !reserved.contains(&key.as_str()) && key != "endpoints.kubernetes.io/managed-by");
    labels.insert(SERVICE_NAME.into(), owners::name(service).into());
    labels.insert(MANAGED_BY.into(), controller.into());
    if service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None")) {
        labels.insert(HEADLESS.into(), String::new());
    }
    match current {
        Some(current) if *current == labels => current.clone(),
        _ => labels,
    }
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    let mut have = slice.ports.clone().unwrap_or_default();
    have.sort_by(|a, b| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol)));
    let plain = |ports: &[EndpointPort]| -> Vec<_> {
        ports.iter().map(|p| (p.name.clone().unwrap_or_default(), p.port, p.protocol.clone(), p.app_protocol.clone())).collect()
    };
    plain(&have) == plain(ports)
}

/// The same endpoint, whatever is told of it (`EndpointsEqualBeyondHash` asks for more).
fn same_endpoint(a: &Endpoint, b: &Endpoint) -> bool {
    a.addresses == b.addresses && a.target_ref.as_ref().map(|r| &r.uid) == b.target_ref.as_ref().map(|r| &r.uid)
}

/// Equal but for hints, which another may set.
fn says_the_same(a: &Endpoint, b: &Endpoint) -> bool {
    let strip = |e: &Endpoint| Endpoint { hints: None, deprecated_topology: None, ..e.clone() };
    strip(a) == strip(b)
}

/// Spreads endpoints over slices: existing ones keep what they hold, the rest fills them up, then new ones.
pub(crate) fn pack(service: &Service, controller: &str, existing: &[Arc<EndpointSlice>], wanted: Wanted) -> Changes {
    let mut changes = Changes::default();
    let (mut live, mut used): (Vec<&Arc<EndpointSlice>>, Vec<bool>) = (Vec::new(), Vec::new());
    for slice in existing.iter().filter(|slice| !owners::is_deleting(&***slice)) {
        live.push(slice);
        used.push(false);
    }
    let fresh = |family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>| EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owners::name(service))),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service, controller, None)),
            owner_references: Some(vec![owners::reference_to(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        ports: Some(ports.to_vec()),
        endpoints: Some(endpoints),
    };
    for (family, mut groups) in wanted {
        if groups.is_empty() {
            // One empty slice says that there is nothing, rather than that nothing is known.
            groups.push((Vec::new(), Vec::new()));
        }
        for (ports, mut endpoints) in groups {
            let placeholder = endpoints.is_empty();
            // Each slice of these ports: what it holds after what is no longer wanted has left, and whether that changes it.
            let mut packs: Vec<(usize, Vec<Endpoint>, bool)> = Vec::new();
            for (at, slice) in live.iter().enumerate() {
                if used[at] || slice.address_type != family || !same_ports(slice, &ports) {
                    continue;
                }
                used[at] = true;
                let mut kept = Vec::new();
                let mut changed = slice.metadata.labels.as_ref()
                    != Some(&labels(service, controller, slice.metadata.labels.as_ref()))
                    || slice.metadata.owner_references.as_ref() != Some(&vec![owners::reference_to(service)]);
                for endpoint in slice.endpoints.iter().flatten() {
                    match endpoints.iter().position(|e| same_endpoint(e, endpoint)) {
                        Some(found) => {
                            let now = endpoints.swap_remove(found);
                            changed |= !says_the_same(&now, endpoint);
                            kept.push(if says_the_same(&now, endpoint) { endpoint.clone() } else { now });
                        }
                        None => changed = true,
                    }
                }
                packs.push((at, kept, changed));
            }
            // Slices that are written anyhow take the rest, the fullest first.
            packs.sort_by_key(|(_, kept, changed)| (!changed, std::cmp::Reverse(kept.len())));
            for (_, kept, changed) in &mut packs {
                if endpoints.is_empty() {
                    break;
                }
                let room = MAX_ENDPOINTS.saturating_sub(kept.len());
                if room > 0 && (*changed || endpoints.len() <= room) {
                    kept.extend(endpoints.drain(..room.min(endpoints.len())));
                    *changed = true;
                }
            }
            let mut kept_one = false;
            for (at, kept, changed) in packs {
                let slice = live[at];
                if kept.is_empty() && (!placeholder || kept_one) {
                    changes.delete.push(slice.clone());
                    continue;
                }
                kept_one = true;
                if changed {
                    let mut updated = (**slice).clone();
                    updated.metadata.labels = Some(labels(service, controller, updated.metadata.labels.as_ref()));
                    updated.metadata.owner_references = Some(vec![owners::reference_to(service)]);
                    updated.ports = Some(ports.clone());
                    updated.endpoints = Some(kept);
                    changes.update.push(updated);
                }
            }
            if placeholder && !kept_one {
                changes.create.push(fresh(family, &ports, Vec::new()));
            }
            for chunk in endpoints.chunks(MAX_ENDPOINTS) {
                changes.create.push(fresh(family, &ports, chunk.to_vec()));
            }
        }
    }
    changes.delete.extend(live.iter().zip(used).filter(|(_, used)| !used).map(|(slice, _)| (*slice).clone()));
    changes
}
