//! A layer's tar stream becomes a directory in overlayfs' form: whiteouts as 0/0 character devices, opaque directories by
//! extended attribute.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, lchown};
use std::path::{Component, Path, PathBuf};

use nix::libc;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// Opens a tar archive or layer, plain, gzip or zstd by its first bytes.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    let mut file = File::open(path).context(|| format!("open {}", path.display()))?;
    let mut magic = [0; 4];
    let read = file.read(&mut magic).context(|| format!("read {}", path.display()))?;
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    let file = BufReader::with_capacity(256 << 10, file);
    Ok(match &magic[..read] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(file).context(|| format!("open {}", path.display()))?)
        }
        _ => Box::new(file),
    })
}

/// Hashes what is read through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// Reads to the end and returns the digest, as `sha256:…`.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(format!("sha256:{}", hex::encode(self.hash.finalize())))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Unpacks a layer into an empty directory and returns its bytes on disk.
///
/// # Errors
/// [`Error::InvalidArgument`] when the content is not that of `diff_id`, or an entry would leave the directory.
pub(crate) fn layer(archive: &Path, diff_id: &str, target: &Path) -> Result<u64> {
    let mut reader = Hashing::new(open(archive)?);
    let size = entries(&mut reader, target)?;
    let digest = reader.finish().context(|| format!("read layer {}", archive.display()))?;
    if digest != diff_id {
        return Err(Error::InvalidArgument(format!("layer {diff_id} has content {digest}")));
    }
    Ok(size)
}

fn entries(reader: impl Read, target: &Path) -> Result<u64> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(true);
    // Owners are set here: the library refuses a header that leaves them out.
    archive.set_preserve_ownerships(false);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    let mut size = 0;
    // Times of directories are set last, for their entries change them.
    let mut directories: Vec<(PathBuf, u64)> = Vec::new();
    for entry in archive.entries().context(|| "read layer")? {
        let mut entry = entry.context(|| "read layer")?;
        let path = entry.path().context(|| "read layer")?.into_owned();
        if path.components().any(|part| part == Component::ParentDir) {
            return Err(Error::InvalidArgument(format!("layer entry {} leaves the layer", path.display())));
        }
        size += entry.size();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let unpacked = (|| -> io::Result<()> {
            if name == OPAQUE {
                let parent = parent_inside(target, &path)?;
                return set_xattr(&parent, c"trusted.overlay.opaque", b"y");
            }
            if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                // Others with this prefix are aufs' own.
                if hidden.starts_with(WHITEOUT) || hidden.is_empty() || hidden == "." || hidden == ".." {
                    return Ok(());
                }
                let parent = parent_inside(target, &path)?;
                return whiteout(&parent.join(hidden));
            }
            let kind = entry.header().entry_type();
            if kind.is_character_special() || kind.is_block_special() || kind.is_fifo() {
                let file = parent_inside(target, &path)?.join(&name);
                return node(&entry, &file);
            }
            if kind.is_dir() {
                directories.push((path.clone(), entry.header().mtime().unwrap_or(0)));
            }
            if !entry.unpack_in(target)? {
                return Err(io::Error::other("entry leaves the layer"));
            }
            // A hard link is the file it names, and global headers are none.
            if kind.is_hard_link() || kind.is_pax_global_extensions() {
                return Ok(());
            }
            own(&mut entry, &parent_inside(target, &path)?.join(&name))
        })();
        unpacked.context(|| format!("unpack layer entry {}", path.display()))?;
    }
    for (path, mtime) in directories.into_iter().rev() {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(mtime);
        // A directory replaced by a later entry has no time to set.
        if let Ok(directory) = File::open(target.join(&path)) {
            let _ = directory.set_modified(time);
        }
    }
    Ok(size)
}

