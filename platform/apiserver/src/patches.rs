//! Patches: read by content type, applied to the state they find.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use pharos_api::{
    fields::Problem,
    patch::{self, PatchType},
};
use serde_json::Value;

use crate::{
    body,
    call::Call,
    options::FieldValidation,
    status::{self, Status},
};

/// A patch, not yet read.
pub(crate) struct Patch {
    pub(crate) kind: PatchType,
    body: Bytes,
}

impl Patch {
    /// Takes the patch of a call.
    pub(crate) fn read(call: &Call) -> Result<Self, Status> {
        let content_type = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let accepted: &[PatchType] = if call.kind.custom { &PatchType::CUSTOM } else { &PatchType::ALL };
        let kind = PatchType::of_content_type(content_type, accepted)?;
        call.audit.request_patch(&call.body);
        Ok(Patch { kind, body: call.body.clone() })
    }

    /// The configuration of a server-side apply.
    pub(crate) fn configuration(&self, call: &Call, validation: FieldValidation) -> Result<Value, Status> {
        let refuse = |why: &str| status::bad_request(format!("error decoding YAML: {why}"));
        let document = pharos_api::yaml::decode(&self.body).map_err(|error| refuse(&error.to_string()))?;
        if !document.duplicates.is_empty() {
            body::report(call, validation, &[Problem::Yaml(document.duplicates)], refuse)?;
        }
        Ok(document.value)
    }

    /// Applies the patch to an object of the call's kind. Server-side apply is not done here.
    pub(crate) fn apply(&self, call: &Call, object: &Value) -> Result<Value, Status> {
        match self.kind {
            PatchType::Json => patch::json::apply(object, &self.body),
            PatchType::Strategic => patch::strategic::apply(object, &self.body, call.kind.schema()),
            PatchType::Merge | PatchType::Apply => patch::merge::apply(object, &self.body),
        }
        .map_err(Status::from)
    }

    /// Applies the patch to an object whose schema has no lists to merge (a Scale). Server-side apply is not done here.
    pub(crate) fn apply_untyped(&self, object: &Value) -> Result<Value, Status> {
        match self.kind {
            PatchType::Json => patch::json::apply(object, &self.body),
            PatchType::Merge | PatchType::Strategic | PatchType::Apply => patch::merge::apply(object, &self.body),
        }
        .map_err(Status::from)
    }

    /// Whether the patch sets the resource version, which pins it to that version.
    pub(crate) fn names_version(&self) -> bool {
        let Ok(body) = serde_json::from_slice::<Value>(&self.body) else { return false };
        match self.kind {
            PatchType::Json => body
                .as_array()
                .into_iter()
                .flatten()
                .any(|operation| operation["path"] == "/metadata/resourceVersion" && operation["op"] != "test"),
            PatchType::Merge | PatchType::Strategic => body["metadata"]["resourceVersion"].is_string(),
            PatchType::Apply => false,
        }
    }
}
