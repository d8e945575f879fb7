//! What becomes of log records and spans: standard error, the log index, and OTLP.

use anyhow::{Context as _, bail};
use pharos_telemetry::{Registries, logs, traces};
use tracing_subscriber::{EnvFilter, Layer as _, filter::LevelFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::cli::{LogFormat, NodeOptions};

/// Reads what is given to `--log-level`.
pub fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    // A lone word that is no level would be taken for a module, and all others be silent. Commas in `[…]` part no directives.
    if !text.contains('[') {
        for word in text.split(',').map(str::trim).filter(|part| !part.is_empty() && !part.contains('=')) {
            if word.parse::<LevelFilter>().is_err() {
                bail!("--log-level {text}: {word:?} is no level, which are error, warn, info, debug, trace and off");
            }
        }
    }
    EnvFilter::try_new(with_own_words(text)).with_context(|| format!("--log-level {text}"))
}

/// Leaves out what kube's watcher warns of, unless it is asked for: its users tell of failed watches themselves, and know which
/// of them are ordinary.
fn with_own_words(text: &str) -> String {
    let asked = text.split(',').any(|part| part.trim().starts_with("kube_runtime"));
    if asked || matches!(text.trim(), "" | "off" | "error") {
        text.to_owned()
    } else {
        format!("kube_runtime::watcher=error,{text}")
    }
}

/// The ends of the telemetry of this process.
pub struct Outputs {
    /// What components log, for the log index.
    pub records: logs::Records,
    /// The way into the same queue for audit events.
    pub audit: logs::Writer,
    /// Ends the export of spans.
    pub traces: Option<traces::Traces>,
}

/// Sets up logging for the whole process.
///
/// The log index gets everything from `info` up whatever is printed, and more if more is printed. What is exported as spans
/// does not depend on what is printed.
pub fn init(options: &NodeOptions, registries: &Registries, node: &str) -> anyhow::Result<Outputs> {
    let filter = || filter(&options.log_level);
    let (records, queue) = logs::layer(&registries.of("pharos"))?;
    let audit = records.writer("audit");
    let printed = match options.log_format {
        LogFormat::Text => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().with_writer(std::io::stderr).json().flatten_event(true).boxed(),
    };
    let (spans, traces) = match &options.otlp_endpoint {
        None => (None, None),
        Some(endpoint) => {
            let config =
                traces::Config { endpoint: endpoint.clone(), sampling: options.otlp_sampling, instance: node.to_owned() };
            let (layer, traces) = traces::layer(&config)?;
            (Some(layer.with_filter(traces::filter())), Some(traces))
        }
    };
    tracing_subscriber::registry()
        .with(printed.with_filter(filter()?))
        .with(records.with_filter(filter()?))
        .with(spans)
        .try_init()
        .context("set up logging")?;
    Ok(Outputs { records: queue, audit, traces })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        for (text, expected) in [
            ("info", "kube_runtime::watcher=error,info"),
            ("warn,pharos_node=debug", "kube_runtime::watcher=error,warn,pharos_node=debug"),
            ("info,kube_runtime::watcher=debug", "info,kube_runtime::watcher=debug"),
            ("off", "off"),
        ] {
            assert_eq!(with_own_words(text), expected);
            assert!(filter(text).is_ok());
        }
        assert!(filter("pharos_node").is_err());
    }
}
