//! Overlay mounts: a container's root file system over its image's layers.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Result};

/// Mounts layers (topmost first) at `target`; with `upper` and `work` writable, else read only.
pub(crate) fn overlay(layers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> Result<()> {
    if layers.is_empty() {
        return Err(Error::InvalidArgument("an image without layers has no root file system".to_owned()));
    }
    // One layer can't be an overlay without an upper directory.
    if let ([only], None) = (layers, writable) {
        return bind_read_only(only, target);
    }
    match overlay_by_fd(layers, writable, target) {
        // Before Linux 6.5 layers can't be added one by one.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM)) => {
            overlay_by_options(layers, writable, target)
        }
        result => result.map_err(|error| Error::internal(format!("mount overlay at {}", target.display()), error)),
    }
}

fn bind_read_only(source: &Path, target: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(source), target, none, MsFlags::MS_BIND, none)
        .and_then(|()| mount(none, target, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none))
        .map_err(|error| Error::internal(format!("mount layer at {}", target.display()), error))
}

fn overlay_by_options(layers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> Result<()> {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let mut options = format!("lowerdir={}", lower.join(":"));
    if let Some((upper, work)) = writable {
        options.push_str(&format!(",upperdir={},workdir={}", upper.display(), work.display()));
    }
    // The kernel takes one page of options.
    if options.len() >= 4096 {
        return Err(Error::Unsupported(format!("an image of {} layers needs Linux 6.5 or newer", layers.len())));
    }
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .map_err(|error| Error::internal(format!("mount overlay at {}", target.display()), error))
}

#[expect(unsafe_code, reason = "the mount API by file descriptor has no safe wrapper in nix")]
fn overlay_by_fd(layers: &[PathBuf], writable: Option<(&Path, &Path)>, target: &Path) -> io::Result<()> {
    const FSCONFIG_SET_STRING: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    let null = std::ptr::null::<libc::c_char>();
    let check = |result: libc::c_long| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) };
    // SAFETY: fsopen takes a NUL-terminated name and gives a new descriptor or an error.
    let context = check(unsafe { libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), 1) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let context = unsafe { OwnedFd::from_raw_fd(context) };
    let set = |key: &CStr, value: &Path| -> io::Result<()> {
        let value = CString::new(value.as_os_str().as_bytes())?;
        // SAFETY: both strings end in NUL and live through the call.
        let result = unsafe {
            libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
        };
        check(result).map(drop)
    };
    for layer in layers {
        set(c"lowerdir+", layer)?;
    }
    if let Some((upper, work)) = writable {
        set(c"upperdir", upper)?;
        set(c"workdir", work)?;
    }
    // SAFETY: this command takes no strings.
    check(unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, null, null, 0) })?;
    // SAFETY: gives a new descriptor or an error.
    let mounted = check(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 1, 0) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let mounted = unsafe { OwnedFd::from_raw_fd(mounted) };
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths end in NUL; the flag is MOVE_MOUNT_F_EMPTY_PATH.
    check(unsafe { libc::syscall(libc::SYS_move_mount, mounted.as_raw_fd(), c"".as_ptr(), libc::AT_FDCWD, target.as_ptr(), 4) })?;
    Ok(())
}

/// Unmounts everything at a path; fine when nothing is.
pub(crate) fn unmount(target: &Path) -> io::Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
