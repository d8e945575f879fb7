//! The flags of auditing: kube-apiserver's, and whether the log index gets the events.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args};
use pharos_apiserver::audit::{Delivery, LogOptions, Options, WebhookOptions};
use pharos_telemetry::logs::Writer;

/// What is written down of requests, and where.
#[derive(Debug, Clone, Args)]
pub struct AuditOptions {
    /// Whether audit events go to the log index, where `pharos logs '{job="audit"}'` finds them
    #[arg(
        long,
        env = "PHAROS_AUDIT_INDEX",
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true",
        overrides_with = "audit_index"
    )]
    pub audit_index: bool,
    /// The policy by which requests are audited: YAML of audit.k8s.io/v1 [default: a built-in one]
    #[arg(long, env = "PHAROS_AUDIT_POLICY_FILE", overrides_with = "audit_policy_file")]
    pub audit_policy_file: Option<PathBuf>,
    /// The file that audit events are written to; `-` is standard output
    #[arg(long, env = "PHAROS_AUDIT_LOG_PATH", overrides_with = "audit_log_path")]
    pub audit_log_path: Option<PathBuf>,
    /// How events are written there: json or legacy
    #[arg(long, default_value = "json", overrides_with = "audit_log_format")]
    pub audit_log_format: String,
    /// Days that rotated audit logs are kept; 0: for ever
    #[arg(long, default_value_t = 366, overrides_with = "audit_log_maxage")]
    pub audit_log_maxage: i64,
    /// Rotated audit logs that are kept; 0: all
    #[arg(long, default_value_t = 100, overrides_with = "audit_log_maxbackup")]
    pub audit_log_maxbackup: i64,
    /// Megabytes after which the audit log is rotated; 0: never
    #[arg(long, default_value_t = 100, overrides_with = "audit_log_maxsize")]
    pub audit_log_maxsize: i64,
    /// Whether rotated audit logs are compressed
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true",
        overrides_with = "audit_log_compress"
    )]
    pub audit_log_compress: bool,
    /// Whether requests wait for the audit log: batch, blocking or blocking-strict
    #[arg(long, default_value = "blocking", overrides_with = "audit_log_mode")]
    pub audit_log_mode: String,
    /// Events that may wait to be written, in mode batch
    #[arg(long, default_value_t = 10_000, overrides_with = "audit_log_batch_buffer_size")]
    pub audit_log_batch_buffer_size: i64,
    /// Events written together, in mode batch
    #[arg(long, default_value_t = 1, overrides_with = "audit_log_batch_max_size")]
    pub audit_log_batch_max_size: i64,
    /// How long an event waits for others, in mode batch
    #[arg(long, default_value = "30s", value_parser = duration, overrides_with = "audit_log_batch_max_wait")]
    pub audit_log_batch_max_wait: Duration,
    /// A kubeconfig whose current context is the server that audit events are posted to
    #[arg(long, env = "PHAROS_AUDIT_WEBHOOK_CONFIG_FILE", overrides_with = "audit_webhook_config_file")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// The wait before a failed request to that server is made again
    #[arg(long, default_value = "10s", value_parser = duration, overrides_with = "audit_webhook_initial_backoff")]
    pub audit_webhook_initial_backoff: Duration,
    /// Whether requests wait for that server: batch, blocking or blocking-strict
    #[arg(long, default_value = "batch", overrides_with = "audit_webhook_mode")]
    pub audit_webhook_mode: String,
    /// Events that may wait to be posted, in mode batch
    #[arg(long, default_value_t = 10_000, overrides_with = "audit_webhook_batch_buffer_size")]
    pub audit_webhook_batch_buffer_size: i64,
    /// Events posted together, in mode batch
    #[arg(long, default_value_t = 400, overrides_with = "audit_webhook_batch_max_size")]
    pub audit_webhook_batch_max_size: i64,
    /// How long an event waits for others, in mode batch
    #[arg(long, default_value = "30s", value_parser = duration, overrides_with = "audit_webhook_batch_max_wait")]
    pub audit_webhook_batch_max_wait: Duration,
    /// Whether batches are throttled
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true",
        overrides_with = "audit_webhook_batch_throttle_enable"
    )]
    pub audit_webhook_batch_throttle_enable: bool,
    /// Batches a second
    #[arg(long, default_value_t = 10.0, overrides_with = "audit_webhook_batch_throttle_qps")]
    pub audit_webhook_batch_throttle_qps: f64,
    /// Batches at once, after a quiet time
    #[arg(long, default_value_t = 15, overrides_with = "audit_webhook_batch_throttle_burst")]
    pub audit_webhook_batch_throttle_burst: i64,
}

/// A duration as Go writes it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let read = pharos_api::time::parse_go_duration(text).and_then(|duration| Duration::try_from(duration).ok());
    read.ok_or_else(|| format!("time: invalid duration {text:?}"))
}

impl AuditOptions {
    /// As the API server takes them; `index` is the way to the log index, if there is one.
    pub fn of_server(&self, index: Option<Writer>) -> Options {
        let log = self.audit_log_path.as_ref().map(|path| LogOptions {
            format: self.audit_log_format.clone(),
            max_age_days: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_size_mb: self.audit_log_maxsize,
            compress: self.audit_log_compress,
            delivery: Delivery {
                mode: self.audit_log_mode.clone(),
                buffer_size: self.audit_log_batch_buffer_size,
                max_batch_size: self.audit_log_batch_max_size,
                max_batch_wait: self.audit_log_batch_max_wait,
                ..Delivery::of_log()
            },
            ..LogOptions::new(path)
        });
        let webhook = self.audit_webhook_config_file.as_ref().map(|file| WebhookOptions {
            initial_backoff: self.audit_webhook_initial_backoff,
            delivery: Delivery {
                mode: self.audit_webhook_mode.clone(),
                buffer_size: self.audit_webhook_batch_buffer_size,
                max_batch_size: self.audit_webhook_batch_max_size,
                max_batch_wait: self.audit_webhook_batch_max_wait,
                throttle: self.audit_webhook_batch_throttle_enable,
                throttle_qps: self.audit_webhook_batch_throttle_qps,
                throttle_burst: self.audit_webhook_batch_throttle_burst,
            },
            ..WebhookOptions::new(file)
        });
        Options { policy_file: self.audit_policy_file.clone(), log, webhook, index: index.filter(|_| self.audit_index) }
    }
}
