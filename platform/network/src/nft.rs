//! Applies nftables transactions through the `nft` program: one process for one transaction.

use std::{process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    cidr::Cidr,
    error::{Doing as _, Error, Result},
};

/// A full replacement at 10,000 Services takes some seconds.
const DEADLINE: Duration = Duration::from_secs(60);

/// Applies a script as one transaction: all of it, or nothing.
///
/// # Errors
/// When `nft` is missing, refuses, or takes over a minute. Not cancel-safe: a cancelled call may have been applied.
pub(crate) async fn apply(script: &str) -> Result<()> {
    let run = async {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing(|| "start nft (Debian package nftables)".to_owned())?;
        let mut input = child.stdin.take();
        let write = async {
            if let Some(input) = &mut input {
                // nft may refuse and end before it read all; what it then says matters more.
                let _ = input.write_all(script.as_bytes()).await;
            }
            drop(input.take());
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), write);
        let output = output.doing(|| "run nft".to_owned())?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(Error::Rules { stderr: stderr.chars().take(2000).collect::<String>().trim().to_owned() })
    };
    tokio::time::timeout(DEADLINE, run)
        .await
        .unwrap_or_else(|_| Err(Error::Deadline { action: "apply nftables rules".to_owned(), after: DEADLINE }))
}

/// Asks the older tables of the host to let what pods send and receive pass, as flannel does: Docker has them drop whatever is
/// forwarded and not its own. Where there is no `iptables` nobody uses them.
pub(crate) async fn pass_iptables(range: &Cidr) -> Result<()> {
    let program = if range.is_ipv4() { "iptables" } else { "ip6tables" };
    for side in ["-s", "-d"] {
        let run = async |verb: &str| {
            let text = range.to_string();
            let rule = ["-w", "5", verb, "FORWARD", side, &text, "-m", "comment", "--comment", "pharos pods", "-j", "ACCEPT"];
            let output = Command::new(program).args(rule).stdin(Stdio::null()).kill_on_drop(true).output();
            tokio::time::timeout(Duration::from_secs(10), output)
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        };
        match run("-C").await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Ok(output) if output.status.success() => continue,
            _ => {}
        }
        let output = run("-I").await.doing(|| format!("run {program}"))?;
        if !output.status.success() {
            return Err(Error::Rules { stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned() });
        }
    }
    Ok(())
}
