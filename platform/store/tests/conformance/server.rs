//! An etcd of a test's own, on loopback and in a temporary folder.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pharos_store::{Etcd, EtcdConfig, EtcdMetrics};
use pharos_telemetry::Clock;
use prometheus::Registry;
use tempfile::TempDir;

/// A running etcd. It ends with this.
pub(crate) struct Server {
    dir: TempDir,
    client: u16,
    peer: u16,
    process: Option<Child>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let mut why = String::new();
        for _ in 0..5 {
            // Somebody else may take a port before etcd does.
            let [client, peer] = ports();
            let mut server = Self { dir: tempfile::tempdir().unwrap(), client, peer, process: None };
            match server.try_run().await {
                Ok(()) => return server,
                Err(error) => why = error,
            }
        }
        panic!("{why}");
    }

    /// Starts it again, and waits until it listens.
    pub(crate) async fn run(&mut self) {
        self.try_run().await.unwrap();
    }

    async fn try_run(&mut self) -> Result<(), String> {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(program());
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        command.args(["--name", "test", "--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("test={peer}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = self.process.insert(command.spawn().unwrap());
        for _ in 0..400 {
            if let Some(status) = process.try_wait().unwrap() {
                return Err(format!("etcd ended with {status}: {}", self.log()));
            }
            if tokio::net::TcpStream::connect(("127.0.0.1", self.client)).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(format!("etcd does not listen: {}", self.log()))
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Forgets everything it stored.
    pub(crate) fn wipe(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As a server has it, with keys of its own if `key_file` is of its own.
    pub(crate) fn config(&self, key_file: &str) -> EtcdConfig {
        EtcdConfig::new([self.url()], self.path(key_file))
    }

    pub(crate) async fn open(&self, config: EtcdConfig) -> Arc<Etcd> {
        let metrics = EtcdMetrics::new(&Registry::new()).unwrap();
        Etcd::open(config, Clock::system(), metrics).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Two ports that nobody listens on.
fn ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The etcd of this machine: in the `PATH`, or where the comparison with upstream keeps its programs.
fn program() -> PathBuf {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/pharos-conformance/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(home).chain([PathBuf::from("/usr/sbin")]);
    let found = folders.map(|folder| folder.join("etcd")).find(|file| file.is_file());
    found.expect("etcd is not installed; `scripts/deps test` installs it (Debian package etcd-server)")
}
