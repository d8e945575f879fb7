//! What auditing can be told: kube-apiserver's `--audit-…` flags.
//!
//! Follows `apiserver/pkg/server/options/audit.go`.

use std::{path::PathBuf, time::Duration};

use pharos_telemetry::logs::Writer;

use super::Policy;

/// Settings of auditing. By default nothing is audited.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--audit-policy-file`. Without one, [`Policy::default`].
    pub policy_file: Option<PathBuf>,
    /// Events as lines of a file.
    pub log: Option<LogOptions>,
    /// Events posted to another server.
    pub webhook: Option<WebhookOptions>,
    /// Events, without bodies, as lines of the log index.
    pub index: Option<Writer>,
}

/// Settings of the log backend.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// `--audit-log-path`: the file, or `-` for standard output.
    pub path: PathBuf,
    /// `--audit-log-format`: `json` (the default) or `legacy`.
    pub format: String,
    /// `--audit-log-maxage`: days that rotated files are kept; 0: for ever. Default 366.
    pub max_age_days: i64,
    /// `--audit-log-maxbackup`: rotated files that are kept; 0: all. Default 100.
    pub max_backups: i64,
    /// `--audit-log-maxsize`: megabytes after which a file is rotated; 0: never. Default 100.
    pub max_size_mb: i64,
    /// `--audit-log-compress`: whether rotated files are compressed. Default false.
    pub compress: bool,
    /// How events get there. Default: blocking.
    pub delivery: Delivery,
}

/// Settings of the webhook backend.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    /// `--audit-webhook-config-file`: a kubeconfig whose cluster is the server.
    pub config_file: PathBuf,
    /// `--audit-webhook-initial-backoff`: the wait before a request is made again. Default 10 s.
    pub initial_backoff: Duration,
    /// How events get there. Default: in batches.
    pub delivery: Delivery,
}

/// How events get to a backend.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// `batch`, `blocking` or `blocking-strict`.
    pub mode: String,
    /// Events that may wait. Default 10,000.
    pub buffer_size: i64,
    /// Events sent together. Default 400, of the log 1.
    pub max_batch_size: i64,
    /// How long an event waits for others. Default 30 s.
    pub max_batch_wait: Duration,
    /// Whether batches are throttled. Default true, of the log false.
    pub throttle: bool,
    /// Batches a second. Default 10.
    pub throttle_qps: f64,
    /// Batches at once, if few were sent before. Default 15.
    pub throttle_burst: i64,
}

const MODES: [&str; 3] = ["batch", "blocking", "blocking-strict"];
const FORMATS: [&str; 2] = ["legacy", "json"];

impl LogOptions {
    /// Settings with their defaults.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        LogOptions {
            path: path.into(),
            format: "json".to_owned(),
            max_age_days: 366,
            max_backups: 100,
            max_size_mb: 100,
            compress: false,
            delivery: Delivery::of_log(),
        }
    }
}

impl WebhookOptions {
    /// Settings with their defaults.
    #[must_use]
    pub fn new(config_file: impl Into<PathBuf>) -> Self {
        WebhookOptions {
            config_file: config_file.into(),
            initial_backoff: Duration::from_secs(10),
            delivery: Delivery::of_webhook(),
        }
    }
}

impl Delivery {
    /// The log backend's defaults.
    #[must_use]
    pub fn of_log() -> Self {
        Delivery { mode: "blocking".to_owned(), max_batch_size: 1, throttle: false, ..Self::of_webhook() }
    }

    /// The webhook backend's defaults.
    #[must_use]
    pub fn of_webhook() -> Self {
        Delivery {
            mode: "batch".to_owned(),
            buffer_size: 10_000,
            max_batch_size: 400,
            max_batch_wait: Duration::from_secs(30),
            throttle: true,
            throttle_qps: 10.0,
            throttle_burst: 15,
        }
    }

    /// Whether a request waits until its events are delivered, and fails if its first one is not.
    pub(super) fn is_strict(&self) -> bool {
        self.mode == "blocking-strict"
    }

    pub(super) fn is_batch(&self) -> bool {
        self.mode == "batch"
    }

