//! `--tracing-config-file`: a `TracingConfiguration`, as kube-apiserver takes it.
//!
//! Follows `component-base/tracing/api/v1/config.go`. Spans leave by OTLP over HTTP, where upstream's leave over gRPC: the
//! endpoint is the same host and port, but the port is the one for HTTP.

use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Deserialize;

/// Where spans go when the file names no endpoint: OTLP's own default.
const DEFAULT_ENDPOINT: &str = "localhost:4318";
/// By convention the port for gRPC.
const GRPC_PORT: &str = "4317";
const MILLION: i64 = 1_000_000;
const GROUP: &str = "apiserver.config.k8s.io";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    api_version: String,
    kind: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i64>,
}

/// Where spans go, and how many.
#[derive(Debug, PartialEq)]
pub struct Tracing {
    /// The URL that spans are posted to.
    pub endpoint: String,
    /// The share of traces that begin here and are kept.
    pub sampling: f64,
}

impl Tracing {
    /// Reads a file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let name = file.display();
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("--tracing-config-file: unable to read tracing configuration from \"{name}\""))?;
        Self::parse(&text).with_context(|| format!("--tracing-config-file {name}"))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let written: Written = serde_norway::from_str(text).context("unable to decode tracing configuration data")?;
        let known = ["v1", "v1beta1", "v1alpha1"].iter().any(|version| written.api_version == format!("{GROUP}/{version}"));
        if !known || written.kind != "TracingConfiguration" {
            bail!(
                "unable to decode tracing configuration data: no kind {:?} is registered for version {:?}",
                written.kind,
                written.api_version
            );
        }
        let rate = written.sampling_rate_per_million.unwrap_or(0);
        let why = match rate {
            ..0 => Some("sampling rate must be positive"),
            0..=MILLION => None,
            _ => Some("sampling rate per million must be less than or equal to one million"),
        };
        if let Some(why) = why {
            bail!("failed to validate tracing configuration: samplingRatePerMillion: Invalid value: {rate}: {why}");
        }
        let endpoint = endpoint(written.endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT))?;
        Ok(Tracing { endpoint, sampling: rate as f64 / MILLION as f64 })
    }
}

/// The URL for an endpoint, written as gRPC names targets.
fn endpoint(text: &str) -> anyhow::Result<String> {
    let invalid =
        |why: String| anyhow::anyhow!("failed to validate tracing configuration: endpoint: Invalid value: {text:?}: {why}");
    let target = match text.split_once("//") {
        None => text,
        // `dns://RESOLVER/HOST:PORT`, where the resolver is left out as a rule.
        Some(("dns:", rest)) => rest.split_once('/').map_or(rest, |(_, target)| target),
        Some((scheme @ ("unix:" | "unix-abstract:"), _)) => {
            return Err(invalid(format!("Pharos sends spans over TCP, not to a {} socket", scheme.trim_end_matches(':'))));
        }
        Some((scheme, _)) => {
            return Err(invalid(format!(
                "unsupported scheme: {}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md",
                scheme.trim_end_matches(':')
            )));
        }
    };
    let authority: http::uri::Authority = target.parse().map_err(|error| invalid(format!("{error}")))?;
    match authority.port() {
        None => Err(invalid("a port is needed: that for OTLP over HTTP, as a rule 4318".to_owned())),
        Some(port) if port.as_str() == GRPC_PORT => Err(invalid(
            "port 4317 is for OTLP over gRPC; Pharos sends OTLP over HTTP: name the collector's port for that, as a rule 4318"
                .to_owned(),
        )),
        Some(_) => Ok(format!("http://{authority}/v1/traces")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> anyhow::Result<Tracing> {
        Tracing::parse(&format!("apiVersion: apiserver.config.k8s.io/v1\nkind: TracingConfiguration\n{fields}"))
    }

    #[test]
    fn endpoints_and_rates() {
        for (fields, endpoint, sampling) in [
            ("", "http://localhost:4318/v1/traces", 0.0),
            ("endpoint: otel:4318\nsamplingRatePerMillion: 1000000\n", "http://otel:4318/v1/traces", 1.0),
            ("endpoint: 'dns:///otel:9000'\nsamplingRatePerMillion: 100\n", "http://otel:9000/v1/traces", 0.0001),
            ("endpoint: '[fd00::1]:4318'\n", "http://[fd00::1]:4318/v1/traces", 0.0),
        ] {
            assert_eq!(parse(fields).unwrap(), Tracing { endpoint: endpoint.to_owned(), sampling }, "{fields}");
        }
    }

    #[test]
    fn mistakes() {
        for (fields, want) in [
            ("endpoint: localhost:4317\n", "port 4317 is for OTLP over gRPC"),
            ("endpoint: localhost\n", "a port is needed"),
            ("endpoint: 'http://a:1'\n", "unsupported scheme: http.  Options are none, dns, unix, or unix-abstract."),
            ("endpoint: 'unix:///run/otel'\n", "not to a unix socket"),
            ("samplingRatePerMillion: -1\n", "samplingRatePerMillion: Invalid value: -1: sampling rate must be positive"),
            ("samplingRatePerMillion: 1000001\n", "must be less than or equal to one million"),
            ("rate: 1\n", "unknown field `rate`"),
        ] {
            let why = format!("{:#}", parse(fields).unwrap_err());
            assert!(why.contains(want), "{fields}: {why}");
        }
        assert!(Tracing::parse("apiVersion: v1\nkind: TracingConfiguration\n").is_err());
    }
}
