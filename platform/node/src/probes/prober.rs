//! Who asks when: one task for each probe of each running container (`prober/prober_manager.go`, `prober/worker.go`).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use pharos_client::Regarding;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Kind, Outcome, Thresholds, grpc, http, state::State};
use crate::{actions::Health, core::Core, metrics::Metrics};

/// A probe that can't be asked is tried so often before it counts as unknown.
const TRIES: usize = 3;

/// A running container that is to be probed.
pub(crate) struct Target<'a> {
    /// The pod.
    pub(crate) pod: &'a Pod,
    /// The part of the pod it is, for events.
    pub(crate) regarding: Regarding,
    /// Its definition.
    pub(crate) container: &'a Container,
    /// Its runtime ID.
    pub(crate) id: &'a str,
    /// When it was started.
    pub(crate) started_at: Timestamp,
    /// Where it is.
    pub(crate) ip: String,
    /// What it was known as before the kubelet was restarted: started, ready.
    pub(crate) before: (bool, bool),
}

/// The probes of one pod.
#[derive(Default)]
pub(crate) struct Probers {
    by_id: HashMap<String, Probed>,
}

struct Probed {
    kinds: Vec<Kind>,
    verdicts: Arc<Mutex<BTreeMap<Kind, bool>>>,
    _end: DropGuard,
}

struct Asker {
    core: Arc<Core>,
    kind: Kind,
    probe: Probe,
    regarding: Regarding,
    container: Container,
    id: String,
    ip: String,
    labels: [String; 4],
    started_at: Timestamp,
    state: State,
    verdicts: Arc<Mutex<BTreeMap<Kind, bool>>>,
    started: watch::Sender<bool>,
    wake: Arc<Notify>,
}

// === impl Probers ===

impl Probers {
    /// Whether the container of this ID is probed already.
    pub(crate) fn knows(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Forgets the containers that aren't listed; their probes end.
    pub(crate) fn retain(&mut self, running: impl Fn(&str) -> bool) {
        self.by_id.retain(|id, _| running(id));
    }

    /// What the probes say of a container.
    pub(crate) fn health(&self, id: &str) -> Health {
        let Some(probed) = self.by_id.get(id) else { return Health::GOOD };
        let verdicts = probed.verdicts.lock();
        let of = |kind: Kind| probed.kinds.contains(&kind).then(|| verdicts.get(&kind).copied());
        let startup = of(Kind::Startup);
        Health {
            started: startup.is_none_or(|verdict| verdict == Some(true)),
            ready: of(Kind::Readiness).is_none_or(|verdict| verdict == Some(true)),
            unhealthy: of(Kind::Liveness) == Some(Some(false)),
            startup_failed: startup == Some(Some(false)),
        }
    }

    /// Starts the probes of a container. `wake` is told when a verdict changes.
    pub(crate) fn start(&mut self, core: &Arc<Core>, target: &Target<'_>, wake: &Arc<Notify>) {
        let container = target.container;
        let probes = [
            (Kind::Startup, &container.startup_probe),
            (Kind::Liveness, &container.liveness_probe),
            (Kind::Readiness, &container.readiness_probe),
        ];
        let token = CancellationToken::new();
        let verdicts: Arc<Mutex<BTreeMap<Kind, bool>>> = Arc::default();
        let (was_started, was_ready) = target.before;
        let (started, _) = watch::channel(container.startup_probe.is_none() || was_started);
        let mut kinds = Vec::new();
        for (kind, probe) in probes {
            let Some(probe) = probe else { continue };
            kinds.push(kind);
            if kind == Kind::Startup && was_started {
                verdicts.lock().insert(kind, true);
                continue;
            }
            if kind == Kind::Readiness && was_ready {
                verdicts.lock().insert(kind, true);
            }
            let at_least = |value: Option<i32>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default).max(1);
            let thresholds =
                Thresholds { success: at_least(probe.success_threshold, 1), failure: at_least(probe.failure_threshold, 3) };
            let mut state = State::new(kind, thresholds);
            if kind == Kind::Readiness && was_ready {
                state.assume(true);
            }
            let asker = Asker {
                core: core.clone(),
                kind,
                probe: probe.clone(),
                regarding: target.regarding.clone(),
                container: container.clone(),
                id: target.id.to_owned(),
                ip: target.ip.clone(),
                labels: [
                    container.name.clone(),
                    crate::names::name(target.pod).to_owned(),
                    crate::names::namespace(target.pod).to_owned(),
                    crate::names::uid(target.pod).to_owned(),
                ],
                started_at: target.started_at,
                state,
                verdicts: verdicts.clone(),
                started: started.clone(),
                wake: wake.clone(),
            };
            let (stop, ctx) = (token.clone(), core.ctx.clone());
            core.ctx.spawn("probe", async move {
                tokio::select! {
                    () = ctx.stopped() => {}
                    () = stop.cancelled() => {}
                    () = asker.run() => {}
                }
            });
        }
        self.by_id.insert(target.id.to_owned(), Probed { kinds, verdicts, _end: token.drop_guard() });
    }
}

// === impl Asker ===

