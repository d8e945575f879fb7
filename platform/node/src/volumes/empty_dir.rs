//! `emptyDir`: a directory of the node, or memory.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use k8s_openapi::api::core::v1::EmptyDirVolumeSource;
use nix::mount::{MsFlags, mount};

use super::ownership::{self, Owner};
use crate::quantity::value_of;

/// Whether what is in it lies on the node's disk.
pub(crate) fn on_disk(source: &EmptyDirVolumeSource) -> bool {
    source.medium.as_deref().unwrap_or_default().is_empty()
}

/// Makes the directory, once.
pub(super) fn set_up(dir: &Path, source: &EmptyDirVolumeSource, owner: &Owner) -> Result<(), String> {
    let fail = |what: &str, error: &dyn std::error::Error| format!("{what} {}: {error}", dir.display());
    let fresh = !dir.exists();
    fs::create_dir_all(dir).map_err(|error| fail("create", &error))?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            if !super::tear_down::is_mount_point(dir).map_err(|error| fail("look at", &error))? {
                let limit = source.size_limit.as_ref().map_or(0, value_of);
                let options = if limit > 0 { format!("mode=0777,size={limit}") } else { "mode=0777".to_owned() };
                mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))
                    .map_err(|error| fail("mount tmpfs on", &error))?;
                return finish(dir, source, owner);
            }
        }
        medium => return Err(format!("unknown storage medium {medium:?}")),
    }
    if fresh { finish(dir, source, owner) } else { Ok(()) }
}

fn finish(dir: &Path, source: &EmptyDirVolumeSource, owner: &Owner) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("set mode of {}: {error}", dir.display());
    let mode = source.mode.map_or(0o777, |mode| mode.unsigned_abs() & 0o1777);
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(fail)?;
    ownership::apply(dir, owner).map_err(fail)
}
