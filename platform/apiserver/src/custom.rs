//! Custom resources.

use pharos_api::registry::Kind;
use pharos_telemetry::Ctx;

use crate::{Result, api::Api};

/// What is known of custom kinds beyond their registry rows.
#[derive(Default)]
pub(crate) struct Custom {}

/// Where a custom kind's scale is.
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: String,
    pub(crate) status_replicas: String,
    pub(crate) label_selector: Option<String>,
}

/// Where a kind's scale is, if its definition says so.
pub(crate) fn scale_paths(api: &Api, kind: &Kind) -> Option<ScalePaths> {
    let _ = (api, kind);
    None
}

/// Registers the stored definitions.
pub(crate) async fn load(api: &Api) -> Result<()> {
    let _ = api;
    Ok(())
}

/// Follows definitions as they come and go.
pub(crate) fn start(api: &Api, ctx: &Ctx) {
    let _ = (api, ctx);
}
