//! The image store of the embedded runtime.
//!
//! ```text
//! <root>/images.json            the images: names, layers, configuration
//! <root>/blobs/sha256/<hex>     configurations and manifests
//! <root>/layers/<20 hex>/       one unpacked layer, named by its diff ID; an overlay lower directory
//! <root>/snapshots/<container>/ upper, work and layers.json (the layers below)
//! <root>/tmp/                   what is being loaded; emptied at start
//! ```
//! A layer stays while an image or a snapshot uses it. Compressed layers are not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::image::reference::{Reference, is_digest};
use crate::image::{mount, unpack};
use crate::types::{FilesystemUsage, Image, ImageConfig, ImageFsInfo};

/// One image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Digest of its configuration.
    pub(crate) id: String,
    /// Layers, lowest first.
    pub(crate) diff_ids: Vec<String>,
    /// Names with tags.
    pub(crate) tags: BTreeSet<String>,
    /// Names with digests.
    pub(crate) digests: BTreeSet<String>,
    /// Bytes of its layers.
    pub(crate) size_bytes: u64,
    /// How to run it.
    pub(crate) config: ImageConfig,
}

impl Record {
    pub(crate) fn image(&self) -> Image {
        let user = self.config.user.split(':').next().unwrap_or_default();
        let uid = user.parse().ok();
        Image {
            id: self.id.clone(),
            repo_tags: self.tags.iter().cloned().collect(),
            repo_digests: self.digests.iter().cloned().collect(),
            size_bytes: self.size_bytes,
            uid,
            username: if uid.is_none() { user.to_owned() } else { String::new() },
            pinned: false,
            config: self.config.clone(),
        }
    }

    /// What a pod's `imageID` shows.
    pub(crate) fn image_ref(&self) -> String {
        self.digests.iter().next().cloned().unwrap_or_else(|| self.id.clone())
    }
}

/// The store.
#[derive(Debug)]
pub(crate) struct ImageStore {
    root: PathBuf,
    // Taken after `layers` where both are.
    images: Mutex<BTreeMap<String, Record>>,
    // Read while layers are added that no image names yet, written to collect.
    layers: RwLock<()>,
}

