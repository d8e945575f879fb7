//! The file of an `AuthenticationConfiguration` is read again when it changes.
//!
//! Follows `pkg/server/options/authenticationconfig` of `k8s.io/apiserver`: what cannot be used is told of, and what was read
//! before stays.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{RecursiveMode, Watcher as _};
use pharos_telemetry::Ctx;
use tokio::sync::Notify;

use super::{Authenticator, Structured};

/// A file is written in several steps.
const SETTLE: Duration = Duration::from_millis(500);

impl Authenticator {
    /// Reads the configuration again whenever its file changes, until the component ends.
    pub(crate) fn follow_configuration(&self, ctx: &Ctx) {
        let Some(file) = self.shared.structured_file.clone() else { return };
        let changed = Arc::new(Notify::new());
        let watcher = match watch(&file, &changed) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the authentication configuration is not followed");
                return;
            }
        };
        let (authenticator, inner) = (self.clone(), ctx.clone());
        ctx.spawn("authentication-config", async move {
            let _watcher = watcher; // Watches until dropped.
            let mut last = tokio::fs::read(&file).await.ok();
            loop {
                tokio::select! {
                    biased;
                    () = inner.stopped() => return,
                    () = changed.notified() => {}
                }
                tokio::time::sleep(SETTLE).await;
                let text = match tokio::fs::read(&file).await {
                    Ok(text) => text,
                    Err(error) => {
                        tracing::error!(%error, file = %file.display(), "the authentication configuration cannot be read");
                        continue;
                    }
                };
                if last.as_ref() == Some(&text) {
                    continue;
                }
                match Structured::parse(&text, &[authenticator.shared.issuer.issuer()]) {
                    Ok(structured) => {
                        authenticator.shared.structured.store(Arc::new(structured));
                        tracing::info!(file = %file.display(), "reloaded the authentication configuration");
                    }
                    Err(error) => {
                        tracing::error!(error, file = %file.display(), "the authentication configuration is wrong, and not used");
                    }
                }
                last = Some(text);
            }
        });
    }
}

/// Tells of changes in the file's folder: files are replaced by others, too.
fn watch(file: &Path, changed: &Arc<Notify>) -> notify::Result<notify::RecommendedWatcher> {
    let changed = changed.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| !event.kind.is_access()) {
            changed.notify_one();
        }
    })?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
