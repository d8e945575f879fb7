//! Documents of OpenAPI version 2 of other API servers, for the one of all.
//!
//! Follows `pkg/controllers/openapi` of kube-aggregator: a document is asked for again once a minute, by its entity tag, and
//! less and less often while that fails.

use std::{sync::Arc, time::Duration};

use pharos_api::openapi;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Remote,
    availability::{Answer, ask},
};
use crate::api::Api;

/// How long a document is good (`successfulUpdateDelay`).
const PERIOD: Duration = Duration::from_secs(60);
/// The longest pause after failures (`failedUpdateMaxExpDelay`).
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What is known of a server's document.
#[derive(Default)]
pub(super) struct Specification {
    /// What of it is about the group version; `None` if there is none.
    document: Option<Arc<Value>>,
    etag: String,
    /// When it is asked for again; `None` before the first time.
    due: Option<Instant>,
    /// Rises with each failure.
    pause: Duration,
}

/// What a server's document says of its group version, asked for if it is time.
pub(super) async fn refresh(api: &Api, remote: &Remote) -> Option<Arc<Value>> {
    let etag = {
        let known = remote.specification.lock();
        if known.due.is_some_and(|due| Instant::now() < due) {
            return known.document.clone();
        }
        known.etag.clone()
    };
    let outcome = match ask(api, remote, "/openapi/v2", &etag).await {
        Ok(Answer { code: 304, .. }) => Ok(None),
        // A server without one is as good as any.
        Ok(Answer { code: 404, .. }) => Ok(Some((String::new(), None))),
        Ok(Answer { code: 200, etag, body }) => {
            let prefix = format!("/apis/{}/{}/", remote.group, remote.version);
            let read = move || serde_json::from_slice(&body).map(|document| openapi::below(document, &prefix));
            match tokio::task::spawn_blocking(read).await {
                Ok(Ok(document)) => Ok(Some((etag, Some(Arc::new(document))))),
                Ok(Err(error)) => Err(error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        }
        Ok(Answer { code, .. }) => Err(format!("failed to retrieve openAPI spec, http error: {code}")),
        Err(why) => Err(why),
    };
    let mut known = remote.specification.lock();
    match outcome {
        Ok(None) => known.pause = Duration::ZERO,
        Ok(Some((etag, document))) => {
            known.pause = Duration::ZERO;
            known.etag = etag;
            known.document = document;
        }
        Err(error) => {
            tracing::debug!(name = remote.name, error, "OpenAPI document of an api service not read");
            known.pause = (known.pause * 2).clamp(PERIOD, LONGEST_PAUSE);
        }
    }
    known.due = Some(Instant::now() + known.pause.max(PERIOD));
    known.document.clone()
}