impl ImageStore {
    /// Opens the store, makes it when it is not there, and drops what an interrupted load left.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for name in ["blobs/sha256", "layers", "snapshots", "tmp"] {
            let dir = root.join(name);
            fs::create_dir_all(&dir).context(|| format!("create {}", dir.display()))?;
        }
        let tmp = root.join("tmp");
        for entry in fs::read_dir(&tmp).context(|| format!("read {}", tmp.display()))?.flatten() {
            remove_all(&entry.path())?;
        }
        let index = root.join("images.json");
        let images = match fs::read(&index) {
            Ok(bytes) => serde_json::from_slice(&bytes).context(|| format!("parse {}", index.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(Error::internal(format!("read {}", index.display()), error)),
        };
        let store = Self { root: root.to_owned(), images: Mutex::new(images), layers: RwLock::new(()) };
        store.collect();
        Ok(store)
    }

    /// A fresh directory for a load.
    pub(crate) fn scratch(&self) -> Result<Scratch> {
        let dir = self.root.join("tmp").join(uuid::Uuid::new_v4().simple().to_string());
        fs::create_dir(&dir).context(|| format!("create {}", dir.display()))?;
        Ok(Scratch(dir))
    }

    /// Keeps a small blob.
    pub(crate) fn put_blob(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        let hex = digest.strip_prefix("sha256:").filter(|_| is_digest(digest));
        let hex = hex.ok_or_else(|| Error::InvalidArgument(format!("bad digest {digest}")))?;
        write_atomically(&self.root.join("blobs/sha256").join(hex), bytes)
    }

    fn layer_dir(&self, diff_id: &str) -> PathBuf {
        let hex = diff_id.strip_prefix("sha256:").unwrap_or(diff_id);
        self.root.join("layers").join(&hex[..hex.len().min(20)])
    }

    /// Whether a layer is unpacked.
    pub(crate) fn has_layer(&self, diff_id: &str) -> bool {
        self.layer_dir(diff_id).exists()
    }

    /// Adds an image whose layers lie in files (or are here already), under the names given. A name moves from the image that
    /// had it.
    pub(crate) fn add(&self, mut record: Record, layers: &[Option<PathBuf>]) -> Result<Record> {
        let guard = self.layers.read();
        if !record.diff_ids.iter().all(|id| is_digest(id)) {
            return Err(Error::InvalidArgument(format!("image {} has a bad layer ID", record.id)));
        }
        if layers.len() != record.diff_ids.len() {
            return Err(Error::InvalidArgument(format!(
                "image {} has {} layers and {} layer IDs",
                record.id,
                layers.len(),
                record.diff_ids.len()
            )));
        }
        record.size_bytes = 0;
        for (diff_id, archive) in record.diff_ids.iter().zip(layers) {
            record.size_bytes += self.add_layer(diff_id, archive.as_deref())?;
        }
        let mut images = self.images.lock();
        for other in images.values_mut() {
            other.tags.retain(|tag| !record.tags.contains(tag));
        }
        let kept = images.entry(record.id.clone()).or_insert_with(|| Record { tags: BTreeSet::new(), ..record.clone() });
        kept.tags.append(&mut record.tags);
        kept.digests.append(&mut record.digests);
        let kept = kept.clone();
        self.save(&images)?;
        drop(images);
        drop(guard);
        Ok(kept)
    }

    fn add_layer(&self, diff_id: &str, archive: Option<&Path>) -> Result<u64> {
        let dir = self.layer_dir(diff_id);
        let size_file = dir.join("size");
        if let Ok(text) = fs::read_to_string(&size_file) {
            return Ok(text.trim().parse().unwrap_or(0));
        }
        let archive = archive.ok_or_else(|| Error::not_found("layer", diff_id))?;
        let scratch = self.scratch()?;
        let diff = scratch.0.join("diff");
        fs::create_dir(&diff).context(|| format!("create {}", diff.display()))?;
        fs::set_permissions(&diff, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .context(|| format!("set mode of {}", diff.display()))?;
        let size = unpack::layer(archive, diff_id, &diff)?;
        fs::write(scratch.0.join("size"), size.to_string()).context(|| "write layer size")?;
        match fs::rename(&scratch.0, &dir) {
            // Another load was faster.
            Err(_) if dir.exists() => Ok(size),
            result => result.map(|()| size).context(|| format!("keep layer {diff_id}")),
        }
    }

    /// The image of a reference, ID or ID without its prefix.
    pub(crate) fn find(&self, name: &str) -> Option<Record> {
        let images = self.images.lock();
        if let Some(record) = images.get(name).or_else(|| images.get(&format!("sha256:{name}"))) {
            return Some(record.clone());
        }
        let reference: Reference = name.parse().ok()?;
        let by_digest = reference.digest.as_ref().map(|digest| format!("{}@{digest}", reference.name()));
        let text = reference.to_string();
        images
            .values()
            .find(|record| match &by_digest {
                Some(digest) => record.digests.contains(digest) || reference.digest.as_deref() == Some(record.id.as_str()),
                None => record.tags.contains(&text),
            })
            .cloned()
    }

    /// All images.
    pub(crate) fn list(&self) -> Vec<Record> {
        self.images.lock().values().cloned().collect()
    }

    /// Takes a name from an image, or the whole image by ID; without names it goes.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        let Some(found) = self.find(name) else { return Ok(()) };
        let mut images = self.images.lock();
        let by_id = found.id == name || found.id.strip_prefix("sha256:") == Some(name);
        if by_id {
            images.remove(&found.id);
        } else if let Some(record) = images.get_mut(&found.id) {
            let reference: Reference = name.parse()?;
            match &reference.digest {
                Some(digest) => {
                    let full = format!("{}@{digest}", reference.name());
                    record.digests.remove(&full);
                }
                None => {
                    record.tags.remove(&reference.to_string());
                    // The digest under that name goes with its last tag.
                    let prefix = format!("{}:", reference.name());
                    if !record.tags.iter().any(|tag| tag.starts_with(&prefix)) {
                        let prefix = format!("{}@", reference.name());
                        record.digests.retain(|digest| !digest.starts_with(&prefix));
                    }
                }
            }
            if record.tags.is_empty() && record.digests.is_empty() {
                images.remove(&found.id);
            }
        }
        self.save(&images)?;
        drop(images);
        self.collect();
        Ok(())
    }

    fn save(&self, images: &BTreeMap<String, Record>) -> Result<()> {
        let bytes = serde_json::to_vec(images).context(|| "encode images")?;
        write_atomically(&self.root.join("images.json"), &bytes)
    }

    /// Removes layers and blobs that nothing uses. Skipped while a load runs; the next one does it.
    pub(crate) fn collect(&self) {
        let Some(_guard) = self.layers.try_write() else { return };
        let mut layers: BTreeSet<PathBuf> = BTreeSet::new();
        let mut blobs: BTreeSet<String> = BTreeSet::new();
        for record in self.images.lock().values() {
            layers.extend(record.diff_ids.iter().map(|id| self.layer_dir(id)));
            blobs.insert(record.id.clone());
            blobs.extend(record.digests.iter().filter_map(|digest| digest.split_once('@').map(|(_, digest)| digest.to_owned())));
        }
        for dir in entries(&self.root.join("snapshots")) {
            let bytes = fs::read(dir.join("layers.json")).unwrap_or_default();
            layers.extend(
                serde_json::from_slice::<Vec<PathBuf>>(&bytes)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|diff| diff.parent().map(Path::to_owned)),
            );
        }
        for dir in entries(&self.root.join("layers")) {
            if !layers.contains(&dir)
                && let Err(error) = remove_all(&dir)
            {
                tracing::warn!(error = error.chain(), "unused layer can't be removed");
            }
        }
        for blob in entries(&self.root.join("blobs/sha256")) {
            let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !blobs.contains(&format!("sha256:{name}")) {
                // The next collection tries again.
                let _ = fs::remove_file(&blob);
            }
        }
    }

    /// Makes a container's own layer over an image and returns the layers below, topmost first.
    pub(crate) fn create_snapshot(&self, container: &str, record: &Record) -> Result<Vec<PathBuf>> {
        let _guard = self.layers.read();
        let layers: Vec<PathBuf> = record.diff_ids.iter().rev().map(|id| self.layer_dir(id).join("diff")).collect();
        if let Some(gone) = layers.iter().find(|layer| !layer.exists()) {
            return Err(Error::not_found("layer", gone.display().to_string()));
        }
        let dir = self.root.join("snapshots").join(container);
        for name in ["upper", "work"] {
            fs::create_dir_all(dir.join(name)).context(|| format!("create {}", dir.join(name).display()))?;
        }
        // The root directory's own mode and owner are those of the topmost layer, as the kernel takes them from upper.
        if let Some(metadata) = layers.first().and_then(|layer| layer.metadata().ok()) {
            let upper = dir.join("upper");
            fs::set_permissions(&upper, metadata.permissions()).context(|| format!("set mode of {}", upper.display()))?;
            std::os::unix::fs::chown(&upper, Some(metadata.uid()), Some(metadata.gid()))
                .context(|| format!("set owner of {}", upper.display()))?;
        }
        let bytes = serde_json::to_vec(&layers).context(|| "encode layers")?;
        write_atomically(&dir.join("layers.json"), &bytes)?;
        Ok(layers)
    }

    /// Mounts a container's root file system.
    pub(crate) fn mount_snapshot(&self, container: &str, target: &Path) -> Result<()> {
        let dir = self.root.join("snapshots").join(container);
        let bytes = fs::read(dir.join("layers.json")).context(|| format!("read layers of snapshot {container}"))?;
        let layers: Vec<PathBuf> = serde_json::from_slice(&bytes).context(|| format!("parse layers of snapshot {container}"))?;
        mount::overlay(&layers, Some((&dir.join("upper"), &dir.join("work"))), target)
    }

    /// Mounts an image read only.
    pub(crate) fn mount_image(&self, record: &Record, target: &Path) -> Result<()> {
        let layers: Vec<PathBuf> = record.diff_ids.iter().rev().map(|id| self.layer_dir(id).join("diff")).collect();
        mount::overlay(&layers, None, target)
    }

    /// Removes a container's own layer; unmount it first.
    pub(crate) fn remove_snapshot(&self, container: &str) -> Result<()> {
        remove_all(&self.root.join("snapshots").join(container))?;
        self.collect();
        Ok(())
    }

    /// Containers that have a snapshot.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        entries(&self.root.join("snapshots"))
            .iter()
            .filter_map(|dir| dir.file_name().map(|name| name.to_string_lossy().into_owned()))
            .collect()
    }

    /// Space of a container's own layer.
    pub(crate) fn snapshot_usage(&self, container: &str) -> FilesystemUsage {
        let (used_bytes, inodes_used) = usage(&self.root.join("snapshots").join(container).join("upper"));
        FilesystemUsage { mountpoint: self.root.clone(), used_bytes, inodes_used }
    }

    /// Space of everything.
    pub(crate) fn usage(&self) -> Result<ImageFsInfo> {
        let (image_bytes, image_inodes) = usage(&self.root.join("layers"));
        let (container_bytes, container_inodes) = usage(&self.root.join("snapshots"));
        let stat = nix::sys::statvfs::statvfs(&self.root).context(|| format!("stat {}", self.root.display()))?;
        let part = |used_bytes, inodes_used| FilesystemUsage { mountpoint: self.root.clone(), used_bytes, inodes_used };
        Ok(ImageFsInfo {
            image: part(image_bytes, image_inodes),
            container: part(container_bytes, container_inodes),
            capacity_bytes: stat.blocks() * stat.fragment_size(),
            available_bytes: stat.blocks_available() * stat.fragment_size(),
            inodes: stat.files(),
            inodes_free: stat.files_available(),
        })
    }
}

/// A directory that goes when dropped.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // Emptied at the next start if this fails.
        let _ = remove_all(&self.0);
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Bytes on disk and inodes below a directory.
pub(crate) fn usage(dir: &Path) -> (u64, u64) {
    let mut total = (0, 0);
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            total.0 += metadata.blocks() * 512;
            total.1 += 1;
            if metadata.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    total
}

/// Removes a file or tree; fine when absent.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::internal(format!("remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Replaces a file whole or not at all, even when the power goes.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&new);
        Error::internal(format!("write {}", path.display()), error)
    })
}
