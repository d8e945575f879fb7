use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use prometheus::{IntCounter, IntGauge, Registry};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{Backoff, Clock, Component, Ctx, Register as _, Registries, health::Health};

/// How long a component may take to say that it is ready before `start` gives up waiting (it keeps trying).
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How long a component and its tasks may take to stop before they are aborted.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long an aborted component may take to let go of what it holds.
const ABORT_DEADLINE: Duration = Duration::from_secs(1);
/// A run that lasted this long was healthy: the next restart waits the shortest time again.
const HEALTHY_RUN: Duration = Duration::from_secs(60);

/// Starts components in order, restarts those that fail, and stops them in reverse order.
pub struct Supervisor {
    registries: Registries,
    health: Health,
    clock: Clock,
    running: Vec<Running>,
}

struct Running {
    name: &'static str,
    token: CancellationToken,
    // Ends the tasks that are left when the deadline is over.
    abort: CancellationToken,
    running_tasks: IntGauge,
    handle: JoinHandle<()>,
}

/// Why a component could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A component of this name runs already: a bug in the wiring.
    #[error("component {0} is started twice")]
    Twice(&'static str),
    /// It has not said that it is ready; it still runs and may become so.
    #[error("component {0} is not ready after {1:?}")]
    NotReady(&'static str, Duration),
    /// Its standard metrics clash with its own: a bug in the component.
    #[error("register metrics of component {0}")]
    Metrics(&'static str, #[source] prometheus::Error),
}

/// What every component emits whether it wants to or not.
struct Standard {
    ready: IntGauge,
    restarts: IntCounter,
    tasks: IntGauge,
}

// === impl Supervisor ===

impl Supervisor {
    /// A supervisor that adds each component's readiness to `health` and its metrics to `registries`.
    #[must_use]
    pub fn new(registries: Registries, health: Health, clock: Clock) -> Self {
        Self { registries, health, clock, running: Vec::new() }
    }

    /// The registry to build a component with.
    #[must_use]
    pub fn registry(&self, component: &str) -> Registry {
        self.registries.of(component)
    }

    /// Starts a component and waits until it is ready.
    ///
    /// A run that returns before it was asked to stop, fails or panics, itself or in one of its tasks, is started again after
    /// a wait that doubles from 100 ms to 30 s, and once its tasks have ended.
    ///
    /// # Errors
    /// See [`StartError`]. After [`StartError::NotReady`] the component runs on.
    pub async fn start<C: Component>(&mut self, component: C) -> Result<(), StartError> {
        let mut ready = self.launch(component)?;
        let name = self.running.last().map_or(C::NAME, |r| r.name);
        match tokio::time::timeout(READY_DEADLINE, ready.wait_for(|ready| *ready)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StartError::NotReady(name, READY_DEADLINE)),
        }
    }

    /// Starts a component without waiting for it.
    ///
    /// # Errors
    /// When the component runs already or its metrics clash.
    pub fn launch<C: Component>(&mut self, component: C) -> Result<watch::Receiver<bool>, StartError> {
        let name = C::NAME;
        if self.running.iter().any(|r| r.name == name) {
            return Err(StartError::Twice(name));
        }
        let standard = Standard::new(&self.registries.of(name)).map_err(|e| StartError::Metrics(name, e))?;
        let (token, abort) = (CancellationToken::new(), CancellationToken::new());
        let ready = Arc::new(watch::Sender::new(false));
        let receiver = ready.subscribe();
        let probe = receiver.clone();
        self.health.add(
            format!("component/{name}"),
            false,
            move || {
                if *probe.borrow() { Ok(()) } else { Err("not ready".to_owned()) }
            },
        );
        let ctx = Ctx {
            name,
            token: token.clone(),
            abort: abort.clone(),
            ready,
            failed: Arc::default(),
            tasks: TaskTracker::new(),
            running_tasks: standard.tasks.clone(),
            clock: self.clock.clone(),
        };
        let running_tasks = standard.tasks.clone();
        let span = tracing::info_span!("component", component = name);
        #[expect(clippy::disallowed_methods, reason = "the one place where components start")]
        let handle = tokio::spawn(supervise(component, ctx, standard).instrument(span));
        self.running.push(Running { name, token, abort, running_tasks, handle });
        Ok(receiver)
    }

    /// Stops every component, the last started first. One that overruns its deadline is aborted and named in the log.
    pub async fn stop(mut self) {
        while let Some(running) = self.running.pop() {
            running.stop().await;
        }
    }
}

impl Running {
    async fn stop(mut self) {
        self.token.cancel();
        // It awaits the tasks of its run, too.
        if tokio::time::timeout(STOP_DEADLINE, &mut self.handle).await.is_ok() {
            tracing::debug!(component = self.name, "component stopped");
            return;
        }
        tracing::warn!(component = self.name, tasks = self.running_tasks.get(), "component overran its stop deadline");
        // Tasks end where they next wait; what blocks its thread is not waited for.
        self.abort.cancel();
        if tokio::time::timeout(ABORT_DEADLINE, &mut self.handle).await.is_err() {
            self.handle.abort();
        }
    }
}

impl Standard {
    fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            ready: registry.gauge("pharos_component_ready", "Whether the component has said that it is ready.")?,
            restarts: registry
                .counter("pharos_component_restarts_total", "Runs of the component that ended before it was stopped.")?,
            tasks: registry.gauge("pharos_component_tasks", "Tasks of the component that run now.")?,
        })
    }
}

