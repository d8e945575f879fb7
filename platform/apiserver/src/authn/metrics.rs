//! What authentication measures: `staging/src/k8s.io/apiserver/pkg/endpoints/filters/metrics.go`,
//! `pkg/authentication/token/cache/stats.go` and `pkg/serviceaccount/metrics.go` of kube-apiserver.

use std::time::Duration;

use pharos_telemetry::Register as _;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry, exponential_buckets};

use super::{Error, UserInfo};

/// Handles of all metrics of authentication. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    users: IntCounterVec,
    attempts: IntCounterVec,
    duration: HistogramVec,
    cache_requests: IntCounterVec,
    /// Tokens out of Secrets that were used.
    pub(super) legacy_tokens: IntCounter,
    /// Tokens that were used after their `warnafter`.
    pub(super) stale_tokens: IntCounter,
    /// Tokens that were used before their `warnafter`.
    pub(super) valid_tokens: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// When they are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Metrics {
            users: registry.counters(
                "authenticated_user_requests",
                "Counter of authenticated requests broken out by username.",
                &["username"],
            )?,
            attempts: registry.counters("authentication_attempts", "Counter of authenticated attempts.", &["result"])?,
            duration: registry.histograms(
                "authentication_duration_seconds",
                "Authentication duration in seconds broken out by result.",
                exponential_buckets(0.001, 2.0, 15)?,
                &["result"],
            )?,
            cache_requests: registry.counters(
                "authentication_token_cache_request_total",
                "Counter of token cache requests broken out by status.",
                &["status"],
            )?,
            legacy_tokens: registry
                .counter("serviceaccount_legacy_tokens_total", "Cumulative legacy service account tokens used")?,
            stale_tokens: registry
                .counter("serviceaccount_stale_tokens_total", "Cumulative stale projected service account tokens used")?,
            valid_tokens: registry
                .counter("serviceaccount_valid_tokens_total", "Cumulative valid projected service account tokens used")?,
        })
    }

    /// Counts one attempt; in-process callers do not count.
    pub(super) fn authenticated(&self, result: Result<&UserInfo, &Error>, elapsed: Duration) {
        let label = match result {
            Ok(user) => {
                self.users.with_label_values(&[username_label(&user.username)]).inc();
                "success"
            }
            Err(Error::NoCredentials) => "failure",
            Err(_) => "error",
        };
        self.attempts.with_label_values(&[label]).inc();
        self.duration.with_label_values(&[label]).observe(elapsed.as_secs_f64());
    }

    pub(super) fn token_cache(&self, status: &str) {
        self.cache_requests.with_label_values(&[status]).inc();
    }
}

/// Upstream's `compressUsername`: label values are a closed set.
fn username_label(username: &str) -> &str {
    match username {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => username,
        _ if username.contains('@') => "email_id",
        _ => "other",
    }
}
