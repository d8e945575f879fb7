//! Auditing: who asked what of this server, and what came of it.
//!
//! A [`Policy`] decides for each request how much of it is kept; of what is kept, events go to backends as the request passes its
//! stages: a rotated file, another server, the log index. [`Audit`] is the one collector that goes along with a request: the
//! pipeline, admission webhooks and policies put into it what they know, and for a request at level None it is empty.
//!
//! Follows `apiserver/pkg/audit`, `apiserver/plugin/pkg/audit` and `apiserver/pkg/endpoints/filters/audit.go`.

mod options; // What can be set,
mod policy; // what is kept,
mod event; // what it looks like,
mod source; // where it came from,
mod log; // and where it goes.
mod webhook;
mod queue;
mod metrics;

use std::sync::Arc;

use http::HeaderMap;
use jiff::Timestamp;
use parking_lot::Mutex;
use pharos_telemetry::{Clock, Ctx, logs::Writer};
use pharos_transport::{Peer, Response};
use prometheus::Registry;
use serde_json::{Value, json, value::RawValue};
use tokio_util::task::TaskTracker;

pub use options::{Delivery, LogOptions, Options, WebhookOptions};
pub use policy::Policy;

use event::Event;
use metrics::Metrics;
use policy::{Decision, Level, Stage};

use crate::{Error, Result, authn::UserInfo, carry::carry, request::RequestInfo, status::Status};

/// Key and value of what a patch of a mutating webhook is kept under: only from level Request up, for it holds what is written.
const PATCH_PREFIX: &str = "patch.webhook.admission.k8s.io/";
/// Events on their way to a webhook that requests wait for, whose own requests are over. Further ones are lost, and counted.
const MOST_DELIVERIES: usize = 1000;
/// A body that says how a request went is no larger,
const MOST_STATUS_BYTES: usize = 64 << 10;
/// and of one that made something, which is answered with an object but for bindings and evictions, it is short.
const SHORT_STATUS_BYTES: usize = 256;

/// Decides what is audited, and has the backends. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Auditor(Option<Arc<Shared>>);

struct Shared {
    policy: Policy,
    backends: Vec<Backend>,
    metrics: Metrics,
    clock: Clock,
    /// Deliveries that outlive their requests.
    deliveries: TaskTracker,
}

/// Where events go.
enum Backend {
    /// The log index; a line that it has no room for is dropped and counted.
    Index(Writer),
    /// A file, written at once.
    Log { log: Arc<log::Log>, strict: bool },
    /// A file, written behind the requests' backs.
    QueuedLog { log: Arc<log::Log>, queue: Arc<queue::Queue> },
    /// Another server that requests wait for.
    Webhook { webhook: Arc<webhook::Webhook>, strict: bool },
    /// Another server.
    QueuedWebhook { webhook: Arc<webhook::Webhook>, queue: Arc<queue::Queue> },
}

impl Auditor {
    /// Opens the backends.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for settings that make no sense and files that cannot be read or written, [`Error::Metrics`] if the
    /// registry has the metrics already.
    pub(crate) fn new(options: &Options, clock: Clock, registry: &Registry) -> Result<Self> {
        if options.is_off() {
            return Ok(Auditor(None));
        }
        let policy = options.policy().map_err(Error::Config)?;
        let mistakes = options.mistakes_beside_the_policy();
        if !mistakes.is_empty() {
            return Err(Error::Config(mistakes.join("\n")));
        }
        let metrics = Metrics::new(registry)?;
        let mut backends = Vec::new();
        if let Some(settings) = &options.log {
            let open = log::Log::open(settings, clock.clone());
            let log = open.map_err(|error| Error::Config(format!("open audit log {}: {error}", settings.path.display())))?;
            let log = Arc::new(log);
            backends.push(if settings.delivery.is_batch() {
                let queue = Arc::new(queue::Queue::new(&settings.delivery, metrics.clone()));
                Backend::QueuedLog { log, queue }
            } else {
                Backend::Log { log, strict: settings.delivery.is_strict() }
            });
        }
        if let Some(settings) = &options.webhook {
            let server = crate::kubeconfig::Server::read(&settings.config_file)
                .map_err(|why| Error::Config(format!("initializing audit webhook: {why}")))?;
            let webhook = Arc::new(webhook::Webhook::new(server, settings.initial_backoff, metrics.clone()));
            backends.push(if settings.delivery.is_batch() {
                let queue = Arc::new(queue::Queue::new(&settings.delivery, metrics.clone()));
                Backend::QueuedWebhook { webhook, queue }
            } else {
                Backend::Webhook { webhook, strict: settings.delivery.is_strict() }
            });
        }
        backends.extend(options.index.clone().map(Backend::Index));
        Ok(Auditor(Some(Arc::new(Shared { policy, backends, metrics, clock, deliveries: TaskTracker::new() }))))
    }

