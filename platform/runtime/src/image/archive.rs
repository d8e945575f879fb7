//! Loads archives: OCI layout and `docker save`, as tar, gzip or zstd.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::image::config::{ConfigFile, Descriptor, Manifest, Platform};
use crate::image::reference::{Reference, is_digest};
use crate::image::store::{ImageStore, Record};
use crate::image::unpack;
use crate::types::Image;

/// Entry of a `docker save` archive's `manifest.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Loads every image of an archive that runs here.
///
/// # Errors
/// [`Error::InvalidArgument`] when it is no image archive or its content is not what its digests say.
pub(crate) fn load(store: &ImageStore, archive: &Path) -> Result<Vec<Image>> {
    let scratch = store.scratch()?;
    extract(archive, &scratch.0)?;
    let records = if scratch.0.join("manifest.json").exists() {
        load_docker(store, &scratch.0)?
    } else if scratch.0.join("index.json").exists() {
        load_oci(store, &scratch.0)?
    } else {
        return Err(Error::InvalidArgument(format!("{} is neither an OCI layout nor a docker archive", archive.display())));
    };
    if records.is_empty() {
        return Err(Error::InvalidArgument(format!("{} has no image for this platform", archive.display())));
    }
    Ok(records.iter().map(Record::image).collect())
}

/// Takes only files, directories and links within: an archive is no file system.
fn extract(archive: &Path, target: &Path) -> Result<()> {
    let mut tar = tar::Archive::new(unpack::open(archive)?);
    tar.set_preserve_permissions(false);
    tar.set_preserve_mtime(false);
    let invalid = |error: std::io::Error| Error::InvalidArgument(format!("{} is no tar archive: {error}", archive.display()));
    for entry in tar.entries().map_err(invalid)? {
        let mut entry = entry.map_err(invalid)?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            continue;
        }
        entry.unpack_in(target).context(|| format!("extract {}", archive.display()))?;
    }
    Ok(())
}

/// A file the archive names, which must be inside.
fn member(root: &Path, name: &str) -> Result<PathBuf> {
    let inside =
        |path: PathBuf| path.canonicalize().ok().filter(|path| root.canonicalize().is_ok_and(|root| path.starts_with(root)));
    inside(root.join(name)).ok_or_else(|| Error::InvalidArgument(format!("archive has no file {name}")))
}

fn blob(root: &Path, digest: &str) -> Result<PathBuf> {
    if !is_digest(digest) {
        return Err(Error::InvalidArgument(format!("bad digest {digest}")));
    }
    member(root, &digest.replacen(':', "/", 1)).or_else(|_| member(&root.join("blobs"), &digest.replacen(':', "/", 1)))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<(T, Vec<u8>)> {
    let bytes = fs::read(path).context(|| format!("read {}", path.display()))?;
    let value = serde_json::from_slice(&bytes).map_err(|error| {
        Error::InvalidArgument(format!("{}: {error}", path.file_name().unwrap_or_default().to_string_lossy()))
    })?;
    Ok((value, bytes))
}

/// A record of a configuration, which is kept as a blob.
pub(crate) fn record_of(store: &ImageStore, bytes: &[u8]) -> Result<Record> {
    let config: ConfigFile =
        serde_json::from_slice(bytes).map_err(|error| Error::InvalidArgument(format!("image configuration: {error}")))?;
    let platform = Platform { os: config.os.clone(), architecture: config.architecture.clone(), variant: None };
    if !platform.architecture.is_empty() && !platform.is_native() {
        return Err(Error::Unsupported(format!("image is for {}/{}", platform.os, platform.architecture)));
    }
    let id = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    store.put_blob(&id, bytes)?;
    Ok(Record { id, config: config.run_config(), diff_ids: config.rootfs.diff_ids, ..Record::default() })
}

fn load_docker(store: &ImageStore, root: &Path) -> Result<Vec<Record>> {
    let (manifests, _): (Vec<DockerManifest>, _) = read_json(&root.join("manifest.json"))?;
    let mut records = Vec::new();
    for manifest in manifests {
        let config = fs::read(member(root, &manifest.config)?).context(|| "read image configuration")?;
        let mut record = record_of(store, &config)?;
        for tag in manifest.repo_tags.unwrap_or_default() {
            record.tags.insert(tag.parse::<Reference>()?.to_string());
        }
        let layers: Vec<Option<PathBuf>> =
            manifest.layers.iter().map(|layer| member(root, layer).map(Some)).collect::<Result<_>>()?;
        records.push(store.add(record, &layers)?);
    }
    Ok(records)
}

fn load_oci(store: &ImageStore, root: &Path) -> Result<Vec<Record>> {
    let (index, _): (Manifest, _) = read_json(&root.join("index.json"))?;
    let mut records = Vec::new();
    for descriptor in &index.manifests {
        let name = ["io.containerd.image.name", "org.opencontainers.image.ref.name"]
            .iter()
            .find_map(|key| descriptor.annotations.get(*key))
            .and_then(|name| name.parse::<Reference>().ok());
        if let Some(record) = load_manifest(store, root, descriptor, descriptor, name.as_ref(), 0)? {
            records.push(record);
        }
    }
    Ok(records)
}

/// Loads one manifest, or the one of an index that runs here. `named` is the descriptor the image's digest comes from.
fn load_manifest(
    store: &ImageStore,
    root: &Path,
    descriptor: &Descriptor,
    named: &Descriptor,
    name: Option<&Reference>,
    depth: u32,
) -> Result<Option<Record>> {
    if descriptor.platform.as_ref().is_some_and(|platform| !platform.is_native()) {
        return Ok(None);
    }
    let path = blob(root, &descriptor.digest)?;
    let (manifest, bytes): (Manifest, _) = read_json(&path)?;
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
    if digest != descriptor.digest {
        return Err(Error::InvalidArgument(format!("manifest {} has content {digest}", descriptor.digest)));
    }
    let Some(config) = &manifest.config else {
        if depth > 3 {
            return Err(Error::InvalidArgument("archive nests its indexes too deeply".to_owned()));
        }
        for inner in &manifest.manifests {
            if let Some(record) = load_manifest(store, root, inner, named, name, depth + 1)? {
                return Ok(Some(record));
            }
        }
        return Ok(None);
    };
    let config_bytes = fs::read(blob(root, &config.digest)?).context(|| "read image configuration")?;
    let mut record = record_of(store, &config_bytes)?;
    if record.id != config.digest {
        return Err(Error::InvalidArgument(format!("configuration {} has content {}", config.digest, record.id)));
    }
    store.put_blob(&descriptor.digest, &bytes)?;
    if let Some(name) = name {
        if name.tag.is_some() {
            record.tags.insert(Reference { digest: None, ..name.clone() }.to_string());
        }
        record.digests.insert(format!("{}@{}", name.name(), named.digest));
    }
    let layers: Vec<Option<PathBuf>> =
        manifest.layers.iter().map(|layer| blob(root, &layer.digest).map(Some)).collect::<Result<_>>()?;
    store.add(record, &layers).map(Some)
}
