//! A registry on the loopback address that serves one image archive: manifests and blobs, with basic auth when asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::bench::Outcome;

pub(crate) struct Registry {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    /// Serves the image of an OCI archive as `any/name:any-tag`. `credentials` is the base64 of `user:password`; asked for
    /// `late`, `/v2/` answers anybody and only manifests and blobs do not.
    pub(crate) async fn serve(archive: &Path, credentials: Option<String>, late: bool) -> Outcome<Self> {
        let mut files: HashMap<String, Vec<u8>> = HashMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(archive)?);
        for entry in tar.entries()? {
            let mut entry = entry?;
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes)?;
            files.insert(entry.path()?.display().to_string(), bytes);
        }
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"])?;
        let digest = index["manifests"][0]["digest"].as_str().ok_or("no manifest")?.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (files, digest) = (Arc::new(files), Arc::new(digest));
        #[expect(clippy::disallowed_methods, reason = "a test server, aborted when dropped")]
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (files, digest, credentials) = (Arc::clone(&files), Arc::clone(&digest), credentials.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    // Docker tries TLS first; that is no request.
                    if stream.fill_buf().await.map_or(true, |bytes| bytes.first() == Some(&0x16)) {
                        return;
                    }
                    loop {
                        let mut head_only = false;
                        let (mut path, mut allowed) = (String::new(), credentials.is_none());
                        loop {
                            let mut line = String::new();
                            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                                return;
                            }
                            if path.is_empty() {
                                head_only = line.starts_with("HEAD ");
                                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                            }
                            if let Some(credentials) = &credentials {
                                allowed |= line.trim_end().eq_ignore_ascii_case(&format!("authorization: Basic {credentials}"));
                            }
                            if line == "\r\n" {
                                break;
                            }
                        }
                        allowed |= late && path.trim_end_matches('/') == "/v2";
                        let wanted = path.rsplit('/').next().unwrap_or_default();
                        let manifest = path.contains("/manifests/") && !path.contains("missing");
                        let name = if manifest { digest.as_str() } else { wanted };
                        let body = files.get(&format!("blobs/{}", name.replacen(':', "/", 1)));
                        let (status, body) = match body {
                            _ if !allowed => {
                                ("401 Unauthorized", &b"{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"no\"}]}"[..])
                            }
                            _ if path.trim_end_matches('/') == "/v2" => ("200 OK", &b"{}"[..]),
                            Some(body) => ("200 OK", body.as_slice()),
                            None => {
                                ("404 Not Found", &b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"none\"}]}"[..])
                            }
                        };
                        let kind =
                            if manifest { "application/vnd.oci.image.manifest.v1+json" } else { "application/octet-stream" };
                        let challenge = if allowed { "" } else { "WWW-Authenticate: Basic realm=\"test\"\r\n" };
                        let content = if status.starts_with("200") && manifest {
                            format!("Docker-Content-Digest: {digest}\r\n")
                        } else {
                            String::new()
                        };
                        let head = format!(
                            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{challenge}{content}Content-Length: {}\r\n\r\n",
                            body.len()
                        );
                        if stream.write_all(head.as_bytes()).await.is_err()
                            || (!head_only && stream.write_all(body).await.is_err())
                        {
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { address, task })
    }
}