    /// Starts what works behind the requests' backs.
    pub(crate) fn start(&self, ctx: &Ctx) {
        let Some(shared) = &self.0 else { return };
        for backend in &shared.backends {
            let context = ctx.clone();
            match backend {
                Backend::Index(_) | Backend::Webhook { .. } => {}
                Backend::Log { log, .. } => {
                    let log = log.clone();
                    ctx.spawn("audit log files", async move { log.keep(&context).await });
                }
                Backend::QueuedLog { log, queue } => {
                    let (kept, files) = (log.clone(), context.clone());
                    ctx.spawn("audit log files", async move { kept.keep(&files).await });
                    let (queue, sink) = (queue.clone(), Lines { log: log.clone(), metrics: shared.metrics.clone() });
                    ctx.spawn("audit log", async move { queue.run(Arc::new(sink), &context).await });
                }
                Backend::QueuedWebhook { webhook, queue } => {
                    let (queue, webhook) = (queue.clone(), webhook.clone());
                    ctx.spawn("audit webhook", async move { queue.run(Arc::new(Posts(webhook)), &context).await });
                }
            }
        }
    }

    /// Waits for deliveries whose requests are over.
    pub(crate) async fn finish(&self) {
        let Some(shared) = &self.0 else { return };
        shared.deliveries.close();
        shared.deliveries.wait().await;
        shared.deliveries.reopen();
    }

    /// Whether anything is audited at all.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The collector of a request, empty if the policy keeps nothing of it. `user` is who was authenticated, if anybody.
    pub(crate) fn begin(
        &self,
        user: Option<&UserInfo>,
        info: &RequestInfo,
        received: Timestamp,
        describe: impl FnOnce() -> Origin,
    ) -> Audit {
        let Some(shared) = &self.0 else { return Audit::default() };
        let decision = shared.policy.decide(user, info);
        shared.metrics.level(decision.level);
        if decision.level == Level::None {
            return Audit::default();
        }
        let origin = describe();
        let mut event = Event::new(decision.level, info, received);
        event.user = user.cloned();
        event.audit_id = origin.audit_id;
        event.request_uri = origin.request_uri;
        event.source_ips = origin.source_ips;
        event.user_agent = origin.user_agent;
        Audit(Some(Arc::new(Collector { shared: shared.clone(), decision, event: Mutex::new(event) })))
    }
}

/// What a request's head says of where it comes from.
pub(crate) struct Origin {
    audit_id: String,
    request_uri: String,
    source_ips: Vec<String>,
    user_agent: String,
}

impl Origin {
    pub(crate) fn new(audit_id: &str, uri: &http::Uri, headers: &HeaderMap, peer: Option<&Peer>) -> Self {
        Origin {
            audit_id: audit_id.to_owned(),
            request_uri: uri.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
            source_ips: source::addresses(headers, peer.map(|peer| peer.addr)),
            user_agent: source::user_agent(headers),
        }
    }
}

/// The collector of a request of which nothing is kept.
pub(crate) static NOTHING: Audit = Audit(None);

/// What is gathered about one request. Cheap to clone, and empty for a request that is not audited.
#[derive(Clone, Default)]
pub(crate) struct Audit(Option<Arc<Collector>>);

struct Collector {
    shared: Arc<Shared>,
    decision: Decision,
    event: Mutex<Event>,
}

