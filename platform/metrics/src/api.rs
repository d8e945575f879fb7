//! The Prometheus HTTP API (`web/api/v1/api.go`), without rule groups, remote read and write, or administration.
//!
//! Times are seconds with a fraction or RFC 3339, durations seconds or PromQL's. Answers are compressed when asked.

mod json;
mod params;
mod routes;
#[cfg(test)]
mod tests;

use std::io::Write as _;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use self::{params::Params, routes::Reply};
use crate::Shared;

/// Answers the Prometheus HTTP API (`/api/v1/query`, `/-/healthy`, `/federate`, …). Cheap to clone.
#[derive(Clone)]
pub struct MetricsHandler {
    pub(crate) shared: Shared,
}

/// Answers smaller than this are not worth compressing.
const MIN_GZIP: usize = 1024;

impl MetricsHandler {
    /// Answers one request; its path is relative to the mount and starts with a slash.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let zips = request
            .headers()
            .get(header::ACCEPT_ENCODING)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")));
        let (name, reply) = self.reply(&request).await;
        let mut response = reply.into_response();
        self.shared.own.engine.requests.with_label_values(&[name, response.status().as_str()]).inc();
        if zips && response.body().len() >= MIN_GZIP {
            compress(&mut response);
        }
        response
    }

    async fn reply(&self, request: &Request<Bytes>) -> (&'static str, Reply) {
        let Some(route) = routes::find(request.uri().path()) else {
            return ("/", Reply::text(StatusCode::NOT_FOUND, "404 page not found\n"));
        };
        let allowed = match *request.method() {
            Method::GET | Method::HEAD => true,
            Method::POST => route.by_post,
            Method::OPTIONS => return (route.name, Reply::empty(StatusCode::NO_CONTENT)),
            _ => false,
        };
        if !allowed {
            let allow = if route.by_post { "GET, OPTIONS, POST" } else { "GET, OPTIONS" };
            return (route.name, Reply::text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n").with_allow(allow));
        }
        let params = match Params::of(request) {
            Ok(params) => params,
            Err(why) => return (route.name, Reply::bad_data(format!("error parsing form values: {why}"))),
        };
        (route.name, routes::answer(&self.shared, &route, &params).await)
    }
}

fn compress(response: &mut Response<Bytes>) {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let zipped = encoder.write_all(response.body()).and_then(|()| encoder.finish());
    if let Ok(zipped) = zipped {
        *response.body_mut() = zipped.into();
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}
