//! Spans: OpenTelemetry, sent out by OTLP over HTTP when an endpoint is configured, else not made at all.

use std::{collections::HashMap, time::Duration};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator as _,
    trace::{Status, TraceContextExt as _, TracerProvider as _},
};
use opentelemetry_otlp::{WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tracing::{Level, Metadata, Span, Subscriber};
use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt as _};
use tracing_subscriber::{filter::FilterFn, registry::LookupSpan};

/// The target of [`request_span`]: by it the filter tells what is made for the export alone.
const REQUESTS: &str = "pharos::requests";

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

/// The layer that turns `tracing` spans into OpenTelemetry spans, and the handle that ends the export. Use it with [`filter`].
///
/// Batches are sent from a thread of the SDK's, which knows no Tokio runtime: hence the blocking HTTP client.
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

/// What is exported, whatever is logged: requests, and what the crates of Pharos have to say from `info` up.
///
/// Spans of libraries stay out. Among them are those of the exporter's own HTTP client, each of which would make the next.
#[must_use]
pub fn filter() -> FilterFn {
    FilterFn::new(exported as fn(&Metadata<'_>) -> bool)
}

fn exported(metadata: &Metadata<'_>) -> bool {
    let target = metadata.target();
    target == REQUESTS || (*metadata.level() <= Level::INFO && target.starts_with("pharos"))
}

/// The span of a request from elsewhere, for the export alone: without one it is disabled, and `describe` is not called.
///
/// `describe` gives the span's name and attributes. Whom `trusted` vouches for continues the trace of their `traceparent`
/// header; any other's is a link, as it also decides what is sampled (`WithPublicEndpointFn` in
/// `apiserver/pkg/endpoints/filters/traces.go`). Spans around a request are not its parents: those of components last for as
/// long as the process, and all requests would be one trace.
#[must_use]
pub fn request_span(
    headers: &HeaderMap,
    trusted: bool,
    describe: impl FnOnce() -> (String, Vec<(&'static str, String)>),
) -> Span {
    // The lowest level: no log shows it unless it shows everything.
    let span = tracing::trace_span!(
        target: REQUESTS,
        "request",
        otel.name = tracing::field::Empty,
        otel.kind = "server"
    );
    if span.is_disabled() {
        return span;
    }
    let (name, attributes) = describe();
    span.record("otel.name", name.as_str());
    let carrier: HashMap<String, String> = ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned())))
        .collect();
    let remote = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    let caller = remote.span().span_context().clone();
    // Either fails only where the span is logged but not exported.
    if trusted && caller.is_valid() {
        let _ = span.set_parent(remote);
    } else {
        let _ = span.set_parent(Context::new());
        span.add_link(caller);
    }
    for (key, value) in attributes {
        span.set_attribute(key, value);
    }
    span
}

/// Tells a [`request_span`] how its request was answered; from 500 up that is an error of the server.
pub fn answered(span: &Span, code: u16) {
    if span.is_disabled() {
        return;
    }
    span.set_attribute("http.response.status_code", i64::from(code));
    if code >= 500 {
        span.set_status(Status::error(""));
    }
}

impl Traces {
    /// Sends what is waiting and stops.
    pub fn shutdown(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(error = %error, "spans were lost at shutdown");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        sync::mpsc::{Receiver, channel},
    };

    use http::HeaderValue;
    use tracing_subscriber::{Layer as _, layer::SubscriberExt as _};

    use super::*;

    /// What [`request`] says it comes from.
    const TRACE: [u8; 16] = [0x0a; 16];
    const PARENT: [u8; 8] = [0x0b; 8];

    /// A collector: its endpoint, and the bodies of the requests it gets.
    fn sink() -> (String, Receiver<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
        let (sender, bodies) = channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (mut got, mut chunk) = (Vec::new(), [0; 4096]);
                let body = loop {
                    let n = stream.read(&mut chunk).unwrap();
                    assert!(n > 0, "the exporter hung up");
                    got.extend_from_slice(&chunk[..n]);
                    let Some(end) = got.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
                    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
                    assert!(head.starts_with("post /v1/traces "), "{head}");
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
                    let length: usize = length.trim().parse().unwrap();
                    if got.len() >= end + 4 + length {
                        break got.split_off(end + 4);
                    }
                };
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
                if sender.send(body).is_err() {
                    return;
                }
            }
        });
        (endpoint, bodies)
    }

    fn request(name: &str, trusted: bool) {
        let mut headers = HeaderMap::new();
        let parent = HeaderValue::from_static("00-0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a-0b0b0b0b0b0b0b0b-01");
        headers.insert("traceparent", parent);
        let span = request_span(&headers, trusted, || (name.to_owned(), vec![("audit-id", format!("audit of {name}"))]));
        span.in_scope(|| tracing::debug!("not exported"));
        answered(&span, 500);
    }

    /// A field of bytes in protobuf.
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut field = vec![(number << 3) | 2, u8::try_from(bytes.len()).unwrap()];
        field.extend_from_slice(bytes);
        field
    }

    fn has(body: &[u8], bytes: &[u8]) -> bool {
        body.windows(bytes.len()).any(|window| window == bytes)
    }

    #[test]
    fn spans_arrive_and_the_end_flushes() {
        // Where another crate of the workspace asks for TLS, the client wants a provider even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (endpoint, bodies) = sink();
        let (layer, traces) = layer(&Config { endpoint, sampling: 1.0, instance: "node-a".to_owned() }).unwrap();
        let wait = Duration::from_secs(20);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.with_filter(filter())), || {
            request("GET /api/v1/pods", true);
            traces.0.force_flush().unwrap();
            let body = bodies.recv_timeout(wait).unwrap();
            for text in ["GET /api/v1/pods", "audit of GET /api/v1/pods", "http.response.status_code", "node-a"] {
                assert!(has(&body, text.as_bytes()), "{text}");
            }
            assert!(!has(&body, b"not exported"));
            // Field 1 of a span is its trace and field 4 its parent; field 2 of a link is the span that it leads to.
            assert!(has(&body, &field(1, &TRACE)), "a trusted caller's trace goes on");
            assert!(has(&body, &field(4, &PARENT)), "and the caller's span is the parent");

            request("GET /version", false);
            traces.shutdown();
        });
        let body = bodies.recv_timeout(wait).unwrap();
        assert!(has(&body, b"GET /version"));
        assert!(!has(&body, &field(4, &PARENT)), "anyone else's is no parent");
        assert!(has(&body, &field(2, &PARENT)), "but a link");
    }

    #[test]
    fn nothing_is_described_without_an_export() {
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
            let span = request_span(&HeaderMap::new(), true, || unreachable!("nobody listens"));
            answered(&span, 200);
        });
    }
}
