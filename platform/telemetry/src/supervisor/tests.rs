use std::{
    convert::Infallible,
    sync::atomic::{AtomicU32, Ordering},
};

use super::*;
use crate::health::Endpoint;

fn supervisor() -> (Supervisor, Registries, Health) {
    let (registries, health) = (Registries::default(), Health::default());
    (Supervisor::new(registries.clone(), health.clone(), Clock::system()), registries, health)
}

struct Steady(Arc<parking_lot::Mutex<Vec<&'static str>>>);

impl Component for Steady {
    const NAME: &'static str = "steady";
    type Error = Infallible;

    async fn run(&self, ctx: Ctx) -> Result<(), Infallible> {
        let order = self.0.clone();
        let stopped = ctx.clone();
        ctx.spawn("side", async move {
            stopped.stopped().await;
            order.lock().push("task");
        });
        ctx.ready();
        ctx.stopped().await;
        self.0.lock().push("run");
        Ok(())
    }
}

struct Flaky(Arc<AtomicU32>);

#[derive(Debug, thiserror::Error)]
#[error("run {0} failed")]
struct Failed(u32);

impl Component for Flaky {
    const NAME: &'static str = "flaky";
    type Error = Failed;

    async fn run(&self, ctx: Ctx) -> Result<(), Failed> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Failed(0)),
            1 => panic!("second run"),
            _ => {
                ctx.ready();
                ctx.stopped().await;
                Ok(())
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_component_is_started_again() {
    let (mut supervisor, registries, health) = supervisor();
    let runs = Arc::new(AtomicU32::new(0));
    supervisor.start(Flaky(runs.clone())).await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    let text = registries.encode("flaky").unwrap().unwrap();
    assert!(text.contains("pharos_component_restarts_total 2"), "{text}");
    let (ready, _) = health.report(Endpoint::Readyz, Some("component/flaky"), false, &Default::default()).unwrap();
    assert!(ready);
    supervisor.stop().await;
    let (ready, _) = health.report(Endpoint::Readyz, Some("component/flaky"), false, &Default::default()).unwrap();
    assert!(!ready, "a stopped component is not ready");
}

#[tokio::test(start_paused = true)]
async fn stop_waits_for_tasks() {
    let (mut supervisor, ..) = supervisor();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    supervisor.start(Steady(order.clone())).await.unwrap();
    assert!(matches!(supervisor.start(Steady(order.clone())).await, Err(StartError::Twice("steady"))));
    supervisor.stop().await;
    let mut seen = order.lock().clone();
    seen.sort_unstable();
    assert_eq!(seen, ["run", "task"]);
}

struct Leaky(Arc<AtomicU32>);

impl Component for Leaky {
    const NAME: &'static str = "leaky";
    type Error = Failed;

    async fn run(&self, ctx: Ctx) -> Result<(), Failed> {
        let (left, task) = (self.0.clone(), ctx.clone());
        left.fetch_add(1, Ordering::SeqCst);
        ctx.spawn("side", async move {
            task.stopped().await;
            left.fetch_sub(1, Ordering::SeqCst);
        });
        ctx.ready();
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err(Failed(0))
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_end_with_their_run() {
    let (mut supervisor, ..) = supervisor();
    let tasks = Arc::new(AtomicU32::new(0));
    supervisor.start(Leaky(tasks.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(tasks.load(Ordering::SeqCst) <= 1, "tasks of failed runs are left");
    supervisor.stop().await;
}

struct Deaf;

impl Component for Deaf {
    const NAME: &'static str = "deaf";
    type Error = Infallible;

    async fn run(&self, _: Ctx) -> Result<(), Infallible> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn deadlines_hold() {
    let (mut supervisor, ..) = supervisor();
    assert!(matches!(supervisor.start(Deaf).await, Err(StartError::NotReady("deaf", _))));
    supervisor.stop().await;
}

/// Lets go of what it counts only when it is dropped, whoever asks.
struct Held(Arc<AtomicU32>);

impl Held {
    fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Fails at once if told to; its task never ends by itself.
struct Stubborn {
    held: Arc<AtomicU32>,
    fails: bool,
}

impl Component for Stubborn {
    const NAME: &'static str = "stubborn";
    type Error = Failed;

    async fn run(&self, ctx: Ctx) -> Result<(), Failed> {
        let held = Held::new(&self.held);
        ctx.spawn("side", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        ctx.ready();
        if self.fails {
            return Err(Failed(0));
        }
        ctx.stopped().await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn tasks_that_overrun_the_deadline_are_aborted() {
    for fails in [false, true] {
        let (mut supervisor, registries, _) = supervisor();
        let held = Arc::new(AtomicU32::new(0));
        supervisor.launch(Stubborn { held: held.clone(), fails }).unwrap();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(held.load(Ordering::SeqCst) <= 1, "a run began before the tasks of the last had ended");
        }
        supervisor.stop().await;
        tokio::task::yield_now().await;
        assert_eq!(held.load(Ordering::SeqCst), 0, "a task outlives its component");
        let text = registries.encode("stubborn").unwrap().unwrap();
        assert!(text.contains("pharos_component_tasks 0"), "{text}");
    }
}

/// Works, but for its first run's task.
struct Hollow(Arc<AtomicU32>);

impl Component for Hollow {
    const NAME: &'static str = "hollow";
    type Error = Infallible;

    async fn run(&self, ctx: Ctx) -> Result<(), Infallible> {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        ctx.spawn("side", async move {
            if first {
                tokio::time::sleep(Duration::from_secs(1)).await;
                panic!("no more");
            }
            std::future::pending::<()>().await;
        });
        ctx.ready();
        ctx.stopped().await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_task_fails_the_component() {
    let (mut supervisor, registries, health) = supervisor();
    let runs = Arc::new(AtomicU32::new(0));
    supervisor.start(Hollow(runs.clone())).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    let text = registries.encode("hollow").unwrap().unwrap();
    assert!(text.contains("pharos_component_restarts_total 1"), "{text}");
    let (ready, _) = health.report(Endpoint::Readyz, Some("component/hollow"), false, &Default::default()).unwrap();
    assert!(ready, "the second run is ready");
    supervisor.stop().await;
}

#[test]
fn ready_is_said_once() {
    let ctx = Ctx::for_test(Default::default());
    let mut seen = ctx.ready.subscribe();
    ctx.ready();
    assert!(*seen.borrow_and_update() && ctx.is_ready());
    ctx.ready();
    assert!(!seen.has_changed().unwrap());
}
