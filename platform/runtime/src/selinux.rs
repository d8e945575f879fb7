//! SELinux labels are not supported; where the kernel does not enforce them there is nothing to support, and they are
//! passed over, as by containerd, which asks `GetEnabled` of opencontainers/selinux first.

use std::path::Path;

use crate::{
    error::{Error, Result},
    types::{Mount, SelinuxOption},
};

/// Refuses labels and relabelling on a machine whose kernel would enforce them.
///
/// # Errors
/// [`Error::Unsupported`], which names what was asked for.
pub(crate) fn check(options: Option<&SelinuxOption>, mounts: &[Mount]) -> Result<()> {
    check_on(is_enabled(), options, mounts)
}

fn check_on(enabled: bool, options: Option<&SelinuxOption>, mounts: &[Mount]) -> Result<()> {
    if !enabled {
        return Ok(());
    }
    if options.is_some_and(|options| *options != SelinuxOption::default()) {
        return Err(Error::Unsupported("SELinux options are not supported".to_owned()));
    }
    if mounts.iter().any(|mount| mount.selinux_relabel) {
        return Err(Error::Unsupported("SELinux relabelling of mounts is not supported".to_owned()));
    }
    Ok(())
}

/// Whether the kernel has SELinux switched on: only then is its file system mounted.
fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_refused_only_where_they_would_be_enforced() {
        let level = SelinuxOption { level: "s0:c1".to_owned(), ..Default::default() };
        assert!(check_on(false, Some(&level), &[]).is_ok());
        assert!(check_on(true, Some(&level), &[]).is_err());
        assert!(check_on(true, Some(&SelinuxOption::default()), &[]).is_ok());
        let relabelled = Mount { selinux_relabel: true, ..Default::default() };
        assert!(check_on(true, None, std::slice::from_ref(&relabelled)).is_err());
        assert!(check_on(false, None, &[relabelled]).is_ok());
    }
}