impl Audit {
    /// Whether anything is kept of the request.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    fn at_least(&self, level: Level) -> Option<&Collector> {
        self.0.as_deref().filter(|collector| collector.decision.level >= level)
    }

    /// Adds an annotation. A key keeps its first value, as upstream has it.
    pub(crate) fn annotate(&self, key: &str, value: &str) {
        let Some(collector) = &self.0 else { return };
        if key.starts_with(PATCH_PREFIX) && collector.decision.level < Level::Request {
            return;
        }
        let mut event = collector.event.lock();
        if let Some(present) = event.annotations.get(key) {
            if present != value {
                tracing::warn!(key, value, present, request_id = event.audit_id, "audit annotation has been set already");
            }
            return;
        }
        event.annotations.insert(key.to_owned(), value.to_owned());
    }

    /// How the request was authorized.
    pub(crate) fn authorized(&self, allowed: bool, reason: &str) {
        self.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
        self.annotate("authorization.k8s.io/reason", reason);
    }

    /// Whom the request acts as.
    pub(crate) fn impersonates(&self, user: &UserInfo) {
        if let Some(collector) = &self.0 {
            collector.event.lock().impersonated_user = Some(user.clone());
        }
    }

    /// The object in the request, as it was read.
    pub(crate) fn request_object(&self, object: &Value) {
        let Some(collector) = &self.0 else { return };
        if let Some(reference) = &mut collector.event.lock().object_ref {
            reference.complete(object);
        }
        if collector.decision.level >= Level::Request {
            let kept = collector.raw(object);
            collector.event.lock().request_object = kept;
        }
    }

    /// The patch in the request. It may be YAML, whatever its type says.
    pub(crate) fn request_patch(&self, patch: &[u8]) {
        let Some(collector) = self.at_least(Level::Request) else { return };
        let raw = serde_json::from_slice::<Box<RawValue>>(patch).ok();
        let raw = raw.or_else(|| collector.raw(&pharos_api::yaml::decode(patch).ok()?.value));
        collector.event.lock().request_object = raw;
    }

    /// The refusal that answers the request.
    pub(crate) fn refused(&self, status: &Status) {
        let Some(collector) = &self.0 else { return };
        let value = status.to_value();
        let mut event = collector.event.lock();
        event.response_status = Some(bounded(&value));
        if collector.decision.level >= Level::RequestResponse && event.object_ref.is_some() {
            event.response_object = collector.raw(&value);
        }
    }

    /// What there is to keep of an answer.
    pub(crate) fn answered(&self, response: &Response) {
        let Some(collector) = &self.0 else { return };
        let code = response.status();
        let mut event = collector.event.lock();
        let is_resource = event.object_ref.is_some();
        let keep_body = collector.decision.level >= Level::RequestResponse && is_resource && event.response_object.is_none();
        // A Status answers refusals, which are told already where they are this server's own, deletes, bindings and evictions.
        let longest_status = match event.verb.as_str() {
            _ if event.response_status.is_some() || !is_resource => 0,
            "create" if code.is_success() => SHORT_STATUS_BYTES,
            "delete" => MOST_STATUS_BYTES,
            _ if !code.is_success() => MOST_STATUS_BYTES,
            _ => 0,
        };
        let body = response.body().as_bytes().filter(|body| keep_body || (1..=longest_status).contains(&body.len()));
        if let Some(value) = body.and_then(|body| read(response.headers(), body)) {
            if event.response_status.is_none() && value["kind"] == "Status" && value["apiVersion"] == "v1" {
                event.response_status = Some(bounded(&value));
            }
            if keep_body {
                event.response_object = collector.raw(&value);
            }
        }
        let status = event.response_status.get_or_insert_with(|| json!({"metadata": {}}));
        status["code"] = json!(code.as_u16());
    }

    /// The connection is taken over.
    pub(crate) async fn switched(&self) {
        self.coded(101);
        self.started().await;
    }

    /// What is known of a request that was answered by something else than a response.
    pub(crate) fn coded(&self, code: u16) {
        if let Some(collector) = &self.0 {
            let mut event = collector.event.lock();
            event.response_status.get_or_insert_with(|| json!({"metadata": {}}))["code"] = json!(code);
        }
    }

    /// The first stage; an error if the request must not go on without its event.
    pub(crate) async fn received(&self) -> Result<(), Status> {
        let Some(collector) = &self.0 else { return Ok(()) };
        if collector.process(Stage::RequestReceived).await {
            return Ok(());
        }
        collector.shared.metrics.rejected.inc();
        Err(crate::status::internal("failed to store audit event"))
    }

    /// The head of the answer to a long-running request goes out.
    pub(crate) async fn started(&self) {
        if let Some(collector) = &self.0 {
            collector.process(Stage::ResponseStarted).await;
        }
    }

    /// The request is over.
    pub(crate) async fn complete(&self) {
        if let Some(collector) = &self.0 {
            collector.process(Stage::ResponseComplete).await;
        }
    }

    /// The request has shown a bug of this server.
    pub(crate) async fn panicked(&self, what: &str) {
        let Some(collector) = &self.0 else { return };
        collector.event.lock().response_status = Some(json!({
            "metadata": {}, "status": "Failure", "message": format!("APIServer panic'd: {what}"), "reason": "InternalError",
            "code": 500,
        }));
        collector.process(Stage::Panic).await;
    }

    /// The only event of a request whose credentials are not good: upstream's `WithFailedAuthenticationAudit`.
    pub(crate) async fn unauthenticated(&self, headers: &HeaderMap, has_certificate: bool) {
        let Some(collector) = &self.0 else { return };
        let message = source::failed_authentication(headers, has_certificate);
        collector.event.lock().response_status = Some(json!({"metadata": {}, "message": message, "code": 401}));
        collector.process(Stage::ResponseStarted).await;
    }

    /// Completes the request when the guard is dropped: at the end of a body, or where a client goes away.
    pub(crate) fn guard(&self) -> Guard {
        Guard(self.clone())
    }
}

