//! Exec, attach and port-forward: the client's streams joined to the runtime's, or to a port in the pod's network namespace.

use std::{fs::File, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use http::Request;
use nix::sched::{CloneFlags, setns};
use pharos_runtime::types::{ExecRequest, Streams, TerminalSize};
use pharos_transport::{
    Io, port_forward,
    remote_command::{self, ExitOutcome, Options},
};
use tokio::{net::TcpStream, sync::mpsc};

use crate::core::Core;

/// How long a port in a pod may take to answer.
const DIAL: Duration = Duration::from_secs(10);

/// What a stream is joined to.
pub(crate) enum Target {
    /// A new process.
    Exec {
        /// The container.
        id: String,
        /// What to run.
        command: Vec<String>,
        /// Which streams.
        options: Options,
    },
    /// The container's own process.
    Attach {
        /// The container.
        id: String,
        /// Which streams.
        options: Options,
    },
    /// Ports.
    PortForward {
        /// The pod's network namespace; none with the node's network.
        netns: Option<PathBuf>,
    },
}

/// Serves one upgraded connection to its end.
pub(crate) async fn serve(core: &Arc<Core>, target: Target, request: Request<()>, io: Io) -> Result<(), String> {
    let runtime = core.runtime.clone();
    match target {
        Target::Exec { id, command, options } => {
            if command.is_empty() {
                let refused =
                    http::Response::builder().status(400).body("you must specify at least 1 command for the exec".into());
                let response = refused.map_err(|error| error.to_string())?;
                return pharos_transport::websocket::refuse(io, response).await.map_err(|error| error.to_string());
            }
            let exec = ExecRequest { container_id: id, cmd: command, tty: options.tty };
            remote_command::serve_exec(request, io, options, |streams| async move {
                match runtime.exec(&exec, joined(streams)).await {
                    Ok(0) => ExitOutcome::Success,
                    Ok(code) => ExitOutcome::ExitCode(code),
                    Err(error) => ExitOutcome::Error(error.chain()),
                }
            })
            .await
        }
        Target::Attach { id, options } => {
            remote_command::serve_exec(request, io, options, |streams| async move {
                match runtime.attach(&id, joined(streams)).await {
                    Ok(()) => ExitOutcome::Success,
                    Err(error) => ExitOutcome::Error(error.chain()),
                }
            })
            .await
        }
        Target::PortForward { netns } => port_forward::serve_port_forward(request, io, |port| dial(netns.clone(), port)).await,
    }
    .map_err(|error| error.to_string())
}

/// The client's streams as the runtime takes them.
fn joined(streams: remote_command::Streams) -> Streams {
    Streams {
        stdin: streams.stdin.map(|stream| Box::new(stream) as _),
        stdout: streams.stdout.map(|stream| Box::new(stream) as _),
        stderr: streams.stderr.map(|stream| Box::new(stream) as _),
        resize: streams.resize.map(sizes),
    }
}

/// The same sizes in the runtime's type.
fn sizes(mut from: mpsc::Receiver<remote_command::TerminalSize>) -> mpsc::Receiver<TerminalSize> {
    // Few: a full channel holds the client back, and only the newest size matters.
    let (sender, receiver) = mpsc::channel(4);
    #[expect(clippy::disallowed_methods, reason = "ends with the session, which holds both ends of the channel")]
    tokio::spawn(async move {
        while let Some(size) = from.recv().await {
            if sender.send(TerminalSize { width: size.width, height: size.height }).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Connects to a port of the pod's loopback.
async fn dial(netns: Option<PathBuf>, port: u16) -> Result<Io, String> {
    let fail = |error: &dyn std::fmt::Display| format!("failed to connect to localhost:{port} inside namespace: {error}");
    let addresses = [SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port))];
    let Some(netns) = netns else {
        let stream = tokio::time::timeout(DIAL, TcpStream::connect(addresses.as_slice())).await;
        return Ok(Box::new(stream.map_err(|error| fail(&error))?.map_err(|error| fail(&error))?));
    };
    // A thread of its own: it can never be lent to anything else after it has changed its namespace.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("port-forward".to_owned())
        .spawn(move || {
            let dialed = File::open(&netns)
                .and_then(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into))
                .and_then(|()| {
                    let first = std::net::TcpStream::connect_timeout(&addresses[0], DIAL);
                    first.or_else(|error| std::net::TcpStream::connect_timeout(&addresses[1], DIAL).map_err(|_| error))
                });
            let _ = sender.send(dialed);
        })
        .map_err(|error| fail(&error))?;
    let stream = receiver.await.map_err(|error| fail(&error))?.map_err(|error| fail(&error))?;
    stream.set_nonblocking(true).map_err(|error| fail(&error))?;
    Ok(Box::new(TcpStream::from_std(stream).map_err(|error| fail(&error))?))
}
