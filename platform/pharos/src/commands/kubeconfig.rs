//! `pharos kubeconfig`: the administrator's kubeconfig, for this machine or another.

use anyhow::Context as _;

use crate::{cli::KubeconfigOptions, commands::say};

pub fn run(options: &KubeconfigOptions) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&options.file).with_context(|| format!("read {}", options.file.display()))?;
    match &options.server {
        None => say(text.trim_end()),
        Some(server) => {
            let mut config: serde_norway::Value = serde_norway::from_str(&text)?;
            let cluster = config.get_mut("clusters").and_then(|c| c.get_mut(0)).and_then(|c| c.get_mut("cluster"));
            let cluster = cluster.context("the kubeconfig has no cluster")?;
            cluster["server"] = server.as_str().into();
            say(serde_norway::to_string(&config)?.trim_end());
        }
    }
    Ok(())
}
