//! The webhook backend: events posted, in lists, to another server.
//!
//! Follows `apiserver/plugin/pkg/audit/webhook`: the server is told by a kubeconfig ([`crate::kubeconfig`]), and asked again
//! after any failure, at most four times.

use std::time::Duration;

use pharos_transport::proxy::Proxy;
use rand::Rng as _;

use super::metrics::Metrics;
use crate::kubeconfig::Server;

/// How long the server may take (`requestTimeout` in `apiserver/pkg/util/webhook/webhook.go`).
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same where nothing is to be waited for: when this server stops.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);
/// `DefaultRetryBackoffWithInitialDelay`: attempts, the growth of the wait between them, and how much of it is chance.
const ATTEMPTS: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

/// Sends events.
pub(super) struct Webhook {
    server: Server,
    proxy: Proxy,
    initial_backoff: Duration,
    metrics: Metrics,
}

impl Webhook {
    pub(super) fn new(server: Server, initial_backoff: Duration, metrics: Metrics) -> Self {
        Webhook { server, proxy: Proxy::new(), initial_backoff, metrics }
    }

    /// Sends events; whether that worked. Those that cannot be sent are counted, and lost.
    pub(super) async fn send(&self, events: &[String], last: bool) -> bool {
        let body = format!(
            "{{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{{}},\"items\":[{}]}}",
            events.join(",")
        );
        let body = bytes::Bytes::from(body);
        let (attempts, limit) = if last { (1, LAST_TIMEOUT) } else { (ATTEMPTS, TIMEOUT) };
        let mut wait = self.initial_backoff;
        for attempt in 1..=attempts {
            let outcome = match tokio::time::timeout(limit, self.post(body.clone())).await {
                Ok(outcome) => outcome,
                Err(_) => Err("context deadline exceeded".to_owned()),
            };
            match outcome {
                Ok(()) => return true,
                Err(error) if attempt < attempts => {
                    tracing::debug!(attempt, error, "audit events are not taken, retrying");
                    let pause = wait.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
                    tokio::time::sleep(pause).await;
                    wait = wait.mul_f64(FACTOR);
                }
                Err(error) => {
                    self.metrics.lost("webhook", events.len());
                    tracing::error!(events = events.len(), error, "audit events are lost: the webhook does not take them");
                }
            }
        }
        false
    }

    async fn post(&self, body: bytes::Bytes) -> Result<(), String> {
        let (code, answer) = self.server.post(&self.proxy, body).await?;
        if code.is_success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&answer[..answer.len().min(1024)]);
        Err(format!("the server responded with the status code {code}: {}", text.trim()))
    }
}
