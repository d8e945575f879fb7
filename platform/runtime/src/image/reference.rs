//! Image references in Docker's grammar, normalised as Docker does: `busybox` is `docker.io/library/busybox:latest`.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// A normalised image reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Registry host, with the port when given.
    pub registry: String,
    /// Path in the registry.
    pub repository: String,
    /// Tag; `latest` when neither tag nor digest is given.
    pub tag: Option<String>,
    /// Digest, as `sha256:…`.
    pub digest: Option<String>,
}

impl Reference {
    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether the registry is this machine's loopback, where plain HTTP is spoken.
    pub fn is_loopback(&self) -> bool {
        let host = match self.registry.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => self.registry.split(':').next().unwrap_or_default(),
        };
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| Error::InvalidArgument(format!("invalid image reference {text:?}: {why}"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                if !is_digest(digest) {
                    return Err(invalid("digest must be sha256:<64 hex digits>"));
                }
                (rest, Some(digest.to_owned()))
            }
            None => (text, None),
        };
        // A colon after the last slash starts the tag; one before is the registry's port.
        let (path, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(rest[at + 1..].to_owned())),
            _ => (rest, None),
        };
        if let Some(tag) = &tag
            && (tag.is_empty()
                || tag.len() > 128
                || tag.starts_with(['.', '-'])
                || !tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)))
        {
            return Err(invalid("bad tag"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), rest.to_owned()),
            _ => ("docker.io".to_owned(), path.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io".to_owned() } else { registry };
        let repository =
            if registry == "docker.io" && !repository.contains('/') { format!("library/{repository}") } else { repository };
        let good = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        };
        if path.is_empty() || !repository.split('/').all(good) {
            return Err(invalid("repository name must be lowercase letters, digits and separators"));
        }
        let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
        Ok(Self { registry, repository, tag, digest })
    }
}

/// Whether the text is `sha256:` and 64 hex digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.chars().all(|c| c.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let got = text.parse::<Reference>().map(|reference| reference.to_string()).unwrap_or_else(|_| "error".to_owned());
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn names_are_normalised_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("rancher/pause:3.6", "docker.io/rancher/pause:3.6");
        check("index.docker.io/library/a", "docker.io/library/a:latest");
        check("localhost/a/b", "localhost/a/b:latest");
        check("127.0.0.1:5000/a:b", "127.0.0.1:5000/a:b");
        check("[::1]:5000/a:b", "[::1]:5000/a:b");
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
        check(&format!("a@{digest}"), &format!("docker.io/library/a@{digest}"));
        check(&format!("a:b@{digest}"), &format!("docker.io/library/a:b@{digest}"));
    }

    #[test]
    fn bad_names_are_refused() {
        for text in ["", "A", "a:", "a:-x", "a@sha256:1", "a//b", "a/b/", ":tag", "a b", "-a"] {
            check(text, "error");
        }
    }

    #[test]
    fn loopback_registries() {
        let loopback = |text: &str| text.parse::<Reference>().is_ok_and(|reference| reference.is_loopback());
        assert!(loopback("localhost:5000/a") && loopback("127.0.0.2/a") && loopback("[::1]:5000/a"));
        assert!(!loopback("a") && !loopback("localhost.example.com/a"));
    }
}
