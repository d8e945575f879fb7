//! Replaces the files of a directory all at once, by one rename: upstream's `pkg/volume/util/atomic_writer.go`.
//!
//! The files lie in a directory of their own, `..<date>.<random>`; `..data` is a link to it, and the visible names are links
//! through `..data`. Readers see the old files or the new ones, never a mixture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;
use nix::unistd::{Gid, Uid, chown};

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// What is in it.
    pub(crate) data: Vec<u8>,
    /// Its permissions.
    pub(crate) mode: u32,
    /// Its owner, if not root.
    pub(crate) user: Option<u32>,
}

/// Files by path below the volume.
pub(crate) type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the directory hold exactly these files; does nothing when it does already.
pub(crate) fn write(dir: &Path, files: &Files, fs_group: Option<u32>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(if fs_group.is_some() { 0o2777 } else { 0o777 }))?;
    if let Some(group) = fs_group {
        chown(dir, None, Some(Gid::from_raw(group)))?;
    }
    for name in files.keys() {
        check(name)?;
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && same(&dir.join(old), files, fs_group)
    {
        return link(dir, files);
    }
    let stamp = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let fresh = format!("..{stamp}.{}", rand::random_range(100_000_000_u32..1_000_000_000));
    let target = dir.join(&fresh);
    fs::create_dir(&target)?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        let path = target.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
            for level in parent.ancestors().take_while(|level| *level != dir) {
                own(level, 0o755, true, fs_group, None)?;
            }
        }
        fs::write(&path, &file.data)?;
        own(&path, file.mode, false, fs_group, file.user)?;
    }
    own(&target, 0o755, true, fs_group, None)?;
    let _ = fs::remove_file(dir.join(DATA_NEW));
    symlink(&fresh, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link(dir, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

fn own(path: &Path, mode: u32, directory: bool, group: Option<u32>, user: Option<u32>) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(effective(mode, directory, group)))?;
    if group.is_some() || user.is_some() {
        chown(path, user.map(Uid::from_raw), group.map(Gid::from_raw))?;
    }
    Ok(())
}

/// With a group, the group may read.
fn effective(mode: u32, directory: bool, group: Option<u32>) -> u32 {
    match (group, directory) {
        (None, _) => mode,
        (Some(_), true) => mode | 0o2550,
        (Some(_), false) => mode | 0o440,
    }
}

fn check(name: &str) -> io::Result<()> {
    let good = !name.is_empty()
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        && !name.starts_with("..")
        && name.len() <= 4096;
    if good { Ok(()) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {name}"))) }
}

fn same(dir: &Path, files: &Files, group: Option<u32>) -> bool {
    let mut found = Vec::new();
    if walk(dir, Path::new(""), &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(name, file)| {
        let path = dir.join(name);
        found.contains(&PathBuf::from(name))
            && fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == effective(file.mode, false, group))
            && fs::read(&path).is_ok_and(|data| data == file.data)
    })
}

fn walk(dir: &Path, below: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() { walk(dir, &path, found)? } else { found.push(path) }
    }
    Ok(())
}

/// Links the visible names and takes away those that are no more.
fn link(dir: &Path, files: &Files) -> io::Result<()> {
    let tops: BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    for top in &tops {
        let path = dir.join(top);
        if fs::read_link(&path).is_err() {
            symlink(Path::new(DATA).join(top), &path)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str() else { continue };
        if !text.starts_with("..") && !tops.contains(text) {
            fs::remove_file(dir.join(text))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(name, data)| ((*name).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o644, user: None }))
            .collect()
    }

    fn read(dir: &Path) -> Vec<(String, String)> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
            .into_iter()
            .map(|name| {
                let path = dir.join(&name);
                let text = if path.is_dir() { "dir".to_owned() } else { fs::read_to_string(path).unwrap() };
                (name, text)
            })
            .collect()
    }

    #[test]
    fn files_change_together() {
        let dir = std::env::temp_dir().join(format!("pharos-atomic-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        let first = fs::read_link(dir.join(DATA)).unwrap();
        assert_eq!(read(&dir), [("a".to_owned(), "1".to_owned()), ("sub".to_owned(), "dir".to_owned())]);
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), first, "unchanged files stay");
        write(&dir, &files(&[("a", "3")]), None).unwrap();
        assert_eq!(read(&dir), [("a".to_owned(), "3".to_owned())]);
        assert!(!dir.join(first).exists());
        for bad in ["../x", "/x", "", "..x"] {
            assert!(write(&dir, &files(&[(bad, "")]), None).is_err(), "{bad}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