impl Collector {
    /// An object as it is kept.
    fn raw(&self, object: &Value) -> Option<Box<RawValue>> {
        let text = if self.decision.omit_managed_fields {
            let mut object = object.clone();
            forget_managed_fields(&mut object);
            object.to_string()
        } else {
            object.to_string()
        };
        RawValue::from_string(text).ok()
    }

    /// The event of a stage, unless it is left out.
    fn at(&self, stage: Stage) -> Option<Event> {
        if self.decision.omitted.contains(stage) {
            return None;
        }
        self.shared.metrics.events.inc();
        let mut event = self.event.lock();
        event.stage = stage;
        event.stage_timestamp = match stage {
            Stage::RequestReceived => event.request_received_timestamp,
            _ => self.shared.clock.now(),
        };
        Some(event.clone())
    }

    /// Hands a stage's event to all backends; whether all that insist on it have it.
    async fn process(&self, stage: Stage) -> bool {
        let Some(event) = self.at(stage) else { return true };
        let mut stored = true;
        for backend in &self.shared.backends {
            stored &= match backend {
                Backend::Webhook { webhook, strict } => webhook.send(&[event.json()], false).await || !strict,
                backend => self.shared.take(backend, &event),
            };
        }
        stored
    }

    /// The same where nobody can wait.
    fn process_behind(&self, stage: Stage) {
        let Some(event) = self.at(stage) else { return };
        for backend in &self.shared.backends {
            match backend {
                Backend::Webhook { webhook, .. } => match tokio::runtime::Handle::try_current() {
                    Ok(runtime) if self.shared.deliveries.len() < MOST_DELIVERIES => {
                        let (webhook, line) = (webhook.clone(), event.json());
                        let sending = async move { webhook.send(&[line], false).await };
                        self.shared.deliveries.spawn_on(sending, &runtime);
                    }
                    _ => self.shared.metrics.lost("webhook", 1),
                },
                backend => {
                    self.shared.take(backend, &event);
                }
            }
        }
    }
}

impl Shared {
    /// Gives an event to a backend that takes it at once; false where it insists and could not.
    fn take(&self, backend: &Backend, event: &Event) -> bool {
        match backend {
            Backend::Index(writer) => {
                if !writer.write(event.stage_timestamp, event.json_without_bodies()) {
                    self.metrics.lost("index", 1);
                }
                true
            }
            Backend::Log { log, strict } => match log.write(&log.line(event)) {
                Ok(()) => true,
                Err(error) => {
                    self.metrics.lost("log", 1);
                    tracing::error!(error = &error as &dyn std::error::Error, "audit event is lost: the log cannot be written");
                    !strict
                }
            },
            Backend::QueuedLog { log, queue } => {
                queue.push(log.line(event));
                true
            }
            Backend::QueuedWebhook { queue, .. } => {
                queue.push(event.json());
                true
            }
            Backend::Webhook { .. } => true, // It is waited for elsewhere.
        }
    }
}

/// Completes a request when dropped.
pub(crate) struct Guard(Audit);

impl Guard {
    /// The request is completed by somebody else.
    pub(crate) fn disarm(mut self) {
        self.0 = Audit::default();
    }
}

