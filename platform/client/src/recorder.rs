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
/// From the tenth different message of one reason about one object on, they are told as one, until there was none for ten
/// minutes.
const SIMILAR: usize = 10;
const SIMILAR_WINDOW: Duration = Duration::from_secs(600);
/// What precedes the latest message of those that are told as one.
const COMBINED: &str = "(combined from similar events): ";
/// Events about one object: so many at once, then one in five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;

/// Tells users what happened to an object, as Events that `kubectl describe` shows. Cheap to clone.
///
/// Repeated events are counted on the first one, many similar ones told as one, and floods cut off, with client-go's limits
/// (`tools/record/events_cache.go`).
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Told>,
    /// See [`Recorder::doing`].
    action: &'static str,
    /// See [`Recorder::relating`].
    related: Option<Regarding>,
}

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
    action: &'static str,
    related: Option<Regarding>,
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
        let writer = Writer::new(client, reporter, host);
        let ctx_ = ctx.clone();
        ctx.spawn("recorder", async move { writer.run(ctx_, receiver).await });
        Self { queue: sender, action: "", related: None }
    }

    /// A recorder whose events go nowhere, for tests.
    #[must_use]
    pub fn discarding() -> Self {
        Self { queue: mpsc::channel(1).0, action: "", related: None }
    }

    /// The same recorder, for events that name what the component was doing (`Binding`). Upstream's components that do so use
    /// the newer recorder (`tools/events`), which also tells the instance of a component that belongs to no node.
    #[must_use]
    pub fn doing(&self, action: &'static str) -> Self {
        Self { action, ..self.clone() }
    }

    /// The same recorder, for events that name a second object: the one for whose sake it happened.
    #[must_use]
    pub fn relating(&self, related: Regarding) -> Self {
        Self { related: Some(related), ..self.clone() }
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
        let told = Told {
            regarding: regarding.clone(),
            kind,
            reason: reason.to_owned(),
            message,
            action: self.action,
            related: self.related.clone(),
        };
        if self.queue.try_send(told).is_err() {
            tracing::debug!(reason, "event dropped, the queue is full");
        }
    }
}

/// The task that owns what has been told so far.
struct Writer {
    client: Client,
    reporter: String,
    host: Option<String>,
    /// The name of this machine, for the instance in events with an action.
    machine: String,
    /// The names and counts of what was written, by what it is counted as.
    written: HashMap<Told, (String, i32)>,
    order: VecDeque<Told>,
    /// The latest of a group of similar events, and their messages, by what the group is counted as.
    similar: HashMap<Told, (Instant, HashSet<String>)>,
    budget: HashMap<Regarding, (f64, Instant)>,
}

// === impl Writer ===

