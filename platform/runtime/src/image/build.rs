//! Makes an image archive out of files of this machine, with no registry and no build tool.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::error::{Context, Error, Result};
use crate::image::config::{ConfigFile, RootFs, RunConfig, native_architecture};
use crate::image::reference::Reference;
use crate::image::unpack::Hashing;
use crate::types::ImageConfig;

/// A file of an image to build.
#[derive(Clone, Debug)]
pub enum BuildFile {
    /// A file of this machine, with its mode; owned by root. A link is followed.
    Copy {
        /// Where it lies.
        from: PathBuf,
        /// Where it goes, absolute.
        to: PathBuf,
    },
    /// A file with this content.
    Content {
        /// Where it goes, absolute.
        to: PathBuf,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Its mode.
        mode: u32,
    },
    /// A symbolic link.
    Link {
        /// Where it goes, absolute.
        at: PathBuf,
        /// What it points to.
        target: PathBuf,
    },
    /// A directory; those above files are made anyway.
    Directory {
        /// Where it goes, absolute.
        at: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// An image to build.
#[derive(Clone, Debug, Default)]
pub struct BuildImage {
    /// Its name, as `pharos/demo:latest`.
    pub name: String,
    /// Files, in any order.
    pub files: Vec<BuildFile>,
    /// How it runs.
    pub config: ImageConfig,
}

impl BuildImage {
    /// Adds a program and the shared libraries it needs, at the same paths, with its interpreter. A static one needs none.
    ///
    /// # Errors
    /// [`Error::Internal`] when the program's libraries can't be listed.
    pub fn add_program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.files.push(BuildFile::Copy { from: from.to_owned(), to: to.to_owned() });
        for library in shared_libraries(from)? {
            self.files.push(BuildFile::Copy { from: library.clone(), to: library });
        }
        Ok(())
    }
}

/// Libraries a program loads, by asking its own dynamic linker; empty for a static program.
fn shared_libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let Some(interpreter) = interpreter(program)? else { return Ok(Vec::new()) };
    let output = std::process::Command::new(&interpreter)
        .arg("--list")
        .arg(program)
        .output()
        .context(|| format!("list libraries of {}", program.display()))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::internal(format!("list libraries of {}", program.display()), text));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut libraries: Vec<PathBuf> = vec![interpreter];
    for line in text.lines() {
        // `name => path (address)`, or `path (address)`.
        let path = line.split("=>").last().unwrap_or_default().trim().split(" (").next().unwrap_or_default();
        if path.starts_with('/') && !libraries.contains(&PathBuf::from(path)) {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// `PT_INTERP` of a 64-bit little-endian ELF file.
fn interpreter(program: &Path) -> Result<Option<PathBuf>> {
    let reading = || format!("read {}", program.display());
    let mut file = File::open(program).context(reading)?;
    let mut head = vec![0; 4096];
    let count = file.read(&mut head).context(reading)?;
    head.truncate(count);
    let bad = || Error::InvalidArgument(format!("{} is no 64-bit ELF program", program.display()));
    if head.get(..6) != Some(b"\x7fELF\x02\x01") {
        return Err(bad());
    }
    let number = |at: usize, size: usize| -> Result<usize> {
        let bytes = head.get(at..at + size).ok_or_else(bad)?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    for index in 0..count {
        let at = table + index * size;
        if number(at, 4)? == 3 {
            let (offset, length) = (number(at + 8, 8)?, number(at + 32, 8)?);
            let bytes = head.get(offset..offset + length).ok_or_else(bad)?;
            let text = String::from_utf8_lossy(bytes);
            return Ok(Some(PathBuf::from(text.trim_end_matches('\0'))));
        }
    }
    Ok(None)
}

/// Writes an image as an archive that is both an OCI layout and a `docker load` archive. The same input gives the same bytes.
///
/// # Errors
/// [`Error::InvalidArgument`] for a bad name or path; [`Error::Internal`] for files that can't be read or written.
pub fn build(image: &BuildImage, archive: &Path) -> Result<()> {
    let name: Reference = image.name.parse()?;
    let scratch = archive.with_extension("layer");
    let result = (|| {
        let (layer_digest, layer_size) = write_layer(&image.files, &scratch)?;
        let some = |list: &[String]| if list.is_empty() { None } else { Some(list.to_vec()) };
        let keys = |list: &[String]| {
            if list.is_empty() { None } else { Some(list.iter().map(|key| (key.clone(), json!({}))).collect()) }
        };
        let config = ConfigFile {
            architecture: native_architecture().to_owned(),
            os: "linux".to_owned(),
            created: Some("1970-01-01T00:00:00Z".to_owned()),
            config: RunConfig {
                user: image.config.user.clone(),
                env: Some(image.config.env.clone()),
                entrypoint: some(&image.config.entrypoint),
                cmd: some(&image.config.cmd),
                working_dir: image.config.working_dir.clone(),
                volumes: keys(&image.config.volumes),
                exposed_ports: keys(&image.config.exposed_ports),
                labels: if image.config.labels.is_empty() { None } else { Some(image.config.labels.clone()) },
                stop_signal: image.config.stop_signal.clone(),
            },
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![layer_digest.clone()] },
            history: vec![json!({ "created": "1970-01-01T00:00:00Z", "created_by": "pharos" })],
        };
        let config = serde_json::to_vec(&config).context(|| "encode image configuration")?;
        let config_digest = digest(&config);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len() },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer_size }],
        });
        let manifest = serde_json::to_vec(&manifest).context(|| "encode manifest")?;
        let tag = name.tag.clone().unwrap_or_else(|| "latest".to_owned());
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(&manifest),
                "size": manifest.len(),
                "annotations": { "io.containerd.image.name": name.to_string(), "org.opencontainers.image.ref.name": tag },
                "platform": { "os": "linux", "architecture": native_architecture() },
            }],
        });
        let path = |digest: &str| format!("blobs/{}", digest.replacen(':', "/", 1));
        let docker = json!([{ "Config": path(&config_digest), "RepoTags": [name.to_string()], "Layers": [path(&layer_digest)] }]);

        let writing = || format!("write {}", archive.display());
        let mut tar = tar::Builder::new(BufWriter::new(File::create(archive).context(writing)?));
        let mut add = |name: &str, size: u64, content: &mut dyn Read| {
            let mut header = header(tar::EntryType::Regular, 0o644, size);
            tar.append_data(&mut header, name, content).context(writing)
        };
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
        add("oci-layout", layout.len() as u64, &mut layout.as_slice())?;
        let index = serde_json::to_vec(&index).context(|| "encode index")?;
        add("index.json", index.len() as u64, &mut index.as_slice())?;
        let docker = serde_json::to_vec(&docker).context(|| "encode manifest")?;
        add("manifest.json", docker.len() as u64, &mut docker.as_slice())?;
        add(&path(&config_digest), config.len() as u64, &mut config.as_slice())?;
        add(&path(&digest(&manifest)), manifest.len() as u64, &mut manifest.as_slice())?;
        add(&path(&layer_digest), layer_size, &mut BufReader::new(File::open(&scratch).context(writing)?))?;
        tar.into_inner().context(writing)?.flush().context(writing)
    })();
    // It was only the layer's; the archive has it now.
    let _ = fs::remove_file(&scratch);
    result
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn write_layer(files: &[BuildFile], target: &Path) -> Result<(String, u64)> {
    let writing = || format!("write {}", target.display());
    let relative = |path: &Path| -> Result<PathBuf> {
        let inner = path
            .strip_prefix("/")
            .ok()
            .filter(|inner| inner.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        inner.map(Path::to_owned).ok_or_else(|| Error::InvalidArgument(format!("{} is no absolute plain path", path.display())))
    };
    let mut tar = tar::Builder::new(BufWriter::new(File::create(target).context(writing)?));
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    let mut parents = |tar: &mut tar::Builder<BufWriter<File>>, path: &Path| -> Result<()> {
        let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|one| !one.as_os_str().is_empty()).collect();
        above.reverse();
        for directory in above {
            if made.insert(directory.to_owned()) {
                tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), directory, std::io::empty())
                    .context(writing)?;
            }
        }
        Ok(())
    };
    for file in files {
        match file {
            BuildFile::Directory { at, mode } => {
                let at = relative(at)?;
                parents(&mut tar, &at)?;
                tar.append_data(&mut header(tar::EntryType::Directory, *mode, 0), &at, std::io::empty()).context(writing)?;
            }
            BuildFile::Link { at, target } => {
                let at = relative(at)?;
                parents(&mut tar, &at)?;
                tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), &at, target).context(writing)?;
            }
            BuildFile::Content { to, bytes, mode } => {
                let to = relative(to)?;
                parents(&mut tar, &to)?;
                let mut header = header(tar::EntryType::Regular, *mode, bytes.len() as u64);
                tar.append_data(&mut header, &to, bytes.as_slice()).context(writing)?;
            }
            BuildFile::Copy { from, to } => {
                use std::os::unix::fs::MetadataExt;
                let to = relative(to)?;
                parents(&mut tar, &to)?;
                let source = File::open(from).context(|| format!("open {}", from.display()))?;
                let metadata = source.metadata().context(|| format!("stat {}", from.display()))?;
                let mut header = header(tar::EntryType::Regular, metadata.mode() & 0o7777, metadata.len());
                tar.append_data(&mut header, &to, BufReader::new(source).take(metadata.len())).context(writing)?;
            }
        }
    }
    tar.into_inner().context(writing)?.flush().context(writing)?;
    let file = File::open(target).context(writing)?;
    let size = file.metadata().context(writing)?.len();
    let digest = Hashing::new(BufReader::with_capacity(256 << 10, file)).finish().context(writing)?;
    Ok((digest, size))
}
