//! `subPath`: a part of a volume, which the pod must not be able to turn into something outside (`pkg/volume/util/subpath`).
//!
//! The path is resolved once, opened without following links, and the open file is bound to a place only the kubelet
//! writes to. What the pod does to the path afterwards has no effect.

use std::{
    fs::{self, File},
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount},
};

/// Binds `sub_path` of `volume` at `target` and returns the target.
pub(crate) fn bind(volume: &Path, sub_path: &str, target: &Path) -> Result<PathBuf, String> {
    if Path::new(sub_path).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(format!("subPath {sub_path:?} must be relative and must not contain '..'"));
    }
    let fail = |what: &str, error: &dyn std::fmt::Display| format!("{what} subPath {sub_path:?}: {error}");
    let root = fs::canonicalize(volume).map_err(|error| fail("resolve", &error))?;
    let wanted = root.join(sub_path);
    if !wanted.exists() {
        make(&root, Path::new(sub_path)).map_err(|error| fail("create", &error))?;
    }
    let real = fs::canonicalize(&wanted).map_err(|error| fail("resolve", &error))?;
    let Ok(below) = real.strip_prefix(&root) else { return Err(fail("resolve", &"it leads out of the volume")) };
    let opened = open(&root, below).map_err(|error| fail("open", &error))?;
    let is_dir = fs::metadata(&real).map_err(|error| fail("look at", &error))?.is_dir();
    if super::tear_down::is_mount_point(target).map_err(|error| fail("look at", &error))? {
        nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH).map_err(|error| fail("unbind", &error))?;
    }
    if is_dir {
        fs::create_dir_all(target).map_err(|error| fail("prepare", &error))?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(|error| fail("prepare", &error))?;
        }
        File::create(target).map_err(|error| fail("prepare", &error))?;
    }
    // The thread's own descriptor: this runs on whatever thread there is.
    let source = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(|error| fail("bind", &error))?;
    Ok(target.to_owned())
}

fn open(root: &Path, below: &Path) -> nix::Result<OwnedFd> {
    let root = File::open(root).map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(&root, below, how)
}

/// Makes the missing directories, level by level, never through a link that leads out.
fn make(root: &Path, below: &Path) -> Result<(), String> {
    let mut at = root.to_owned();
    for part in below.components() {
        at.push(part);
        if !at.exists() {
            fs::create_dir(&at).map_err(|error| error.to_string())?;
            let mode = fs::metadata(root).map_err(|error| error.to_string())?.permissions();
            fs::set_permissions(&at, mode).map_err(|error| error.to_string())?;
        }
        let real = fs::canonicalize(&at).map_err(|error| error.to_string())?;
        if !real.starts_with(root) {
            return Err("it leads out of the volume".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_to_leave_the_volume() {
        let dir = std::env::temp_dir().join(format!("pharos-subpath-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let volume = dir.join("volume");
        fs::create_dir_all(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        for path in ["../x", "/etc", "out", "out/ssl", "a/../../x"] {
            assert!(bind(&volume, path, &dir.join("target")).is_err(), "{path}");
        }
        make(&volume, Path::new("a/b")).unwrap();
        assert!(open(&volume, Path::new("a/b")).is_ok());
        assert!(open(&volume, Path::new("out")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