    fn mistakes(&self, plugin: &str) -> Option<String> {
        if !MODES.contains(&self.mode.as_str()) {
            return Some(format!("invalid audit {plugin} mode {}, allowed modes are {:?}", self.mode, MODES.join(",")));
        }
        if !self.is_batch() {
            return None; // Nothing else is used.
        }
        let positive =
            |what: &str, value: String| Some(format!("invalid audit batch {plugin} {what} {value}, must be a positive number"));
        match self {
            _ if self.buffer_size <= 0 => positive("buffer size", self.buffer_size.to_string()),
            _ if self.max_batch_size <= 0 => positive("max batch size", self.max_batch_size.to_string()),
            _ if self.throttle && !(self.throttle_qps > 0.0 && self.throttle_qps.is_finite()) => {
                positive("throttle QPS", self.throttle_qps.to_string())
            }
            _ if self.throttle && self.throttle_burst <= 0 => positive("throttle burst", self.throttle_burst.to_string()),
            _ => None,
        }
    }
}

impl Options {
    /// Everything that is wrong with the settings, in upstream's words. Reads the policy and the webhook's kubeconfig.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = self.mistakes_beside_the_policy();
        mistakes.extend(self.policy().err());
        mistakes
    }

    pub(super) fn mistakes_beside_the_policy(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if let Some(log) = &self.log {
            mistakes.extend(log.delivery.mistakes("log"));
            if !FORMATS.contains(&log.format.as_str()) {
                mistakes.push(format!("invalid audit log format {}, allowed formats are {:?}", log.format, FORMATS.join(",")));
            }
            for (flag, value) in [("maxage", log.max_age_days), ("maxbackup", log.max_backups), ("maxsize", log.max_size_mb)] {
                if value < 0 {
                    mistakes.push(format!("--audit-log-{flag} {value} can't be a negative number"));
                }
            }
        }
        if let Some(webhook) = &self.webhook {
            mistakes.extend(webhook.delivery.mistakes("webhook"));
            let read = crate::kubeconfig::Server::read(&webhook.config_file);
            mistakes.extend(read.err().map(|why| format!("initializing audit webhook: {why}")));
        }
        mistakes
    }

    /// Whether anything is done with events.
    pub(super) fn is_off(&self) -> bool {
        self.log.is_none() && self.webhook.is_none() && self.index.is_none()
    }

    /// The policy.
    pub(super) fn policy(&self) -> Result<Policy, String> {
        let Some(file) = &self.policy_file else { return Ok(Policy::default()) };
        let name = file.display();
        let text = std::fs::read(file)
            .map_err(|error| format!("loading audit policy file: failed to read file path {name:?}: {error}"))?;
        Policy::parse(&text).map_err(|why| format!("loading audit policy file: {why}: from file {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(change: impl FnOnce(&mut LogOptions)) -> Vec<String> {
        let mut log = LogOptions::new("/dev/null");
        change(&mut log);
        Options { log: Some(log), ..Options::default() }.mistakes()
    }

    #[test]
    fn the_defaults_are_right() {
        assert!(log(|_| {}).is_empty());
        assert!(log(|log| log.delivery.mode = "batch".to_owned()).is_empty());
        assert!(WebhookOptions::new("x").delivery.mistakes("webhook").is_none());
        assert!(Options::default().is_off());
    }

    #[test]
    fn mistakes_are_told_as_upstream_tells_them() {
        let batch = |log: &mut LogOptions| log.delivery.mode = "batch".to_owned();
        for (got, want) in [
            (
                log(|log| log.delivery.mode = "lazy".to_owned()),
                "invalid audit log mode lazy, allowed modes are \"batch,blocking,blocking-strict\"",
            ),
            (log(|log| log.format = "xml".to_owned()), "invalid audit log format xml, allowed formats are \"legacy,json\""),
            (log(|log| log.max_age_days = -1), "--audit-log-maxage -1 can't be a negative number"),
            (
                log(|log| {
                    batch(log);
                    log.delivery.buffer_size = 0;
                }),
                "invalid audit batch log buffer size 0, must be a positive number",
            ),
            (
                log(|log| {
                    batch(log);
                    log.delivery.throttle = true;
                    log.delivery.throttle_qps = 0.0;
                }),
                "invalid audit batch log throttle QPS 0, must be a positive number",
            ),
        ] {
            assert_eq!(got, [want]);
        }
        let missing = Options { policy_file: Some("/no/such/policy".into()), ..Options::default() }.mistakes();
        assert!(missing[0].starts_with("loading audit policy file: failed to read file path \"/no/such/policy\": "));
    }
}
