//! `DynamicResources`: claims of devices. Not supported: a pod that asks for one stays pending, and is told so.

use crate::pod_info::PodInfo;

pub(super) fn prepare(pod: &PodInfo) -> Result<(), String> {
    if pod.spec().and_then(|s| s.resource_claims.as_ref()).is_some_and(|claims| !claims.is_empty()) {
        return Err("resource claims are not supported by this scheduler".into());
    }
    Ok(())
}
