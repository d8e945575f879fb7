//! The service proxy: makes the addresses and ports of Services lead to their endpoints, by nftables rules on this node.
//!
//! Reads Services, EndpointSlices and this Node; writes nothing to the API. One change of Services is one transaction that
//! touches only what changed; the first replaces the whole of our tables, so what another process left does not matter. Rules
//! stay when the proxy stops: traffic goes on. Follows kube-proxy 1.37's nftables mode (`pkg/proxy/nftables`).
//!
//! Start reading at [`ServiceProxy`]; the rules of one Service are made in `service`.

mod config; // What can be set
mod metrics; // and measured;
mod table; // tables as data, and what leads from one to the next;
mod endpoints; // where traffic may go;
mod service; // the rules of one Service;
mod health; // what load balancers ask;
mod conntrack; // and flows that would not notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use kube::{Api, Client, runtime::watcher};
use parking_lot::Mutex;
use pharos_client::{Event, Index, Informer, Key};
use pharos_telemetry::{Backoff, Component, Ctx};
use prometheus::Registry;
use tokio::{sync::Notify, time::Instant};

use crate::{
    cidr::Cidr,
    error::{Doing as _, Error, Result},
    nft,
};
use config::{Checked, NodePortAddresses};
pub use config::{ProxyConfig, ProxyMode};
use endpoints::Here;
use health::{Checks, Status};
use metrics::Metrics;
use service::Fragment;
use table::{Family, Map, Rules};

/// Another proxy's Services, and those without an address, need not even be watched.
const SELECTOR: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The service proxy of this node.
pub struct ServiceProxy {
    config: Checked,
    client: Client,
    metrics: Metrics,
}

/// What changed since the last transaction; handlers of informers fill it.
#[derive(Default)]
struct Changes {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct Pending {
    services: BTreeSet<Key>,
    everything: bool,
    /// When the changes of endpoints began that wait here, to tell how long users waited.
    triggers: Vec<Timestamp>,
}

/// What one run knows: the caches, and what the kernel has.
struct State<'a> {
    proxy: &'a ServiceProxy,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    slices_of: Index<EndpointSlice>,
    nodes: Informer<Node>,
    changes: Arc<Changes>,
    /// What each Service has in the kernel's tables.
    applied: BTreeMap<Key, Fragment>,
    /// Whose an element is: two Services may name one external address, and the first has it.
    owners: BTreeMap<(Family, Map, String), Key>,
    /// Services that lost an element to another, to be looked at again with every change.
    losers: BTreeSet<Key>,
    /// Where the node ports are, in the kernel's tables.
    places: Vec<Cidr>,
    checks: Checks,
    status: Arc<Status>,
    /// The tables may differ from `applied`: replace them whole.
    unknown: bool,
}

// === impl ServiceProxy ===

impl ServiceProxy {
    /// A proxy; nothing happens until it is run.
    ///
    /// # Errors
    /// When a setting is wrong or not supported, or the metrics are registered already.
    pub fn new(config: &ProxyConfig, client: Client, registry: &Registry) -> Result<Self> {
        Ok(Self { config: config.check()?, client, metrics: Metrics::new(registry)? })
    }
}

impl Component for ServiceProxy {
    const NAME: &'static str = "kube-proxy";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        let mut state = State::start(self, &ctx);
        tokio::select! {
            biased;
            () = ctx.stopped() => return Ok(()),
            () = state.synced() => {}
        }
        let mut retry = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        // Two transactions may follow each other at once; then each waits for its turn.
        let mut last: Option<Instant> = None;
        loop {
            let wait = match state.sync(&ctx).await {
                Ok(()) => {
                    ctx.ready();
                    retry.reset();
                    None
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    state.unknown = true;
                    // What was to be done still is.
                    state.status.queued();
                    let wait = retry.next_wait();
                    tracing::error!(error = chain(&error), attempt = retry.attempt(), "applying rules failed, trying again");
                    Some(wait)
                }
            };
            let before = last.replace(Instant::now());
            let woken = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => state.changes.wake.notified().await,
                }
                if let Some(before) = before {
                    tokio::time::sleep_until(before + self.config.min_sync_period).await;
                }
            };
            tokio::select! {
                biased;
                // The rules stay: Services work on while the proxy is away.
                () = ctx.stopped() => return Ok(()),
                () = woken => {}
            }
        }
    }
}

// === impl State ===

