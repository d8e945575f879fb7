//! Continue tokens: where the next page of a list starts, and at which revision it is read.
//!
//! The form is upstream's (`staging/src/k8s.io/apiserver/pkg/storage/continue.go`): base64 of
//! `{"v":"meta.k8s.io/v1","rv":…,"start":"…"}`; a revision of -1 continues at whatever is newest.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::status::{self, Status};

/// A decoded continue token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Continue {
    /// The revision of the first page, or `None` for an inconsistent continuation.
    pub(crate) revision: Option<u64>,
    /// The key at which the page starts, without the resource's prefix.
    pub(crate) start: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: String,
    rv: i64,
    start: String,
}

impl Continue {
    pub(crate) fn encode(&self) -> String {
        let wire = Wire {
            v: "meta.k8s.io/v1".into(),
            rv: self.revision.and_then(|revision| i64::try_from(revision).ok()).unwrap_or(-1),
            start: self.start.clone(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    pub(crate) fn decode(token: &str) -> Result<Self, Status> {
        let invalid = |why: &str| status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).map_err(|_| invalid("illegal base64 data"))?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|_| invalid("incorrect format"))?;
        if wire.v != "meta.k8s.io/v1" {
            return Err(invalid("server does not recognize this encoded version"));
        }
        if wire.start.is_empty() || wire.start.contains("..") {
            return Err(invalid("encoded start key is malformed"));
        }
        Ok(Continue { revision: u64::try_from(wire.rv).ok(), start: wire.start })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for revision in [Some(7), None] {
            let token = Continue { revision, start: "default/a".into() };
            assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        }
        for bad in ["%", "e30", "eyJ2IjoieCJ9"] {
            assert!(Continue::decode(bad).is_err(), "{bad}");
        }
    }
}