/// Runs a component until it is asked to stop.
async fn supervise<C: Component>(component: C, ctx: Ctx, standard: Standard) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    while !ctx.is_stopped() {
        let started = Instant::now();
        // Tokens and tasks of its own, so that the tasks of a run that failed end with it.
        let run = Ctx {
            token: ctx.token.child_token(),
            abort: ctx.abort.child_token(),
            failed: Arc::default(),
            tasks: TaskTracker::new(),
            ..ctx.clone()
        };
        let outcome = run_once(&component, &run, &standard).await;
        run.token.cancel();
        standard.ready.set(0);
        ctx.ready.send_replace(false);
        if ctx.is_stopped() {
            end_tasks(&run).await;
            return;
        }
        standard.restarts.inc();
        if started.elapsed() >= HEALTHY_RUN {
            backoff.reset();
        }
        let wait = backoff.next_wait();
        tracing::error!(
            error = outcome,
            attempt = backoff.attempt(),
            wait_seconds = wait.as_secs_f64(),
            "component ended, starting it again"
        );
        let pause = async {
            tokio::select! {
                () = ctx.stopped() => {}
                () = tokio::time::sleep(wait) => {}
            }
        };
        tokio::join!(pause, end_tasks(&run));
    }
}

/// Waits until the tasks of a run that was told to stop have ended; those that overrun the deadline are aborted.
async fn end_tasks(run: &Ctx) {
    run.tasks.close();
    if tokio::time::timeout(STOP_DEADLINE, run.tasks.wait()).await.is_err() {
        tracing::warn!(tasks = run.tasks.len(), "tasks overran their stop deadline");
        run.abort.cancel();
        let _ = tokio::time::timeout(ABORT_DEADLINE, run.tasks.wait()).await;
    }
}

/// One run: returns why it ended, as text for the log. Mirrors readiness into the metric meanwhile.
async fn run_once<C: Component>(component: &C, ctx: &Ctx, standard: &Standard) -> String {
    let mut ready = ctx.ready.subscribe();
    let mirror = async {
        while ready.changed().await.is_ok() {
            if *ready.borrow() {
                standard.ready.set(1);
                tracing::info!("component is ready");
            }
        }
        std::future::pending::<()>().await;
    };
    let mut failures = ctx.failed.subscribe();
    let task = async {
        let failed = failures.wait_for(|failed| failed.is_some()).await.ok().and_then(|failed| failed.clone());
        match failed {
            Some(failed) => failed,
            None => std::future::pending().await,
        }
    };
    let run = AssertUnwindSafe(component.run(ctx.clone())).catch_unwind();
    tokio::select! {
        () = mirror => "unreachable".to_owned(),
        failed = task => failed,
        outcome = run => match outcome {
            Ok(Ok(())) => "returned before it was stopped".to_owned(),
            Ok(Err(error)) => chain(&error),
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        },
    }
}

/// An error with its causes, `outer: inner: …`.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
