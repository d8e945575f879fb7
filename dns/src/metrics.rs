use std::sync::OnceLock;

use pharos_telemetry::Register as _;
use prometheus::{
    Counter, CounterVec, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    exponential_buckets,
};

use crate::wire::{Rcode, kind};

/// The server block that everything belongs to: the built-in chain serves one.
const ZONE: &str = ".";
const VIEW: &str = "";
const SIZES: [f64; 14] = [0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16e3, 32e3, 48e3, 64e3];
/// CoreDNS' plugins whose work the built-in chain does.
const PLUGINS: [&str; 8] = ["cache", "errors", "forward", "kubernetes", "loadbalance", "loop", "prometheus", "reload"];

/// The metrics of cluster DNS, with CoreDNS' names (`plugin/metrics/vars/vars.go` and those of the plugins).
pub(crate) struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    duration: HistogramVec,
    request_size: HistogramVec,
    response_size: HistogramVec,
    do_requests: IntCounterVec,
    plugin_enabled: GaugeVec,
    pub(crate) panics: Counter,
    pub(crate) programming: HistogramVec,
    pub(crate) cache_entries: IntGaugeVec,
    cache_requests: CounterVec,
    cache_hits: CounterVec,
    cache_misses: CounterVec,
    cache_evictions: CounterVec,
    pub(crate) forward_broken: Counter,
    pub(crate) forward_rejects: Counter,
    pub(crate) forward_requests: CounterVec,
    pub(crate) forward_responses: CounterVec,
    pub(crate) forward_duration: HistogramVec,
    pub(crate) forward_check_failures: CounterVec,
    pub(crate) proxy_duration: HistogramVec,
    pub(crate) proxy_check_failures: CounterVec,
    pub(crate) reload_failed: Counter,
    pub(crate) malformed: IntCounter,
    pub(crate) connections: IntGauge,
    pub(crate) connections_refused: IntCounter,
    pub(crate) synced: IntGauge,
    pub(crate) loop_detected: IntGauge,
}

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    Udp,
    Tcp,
}

/// Which plugin answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plugin {
    /// None: the server itself.
    Server,
    Kubernetes,
    Forward,
    Cache,
    Loop,
}

/// The handles of one served address, resolved once.
pub(crate) struct ServerMetrics {
    server: String,
    requests: [[[OnceLock<IntCounter>; TYPES.len()]; 2]; 2],
    responses: [[OnceLock<IntCounter>; 5]; RCODES.len()],
    duration: Histogram,
    request_size: [Histogram; 2],
    response_size: [Histogram; 2],
    do_requests: IntCounter,
    pub(crate) cache_requests: Counter,
    pub(crate) cache_misses: Counter,
    pub(crate) cache_hits: [Counter; 2],
}

/// CoreDNS' monitored types; the last stands for all others.
const TYPES: [(u16, &str); 19] = [
    (kind::A, "A"),
    (kind::AAAA, "AAAA"),
    (kind::SRV, "SRV"),
    (kind::PTR, "PTR"),
    (kind::CNAME, "CNAME"),
    (kind::TXT, "TXT"),
    (kind::NS, "NS"),
    (kind::SOA, "SOA"),
    (15, "MX"),
    (65, "HTTPS"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (kind::IXFR, "IXFR"),
    (kind::AXFR, "AXFR"),
    (255, "ANY"),
    (0, "other"),
];

const RCODES: [&str; 12] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET", "NOTAUTH", "NOTZONE",
    "BADVERS",
];

/// The name of a response code, as miekg/dns writes it.
pub(crate) fn rcode_name(rcode: Rcode) -> &'static str {
    RCODES[rcode_index(rcode)]
}