impl<'a> State<'a> {
    fn start(proxy: &'a ServiceProxy, ctx: &Ctx) -> Self {
        let client = || proxy.client.clone();
        let services = Informer::start(ctx, Api::<Service>::all(client()), watcher::Config::default().labels(SELECTOR));
        let slices = Informer::start(ctx, Api::<EndpointSlice>::all(client()), watcher::Config::default().labels(SELECTOR));
        let this = format!("metadata.name={}", proxy.config.node_name);
        let nodes = Informer::start(ctx, Api::<Node>::all(client()), watcher::Config::default().fields(&this));
        let changes = Arc::new(Changes::default());
        let status = Arc::new(Status::new(ctx.clock().clone(), proxy.metrics.clone()));

        // Before the handler below, so that the index knows what the handler was told.
        let index = slices.index(|slice| service_of(slice).map(|key| key.to_string()).into_iter().collect());
        let (seen, metrics, clock) = (changes.clone(), proxy.metrics.clone(), ctx.clock().clone());
        let queued = status.clone();
        services.on_event(move |event| {
            queued.queued();
            metrics.service_changes.inc();
            metrics.service_changes_pending.inc();
            metrics.last_queued_timestamp.set(seconds(clock.now()));
            seen.add(Key::of(&**event.object()), None);
        });
        let (seen, metrics, clock) = (changes.clone(), proxy.metrics.clone(), ctx.clock().clone());
        let queued = status.clone();
        slices.on_event(move |event| {
            let Some(key) = service_of(event.object()) else { return };
            queued.queued();
            metrics.endpoint_changes.inc();
            metrics.endpoint_changes_pending.inc();
            metrics.last_queued_timestamp.set(seconds(clock.now()));
            let annotations = event.object().metadata.annotations.as_ref();
            let trigger = annotations.and_then(|a| a.get(TRIGGER_TIME)).and_then(|t| t.parse().ok());
            // What was there before this proxy says nothing about its speed.
            let trigger = if matches!(event, Event::Updated { .. }) { trigger } else { None };
            if let Event::Updated { old, .. } = event {
                // It may have been another Service's.
                service_of(old).filter(|before| *before != key).into_iter().for_each(|before| seen.add(before, None));
            }
            seen.add(key, trigger);
        });
        let (seen, of_node) = (changes.clone(), status.clone());
        nodes.on_event(move |event| {
            of_node.node(event.object());
            match event {
                Event::Updated { old, new } if zone(old) == zone(new) && primary(old) == primary(new) => {}
                _ => seen.add_everything(),
            }
        });
        Self {
            proxy,
            services,
            slices,
            slices_of: index,
            nodes,
            changes,
            applied: BTreeMap::new(),
            owners: BTreeMap::new(),
            losers: BTreeSet::new(),
            places: Vec::new(),
            checks: Checks::new(ctx, status.clone()),
            status,
            unknown: true,
        }
    }

