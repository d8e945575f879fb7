//! `fsGroup`: whom the files of a volume belong to (`pkg/volume/volume_linux.go`).

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use k8s_openapi::api::core::v1::Pod;
use nix::unistd::{Gid, chown};

/// Whom volumes belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// `fsGroup`.
    pub(crate) fs_group: Option<u32>,
    /// The user, when all containers run as the same one.
    pub(crate) user: Option<u32>,
}

/// The owner a pod's security contexts name.
pub(super) fn of(pod: &Pod) -> Owner {
    let Some(spec) = &pod.spec else { return Owner::default() };
    let context = spec.security_context.as_ref();
    let of_pod = context.and_then(|c| c.run_as_user);
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| container.security_context.as_ref().and_then(|c| c.run_as_user).or(of_pod));
    let first = users.next().flatten();
    let user = first.filter(|_| users.all(|user| user == first));
    let id = |id: i64| u32::try_from(id).ok();
    Owner { fs_group: context.and_then(|c| c.fs_group).and_then(id), user: user.and_then(id) }
}

/// Gives one file or directory to the group.
pub(super) fn apply(path: &Path, owner: &Owner) -> io::Result<()> {
    let Some(group) = owner.fs_group else { return Ok(()) };
    let meta = fs::symlink_metadata(path)?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    chown(path, None, Some(Gid::from_raw(group)))?;
    let extra = if meta.is_dir() { 0o2770 } else { 0o660 };
    fs::set_permissions(path, fs::Permissions::from_mode(meta.permissions().mode() | extra))
}

/// Gives a whole tree to the group; with `fsGroupChangePolicy: OnRootMismatch` only if its root is not the group's yet.
pub(super) fn apply_tree(path: &Path, owner: &Owner, pod: &Pod) -> io::Result<()> {
    let Some(group) = owner.fs_group else { return Ok(()) };
    let policy = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch") {
        let meta = fs::metadata(path)?;
        if meta.gid() == group && meta.permissions().mode() & 0o2770 == 0o2770 {
            return Ok(());
        }
    }
    tree(path, owner)
}

fn tree(path: &Path, owner: &Owner) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            tree(&entry?.path(), owner)?;
        }
    }
    // The root last, so that an interrupted walk starts over.
    apply(path, owner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn owner_of_a_pod() {
        for (spec, expect) in [
            (json!({"containers": [{"name": "a"}]}), (None, None)),
            (json!({"securityContext": {"fsGroup": 5, "runAsUser": 7}, "containers": [{"name": "a"}]}), (Some(5), Some(7))),
            (
                json!({"securityContext": {"runAsUser": 7}, "containers": [{"name": "a"}, {"name": "b", "securityContext": {"runAsUser": 8}}]}),
                (None, None),
            ),
        ] {
            let owner = of(&serde_json::from_value(json!({"spec": spec})).unwrap());
            assert_eq!((owner.fs_group, owner.user), expect);
        }
    }
}
