//! How the small commands reach a running server or agent: a Unix socket that only its owner may open. One JSON line asks, one
//! answers.

use std::{future::Future, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use pharos_telemetry::Ctx;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

/// The longest request: a path or a name.
const MAX_REQUEST: u64 = 64 * 1024;
/// Requests at once; more are refused.
const CLIENTS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(600);

/// Serves a socket until the component is stopped. A failure is answered with its text.
pub async fn serve<Q, A, F>(path: &Path, ctx: &Ctx, answer: impl Fn(Q) -> F + Send + Sync + 'static) -> io::Result<()>
where
    Q: DeserializeOwned + Send + 'static,
    A: Serialize + Send + 'static,
    F: Future<Output = Result<A, String>> + Send + 'static,
{
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    ctx.ready();
    let (slots, answer) = (Arc::new(Semaphore::new(CLIENTS)), Arc::new(answer));
    loop {
        let (stream, _) = tokio::select! {
            biased;
            () = ctx.stopped() => return Ok(()),
            accepted = listener.accept() => accepted?,
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let answer = answer.clone();
        ctx.spawn("socket request", async move {
            let _slot = slot;
            match tokio::time::timeout(DEADLINE, serve_one(stream, &*answer)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = %error, "socket request broke off"),
                Err(_) => tracing::warn!(error = "no end in time", "socket request was given up"),
            }
        });
    }
}

async fn serve_one<Q, A, F>(stream: UnixStream, answer: &(impl Fn(Q) -> F + Sync)) -> io::Result<()>
where
    Q: DeserializeOwned + Send,
    A: Serialize + Send,
    F: Future<Output = Result<A, String>> + Send,
{
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => answer(question).await,
        Err(error) => Err(error.to_string()),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

/// Asks whoever listens, and waits for the answer. What failed there is the error.
pub async fn ask<A: DeserializeOwned>(path: &Path, question: &impl Serialize) -> anyhow::Result<A> {
    let stream = UnixStream::connect(path).await.with_context(|| format!("reach Pharos at {}: does it run?", path.display()))?;
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut answer = String::new();
    let mut reader = BufReader::new(reader);
    let read = tokio::time::timeout(DEADLINE, reader.read_line(&mut answer));
    read.await.context("no answer in time")??;
    match serde_json::from_str(&answer).context("it broke off")? {
        Ok(answer) => Ok(answer),
        Err(why) => {
            let why: String = why;
            bail!("{why}")
        }
    }
}

/// An error with all its causes.
pub fn text(error: &dyn std::error::Error) -> String {
    let texts: Vec<String> = std::iter::successors(Some(error), |e| e.source()).map(ToString::to_string).collect();
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use pharos_telemetry::Ctx;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn what_is_asked_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let error = format!("{:#}", ask::<u32>(&path, &1).await.unwrap_err());
        assert!(error.contains("does it run?"), "{error}");

        let ctx = Ctx::for_test(CancellationToken::new());
        let double = |n: u32| async move { if n < 10 { Ok(2 * n) } else { Err(format!("{n} is too large")) } };
        let serving = serve(&path, &ctx, double);
        let asking = async {
            while !path.exists() {
                tokio::task::yield_now().await;
            }
            assert_eq!(ask::<u32>(&path, &4).await.unwrap(), 8);
            assert_eq!(ask::<u32>(&path, &12).await.unwrap_err().to_string(), "12 is too large");
            assert!(ask::<u32>(&path, &"x").await.unwrap_err().to_string().contains("invalid type"));
        };
        tokio::select! {
            ended = serving => panic!("{ended:?}"),
            () = asking => {}
        }
    }
}