/// The directory an entry goes in, made when the archive left it out, and never outside.
fn parent_inside(target: &Path, path: &Path) -> io::Result<PathBuf> {
    let relative: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let parent = target.join(relative.parent().unwrap_or(Path::new("")));
    if !parent.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&parent)?;
    }
    let parent = parent.canonicalize()?;
    if !parent.starts_with(target.canonicalize()?) {
        return Err(io::Error::other("entry leaves the layer"));
    }
    Ok(parent)
}

fn whiteout(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    Ok(mknod(path, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0))?)
}

/// Gives a file to whom its entry says, and again what the kernel takes away with that: set-user-ID bits and capabilities.
fn own<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
    let (uid, gid) = owner(entry.header())?;
    lchown(path, Some(uid), Some(gid))?;
    let kind = entry.header().entry_type();
    if kind.is_dir() || kind.is_symlink() {
        return Ok(());
    }
    if let Ok(mode) = entry.header().mode()
        && mode & 0o6000 != 0
    {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if extension.key() == Ok("SCHILY.xattr.security.capability") {
            set_xattr(path, c"security.capability", extension.value_bytes())?;
        }
    }
    Ok(())
}

/// Owner and group; a field that is left empty is root's, as archive/tar of Go reads it.
fn owner(header: &tar::Header) -> io::Result<(u32, u32)> {
    let empty = |field: &[u8]| field.iter().all(|byte| matches!(byte, 0 | b' '));
    let old = header.as_old();
    let uid = if empty(&old.uid) { 0 } else { header.uid()? };
    let gid = if empty(&old.gid) { 0 } else { header.gid()? };
    Ok((uid as u32, gid as u32))
}

fn node<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
    let header = entry.header();
    let (kind, device) = match header.entry_type() {
        tar::EntryType::Fifo => (SFlag::S_IFIFO, 0),
        other => {
            let major = header.device_major()?.unwrap_or(0);
            let minor = header.device_minor()?.unwrap_or(0);
            let kind = if other.is_block_special() { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
            (kind, makedev(u64::from(major), u64::from(minor)))
        }
    };
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path)?;
    }
    let mode = Mode::from_bits_truncate(header.mode()?);
    mknod(path, kind, mode, device)?;
    let (uid, gid) = owner(header)?;
    chown(path, Some(uid), Some(gid))?;
    fs::set_permissions(path, fs::Permissions::from_mode(header.mode()?))
}

#[expect(unsafe_code, reason = "setxattr has no safe wrapper in nix")]
pub(crate) fn set_xattr(path: &Path, name: &std::ffi::CStr, value: &[u8]) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both strings end in NUL and the value's length is its own.
    let result = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(uid: &[u8], gid: &[u8]) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path("etc/file").unwrap();
        header.set_mode(0o644);
        header.set_size(2);
        header.set_mtime(1);
        let padded = |text: &[u8]| std::array::from_fn(|at| text.get(at).copied().unwrap_or(0));
        let old = header.as_old_mut();
        (old.uid, old.gid) = (padded(uid), padded(gid));
        header.set_cksum();
        header
    }

    #[test]
    fn owners_left_empty_are_root() {
        for (uid, gid, expected) in [(&b""[..], &b""[..], (0, 0)), (b"       ", b"0000007", (0, 7)), (b"0001750", b"", (1000, 0))]
        {
            assert_eq!(owner(&header(uid, gid)).unwrap(), expected);
        }
        assert!(owner(&header(b"nobody", b"")).is_err());
    }

    #[test]
    fn a_layer_without_owners_unpacks() {
        if !nix::unistd::geteuid().is_root() {
            return; // Giving files away is root's.
        }
        let target = std::env::temp_dir().join(format!("pharos-unpack-{}", std::process::id()));
        fs::create_dir_all(&target).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        archive.append(&header(b"", b""), &b"ab"[..]).unwrap();
        let size = entries(archive.into_inner().unwrap().as_slice(), &target).unwrap();
        assert_eq!((size, fs::read(target.join("etc/file")).unwrap()), (2, b"ab".to_vec()));
        fs::remove_dir_all(&target).unwrap();
    }
}
