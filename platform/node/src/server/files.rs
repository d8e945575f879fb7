//! `/logs/`: the machine's own logs below `/var/log`, to be read and no more (`enableSystemLogHandler`).
//!
//! Upstream serves the folder as Go's file server does, links included. Pods that may write there could so have the kubelet read
//! any file of the node to whoever may read its logs; here a link leads no further than the folder.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::{Component, Path, PathBuf},
};

use http::{HeaderValue, StatusCode, header};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use pharos_transport::{Body, Response};
use tokio_util::io::ReaderStream;

/// Where the logs are.
pub(super) const ROOT: &str = "/var/log";
/// Names listed of one folder.
const MAX_ENTRIES: usize = 10_000;
/// What a path in a link need not escape.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// What is at a path.
#[derive(Debug)]
enum Found {
    /// A file, open.
    File(File),
    /// Names in a folder; those of folders end in a slash.
    Folder(Vec<String>),
}

/// Answers for `path`, what follows `/logs`, below `root`.
pub(super) async fn serve(root: &Path, path: &str) -> Response {
    let (root, path) = (root.to_owned(), path.to_owned());
    let slashed = path.ends_with('/');
    let Ok(wanted) = percent_decode_str(path.trim_start_matches('/')).decode_utf8().map(|text| PathBuf::from(&*text)) else {
        return plain(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let name = wanted.file_name().map(|name| name.to_string_lossy().into_owned());
    let looked = tokio::task::spawn_blocking(move || look(&root, &wanted)).await;
    match looked.unwrap_or_else(|error| Err(io::Error::other(error))) {
        Ok(Found::Folder(_)) if !slashed => {
            // Links of the listing are relative.
            let mut response = plain(StatusCode::MOVED_PERMANENTLY, "");
            let to = format!("{}/", utf8_percent_encode(name.as_deref().unwrap_or("logs"), IN_PATH));
            if let Ok(to) = HeaderValue::try_from(to) {
                response.headers_mut().insert(header::LOCATION, to);
            }
            response
        }
        Ok(Found::Folder(names)) => {
            let mut page = "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n".to_owned();
            for name in &names {
                let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
                let _ = writeln!(page, "<a href=\"./{}\">{shown}</a>", utf8_percent_encode(name, IN_PATH));
            }
            page.push_str("</pre>\n");
            typed(Body::full(page), "text/html; charset=utf-8")
        }
        Ok(Found::File(file)) => {
            let kind = match name.as_deref().and_then(|name| Path::new(name).extension()?.to_str()) {
                Some("gz") => "application/x-gzip",
                Some("xz" | "bz2" | "zst" | "journal") => "application/octet-stream",
                _ => "text/plain; charset=utf-8",
            };
            typed(Body::stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file), 64 << 10)), kind)
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => plain(StatusCode::FORBIDDEN, "403 Forbidden\n"),
        Err(_) => plain(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

/// Finds what is there. Blocking.
fn look(root: &Path, wanted: &Path) -> io::Result<Found> {
    if wanted.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let root = root.canonicalize()?;
    let real = root.join(wanted).canonicalize()?;
    let inside = real.strip_prefix(&root).map_err(|_| io::Error::from(io::ErrorKind::PermissionDenied))?;
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    // The way was followed once: what has changed since is followed no more. A pipe would never open.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let top = File::open(&root)?;
    let file = File::from(openat2(top.as_fd(), inside, how)?);
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(Found::File(file));
    }
    if !kind.is_dir() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&real)?.flatten().take(MAX_ENTRIES) {
        let slash = if entry.path().is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(Found::Folder(names))
}

fn typed(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = typed(Body::full(text), "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_folder_ends_in_a_slash() {
        let root = std::env::temp_dir().join(format!("pharos-folders-{}", std::process::id()));
        fs::create_dir_all(root.join("a b")).unwrap();
        for (path, code, to) in [("", 301, "logs/"), ("/a%20b", 301, "a%20b/"), ("/", 200, ""), ("/a%20b/", 200, "")] {
            let response = serve(&root, path).await;
            let location = response.headers().get(header::LOCATION).map_or("", |value| value.to_str().unwrap());
            assert_eq!((response.status().as_u16(), location), (code, to), "{path}");
        }
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn only_what_is_below() {
        let root = std::env::temp_dir().join(format!("pharos-files-{}", std::process::id()));
        fs::create_dir_all(root.join("logs/pods")).unwrap();
        fs::write(root.join("secret"), "no").unwrap();
        fs::write(root.join("logs/syslog"), "yes").unwrap();
        fs::write(root.join("logs/pods/a.log"), "yes").unwrap();
        symlink(root.join("secret"), root.join("logs/out")).unwrap();
        symlink("../secret", root.join("logs/up")).unwrap();
        symlink(root.join("logs/pods/a.log"), root.join("logs/in")).unwrap();
        let top = root.join("logs");
        let read = |path: &str| match look(&top, Path::new(path)) {
            Ok(Found::File(file)) => Ok(io::read_to_string(file).unwrap()),
            Ok(Found::Folder(names)) => Ok(names.join(" ")),
            Err(error) => Err(error.kind()),
        };
        for (path, expected) in [
            ("", Ok("in out pods/ syslog up")),
            ("syslog", Ok("yes")),
            ("./pods", Ok("a.log")),
            ("in", Ok("yes")),
            ("out", Err(io::ErrorKind::PermissionDenied)),
            ("up", Err(io::ErrorKind::PermissionDenied)),
            ("../secret", Err(io::ErrorKind::NotFound)),
            ("/etc/passwd", Err(io::ErrorKind::NotFound)),
            ("nothing", Err(io::ErrorKind::NotFound)),
        ] {
            assert_eq!(read(path), expected.map(str::to_owned), "{path}");
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
