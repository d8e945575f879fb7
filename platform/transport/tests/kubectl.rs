//! Exec and port-forward as kubectl does them, over WebSocket and over SPDY.
//!
//! Runs `$KUBECTL`, or the `kubectl` on the path; without one it says so and proves nothing.

#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub, reason = "a test")]

mod support;

use std::{
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use pharos_transport::{
    Io,
    port_forward::serve_port_forward,
    remote_command::{ExitOutcome, Options, Streams, serve_exec},
};
use support::{Server, Setup};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

const WEBSOCKETS: [&str; 2] = ["true", "false"];

/// A pod's node: `cat` echoes its input, `fail` complains and fails, `large` sends 5 MB, and every port echoes.
async fn node() -> (Server, JoinSet<()>) {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = echo.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            let mut text = Vec::new();
            stream.read_to_end(&mut text).await.unwrap();
            stream.write_all(&text).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let upgrade: support::Upgrade = Arc::new(move |head, io| {
        Box::pin(async move {
            let query = head.uri().query().unwrap_or_default().to_owned();
            let has = |name: &str| query.split('&').any(|pair| pair == format!("{name}=true"));
            let served = if head.uri().path().ends_with("/portforward") {
                let connect = move |port| async move {
                    if port == 81 {
                        return Err("connection refused by port 81".to_owned());
                    }
                    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
                    Ok(Box::new(stream) as Io)
                };
                serve_port_forward(head, io, connect).await
            } else {
                let options = Options { stdin: has("stdin"), stdout: has("stdout"), stderr: has("stderr"), tty: has("tty") };
                let command = query.split('&').find_map(|pair| pair.strip_prefix("command=")).unwrap_or_default().to_owned();
                serve_exec(head, io, options, move |streams| run(command, streams)).await
            };
            served.unwrap();
        })
    });
    (Server::start(Setup { upgrade: Some(upgrade), ..Setup::default() }).await, tasks)
}

async fn run(command: String, mut streams: Streams) -> ExitOutcome {
    let mut stdout = streams.stdout.take().unwrap();
    match command.as_str() {
        "cat" => {
            tokio::io::copy(&mut streams.stdin.take().unwrap(), &mut stdout).await.unwrap();
            ExitOutcome::Success
        }
        "large" => {
            stdout.write_all(&vec![b'l'; 5_000_000]).await.unwrap();
            ExitOutcome::Success
        }
        "fail" => {
            streams.stderr.take().unwrap().write_all(b"it failed\n").await.unwrap();
            ExitOutcome::ExitCode(42)
        }
        _ => ExitOutcome::Error("no such command".to_owned()),
    }
}

fn kubectl(server: &Server, websockets: &str, arguments: &[&str]) -> Option<Child> {
    let program = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let child = Command::new(program)
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
        .env("HOME", server.dir())
        .arg("--token=any")
        .arg(format!("--server={}", server.url("")))
        .arg(format!("--certificate-authority={}", server.ca_file().display()))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    match child {
        Ok(child) => Some(child),
        Err(error) => {
            eprintln!("SKIPPED, proves nothing: no kubectl ({error})");
            None
        }
    }
}

async fn finish(mut child: Child, input: &[u8]) -> Output {
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("kubectl ends").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exec() {
    let (server, _tasks) = node().await;
    for websockets in WEBSOCKETS {
        let input: Vec<u8> = (0..1_000_000u32).flat_map(|n| n.to_string().into_bytes()).collect();
        let Some(child) = kubectl(&server, websockets, &["exec", "-i", "web", "--", "cat"]) else { return };
        let output = finish(child, &input).await;
        assert!(output.status.success(), "{websockets}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == input, "{websockets}: {} bytes of {}", output.stdout.len(), input.len());

        let child = kubectl(&server, websockets, &["exec", "web", "--", "large"]).unwrap();
        let output = finish(child, b"").await;
        assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 5_000_000), "{websockets}");

        let child = kubectl(&server, websockets, &["exec", "web", "--", "fail"]).unwrap();
        let output = finish(child, b"").await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(42), "{websockets}: {stderr}");
        assert_eq!(stderr, "it failed\ncommand terminated with exit code 42\n", "{websockets}");

        let child = kubectl(&server, websockets, &["exec", "web", "--", "nothing"]).unwrap();
        let output = finish(child, b"").await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("no such command") && output.status.code() == Some(1), "{websockets}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward() {
    let (server, _tasks) = node().await;
    for websockets in WEBSOCKETS {
        let arguments = ["port-forward", "--address=127.0.0.1", "pod/web", ":80", ":81"];
        let Some(mut child) = kubectl(&server, websockets, &arguments) else { return };
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ports = Vec::new();
        while ports.len() < 2 {
            let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap();
            let Some(line) = line else { panic!("{websockets}: {:?}", child.wait_with_output().await) };
            let port = line.split(" -> ").next().unwrap().rsplit(':').next().unwrap();
            ports.push(port.parse::<u16>().unwrap());
        }
        for _ in 0..5 {
            let mut stream = TcpStream::connect(("127.0.0.1", ports[0])).await.unwrap();
            let sent = vec![b'p'; 500_000];
            stream.write_all(&sent).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = Vec::new();
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await.unwrap().unwrap();
            assert!(got == sent, "{websockets}: {} bytes", got.len());
        }
        let mut stream = TcpStream::connect(("127.0.0.1", ports[1])).await.unwrap();
        let mut got = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut got)).await.unwrap();
        let mut complaints = BufReader::new(child.stderr.take().unwrap()).lines();
        let complaint = tokio::time::timeout(Duration::from_secs(20), complaints.next_line()).await.unwrap().unwrap();
        assert!(complaint.as_ref().is_some_and(|line| line.contains("refused by port 81")), "{websockets}: {complaint:?}");
        child.kill().await.unwrap();
    }
}
