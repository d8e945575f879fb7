//! Lifecycle hooks (`pkg/kubelet/lifecycle/handlers.go`).

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::{core::Core, probes::http};

/// Runs a hook to its end. The caller bounds it; dropping the future ends an exec.
pub(crate) async fn run(
    core: &Core,
    id: &str,
    ip: &str,
    container: &Container,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let ports = container.ports.as_deref().unwrap_or_default();
    if let Some(exec) = &handler.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        let done = core.runtime.exec_sync(id, command, Duration::ZERO).await.map_err(|error| error.chain())?;
        if done.exit_code == 0 {
            return Ok(());
        }
        let mut text = String::from_utf8_lossy(&done.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&done.stderr));
        text.truncate(text.char_indices().nth(1024).map_or(text.len(), |(at, _)| at));
        return Err(format!("command '{}' exited with {}: {text}", command.join(" "), done.exit_code));
    }
    if let Some(action) = &handler.http_get {
        let get = http::Get::new(action, ip, ports, "kube-lifecycle/1.37")?;
        return http::hook(&get, Duration::from_secs(60)).await;
    }
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: neither exec, httpGet nor sleep".to_owned())
}
