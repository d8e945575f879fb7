//! The small commands: each is a client of a running server, or looks at this machine.

pub mod check;
pub mod image;
pub mod kubeconfig;
pub mod logs;
pub mod query;
pub mod store;
pub mod token;

use std::{io::Write as _, path::Path, time::Duration};

use anyhow::{Context as _, bail};
use clap::CommandFactory as _;

/// Prints a line of a command's result.
pub fn say(line: &str) {
    // A closed pipe (`pharos logs … | head`) is the reader's wish to stop.
    if writeln!(std::io::stdout().lock(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Prints a line that is not the result.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a completion script.
pub fn completion(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut crate::cli::Cli::command(), "pharos", &mut script);
    std::io::stdout().lock().write_all(&script).context("write to standard output")
}

/// A client with the credentials of a kubeconfig.
async fn client(kubeconfig: &Path) -> anyhow::Result<kube::Client> {
    let text = std::fs::read_to_string(kubeconfig).with_context(|| {
        format!(
            "read {}: is a server running, and may you read its kubeconfig? (--kubeconfig names another)",
            kubeconfig.display()
        )
    })?;
    let client = pharos_client::kubeconfig(&text).await;
    client.map_err(|e| anyhow::anyhow!("{e}")).with_context(|| format!("use {}", kubeconfig.display()))
}

/// Reads `90`, `90s`, `15m`, `24h`, `7d`; a bare number is seconds.
pub fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        other => bail!("{text}: {other} is no unit of time (s, m, h, d, w)"),
    };
    let number: f64 = digits.parse().with_context(|| format!("{text} is no length of time"))?;
    Duration::try_from_secs_f64(number * unit).with_context(|| format!("{text} is no length of time"))
}

/// Percent-encodes a query parameter.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// GETs a path of the server.
async fn get(client: &kube::Client, path: &str) -> anyhow::Result<serde_json::Value> {
    let request = http::Request::get(path).body(Vec::new())?;
    let text = client.request_text(request).await.map_err(said)?;
    serde_json::from_str(&text).with_context(|| format!("the answer to {path} is not JSON"))
}

/// What the server said, or else why it could not be asked. The texts of `kube` are for programmers, and repeat their causes'.
pub fn said(error: kube::Error) -> anyhow::Error {
    if let Some(status) = pharos_client::status_of(&error) {
        // Prometheus' API has errors of its own form.
        let own: Option<serde_json::Value> = serde_json::from_str(&status.message).ok();
        let message = own.as_ref().and_then(|own| own["error"].as_str()).unwrap_or(&status.message).trim();
        return match message {
            "" => anyhow::anyhow!("the server answered with code {}", status.code),
            message => anyhow::anyhow!("{message}"),
        };
    }
    let mut texts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source()) {
        let text = cause.to_string();
        if !texts.iter().any(|outer| outer.contains(&text)) {
            texts.push(text);
        }
    }
    anyhow::anyhow!("{}", texts.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_quoted_once() {
        let status = |message: &str| kube::core::Status { message: message.into(), code: 400, ..Default::default() };
        for (message, expected) in [
            ("parse error at line 1, col 2: syntax error\n", "parse error at line 1, col 2: syntax error"),
            (r#"{"status":"error","errorType":"bad_data","error":"unexpected end of input"}"#, "unexpected end of input"),
            (r#"secrets "bootstrap-token-x" not found"#, r#"secrets "bootstrap-token-x" not found"#),
            ("", "the server answered with code 400"),
        ] {
            let error = said(kube::Error::Api(Box::new(status(message))));
            assert_eq!(format!("{error:#}"), expected);
        }
        let refused = std::io::Error::other("connection refused");
        assert_eq!(format!("{:#}", said(kube::Error::Service(refused.into()))), "ServiceError: connection refused");
    }

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("7d", 604_800), ("0", 0)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "h", "1y", "-1s", "1h30m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
