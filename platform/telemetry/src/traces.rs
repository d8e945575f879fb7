//! Spans: OpenTelemetry, sent out by OTLP over HTTP when an endpoint is configured, else not made at all.

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// Where spans go and how many.
#[derive(Clone, Debug)]
pub struct Config {
    /// The OTLP/HTTP endpoint for traces, such as `http://127.0.0.1:4318/v1/traces`.
    pub endpoint: String,
    /// The share of traces that are kept, from 0.0 to 1.0, where the caller has not decided.
    pub sampling: f64,
    /// This machine's name, as `service.instance.id`.
    pub instance: String,
}

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("build the exporter of spans to {endpoint}")]
pub struct Error {
    endpoint: String,
    source: opentelemetry_otlp::ExporterBuildError,
}

/// Flushes and stops the export when told.
pub struct Traces(SdkTracerProvider);

/// The layer that turns `tracing` spans into OpenTelemetry spans, and the handle that ends the export.
///
/// # Errors
/// When the endpoint cannot be used.
pub fn layer<S>(config: &Config) -> Result<(OpenTelemetryLayer<S, SdkTracer>, Traces), Error>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(&config.endpoint)
        .with_timeout(Duration::from_secs(10))
        .with_headers(Default::default())
        .build()
        .map_err(|source| Error { endpoint: config.endpoint.clone(), source })?;
    let resource = Resource::builder()
        .with_service_name("pharos")
        .with_attribute(KeyValue::new("service.instance.id", config.instance.clone()))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sampling))))
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("pharos");
    Ok((tracing_opentelemetry::layer().with_tracer(tracer), Traces(provider)))
}

impl Traces {
    /// Sends what is waiting and stops.
    pub fn shutdown(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(error = %error, "spans were lost at shutdown");
        }
    }
}
