//! The administrator's kubeconfig, which follows its certificate.

use std::{path::PathBuf, sync::Arc};

use pharos_telemetry::{Component, Ctx};
use pharos_transport::pki::Identity;

use crate::files;

/// Keeps the file up to date while the server runs.
pub struct AdminKubeconfig {
    pub identity: Arc<Identity>,
    /// The cluster's CA, as PEM.
    pub ca: String,
    /// The server's URL.
    pub server: String,
    pub path: PathBuf,
    pub mode: u32,
}

/// Why the file is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

impl AdminKubeconfig {
    /// Writes the file, with the certificate in use.
    pub fn write(&self) -> anyhow::Result<()> {
        let issued = self.identity.pem();
        let text = files::kubeconfig(&self.server, &self.ca, &issued.certificate_pem, &issued.key_pem)?;
        files::write(&self.path, &text, self.mode)
    }
}

impl Component for AdminKubeconfig {
    const NAME: &'static str = "admin-kubeconfig";
    type Error = Failed;

    async fn run(&self, ctx: Ctx) -> Result<(), Failed> {
        let mut changes = self.identity.changes();
        let (identity, stopped) = (self.identity.clone(), ctx.clone());
        ctx.spawn("renew certificate", async move {
            tokio::select! {
                () = identity.renew() => {}
                () = stopped.stopped() => {}
            }
        });
        loop {
            changes.mark_unchanged();
            self.write().map_err(|error| Failed(format!("{error:#}")))?;
            ctx.ready();
            tokio::select! {
                () = ctx.stopped() => return Ok(()),
                // The sender lives in the identity.
                _ = changes.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pharos_telemetry::Clock;
    use pharos_transport::pki::{Ca, Subject, Template};
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn the_file_follows_the_certificate() {
        let dir = std::env::temp_dir().join(format!("pharos-admin-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let ca = Ca::load_or_create(&dir, "ca", "test-ca", Clock::system()).unwrap();
        let issue = || ca.issue(&Template::client(Subject::new("admin", &["system:masters"]))).unwrap();
        let identity = Identity::from_pem(issue()).unwrap();
        let path = dir.join("admin.yaml");
        let file = AdminKubeconfig {
            identity: identity.clone(),
            ca: ca.certificate_pem().to_owned(),
            server: "https://127.0.0.1:6443".to_owned(),
            path: path.clone(),
            mode: 0o600,
        };
        let token = CancellationToken::new();
        let ctx = Ctx::for_test(token.clone());
        let inner = ctx.clone();
        let running = ctx.spawn("run", async move { file.run(inner).await });
        let next = issue();
        for wanted in [identity.pem(), next.clone()] {
            let expected =
                files::kubeconfig("https://127.0.0.1:6443", ca.certificate_pem(), &wanted.certificate_pem, &wanted.key_pem);
            let expected = expected.unwrap();
            for _ in 0..200 {
                if std::fs::read_to_string(&path).is_ok_and(|text| text == expected) {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
            identity.replace(next.clone()).unwrap();
        }
        token.cancel();
        running.await.unwrap().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