    async fn synced(&self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.nodes.synced());
    }

    /// Brings the kernel to what the caches say, in one transaction.
    async fn sync(&mut self, ctx: &Ctx) -> Result<()> {
        let started = Instant::now();
        let metrics = &self.proxy.metrics;
        let pending = std::mem::take(&mut *self.changes.pending.lock());
        metrics.service_changes_pending.set(0);
        metrics.endpoint_changes_pending.set(0);
        let places = self.places();
        let full = self.unknown || places != self.places;
        if full {
            self.applied.clear();
            self.owners.clear();
            self.losers.clear();
        }
        let mut dirty = pending.services;
        if full || pending.everything {
            dirty.extend(self.services.list().iter().map(|s| Key::of(&**s)));
            dirty.extend(self.applied.keys().cloned());
        }
        dirty.append(&mut self.losers);

        let new = self.fragments(&dirty);
        let mut script = String::new();
        for family in Family::BOTH {
            let (mut before, mut after) = (Rules::default(), Rules::default());
            for key in &dirty {
                self.applied.get(key).into_iter().for_each(|f| before.merge(f.rules(family)));
                new.get(key).into_iter().for_each(|f| after.merge(f.rules(family)));
            }
            if full {
                script.push_str(&table::base(family, &places));
            }
            script.push_str(&table::diff(family, &before, &after));
        }
        if !script.is_empty() {
            nft::apply(&script).await?;
            let histogram = if full { &metrics.full_sync_duration } else { &metrics.partial_sync_duration };
            histogram.observe(started.elapsed().as_secs_f64());
            metrics.sync_duration.observe(started.elapsed().as_secs_f64());
        }
        let udp_changed = full || dirty.iter().any(|k| self.applied.get(k).map(|f| &f.udp) != new.get(k).map(|f| &f.udp));
        for key in dirty {
            match new.get(&key) {
                Some(fragment) => self.applied.insert(key, fragment.clone()),
                None => self.applied.remove(&key),
            };
        }
        self.unknown = false;
        self.places = places;
        self.status.updated();
        self.open_checks();
        let now = ctx.clock().now();
        metrics.last_timestamp.set(seconds(now));
        for trigger in pending.triggers {
            metrics.programming_duration.observe((seconds(now) - seconds(trigger)).max(0.0));
        }
        let without = self.applied.values().fold((0, 0), |sum, f| (sum.0 + f.without_local.0, sum.1 + f.without_local.1));
        metrics.no_local_endpoints.with_label_values(&["internal"]).set(without.0);
        metrics.no_local_endpoints.with_label_values(&["external"]).set(without.1);
        if udp_changed && let Err(error) = self.clean_flows().await {
            // The rules are right; only clients that keep on sending from one port may notice.
            tracing::warn!(error = chain(&error), "stale UDP flows stay until they time out");
        }
        Ok(())
    }

    /// The rules of the Services that there are among `keys`.
    fn fragments(&mut self, keys: &BTreeSet<Key>) -> BTreeMap<Key, Fragment> {
        let node = self.nodes.get(&Key::cluster(self.proxy.config.node_name.as_str()));
        let here = Here { node: self.proxy.config.node_name.clone(), zone: node.as_deref().and_then(zone) };
        self.owners.retain(|_, owner| !keys.contains(owner));
        let mut fragments = BTreeMap::new();
        for key in keys {
            let Some(service) = self.services.get(key).filter(|s| service::is_ours(s)) else { continue };
            let slices = self.slices_of.get(&key.to_string());
            let mut fragment = service::fragment(&service, &slices, &here, &self.proxy.config);
            for family in Family::BOTH {
                fragment.rules_mut(family).elements.retain(|(map, element), _| {
                    let owner = self.owners.entry((family, *map, element.clone())).or_insert_with(|| key.clone());
                    if owner != key {
                        tracing::debug!(namespace = %key.namespace, name = %key.name, element, "another Service has this address");
                        self.losers.insert(key.clone());
                    }
                    owner == key
                });
            }
            fragments.insert(key.clone(), fragment);
        }
        fragments
    }

    /// Where node ports are to be: ranges of this node's addresses.
    fn places(&self) -> Vec<Cidr> {
        match &self.proxy.config.node_port_addresses {
            NodePortAddresses::Primary => self.primary().into_iter().map(Cidr::host).collect(),
            NodePortAddresses::Ranges(ranges) => ranges.clone(),
        }
    }

    fn primary(&self) -> Vec<IpAddr> {
        let node = self.nodes.get(&Key::cluster(self.proxy.config.node_name.as_str()));
        node.as_deref().map(primary).unwrap_or_default()
    }

    /// Has load balancers answered, where node ports are.
    fn open_checks(&mut self) {
        let addresses = match &self.proxy.config.node_port_addresses {
            NodePortAddresses::Primary => self.primary(),
            NodePortAddresses::Ranges(ranges) => local_addresses(ranges),
        };
        let mut wanted = BTreeMap::new();
        for (key, fragment) in &self.applied {
            let Some(check) = &fragment.check else { continue };
            for address in &addresses {
                let count = if address.is_ipv4() { check.v4 } else { check.v6 };
                wanted.insert((SocketAddr::new(*address, check.port), key.clone()), count);
            }
        }
        self.checks.set_services(&wanted);
        let healthz = self.proxy.config.healthz.map(|bind| match bind.ip().is_unspecified() {
            // Not on others of the machine's networks.
            true => addresses.iter().map(|address| SocketAddr::new(*address, bind.port())).collect(),
            false => BTreeSet::from([bind]),
        });
        self.checks.set_proxy(&healthz.unwrap_or_default());
    }

    async fn clean_flows(&self) -> Result<()> {
        let mut fronts: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for fragment in self.applied.values() {
            for (front, targets) in &fragment.udp {
                fronts.entry(*front).or_default().extend(targets);
            }
        }
        let cleaned = tokio::task::spawn_blocking(move || conntrack::clean(&fronts)).await;
        let cleaned = cleaned.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let removed = cleaned.doing(|| "remove stale UDP flows".to_owned())?;
        self.proxy.metrics.conntrack_deleted.inc_by(removed);
        Ok(())
    }
}

// === impl Changes ===

impl Changes {
    fn add(&self, key: Key, trigger: Option<Timestamp>) {
        let mut pending = self.pending.lock();
        pending.services.insert(key);
        // A sample is enough; a storm must not grow without bound.
        if pending.triggers.len() < 10_000 {
            pending.triggers.extend(trigger);
        }
        drop(pending);
        self.wake.notify_one();
    }

    fn add_everything(&self) {
        self.pending.lock().everything = true;
        self.wake.notify_one();
    }
}

/// The Service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), name.as_str()))
}

fn zone(node: &Node) -> Option<String> {
    node.metadata.labels.as_ref()?.get(ZONE).cloned()
}

/// A node's own addresses: the first of each family, internal ones first (`GetNodeHostIPs`).
fn primary(node: &Node) -> Vec<IpAddr> {
    let told = || node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let of = |kind: &str| told().filter(|a| a.type_ == kind).filter_map(|a| a.address.parse().ok()).collect::<Vec<IpAddr>>();
    let all = [of("InternalIP"), of("ExternalIP")].concat();
    let of_family = |v4: bool| all.iter().find(|address| address.is_ipv4() == v4).copied();
    [of_family(true), of_family(false)].into_iter().flatten().collect()
}

/// The addresses of this machine in some ranges.
fn local_addresses(ranges: &[Cidr]) -> Vec<IpAddr> {
    let found = nix::ifaddrs::getifaddrs().into_iter().flatten().filter_map(|interface| {
        let address = interface.address?;
        match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (None, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            (None, None) => None,
        }
    });
    let found: BTreeSet<IpAddr> = found.filter(|ip| !ip.is_loopback() && ranges.iter().any(|r| r.contains(*ip))).collect();
    // One of the link would need to be told which.
    found.into_iter().filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())).collect()
}

fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

/// An error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
