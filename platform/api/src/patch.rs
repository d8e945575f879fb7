//! Patches: JSON Patch, JSON Merge Patch, strategic merge patch and server-side apply, and the managed fields that go with writes.

pub mod apply;
pub mod json;
pub mod managed_fields;
pub mod merge;
pub mod strategic;
pub mod structured;

mod field_set;
mod typed;

#[cfg(test)]
mod real_schema_tests;
#[cfg(test)]
mod test_schema;

pub use field_set::FieldSet;

use serde_json::Value;

use crate::status::Status;

/// The format of a patch, as its `Content-Type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchType {
    /// `application/json-patch+json`.
    Json,
    /// `application/merge-patch+json`.
    Merge,
    /// `application/strategic-merge-patch+json`.
    Strategic,
    /// `application/apply-patch+yaml`.
    Apply,
}

impl PatchType {
    /// Every format a built-in kind accepts, in the order a 415 lists them.
    pub const ALL: [Self; 4] = [Self::Json, Self::Merge, Self::Strategic, Self::Apply];
    /// Every format a custom kind accepts.
    pub const CUSTOM: [Self; 3] = [Self::Json, Self::Merge, Self::Apply];

    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }

    /// Reads the `Content-Type` of a patch request.
    ///
    /// # Errors
    /// 415, listing what is accepted.
    pub fn of_content_type(content_type: Option<&str>, accepted: &[Self]) -> Result<Self, Status> {
        let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let found = accepted.iter().copied().find(|p| p.media_type().eq_ignore_ascii_case(media_type));
        found.ok_or_else(|| {
            let types: Vec<&str> = accepted.iter().map(|p| p.media_type()).collect();
            Status::unsupported_media_type(&types)
        })
    }
}

fn parse(patch: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(patch).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
}
