use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{Net, Output, eventually, image, root, run};

/// A cluster of the real binary: a server with its node, and agents that joined it. Stopped, and its traces removed, on drop.
pub struct Cluster {
    net: Net,
    /// The server's machine first.
    nodes: Vec<Node>,
    folder: tempfile::TempDir,
}

/// One process of the cluster.
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    data: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Cluster {
    /// A server with a node, ready.
    #[must_use]
    pub fn start() -> Self {
        Self::with(1, &[])
    }

    /// A server with further options, and room for so many machines in all.
    #[must_use]
    pub fn with(machines: usize, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("pharos-test-").tempdir().expect("a temporary folder");
        let net = Net::new(machines);
        let data = folder.path().join("server");
        let mut arguments = vec!["server".to_owned(), "--node-name=server".into(), format!("--data-dir={}", data.display())];
        arguments.push(format!("--write-kubeconfig={}", folder.path().join("kubeconfig").display()));
        arguments.extend(options.iter().map(|o| (*o).to_owned()));
        let server = Node { name: "server".into(), data, arguments, process: None };
        let mut cluster = Self { net, nodes: vec![server], folder };
        cluster.launch(0);
        if !options.contains(&"--disable=agent") {
            cluster.await_node("server");
        } else {
            eventually("the API answers", Duration::from_secs(30), || cluster.try_kubectl(&["get", "--raw", "/readyz"]));
        }
        cluster
    }

    /// Joins the next machine as an agent, and waits until its node is ready.
    pub fn join(&mut self, name: &str) {
        let index = self.nodes.len();
        let token = self.pharos(&["token", "create", "--kubeconfig", &self.kubeconfig().display().to_string()]);
        let data = self.folder.path().join(name);
        let arguments = vec![
            "agent".to_owned(),
            format!("--server=https://{}:6443", self.net.address(0)),
            format!("--token={}", token.trim()),
            format!("--node-name={name}"),
            format!("--data-dir={}", data.display()),
        ];
        self.nodes.push(Node { name: name.into(), data, arguments, process: None });
        self.launch(index);
        self.await_node(name);
    }

    fn await_node(&self, name: &str) {
        let path = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        eventually(&format!("node {name} is ready"), Duration::from_secs(60), || {
            match self.try_kubectl(&["get", "node", name, "-o", path]) {
                Ok(text) if text == "True" => Ok(()),
                Ok(text) | Err(text) => Err(format!("{text}\n{}", self.log_tail(name))),
            }
        });
    }

    /// Starts a node's process, or starts it again.
    pub fn launch(&mut self, node: usize) {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.log_path(&self.nodes[node].name)).expect("a log file");
        let mut command = self.net.command(node, &binary().display().to_string());
        command.args(&self.nodes[node].arguments).env("PHAROS_LOG", "info").env_remove("KUBECONFIG");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log file")).stderr(log);
        self.nodes[node].process = Some(command.spawn().expect("the binary starts"));
    }

    /// Kills a node's process as a power cut would, containers excepted.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.kill().expect("the process is ours");
            process.wait().expect("the process is ours");
        }
    }

    /// Asks a node's process to stop and waits for it.
    pub fn stop(&mut self, node: usize) {
        if let Some(mut process) = self.nodes[node].process.take() {
            let _ = run(Command::new("kill").arg(process.id().to_string()), "");
            for _ in 0..600 {
                if process.try_wait().expect("the process is ours").is_some() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
            process.kill().expect("the process is ours");
            process.wait().expect("the process is ours");
        }
    }

    /// The process ID of a node.
    #[must_use]
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].process.as_ref().expect("the node runs").id()
    }

    /// Where a node keeps its state.
    #[must_use]
    pub fn data(&self, node: usize) -> &Path {
        &self.nodes[node].data
    }

    /// The address of a node.
    #[must_use]
    pub fn address(&self, node: usize) -> String {
        self.net.address(node)
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The network of its machines.
    #[must_use]
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// A folder that goes with the cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command on a node's machine.
    #[must_use]
    pub fn command(&self, node: usize, program: &str) -> Command {
        let mut command = self.net.command(node, program);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path());
        command
    }

    /// A kubectl of a version, to be run on the server's machine.
    #[must_use]
    pub fn kubectl_command(&self, version: &str, arguments: &[&str]) -> Command {
        let mut command = self.command(0, &clients().join(format!("kubectl-{version}")).display().to_string());
        command.args(arguments);
        command
    }

    /// Runs the newest kubectl.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_of("1.37", arguments, "")
    }

    /// Runs a kubectl of a version with text on its standard input.
    #[must_use]
    pub fn kubectl_of(&self, version: &str, arguments: &[&str], input: &str) -> Output {
        run(&mut self.kubectl_command(version, arguments), input)
    }

    /// Standard output of kubectl, or what went wrong.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.kubectl(arguments);
        if output.ok() { Ok(output.stdout) } else { Err(output.stderr) }
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) {
        let _ = self.kubectl_of("1.37", &["apply", "-f", "-"], manifests).success();
    }

    /// Gets objects as JSON.
    #[must_use]
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat()).success();
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Asks the API of `prometheus` or `loki`.
    pub fn observe(&self, what: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let api = if what == "loki" { "loki/api/v1" } else { "api/v1" };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        let text = self.try_kubectl(&["get", "--raw", &format!("/observe/{what}/{api}/{path}?{}", query.finish())])?;
        serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
    }

    /// Runs `pharos` on the server's machine.
    #[must_use]
    pub fn pharos(&self, arguments: &[&str]) -> String {
        run(self.pharos_command().args(arguments), "").success()
    }

    /// `pharos`, to be run on the server's machine.
    #[must_use]
    pub fn pharos_command(&self) -> Command {
        self.command(0, &binary().display().to_string())
    }

    /// Runs `pharos image` on the images of the server's node, whatever comes of it.
    #[must_use]
    pub fn try_image(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(0, &binary().display().to_string());
        run(command.arg("image").args(arguments).arg("--data-dir").arg(&self.nodes[0].data), "")
    }

    /// Makes the demo image and loads it into a node.
    pub fn load_demo(&self, node: usize) {
        let archive = self.folder.path().join("demo.tar");
        if !archive.exists() {
            let _ = self.pharos(&["image", "build-demo", "--output", &archive.display().to_string()]);
        }
        self.load(node, &archive);
    }

    /// Makes the image [`BUSYBOX`](crate::BUSYBOX) and loads it into a node.
    pub fn load_busybox(&self, node: usize) {
        let archive = self.folder.path().join("busybox.tar");
        if !archive.exists() {
            image::busybox(&archive);
        }
        self.load(node, &archive);
    }

    /// Loads an image archive into a node.
    pub fn load(&self, node: usize, archive: &Path) {
        let data = self.nodes[node].data.display().to_string();
        let _ = self.pharos(&["image", "load", "--data-dir", &data, &archive.display().to_string()]);
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// The end of a node's log.
    #[must_use]
    pub fn log_tail(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log_path(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            for node in &self.nodes {
                eprintln!("--- end of {}'s log\n{}", node.name, self.log_tail(&node.name));
            }
            for what in [&["pods", "-o", "wide"][..], &["events", "--field-selector=type=Warning"]] {
                let output = self.kubectl(&[&["get", "--all-namespaces", "--request-timeout=5s"], what].concat());
                eprintln!("--- {}\n{}{}", what[0], output.stdout, output.stderr);
            }
        }
        for index in (0..self.nodes.len()).rev() {
            self.stop(index);
            // Containers outlive the server on purpose; the test's must go.
            let data = self.nodes[index].data.display().to_string();
            let output = run(Command::new(root().join("scripts/killall")).arg(&data), "");
            if !output.ok() {
                eprintln!("scripts/killall {data}: {}", output.stderr);
            }
        }
    }
}

/// The binary under test.
fn binary() -> PathBuf {
    std::env::var_os("PHAROS_BIN").map(PathBuf::from).expect("PHAROS_BIN names the binary; `make test` sets it")
}

/// The folder of kubectl and helm.
#[must_use]
pub fn clients() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let output = run(&mut Command::new(root().join("scripts/clients")), "");
        PathBuf::from(output.success().trim())
    })
}
