use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
};
use pharos_telemetry::Ctx;
use tokio::{sync::mpsc, time::Instant};

use crate::errors::is_not_found;

/// Events that wait to be written. When full, new ones are dropped: an event is a courtesy, its cause is in the log.
const QUEUE: usize = 1000;
/// Distinct events that are remembered, to be counted rather than written again (client-go's `maxLruCacheEntries`).
const REMEMBERED: usize = 4096;
/// More than so many different messages of one reason about one object within ten minutes are told as one.
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// Events about one object: so many at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Tells users what happened to an object, as Events that `kubectl describe` shows. Cheap to clone.
///
/// Repeated events are counted on the first one, many similar ones told as one, and floods cut off, with client-go's limits
/// (`tools/record/events_cache.go`).
#[derive(Clone)]
pub struct Recorder(mpsc::Sender<Told>);

/// The object that an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for cluster-scoped objects, whose events go to `default`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// A part of it, such as `spec.containers{web}`; empty for the whole.
    pub field_path: String,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Told {
    regarding: Regarding,
    kind: &'static str,
    reason: String,
    message: String,
}

// === impl Regarding ===

impl Regarding {
    /// A reference to a typed object.
    pub fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
            field_path: String::new(),
        }
    }

    /// The same object, one of its parts.
    #[must_use]
    pub fn part(mut self, field_path: impl Into<String>) -> Self {
        self.field_path = field_path.into();
        self
    }
}

// === impl Recorder ===

impl Recorder {
    /// Starts the writer as a task of the component. `reporter` is the event's source (`kubelet`, `deployment-controller`);
    /// `host` the node, for components of a node.
    #[must_use]
    pub fn start(ctx: &Ctx, client: Client, reporter: &str, host: Option<&str>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            reporter: reporter.to_owned(),
            host: host.map(str::to_owned),
            written: HashMap::new(),
            order: VecDeque::new(),
            similar: HashMap::new(),
            budget: HashMap::new(),
        };
        let ctx_ = ctx.clone();
        ctx.spawn("recorder", async move { writer.run(ctx_, receiver).await });
        Self(sender)
    }

    /// A recorder whose events go nowhere, for tests.
    #[must_use]
    pub fn discarding() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Tells of ordinary progress.
    pub fn normal(&self, regarding: &Regarding, reason: &str, message: impl Into<String>) {
        self.tell(regarding, "Normal", reason, message.into());
    }

    /// Tells of trouble.
    pub fn warning(&self, regarding: &Regarding, reason: &str, message: impl Into<String>) {
        self.tell(regarding, "Warning", reason, message.into());
    }

    fn tell(&self, regarding: &Regarding, kind: &'static str, reason: &str, message: String) {
        let told = Told { regarding: regarding.clone(), kind, reason: reason.to_owned(), message };
        if self.0.try_send(told).is_err() {
            tracing::debug!(reason, "event dropped, the queue is full");
        }
    }
}

/// The task that owns what has been told so far.
struct Writer {
    client: Client,
    reporter: String,
    host: Option<String>,
    written: HashMap<Told, (String, i32)>,
    order: VecDeque<Told>,
    similar: HashMap<(Regarding, &'static str, String), (Instant, HashSet<String>)>,
    budget: HashMap<Regarding, (f64, Instant)>,
}

// === impl Writer ===

impl Writer {
    async fn run(mut self, ctx: Ctx, mut receiver: mpsc::Receiver<Told>) {
        loop {
            let told = tokio::select! {
                biased;
                () = ctx.stopped() => return,
                told = receiver.recv() => told,
            };
            let Some(told) = told else { return };
            if !self.may_tell(&told.regarding) {
                tracing::debug!(reason = told.reason, "event dropped, too many about one object");
                continue;
            }
            let told = self.aggregate(told);
            if let Err(error) = self.write(&told, ctx.clock().now()).await {
                tracing::debug!(reason = told.reason, error = %error, "event was not written");
            }
        }
    }

    /// Whether the object has budget left.
    fn may_tell(&mut self, regarding: &Regarding) -> bool {
        let now = Instant::now();
        if self.budget.len() > REMEMBERED {
            self.budget.retain(|_, (left, at)| *left + at.elapsed().as_secs_f64() / REFILL_SECONDS < BURST);
        }
        let (left, at) = self.budget.entry(regarding.clone()).or_insert((BURST, now));
        *left = (*left + (now - *at).as_secs_f64() / REFILL_SECONDS).min(BURST);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    /// Replaces the message when too many different ones share a reason.
    fn aggregate(&mut self, told: Told) -> Told {
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, (since, _)| since.elapsed() < SIMILAR_WINDOW);
        }
        let now = Instant::now();
        let group = (told.regarding.clone(), told.kind, told.reason.clone());
        let (since, messages) = self.similar.entry(group).or_insert_with(|| (now, HashSet::new()));
        if since.elapsed() > SIMILAR_WINDOW {
            *since = now;
            messages.clear();
        }
        if messages.len() < SIMILAR {
            messages.insert(told.message.clone());
            return told;
        }
        if messages.contains(&told.message) {
            return told;
        }
        Told { message: format!("(combined from similar events): {}", told.message), ..told }
    }

    async fn write(&mut self, told: &Told, now: Timestamp) -> kube::Result<()> {
        let namespace = if told.regarding.namespace.is_empty() { "default" } else { &told.regarding.namespace };
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Some((name, count)) = self.written.get_mut(told) {
            let patch = serde_json::json!({"count": *count + 1, "lastTimestamp": Time(now)});
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => {
                    *count += 1;
                    return Ok(());
                }
                // It expired: tell it anew.
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}.{:x}", told.regarding.name, now.as_nanosecond());
        api.create(&PostParams::default(), &self.event(told, &name, namespace, now)).await?;
        if self.written.insert(told.clone(), (name, 1)).is_none() {
            self.order.push_back(told.clone());
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.written.remove(&oldest);
            }
        }
        Ok(())
    }

    fn event(&self, told: &Told, name: &str, namespace: &str, now: Timestamp) -> Event {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Event {
            metadata: ObjectMeta { name: some(name), namespace: some(namespace), ..ObjectMeta::default() },
            involved_object: ObjectReference {
                api_version: some(&told.regarding.api_version),
                kind: some(&told.regarding.kind),
                namespace: some(&told.regarding.namespace),
                name: some(&told.regarding.name),
                uid: some(&told.regarding.uid),
                field_path: some(&told.regarding.field_path),
                resource_version: None,
            },
            type_: Some(told.kind.to_owned()),
            reason: some(&told.reason),
            message: some(&told.message),
            source: Some(EventSource { component: some(&self.reporter), host: self.host.clone() }),
            reporting_component: some(&self.reporter),
            reporting_instance: self.host.clone(),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }
}
