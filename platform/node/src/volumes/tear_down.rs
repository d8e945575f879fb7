//! The end of a pod's volumes: everything mounted below its directory goes, then the directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};

/// Unmounts and removes the pod's directory. What claims and host paths hold stays. Blocking.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    for mount in below(pod_dir)?.iter().rev() {
        umount2(mount, MntFlags::MNT_DETACH)?;
    }
    if let Some(left) = below(pod_dir)?.first() {
        // Removing now would remove what is mounted there.
        return Err(io::Error::other(format!("{} is still mounted", left.display())));
    }
    fs::remove_dir_all(pod_dir)
}

/// Whether something is mounted exactly here.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(mounts()?.contains(&path))
}

/// Mount points below a directory, in order of mounting.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = fs::canonicalize(dir)?;
    Ok(mounts()?.into_iter().filter(|mount| mount.starts_with(&dir) && *mount != dir).collect())
}

fn mounts() -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescape(path))).collect())
}

/// The kernel writes blanks, tabs, line feeds and backslashes as octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}