fn rcode_index(rcode: Rcode) -> usize {
    match rcode.0 {
        code @ 0..=10 => usize::from(code),
        _ => RCODES.len() - 1,
    }
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let durations = exponential_buckets(0.00025, 2.0, 16)?;
        let server = ["server", "zone", "view"];
        let cache = ["server", "zones", "view"];
        let build: GaugeVec = registry.gauges(
            "coredns_build_info",
            "A metric with a constant '1' value labeled by version, revision, and goversion from which CoreDNS was built.",
            &["version", "revision", "goversion"],
        )?;
        // Dashboards join on these labels; the version is that of Pharos.
        build.with_label_values(&[concat!("pharos-", env!("CARGO_PKG_VERSION")), "", ""]).set(1.0);
        let checks = "Counter of the number of failed healthchecks.";
        Ok(Self {
            requests: registry.counters(
                "coredns_dns_requests_total",
                "Counter of DNS requests made per zone, protocol and family.",
                &["server", "zone", "view", "proto", "family", "type"],
            )?,
            responses: registry.counters(
                "coredns_dns_responses_total",
                "Counter of response status codes.",
                &["server", "zone", "view", "rcode", "plugin"],
            )?,
            duration: registry.histograms(
                "coredns_dns_request_duration_seconds",
                "Histogram of the time (in seconds) each request took per zone.",
                &durations,
                &server,
            )?,
            request_size: registry.histograms(
                "coredns_dns_request_size_bytes",
                "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
                SIZES,
                &["server", "zone", "view", "proto"],
            )?,
            response_size: registry.histograms(
                "coredns_dns_response_size_bytes",
                "Size of the returned response in bytes.",
                SIZES,
                &["server", "zone", "view", "proto"],
            )?,
            do_requests: registry.counters(
                "coredns_dns_do_requests_total",
                "Counter of DNS requests with DO bit set per zone.",
                &server,
            )?,
            plugin_enabled: registry.gauges(
                "coredns_plugin_enabled",
                "A metric that indicates whether a plugin is enabled on per server and zone basis.",
                &["server", "zone", "view", "name"],
            )?,
            panics: registry.counter("coredns_panics_total", "A metrics that counts the number of panics.")?,
            programming: registry.histograms(
                "coredns_kubernetes_dns_programming_duration_seconds",
                "Histogram of the time (in seconds) it took to program a dns instance.",
                exponential_buckets(0.001, 2.0, 20)?,
                &["service_kind"],
            )?,
            cache_entries: registry.gauges(
                "coredns_cache_entries",
                "The number of elements in the cache.",
                &["server", "type", "zones", "view"],
            )?,
            cache_requests: registry.counters("coredns_cache_requests_total", "The count of cache requests.", &cache)?,
            cache_hits: registry.counters(
                "coredns_cache_hits_total",
                "The count of cache hits.",
                &["server", "type", "zones", "view"],
            )?,
            cache_misses: registry.counters(
                "coredns_cache_misses_total",
                "The count of cache misses. Deprecated, derive misses from cache hits/requests counters.",
                &cache,
            )?,
            cache_evictions: registry.counters(
                "coredns_cache_evictions_total",
                "The count of cache evictions.",
                &["server", "type", "zones", "view"],
            )?,
            forward_broken: registry.counter(
                "coredns_forward_healthcheck_broken_total",
                "Counter of the number of complete failures of the healthchecks.",
            )?,
            forward_rejects: registry.counter(
                "coredns_forward_max_concurrent_rejects_total",
                "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            )?,
            forward_requests: registry.counters(
                "coredns_forward_requests_total",
                "Counter of requests made per upstream.",
                &["to"],
            )?,
            forward_responses: registry.counters(
                "coredns_forward_responses_total",
                "Counter of responses received per upstream.",
                &["to", "rcode"],
            )?,
            forward_duration: registry.histograms(
                "coredns_forward_request_duration_seconds",
                "Histogram of the time each request took.",
                &durations,
                &["to", "rcode"],
            )?,
            forward_check_failures: registry.counters("coredns_forward_healthcheck_failures_total", checks, &["to"])?,
            proxy_duration: registry.histograms(
                "coredns_proxy_request_duration_seconds",
                "Histogram of the time each request took.",
                &durations,
                &["proxy_name", "to", "rcode"],
            )?,
            proxy_check_failures: registry.counters("coredns_proxy_healthcheck_failures_total", checks, &["proxy_name", "to"])?,
            reload_failed: registry.counter("coredns_reload_failed_total", "Counter of the number of failed reload attempts.")?,
            malformed: registry.counter(
                "pharos_coredns_malformed_requests_total",
                "Packets that are no query: answered FORMERR, or ignored if there is nothing to answer.",
            )?,
            connections: registry.gauge("pharos_coredns_tcp_connections", "TCP connections that are open.")?,
            connections_refused: registry.counter(
                "pharos_coredns_tcp_connections_refused_total",
                "TCP connections closed at once, as there were too many.",
            )?,
            synced: registry.gauge("pharos_coredns_kubernetes_synced", "Whether all objects have been listed.")?,
            loop_detected: registry.gauge("pharos_coredns_loop_detected", "Whether queries sent upstream come back here.")?,
        })
    }

    /// The handles of a served address, such as `dns://10.43.0.10:53`.
    pub(crate) fn server(&self, server: String) -> ServerMetrics {
        let base = [server.as_str(), ZONE, VIEW];
        let sizes = |vec: &HistogramVec| ["udp", "tcp"].map(|proto| vec.with_label_values(&[server.as_str(), ZONE, VIEW, proto]));
        for plugin in PLUGINS {
            self.plugin_enabled.with_label_values(&[server.as_str(), ZONE, VIEW, plugin]).set(1.0);
        }
        for kind in ["success", "denial"] {
            self.cache_evictions.with_label_values(&[server.as_str(), kind, ZONE, VIEW]);
        }
        ServerMetrics {
            requests: Default::default(),
            responses: Default::default(),
            duration: self.duration.with_label_values(&base),
            request_size: sizes(&self.request_size),
            response_size: sizes(&self.response_size),
            do_requests: self.do_requests.with_label_values(&base),
            cache_requests: self.cache_requests.with_label_values(&base),
            cache_misses: self.cache_misses.with_label_values(&base),
            cache_hits: ["success", "denial"].map(|kind| self.cache_hits.with_label_values(&[server.as_str(), kind, ZONE, VIEW])),
            server,
        }
    }

    /// Gives every family a member, as families without one are not gathered.
    #[cfg(test)]
    pub(crate) fn touch(&self) {
        let server = self.server("dns://test".to_owned());
        self.answered(&server, Proto::Udp, false, kind::A, false, 0, &[], Plugin::Server, Rcode::NOERROR, 0.0);
        self.entries("dns://test", 0, 0);
        self.programming.with_label_values(&["headless_with_selector"]);
        self.forward_requests.with_label_values(&["u"]);
        self.forward_responses.with_label_values(&["u", "NOERROR"]);
        self.forward_duration.with_label_values(&["u", "NOERROR"]);
        self.forward_check_failures.with_label_values(&["u"]);
        self.proxy_duration.with_label_values(&["p", "u", "NOERROR"]);
        self.proxy_check_failures.with_label_values(&["p", "u"]);
    }

    /// Counts an entry that the cache dropped for want of room.
    pub(crate) fn evicted(&self, server: &str, sort: usize) {
        self.cache_evictions.with_label_values(&[server, ["success", "denial"][sort], ZONE, VIEW]).inc();
    }

    pub(crate) fn entries(&self, server: &str, sort: usize, entries: usize) {
        let gauge = self.cache_entries.with_label_values(&[server, ["success", "denial"][sort], ZONE, VIEW]);
        gauge.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// Counts an answered query.
    #[expect(clippy::too_many_arguments, reason = "one call for each query; a struct would be taken apart at once")]
    pub(crate) fn answered(
        &self,
        server: &ServerMetrics,
        proto: Proto,
        ipv6: bool,
        kind: u16,
        dnssec: bool,
        request: usize,
        response: &[u8],
        plugin: Plugin,
        rcode: Rcode,
        seconds: f64,
    ) {
        let at = TYPES.iter().position(|(code, _)| *code == kind).unwrap_or(TYPES.len() - 1);
        let family = usize::from(ipv6);
        server.requests[proto as usize][family][at]
            .get_or_init(|| {
                let (proto, family) = (["udp", "tcp"][proto as usize], ["1", "2"][family]);
                self.requests.with_label_values(&[server.server.as_str(), ZONE, VIEW, proto, family, TYPES[at].1])
            })
            .inc();
        let code = rcode_index(rcode);
        server.responses[code][plugin as usize]
            .get_or_init(|| {
                let plugin = ["", "kubernetes", "forward", "cache", "loop"][plugin as usize];
                self.responses.with_label_values(&[server.server.as_str(), ZONE, VIEW, RCODES[code], plugin])
            })
            .inc();
        server.duration.observe(seconds);
        server.request_size[proto as usize].observe(request as f64);
        server.response_size[proto as usize].observe(response.len() as f64);
        if dnssec {
            server.do_requests.inc();
        }
    }
}