impl Asker {
    async fn run(mut self) {
        if self.kind != Kind::Startup {
            let mut started = self.started.subscribe();
            if started.wait_for(|started| *started).await.is_err() {
                return;
            }
        }
        let seconds =
            |value: Option<i32>, default: u64| Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).unwrap_or(default));
        let age = Duration::try_from(self.core.clock.now().duration_since(self.started_at)).unwrap_or_default();
        tokio::time::sleep(seconds(self.probe.initial_delay_seconds, 0).saturating_sub(age)).await;
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut tick = tokio::time::interval(period);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let asked = tokio::time::Instant::now();
            let outcome = self.ask(timeout).await;
            self.tell(&outcome, asked.elapsed());
            let Some(verdict) = self.state.observe(&outcome) else { continue };
            self.verdicts.lock().insert(self.kind, verdict);
            if self.kind == Kind::Startup && verdict {
                self.started.send_replace(true);
            }
            self.wake.notify_one();
            // A started container is started; a dead one is about to be replaced, and the next one is probed anew.
            if self.kind == Kind::Startup || self.kind == Kind::Liveness && !verdict {
                return;
            }
        }
    }

    async fn ask(&self, timeout: Duration) -> Outcome {
        let mut outcome = Outcome::Unknown(String::new());
        for _ in 0..TRIES {
            outcome = self.once(timeout).await;
            if !matches!(outcome, Outcome::Unknown(_)) {
                break;
            }
        }
        outcome
    }

    async fn once(&self, timeout: Duration) -> Outcome {
        let ports = self.container.ports.as_deref().unwrap_or_default();
        if let Some(exec) = &self.probe.exec {
            return exec_probe(&self.core, &self.id, exec.command.as_deref().unwrap_or_default(), timeout).await;
        }
        if let Some(action) = &self.probe.http_get {
            return match http::Get::new(action, &self.ip, ports, "kube-probe/1.37") {
                Ok(get) => http::probe(&get, timeout).await,
                Err(error) => Outcome::Unknown(error),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&self.ip);
            let port = match http::port(&action.port, ports) {
                Ok(port) => port,
                Err(error) => return Outcome::Unknown(error),
            };
            return match tokio::time::timeout(timeout, tokio::net::TcpStream::connect((host, port))).await {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    Outcome::Failure(format!("dial tcp {host}:{port}: connect: connection refused"))
                }
                Ok(Err(error)) => Outcome::Failure(format!("dial tcp {host}:{port}: {error}")),
                Err(_) => Outcome::Failure(format!("dial tcp {host}:{port}: i/o timeout")),
            };
        }
        if let Some(action) = &self.probe.grpc {
            let Ok(port) = u16::try_from(action.port) else {
                return Outcome::Unknown(format!("invalid port number: {}", action.port));
            };
            return grpc::probe(&self.ip, port, action.service.as_deref().unwrap_or_default(), timeout).await;
        }
        Outcome::Unknown(format!("missing probe handler for {}", self.container.name))
    }

    fn tell(&self, outcome: &Outcome, took: Duration) {
        let kind = self.kind.name();
        let result = match outcome {
            Outcome::Success => "successful",
            Outcome::Warning(message) => {
                self.core.recorder.warning(&self.regarding, "ProbeWarning", format!("{kind} probe warning: {message}"));
                "successful"
            }
            Outcome::Failure(message) => {
                self.core.recorder.warning(&self.regarding, "Unhealthy", format!("{kind} probe failed: {message}"));
                "failed"
            }
            Outcome::Unknown(message) => {
                let text = format!("{kind} probe errored and resulted in unknown state: {message}");
                self.core.recorder.warning(&self.regarding, "Unhealthy", text);
                "unknown"
            }
        };
        let [container, pod, namespace, uid] = &self.labels;
        self.core.metrics.probes.with_label_values(&[kind, result, container, pod, namespace, uid]).inc();
        // As upstream: a failure says nothing of how long an answer takes.
        if result != "failed" {
            self.core.metrics.probe_duration.with_label_values(&[kind, container, pod, namespace]).observe(took.as_secs_f64());
        }
    }
}

/// Forgets the series of a pod that is over: they would pile up (`workers.stop` upstream).
pub(crate) fn forget(metrics: &Metrics, pod: &Pod) {
    let (name, namespace, uid) = (crate::names::name(pod), crate::names::namespace(pod), crate::names::uid(pod));
    let spec = pod.spec.iter();
    for container in spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten())) {
        for kind in [Kind::Startup, Kind::Readiness, Kind::Liveness].map(Kind::name) {
            for result in ["successful", "failed", "unknown"] {
                let _ = metrics.probes.remove_label_values(&[kind, result, &container.name, name, namespace, uid]);
            }
            let _ = metrics.probe_duration.remove_label_values(&[kind, &container.name, name, namespace]);
        }
    }
}

async fn exec_probe(core: &Core, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match core.runtime.exec_sync(id, command, timeout).await {
        Ok(done) => {
            let mut text = done.stdout;
            text.extend_from_slice(&done.stderr);
            text.truncate(10 * 1024);
            let text = String::from_utf8_lossy(&text).into_owned();
            if done.exit_code == 0 { Outcome::Success } else { Outcome::Failure(text) }
        }
        Err(pharos_runtime::Error::DeadlineExceeded { .. }) => {
            Outcome::Failure(format!("command timed out: {} timed out after {}s", shown(command), timeout.as_secs()))
        }
        Err(error) => Outcome::Unknown(error.chain()),
    }
}

fn shown(command: &[String]) -> String {
    format!("{:?}", command.join(" "))
}
