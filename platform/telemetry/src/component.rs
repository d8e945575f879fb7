use std::{
    future::Future,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
};

use futures::FutureExt as _;
use prometheus::IntGauge;
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use crate::{Clock, supervisor::panic_text};

/// A part of Pharos that runs: a loop that is observed.
///
/// What outlives a restart (settings, clients, metric handles) is in the value; what one run learns lives inside
/// [`Component::run`], which starts from nothing each time.
pub trait Component: Send + Sync + 'static {
    /// The name in metrics, logs, spans and health checks: upstream's where there is one (`kube-scheduler`).
    const NAME: &'static str;
    /// Why a run ended; the supervisor logs it and starts the component again.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Runs until [`Ctx::stopped`]. Calls [`Ctx::ready`] once it does its work.
    fn run(&self, ctx: Ctx) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What one run of a component is given: its readiness, its end, its tasks and its clock.
#[derive(Clone)]
pub struct Ctx {
    pub(crate) name: &'static str,
    pub(crate) token: CancellationToken,
    // Cancelled when tasks are out of time: what has not ended by itself is aborted.
    pub(crate) abort: CancellationToken,
    pub(crate) ready: Arc<watch::Sender<bool>>,
    // Why the run cannot go on: the first panic in one of its tasks.
    pub(crate) failed: Arc<watch::Sender<Option<String>>>,
    pub(crate) tasks: TaskTracker,
    pub(crate) running_tasks: IntGauge,
    pub(crate) clock: Clock,
}

impl Ctx {
    /// A context outside any supervisor, for tests of one component. Cancel the token to stop it.
    #[must_use]
    pub fn for_test(token: CancellationToken) -> Self {
        Self {
            name: "test",
            token,
            abort: CancellationToken::new(),
            ready: Arc::new(watch::Sender::new(false)),
            failed: Arc::default(),
            tasks: TaskTracker::new(),
            running_tasks: IntGauge::new("tasks", "Tasks.").expect("a constant name is valid"),
            clock: Clock::system(),
        }
    }

    /// The component's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Says that the component does its work; saying it again is no event. A dropped context never means ready.
    pub fn ready(&self) {
        self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    }

    /// Whether [`Ctx::ready`] was called.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Waits until the component is asked to stop. Cancel-safe.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// Whether the component was asked to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// A token that is cancelled when the component is asked to stop, to hand to library code.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Starts a task of this component: named, counted, inside the component's span, awaited at the end of the run.
    ///
    /// The task must end soon after [`Ctx::stopped`]; one that overruns the deadline is aborted. One that panics fails the run,
    /// which the supervisor then starts again: a component whose part is gone does not work, though it said it was ready.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let gauge = self.running_tasks.clone();
        gauge.inc();
        let guard = TaskGuard(gauge);
        let span = tracing::info_span!("task", task = name);
        let (abort, failed) = (self.abort.clone(), self.failed.clone());
        let (tell, own_handle) = oneshot::channel::<tokio::task::AbortHandle>();
        let handle = self.tasks.spawn(
            async move {
                let _guard = guard;
                let work = AssertUnwindSafe(future).catch_unwind();
                let outcome = tokio::select! {
                    biased;
                    outcome = work => outcome,
                    () = abort.cancelled() => {
                        if let Ok(own_handle) = own_handle.await {
                            own_handle.abort();
                        }
                        std::future::pending().await
                    }
                };
                match outcome {
                    Ok(output) => output,
                    Err(panic) => {
                        failed.send_if_modified(|failed| {
                            let first = failed.is_none();
                            if first {
                                *failed = Some(format!("task {name} panicked: {}", panic_text(&*panic)));
                            }
                            first
                        });
                        resume_unwind(panic)
                    }
                }
            }
            .instrument(span),
        );
        // Not received: it has ended already.
        let _ = tell.send(handle.abort_handle());
        handle
    }

    /// The clock to read dates from.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

/// Counts a task out when it ends, panics or is aborted.
struct TaskGuard(IntGauge);

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