impl std::ops::Deref for Guard {
    type Target = Audit;

    fn deref(&self) -> &Audit {
        &self.0
    }
}

/// Ends the audit of an answered request: at once, or with the body of one that goes on.
pub(crate) async fn finish(audit: Guard, response: Response, long_running: bool) -> Response {
    audit.answered(&response);
    if long_running {
        audit.started().await;
        if response.body().as_bytes().is_none() {
            return response.map(|body| carry(body, audit));
        }
    }
    audit.complete().await;
    audit.disarm();
    response
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(collector) = &self.0.0 else { return };
        {
            let mut event = collector.event.lock();
            if event.response_status.is_none() {
                let early = json!({"metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200});
                event.response_status = Some(early);
            }
        }
        collector.process_behind(Stage::ResponseComplete);
    }
}

/// Lines that are written to a file in the order they came.
struct Lines {
    log: Arc<log::Log>,
    metrics: Metrics,
}

#[async_trait::async_trait]
impl queue::Sink for Lines {
    async fn deliver(&self, batch: Vec<String>, _: bool) -> bool {
        for (at, line) in batch.iter().enumerate() {
            if let Err(error) = self.log.write(line) {
                let lost = batch.len() - at;
                self.metrics.lost("log", lost);
                tracing::error!(
                    lost,
                    error = &error as &dyn std::error::Error,
                    "audit events are lost: the log cannot be written"
                );
                return false;
            }
        }
        true
    }
}

struct Posts(Arc<webhook::Webhook>);

#[async_trait::async_trait]
impl queue::Sink for Posts {
    async fn deliver(&self, batch: Vec<String>, last: bool) -> bool {
        self.0.send(&batch, last).await
    }
}

/// The fields of a `Status` that an event has.
fn bounded(status: &Value) -> Value {
    let mut kept = json!({"metadata": {}});
    for field in ["status", "message", "reason", "details", "code"] {
        if !status[field].is_null() {
            kept[field] = status[field].clone();
        }
    }
    kept
}

/// A body as a document, in the encoding its headers name.
fn read(headers: &HeaderMap, body: &[u8]) -> Option<Value> {
    let encoding = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    let value: Value = match encoding.split(';').next()?.trim() {
        "application/json" => serde_json::from_slice(body).ok()?,
        "application/yaml" => pharos_api::yaml::decode(body).ok()?.value,
        "application/vnd.kubernetes.protobuf" => pharos_api::protobuf::decode(body, None).ok()?.value,
        _ => return None,
    };
    value.is_object().then_some(value)
}

/// Takes `managedFields` out of an object, or the objects of a list or table.
fn forget_managed_fields(object: &mut Value) {
    let forget = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    forget(object);
    for (list, inner) in [("items", None), ("rows", Some("object"))] {
        for item in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match inner {
                None => forget(item),
                Some(inner) => item.get_mut(inner).into_iter().for_each(forget),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_left_out_everywhere() {
        let object = || json!({"metadata": {"name": "a", "managedFields": [1]}});
        let bare = json!({"metadata": {"name": "a"}});
        for (mut given, want) in [
            (object(), bare.clone()),
            (json!({"items": [object()]}), json!({"items": [bare]})),
            (json!({"rows": [{"object": object()}, {"object": null}]}), json!({"rows": [{"object": bare}, {"object": null}]})),
            (json!([]), json!([])),
        ] {
            forget_managed_fields(&mut given);
            assert_eq!(given, want);
        }
    }

    #[test]
    fn of_a_status_five_fields_are_kept() {
        let status =
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {"continue": "x"}, "code": 404, "reason": "NotFound"});
        assert_eq!(bounded(&status), json!({"metadata": {}, "code": 404, "reason": "NotFound"}));
    }

    #[test]
    fn bodies_are_read_as_their_headers_say() {
        for (encoding, body, want) in [
            ("application/json;g=meta.k8s.io", "{\"a\":1}", Some(json!({"a": 1}))),
            ("application/yaml", "a: 1\n", Some(json!({"a": 1}))),
            ("application/json", "[]", None),
            ("text/plain", "a: 1\n", None),
        ] {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, encoding.parse().unwrap())]);
            assert_eq!(read(&headers, body.as_bytes()), want, "{encoding}");
        }
    }
}