impl Writer {
    fn new(client: Client, reporter: &str, host: Option<&str>) -> Self {
        Self {
            client,
            reporter: reporter.to_owned(),
            host: host.map(str::to_owned),
            machine: std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
            written: HashMap::new(),
            order: VecDeque::new(),
            similar: HashMap::new(),
            budget: HashMap::new(),
        }
    }

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
            let (told, counted_as) = self.aggregate(told);
            if let Err(error) = self.write(&told, counted_as, ctx.clock().now()).await {
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

    /// Replaces the message when too many different ones share a reason, whatever part of the object they are about. Second,
    /// what the event is counted as: itself, or all that are told as one, whose event shows the latest message.
    fn aggregate(&mut self, told: Told) -> (Told, Told) {
        if self.similar.len() > REMEMBERED {
            self.similar.retain(|_, (latest, _)| latest.elapsed() < SIMILAR_WINDOW);
        }
        let now = Instant::now();
        let whole = Regarding { field_path: String::new(), ..told.regarding.clone() };
        let group = Told { regarding: whole, message: COMBINED.to_owned(), ..told.clone() };
        let (latest, messages) = self.similar.entry(group.clone()).or_insert_with(|| (now, HashSet::new()));
        if latest.elapsed() > SIMILAR_WINDOW {
            messages.clear();
        }
        *latest = now;
        if messages.contains(&told.message) || messages.len() + 1 < SIMILAR {
            messages.insert(told.message.clone());
            return (told.clone(), told);
        }
        (Told { message: format!("{COMBINED}{}", told.message), ..told }, group)
    }

    async fn write(&mut self, told: &Told, counted_as: Told, now: Timestamp) -> kube::Result<()> {
        let namespace = if told.regarding.namespace.is_empty() { "default" } else { &told.regarding.namespace };
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        if let Some((name, count)) = self.written.get_mut(&counted_as) {
            let patch = serde_json::json!({"count": *count + 1, "lastTimestamp": Time(now), "message": told.message});
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
        if self.written.insert(counted_as.clone(), (name, 1)).is_none() {
            self.order.push_back(counted_as);
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
        let instance = match &self.host {
            None if !told.action.is_empty() => Some(format!("{}-{}", self.reporter, self.machine)),
            host => host.clone(),
        };
        Event {
            metadata: ObjectMeta { name: some(name), namespace: some(namespace), ..ObjectMeta::default() },
            involved_object: reference(&told.regarding),
            related: told.related.as_ref().map(reference),
            type_: Some(told.kind.to_owned()),
            reason: some(&told.reason),
            message: some(&told.message),
            source: Some(EventSource { component: some(&self.reporter), host: self.host.clone() }),
            reporting_component: some(&self.reporter),
            reporting_instance: instance,
            action: some(told.action),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }
}

fn reference(object: &Regarding) -> ObjectReference {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: some(&object.api_version),
        kind: some(&object.kind),
        namespace: some(&object.namespace),
        name: some(&object.name),
        uid: some(&object.uid),
        field_path: some(&object.field_path),
        resource_version: None,
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;

    /// Methods and bodies, in order.
    type Requests = Arc<Mutex<Vec<(String, Value)>>>;

    /// A writer to a server that takes everything, and what it took.
    fn writer() -> (Writer, Requests) {
        let requests = Requests::default();
        let log = requests.clone();
        let client = crate::in_process(tower::service_fn(move |request: http::Request<Body>| {
            let log = log.clone();
            async move {
                let method = request.method().to_string();
                let bytes = request.into_body().collect().await.unwrap().to_bytes();
                log.lock().push((method, serde_json::from_slice(&bytes).unwrap()));
                let event = serde_json::json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {}});
                let body = Body::from(event.to_string().into_bytes());
                Ok::<_, Infallible>(http::Response::builder().header("content-type", "application/json").body(body).unwrap())
            }
        }));
        (Writer::new(client, "test", None), requests)
    }

    fn told(message: &str) -> Told {
        let regarding = Regarding { kind: "Pod".into(), namespace: "a".into(), name: "p".into(), ..Regarding::default() };
        Told { regarding, kind: "Normal", reason: "R".into(), message: message.to_owned(), action: "", related: None }
    }

    async fn tell(writer: &mut Writer, told: Told) {
        let (told, counted_as) = writer.aggregate(told);
        writer.write(&told, counted_as, Timestamp::UNIX_EPOCH).await.unwrap();
    }

    /// What reached the server since: method, message and count.
    fn seen(requests: &Requests) -> Vec<(String, String, i64)> {
        let requests = std::mem::take(&mut *requests.lock());
        let text = |body: &Value| body["message"].as_str().unwrap().to_owned();
        requests.into_iter().map(|(method, body)| (method, text(&body), body["count"].as_i64().unwrap())).collect()
    }

    fn expect(method: &str, message: &str, count: i64) -> (String, String, i64) {
        (method.to_owned(), message.to_owned(), count)
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_events_are_counted_and_many_similar_ones_told_as_one() {
        let (mut writer, requests) = writer();
        for number in 1..=9 {
            tell(&mut writer, told(&number.to_string())).await;
        }
        let single: Vec<_> = (1..=9).map(|number: i64| expect("POST", &number.to_string(), 1)).collect();
        assert_eq!(seen(&requests), single);
        tell(&mut writer, told("10")).await;
        let mut part = told("11");
        part.regarding.field_path = "spec.containers{c}".into();
        tell(&mut writer, part).await;
        tell(&mut writer, told("1")).await;
        tell(&mut writer, told("12")).await;
        let expected = [
            expect("POST", "(combined from similar events): 10", 1),
            expect("PATCH", "(combined from similar events): 11", 2),
            expect("PATCH", "1", 2),
            expect("PATCH", "(combined from similar events): 12", 3),
        ];
        assert_eq!(seen(&requests), expected);

        let other = |told: Told| Told { reason: "Other".into(), ..told };
        tell(&mut writer, other(told("13"))).await;
        tokio::time::advance(SIMILAR_WINDOW).await;
        tell(&mut writer, told("14")).await;
        tokio::time::advance(SIMILAR_WINDOW + Duration::from_secs(1)).await;
        tell(&mut writer, told("15")).await;
        let expected =
            [expect("POST", "13", 1), expect("PATCH", "(combined from similar events): 14", 4), expect("POST", "15", 1)];
        assert_eq!(seen(&requests), expected, "ten minutes count from the latest");
    }

    #[tokio::test]
    async fn events_say_who_tells_and_what_it_was_doing() {
        for (host, action, instance) in [
            (None, "", None),
            (Some("n1"), "", Some("n1")),
            (None, "Binding", Some("test-m")),
            (Some("n1"), "Binding", Some("n1")),
        ] {
            let mut writer = Writer::new(writer().0.client, "test", host);
            writer.machine = "m".into();
            let related = host.map(|_| Regarding { name: "q".into(), ..Regarding::default() });
            let event = writer.event(&Told { action, related, ..told("1") }, "e", "a", Timestamp::UNIX_EPOCH);
            assert_eq!(event.related.and_then(|other| other.name).as_deref(), host.map(|_| "q"));
            let source = event.source.unwrap();
            assert_eq!((source.component.as_deref(), source.host.as_deref()), (Some("test"), host));
            assert_eq!((event.reporting_component.as_deref(), event.reporting_instance.as_deref()), (Some("test"), instance));
            assert_eq!(event.action.as_deref(), Some(action).filter(|action| !action.is_empty()));
        }
    }
}
