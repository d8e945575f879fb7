//! What every runtime must do, run against each. Needs root; `PHAROS_RUNTIME_BEHAVIOUR=<part of a name>` runs some of it.

mod bench;
mod behaviours;
mod dockerd;
mod registry;

use std::path::PathBuf;
use std::sync::Arc;

use bench::{Bench, Outcome};
use pharos_runtime::{Docker, DockerConfig, Embedded, EmbeddedConfig, Runtime};

fn main_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a tokio runtime")
}

/// Whether the suite can run here; says so loudly when not.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: the runtime suite needs root");
    }
    root
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn run_all(bench: &mut Bench) -> Vec<String> {
    let only = std::env::var("PHAROS_RUNTIME_BEHAVIOUR").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, behaviour) in behaviours::ALL.iter().filter(|(name, _)| name.contains(&only)) {
        let started = tokio::time::Instant::now();
        let outcome: Outcome = match tokio::time::timeout(std::time::Duration::from_secs(90), behaviour(bench)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("timed out".into()),
        };
        let elapsed = started.elapsed().as_millis();
        match outcome {
            Ok(()) => eprintln!("ok   {name} ({elapsed} ms)"),
            Err(error) => {
                let error = chain(error.as_ref());
                eprintln!("FAIL {name} ({elapsed} ms): {error}");
                failed.push(format!("{name}: {error}"));
            }
        }
        if let Err(error) = bench.clear().await {
            failed.push(format!("{name}: clearing up: {}", chain(error.as_ref())));
        }
    }
    failed
}

#[test]
fn embedded_runtime() {
    if !is_root() {
        return;
    }
    let dir = std::env::temp_dir().join(format!("pharos-runtime-{}", std::process::id()));
    let cgroup = format!("/pharos-test-{}", std::process::id());
    let config = EmbeddedConfig {
        root: dir.join("root"),
        state: dir.join("state"),
        cgroup_parent: cgroup.clone(),
        helper: PathBuf::from(env!("CARGO_BIN_EXE_pharos-shim")),
        ..EmbeddedConfig::default()
    };
    let failed = main_runtime().block_on(async {
        let parent = config.cgroup_parent.clone();
        let open = move || {
            let config = config.clone();
            Box::pin(async move { Embedded::open(config).await.map(|runtime| Arc::new(runtime) as Arc<dyn Runtime>) })
                as bench::Opening
        };
        let mut bench = Bench::new(dir.clone(), parent, Box::new(open)).await.expect("the runtime opens");
        run_all(&mut bench).await
    });
    let left = bench::leftovers(&dir);
    bench::sweep(&dir, &cgroup);
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(left, Vec::<String>::new(), "left behind");
}

#[test]
fn docker_runtime() {
    if !is_root() {
        return;
    }
    if !std::path::Path::new("/usr/sbin/dockerd").exists() {
        eprintln!("SKIPPED: the runtime suite needs dockerd (Debian: docker.io)");
        return;
    }
    let dir = std::env::temp_dir().join(format!("pharos-docker-{}", std::process::id()));
    let daemon = dockerd::Dockerd::start(&dir).expect("dockerd starts");
    let cgroup = format!("/pharos-test-{}", std::process::id());
    let config = DockerConfig { socket: daemon.socket.clone(), state: dir.join("state"), cgroup_parent: cgroup.clone() };
    let failed = main_runtime().block_on(async {
        let parent = config.cgroup_parent.clone();
        let open = move || {
            let config = config.clone();
            Box::pin(async move { Docker::open(config).await.map(|runtime| Arc::new(runtime) as Arc<dyn Runtime>) })
                as bench::Opening
        };
        let mut bench = Bench::new(dir.clone(), parent, Box::new(open)).await.expect("the runtime opens");
        run_all(&mut bench).await
    });
    drop(daemon);
    bench::sweep(&dir, &cgroup);
    assert!(failed.is_empty(), "{failed:#?}");
}
