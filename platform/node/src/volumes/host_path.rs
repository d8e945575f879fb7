//! `hostPath`: a path of the node, checked for its type (`pkg/volume/hostpath`).

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Checks the path, and makes it where the type says so.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok().map(|meta| meta.file_type());
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
    match kind {
        "" => {
            // Runtimes used to make what is missing, and pods rely on it.
            if found.is_none() {
                make_dir(path)?;
            }
            Ok(())
        }
        "DirectoryOrCreate" if found.is_none() => make_dir(path),
        "FileOrCreate" if found.is_none() => fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(|error| format!("create {}: {error}", source.path)),
        "DirectoryOrCreate" | "Directory" => {
            if is(fs::FileType::is_dir) {
                Ok(())
            } else {
                fail("a directory")
            }
        }
        "FileOrCreate" | "File" => {
            if is(fs::FileType::is_file) {
                Ok(())
            } else {
                fail("a file")
            }
        }
        "Socket" => {
            if is(|t| t.is_socket()) {
                Ok(())
            } else {
                fail("a socket file")
            }
        }
        "CharDevice" => {
            if is(|t| t.is_char_device()) {
                Ok(())
            } else {
                fail("a character device")
            }
        }
        "BlockDevice" => {
            if is(|t| t.is_block_device()) {
                Ok(())
            } else {
                fail("a block device")
            }
        }
        other => Err(format!("hostPath type {other:?} is unknown")),
    }
}

fn make_dir(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|error| format!("create {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let dir = std::env::temp_dir().join(format!("pharos-hostpath-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let check = |path: &str, kind: &str| {
            super::check(&HostPathVolumeSource { path: path.to_owned(), type_: Some(kind.to_owned()) }).is_ok()
        };
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        for (path, kind, expect) in [
            (at("a"), "Directory", false),
            (at("a"), "DirectoryOrCreate", true),
            (at("a"), "Directory", true),
            (at("a"), "File", false),
            (at("a/f"), "FileOrCreate", true),
            (at("a/f"), "File", true),
            (at("a/f"), "DirectoryOrCreate", false),
            ("/dev/null".to_owned(), "CharDevice", true),
            ("/dev/null".to_owned(), "Socket", false),
            (at("a"), "Odd", false),
        ] {
            assert_eq!(check(&path, kind), expect, "{path} {kind}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
