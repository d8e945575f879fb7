//! The door itself: every request passes here on its way in and out.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use pharos_store::{CacheMetrics, Store};
use pharos_telemetry::{Clock, Component, Ctx, health::Health, traces};
use pharos_transport::{Body, BoxError, Handler, Io, Peer, ReadError, Request, Response, proxy};
use prometheus::{IntCounter, IntGauge, Registry};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::{
    Config, Error, Result,
    admission::{
        self,
        pod_security::PodSecurity,
        policy::{self, Policies},
        webhook::{self, Webhooks},
    },
    aggregation::{self, Aggregation},
    audit::{self, Audit, Auditor},
    authn::{self, Authenticator, UserInfo, impersonation, issuer::TokenIssuer},
    authz::{self, Authorizer},
    background::{self, CachedObjects, Uses},
    bootstrap,
    call::Call,
    carry::carry,
    compress,
    flowcontrol::{self, Classified, FlowControl, Seat},
    metrics::{self, Metrics, Series},
    mount::{ApiGroup, Mount, Mounted, Mounts},
    negotiate, nonresource,
    outbound::{self, Outbound},
    request::{Query, RequestInfo},
    resources::Resources,
    respond,
    status::{self, Status},
    storage::Storage,
    strategy::{
        self,
        allocator::{Allocator, Network},
    },
    subresources::{self, connect},
    took::Took,
    verbs,
};

/// Whose trace goes on in this server, beside that of `system:masters` (`MonitoringGroup` in
/// `apiserver/pkg/authentication/user/user.go`).
const SYSTEM_MONITORING: &str = "system:monitoring";

/// The largest request body (`apiserver/pkg/server/config.go`, `MaxRequestBodyBytes`).
const MAX_BODY_BYTES: usize = 3 << 20;

/// How long a request that changes something may take (`requestTimeoutUpperBound` in `endpoints/handlers/rest.go`).
const MUTATING_TIMEOUT: Duration = Duration::from_secs(34);

/// The API server's core. Cheap to clone.
#[derive(Clone)]
pub struct Api(pub(crate) Arc<Inner>);

/// What an [`Api`] is built from.
pub struct Parts {
    /// Where objects live.
    pub store: Arc<dyn Store>,
    /// Whom to believe.
    pub authn: authn::Config,
    /// Who signs ServiceAccount tokens.
    pub issuer: Arc<TokenIssuer>,
    /// What `/livez`, `/readyz` and `/healthz` report.
    pub health: Health,
    /// What `/metrics` answers: the text exposition of the API server's registry.
    pub gather: Arc<dyn Fn() -> Result<String, prometheus::Error> + Send + Sync>,
    /// Tells the date.
    pub clock: Clock,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) storage: Storage,
    pub(crate) resources: Resources,
    pub(crate) authenticator: std::sync::OnceLock<Authenticator>,
    pub(crate) authorizer: Authorizer,
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) health: Health,
    pub(crate) gather: Arc<dyn Fn() -> Result<String, prometheus::Error> + Send + Sync>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Metrics,
    pub(crate) admission: admission::Metrics,
    pub(crate) auditor: Auditor,
    pub(crate) mounts: Mounts,
    pub(crate) allocator: Allocator,
    pub(crate) custom: crate::custom::Custom,
    pub(crate) upstream: connect::Upstream,
    pub(crate) webhooks: Webhooks,
    pub(crate) pod_security: PodSecurity,
    pub(crate) policies: Policies,
    pub(crate) match_conditions: admission::conditions::Metrics,
    pub(crate) outbound: Outbound,
    pub(crate) aggregation: Aggregation,
    pub(crate) flowcontrol: FlowControl,
    pub(crate) uses: Uses,
    /// Writes in progress: they outlive the clients that asked for them.
    writes: TaskTracker,
}

/// A request as it came, and what goes along with it to its end.
struct Arrival<'a> {
    info: &'a Arc<RequestInfo>,
    query: &'a Query,
    series: &'a Series,
    audit_id: &'a str,
    at: Instant,
    /// The same as a date, if anything is audited.
    received: Timestamp,
    /// What it was taken for, once that is known.
    classified: OnceLock<Classified>,
    /// Set once it is known who asks, if anything is to be kept.
    audit: OnceLock<audit::Guard>,
    /// How long it waited for its turn and for admission webhooks.
    elsewhere: Took,
}

impl<'a> Arrival<'a> {
    fn new(api: &Api, info: &'a Arc<RequestInfo>, query: &'a Query, series: &'a Series, audit_id: &'a str) -> Self {
        Arrival {
            info,
            query,
            series,
            audit_id,
            at: Instant::now(),
            received: if api.0.auditor.is_on() { api.0.clock.now() } else { Timestamp::UNIX_EPOCH },
            classified: OnceLock::new(),
            audit: OnceLock::new(),
            elsewhere: Took::default(),
        }
    }

    fn audit(&self) -> &Audit {
        self.audit.get().map_or(&audit::NOTHING, |guard| &**guard)
    }
}

/// The user of an in-process request. Only [`Service`] can make one.
#[derive(Clone)]
struct Trusted(UserInfo);

impl Api {
    /// Builds the core and fills its caches from the store. It serves from then on; [`Component::run`] makes the objects
    /// every cluster has and keeps indexes up to date, and has to run beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for settings that make no sense, [`Error::Metrics`] if the registry has these metrics already,
    /// [`Error::Store`] if the store cannot be read.
    pub async fn new(config: Config, parts: Parts, registry: &Registry) -> Result<Self> {
        let networks: Vec<Network> = config
            .service_cluster_ip_range
            .iter()
            .map(|text| Network::parse(text).ok_or_else(|| Error::Config(format!("service network {text:?} is not a CIDR"))))
            .collect::<Result<_>>()?;
        if networks.is_empty() {
            return Err(Error::Config("there is no service network".into()));
        }
        if config.max_requests_inflight == 0 && config.max_mutating_requests_inflight == 0 {
            let why = "max_requests_inflight and max_mutating_requests_inflight must add up to something positive";
            return Err(Error::Config(why.into()));
        }
        let upstream = connect::Upstream::new(&config)?;
        let api = Api(Arc::new(Inner {
            storage: Storage::new(parts.store, CacheMetrics::new(registry)?),
            resources: Resources::new(),
            authenticator: std::sync::OnceLock::new(),
            authorizer: Authorizer::with_chain(authz::Metrics::new(registry)?, config.authorization.clone()),
            issuer: parts.issuer.clone(),
            health: parts.health,
            gather: parts.gather,
            clock: parts.clock.clone(),
            metrics: Metrics::new(registry)?,
            admission: admission::Metrics::new(registry)?,
            auditor: Auditor::new(&config.audit, parts.clock.clone(), registry)?,
            mounts: Mounts::default(),
            allocator: Allocator::new(networks, config.service_node_port_range.clone()),
            custom: crate::custom::Custom::default(),
            upstream,
            webhooks: Webhooks::new(registry)?,
            pod_security: PodSecurity::new(registry)?,
            policies: Policies::new(registry)?,
            match_conditions: admission::conditions::Metrics::new(registry)?,
            outbound: Outbound::default(),
            aggregation: Aggregation::default(),
            flowcontrol: FlowControl::new(&config, registry)?,
            uses: Uses::default(),
            writes: TaskTracker::new(),
            config,
        }));
        let objects = Arc::new(CachedObjects(api.clone()));
        let authenticator = Authenticator::new(parts.authn, parts.issuer, objects, parts.clock, authn::Metrics::new(registry)?)
            .map_err(|error| Error::Config(format!("authentication: {}", outbound::causes(&error))))?;
        let _ = api.0.authenticator.set(authenticator);
        for kind in api.0.resources.registry().kinds().filter(|kind| !kind.strategy.virtual_only) {
            api.0.storage.attach(kind).await?;
        }
        background::prime(&api)?;
        webhook::prime(&api);
        policy::prime(&api);
        crate::custom::load(&api).await?;
        Ok(api)
    }

    /// An in-process client's way in, trusted to be `user`: give it to `kube::Client::new`.
    #[must_use]
    pub fn service(&self, user: UserInfo) -> Service {
        Service { api: self.clone(), user }
    }

    /// Lets `mount` answer everything under `prefix` (`/observe/prometheus`), as non-resource URLs.
    pub fn mount(&self, prefix: &str, mount: Arc<dyn Mount>) {
        self.0.mounts.add(Mounted { prefix: prefix.trim_end_matches('/').to_owned(), group: None, mount });
        self.0.resources.forget_documents();
    }

    /// Lets `mount` answer a whole API group version, and lists it in discovery. Its paths start after the version:
    /// `/nodes/a` or `/namespaces/b/pods`.
    pub fn mount_group(&self, group: ApiGroup, mount: Arc<dyn Mount>) {
        let prefix = format!("/apis/{}/{}", group.group, group.version);
        self.0.mounts.add(Mounted { prefix, group: Some(group), mount });
        self.0.resources.forget_documents();
    }

    /// Who may do what; for other doors to the cluster (the kubelet's) that ask the same questions.
    #[must_use]
    pub fn authorizer(&self) -> &Authorizer {
        &self.0.authorizer
    }

    /// Who sends a request; likewise.
    #[must_use]
    pub fn authenticator(&self) -> &Authenticator {
        self.0.authenticator.get().expect("set when the core is built")
    }

    /// Counts TLS handshakes with this server that failed, for whoever makes them.
    #[must_use]
    pub fn tls_handshake_errors(&self) -> IntCounter {
        self.0.metrics.tls_handshake_errors.clone()
    }

    /// The series a request is counted in.
    fn series(&self, info: &RequestInfo, query: &Query, headers: &http::HeaderMap) -> Arc<Series> {
        let kind = info.is_resource.then(|| self.0.resources.lookup(&info.group, &info.version, &info.resource)).flatten();
        self.0.metrics.series(info, kind.as_deref(), metrics::verb(info, headers), metrics::dry_run(query))
    }

    /// Answers one request.
    pub async fn handle(&self, mut request: Request) -> Response {
        let audit_id = audit_id(request.headers());
        let query = Query::parse(request.uri().query());
        let info = Arc::new(RequestInfo::parse(request.method(), request.uri().path(), &query));
        let series = self.series(&info, &query, request.headers());
        let arrival = Arrival::new(self, &info, &query, &series, &audit_id);
        let abandoned = Abandoned(Some((&self.0.metrics, &series)));
        let span = tracing::debug_span!(
            "request",
            request_id = audit_id,
            verb = info.verb,
            kind = info.resource,
            namespace = info.namespace,
            name = info.name
        );
        // Looked at only if there is something to refuse.
        let accept: Vec<HeaderValue> = request.headers().get_all(http::header::ACCEPT).iter().cloned().collect();
        let trusted = request.extensions_mut().remove::<Trusted>();
        let answered = self.admitted(request, trusted, &arrival).instrument(span);
        let answered = AssertUnwindSafe(answered).catch_unwind().await;
        let Arrival { at, classified, audit, elsewhere, .. } = arrival;
        let audit = audit.into_inner();
        let has_panicked = answered.is_err();
        let mut response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => {
                if let Some(audit) = &audit {
                    audit.refused(&status);
                }
                respond::status(&status, negotiate::of_status(&accept))
            }
            Err(_) => {
                self.0.metrics.panics.inc();
                tracing::error!(request_id = audit_id, verb = info.verb, kind = info.resource, "request panicked");
                let text = format!("\"{} {}\": apiserver panic'd on {}", info.verb, info.path, info.path);
                respond::status(&status::internal(text), negotiate::of_status(&accept))
            }
        };
        let size = http_body::Body::size_hint(response.body()).exact();
        series.finished(&self.0.metrics, response.status().as_u16(), at.elapsed(), elsewhere.get(), size);
        abandoned.disarm();
        if let Some(classified) = classified.get() {
            classified.write(response.headers_mut());
        }
        if let Some(audit) = audit {
            response = if has_panicked {
                audit.panicked(&info.path).await;
                audit.disarm();
                response
            } else {
                audit::finish(audit, response, info.long_running()).await
            };
        }
        if let Ok(value) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert("audit-id", value);
        }
        compress::finish(response)
    }

    /// Finds out who asks; from then on the request is audited and traced.
    async fn admitted(&self, mut request: Request, trusted: Option<Trusted>, arrival: &Arrival<'_>) -> Result<Response, Status> {
        let in_process = trusted.is_some();
        let peer = request.extensions().get::<Peer>().cloned();
        let user = match trusted {
            Some(Trusted(user)) => Arc::new(user),
            None => self.authenticate(request.headers(), request.uri(), peer.as_ref(), arrival).await?,
        };
        self.audit(&user, request.headers(), request.uri(), peer.as_ref(), arrival, arrival.info);
        arrival.audit().received().await?;
        if user.username == authn::API_SERVER {
            arrival.series.own(&self.0.metrics);
        }
        // Whoever it was that authenticated, not whom they act as.
        let privileged = user.groups.iter().any(|group| group == authz::SYSTEM_MASTERS || group == SYSTEM_MONITORING);
        let user = if in_process {
            Arc::unwrap_or_clone(user)
        } else {
            self.impersonate(request.headers_mut(), &user, arrival.audit())?
        };
        if arrival.audit().is_on() {
            request.extensions_mut().insert(arrival.audit().clone());
        }
        let span = traces::request_span(request.headers(), privileged, || describe(&request, arrival.info, arrival.audit_id));
        let answered = self.limited(request, user, in_process, arrival).instrument(span.clone()).await;
        let code = match &answered {
            Ok(response) => response.status(),
            Err(status) => status.code(),
        };
        traces::answered(&span, code.as_u16());
        answered
    }

    /// Answers a known user when it is their turn, if they may ask, within the time they have.
    async fn limited(
        &self,
        request: Request,
        user: UserInfo,
        in_process: bool,
        arrival: &Arrival<'_>,
    ) -> Result<Response, Status> {
        let Arrival { info, query, series, at, .. } = *arrival;
        let long_running = info.long_running();
        let allowed = if long_running { self.0.config.request_timeout } else { self.time_allowed(query)? };
        // What keeps the cluster going is never turned away. Of what has no end, only how it begins is limited.
        let seat = if in_process || (long_running && info.verb != "watch") {
            None
        } else {
            let wait_until = flowcontrol::waits_until(at, allowed);
            self.admit(&user, arrival, wait_until).await?
        };
        self.authorize(&user, info, query, arrival.audit()).await?;
        if long_running {
            let open = Open::new(series.longrunning(&self.0.metrics));
            let response = self.route(request, user, arrival, seat).await?;
            return Ok(response.map(|body| carry(body, open)));
        }
        let mutating = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let metrics = &self.0.metrics;
        let gauge = if mutating { &metrics.mutating_inflight } else { &metrics.readonly_inflight };
        let _open = Open::new(gauge.clone());
        let mut deadline = at + allowed;
        if mutating {
            deadline = deadline.min(Instant::now() + MUTATING_TIMEOUT);
        }
        match tokio::time::timeout_at(deadline, self.route(request, user, arrival, seat)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                series.terminated(metrics, "504");
                Err(status::timeout("Timeout: request did not complete within the allotted timeout"))
            }
        }
    }

    /// How long a request may take that has an end.
    fn time_allowed(&self, query: &Query) -> Result<Duration, Status> {
        let most = self.0.config.request_timeout;
        let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(most) };
        let asked = pharos_api::time::parse_go_duration(text).and_then(|asked| Duration::try_from(asked).ok());
        let asked = asked.ok_or_else(|| {
            status::bad_request(format!("invalid timeout specified in the request URL - time: invalid duration {text:?}"))
        })?;
        Ok(if asked.is_zero() { most } else { asked.min(most) })
    }

    /// Waits until it is a request's turn.
    async fn admit(&self, user: &UserInfo, arrival: &Arrival<'_>, wait_until: Instant) -> Result<Option<Seat>, Status> {
        let Arrival { info, query, series, .. } = *arrival;
        let note = |classified| drop(arrival.classified.set(classified));
        let begun = Instant::now();
        let admitted = self.0.flowcontrol.admit(self, user, info, query, wait_until, note).await;
        arrival.elsewhere.add(begun.elapsed());
        admitted.map_err(|rejected| {
            series.terminated(&self.0.metrics, "429");
            status::too_many_requests("Too many requests, please try again later.", rejected.retry_after_seconds)
        })
    }

    /// Who sends a request that came from outside. One whose credentials are not good leaves one event.
    async fn authenticate(
        &self,
        headers: &http::HeaderMap,
        uri: &http::Uri,
        peer: Option<&Peer>,
        arrival: &Arrival<'_>,
    ) -> Result<Arc<UserInfo>, Status> {
        let certificates = peer.map(|peer| peer.certificates.as_ref()).unwrap_or_default();
        let error = match self.authenticator().authenticate(headers, uri.path(), certificates).await {
            Ok(user) => return Ok(user),
            Err(error) => error,
        };
        tracing::debug!(error = &error as &dyn std::error::Error, "request is not authenticated");
        let origin = || audit::Origin::new(arrival.audit_id, uri, headers, peer);
        let audit = self.0.auditor.begin(None, arrival.info, arrival.received, origin);
        audit.unauthenticated(headers, !certificates.is_empty()).await;
        Err(status::unauthorized())
    }

    /// Begins to gather what is to be kept of a request. `info` says what is asked for as the client says it.
    fn audit(
        &self,
        user: &UserInfo,
        headers: &http::HeaderMap,
        uri: &http::Uri,
        peer: Option<&Peer>,
        arrival: &Arrival<'_>,
        info: &RequestInfo,
    ) {
        if !self.0.auditor.is_on() {
            return;
        }
        let origin = || audit::Origin::new(arrival.audit_id, uri, headers, peer);
        let audit = self.0.auditor.begin(Some(user), info, arrival.received, origin);
        if audit.is_on() {
            let _ = arrival.audit.set(audit.guard());
        }
    }

    /// As whom a user acts, who came from outside: themselves, or whom they impersonate.
    fn impersonate(&self, headers: &mut http::HeaderMap, user: &UserInfo, audit: &Audit) -> Result<UserInfo, Status> {
        let wish = impersonation::Request::read(headers).map_err(impersonation_refused)?;
        impersonation::Request::strip(headers);
        authn::strip_credentials(headers);
        let Some(wish) = wish else { return Ok(user.clone()) };
        let user = wish.authorize(user, &self.0.authorizer).map_err(impersonation_refused)?;
        audit.impersonates(&user);
        Ok(user)
    }

    async fn authorize(&self, user: &UserInfo, info: &RequestInfo, query: &Query, audit: &Audit) -> Result<(), Status> {
        let attributes = authz::Attributes {
            user,
            verb: &info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            namespace: &info.namespace,
            path: &info.path,
            is_resource: info.is_resource,
            field_selector: query.get("fieldSelector").unwrap_or_default(),
        };
        let decision = self.0.authorizer.authorize_request(&attributes).await;
        audit.authorized(decision.allowed(), decision.reason());
        if decision.allowed() {
            return Ok(());
        }
        let refused = Status::new(403, "Forbidden", attributes.forbidden(decision.reason()));
        Err(refused.with_details(&info.group, &info.resource, &info.name))
    }

    /// Hands a request to whoever answers it. It is served, and holds its seat, until that is done; a write even when
    /// nobody waits for it any more.
    async fn route(
        &self,
        mut request: Request,
        user: UserInfo,
        arrival: &Arrival<'_>,
        seat: Option<Seat>,
    ) -> Result<Response, Status> {
        let Arrival { info, query, .. } = *arrival;
        if let Some(remote) = self.0.aggregation.find(&info.path) {
            let response = aggregation::forward(self, &remote, request, &user, info).await?;
            return Ok(held(response, info, seat));
        }
        if let Some((mounted, path)) = self.0.mounts.find(&info.path) {
            let below_version = info.path.len() > mounted.prefix.len() + 1;
            if mounted.group.is_none() || below_version {
                set_path(&mut request, &path);
                request.extensions_mut().insert(user);
                return Ok(held(mounted.mount.handle(request).await, info, seat));
            }
        }
        let compressed = compress::accepted(request.headers());
        if !info.is_resource {
            let mut response = nonresource::answer(self, request.method(), info, query, request.headers()).await?;
            if compressed {
                compress::mark(&mut response);
            }
            return Ok(response);
        }
        let kind = self.0.resources.lookup(&info.group, &info.version, &info.resource);
        let kind = kind.ok_or_else(status::no_such_resource)?;
        if !kind.namespaced && !info.namespace.is_empty() && kind.plural != "namespaces" {
            return Err(status::no_such_resource());
        }
        let mut info = RequestInfo::clone(info);
        if kind.group.is_empty() && kind.plural == "namespaces" {
            info.namespace.clear(); // Upstream names the namespace itself here, for authorization only.
        }
        if kind.namespaced
            && info.namespace.is_empty()
            && !matches!(info.verb.as_str(), "list" | "watch")
            && !kind.strategy.virtual_only
        {
            // Over all namespaces objects are only listed and watched; upstream's handler of custom resources has no more paths.
            let listed = info.name.is_empty() && !kind.custom;
            return Err(if listed { status::method_not_allowed() } else { status::no_such_resource() });
        }
        if subresources::connects(&kind.plural, &info.subresource, request.method()) && kind.group.is_empty() {
            return connect::handle(self, request, &user, &info, query).await;
        }
        let (head, body) = request.into_parts();
        let body = read(body).await?;
        let call = Call {
            api: self.clone(),
            user,
            info,
            query: query.clone(),
            headers: head.headers,
            body,
            kind,
            warnings: parking_lot::Mutex::default(),
            seat: parking_lot::Mutex::new(seat),
            audit: arrival.audit().clone(),
            elsewhere: arrival.elsewhere.clone(),
        };
        if let Some(deprecated) = arrival.series.deprecated() {
            call.warn(deprecated.warning);
            call.audit.annotate("k8s.io/deprecated", "true");
            if !deprecated.removed_release.is_empty() {
                call.audit.annotate("k8s.io/removed-release", deprecated.removed_release);
            }
        }
        if matches!(head.method, Method::GET | Method::HEAD) {
            let mut response = answer(&call).await?;
            if compressed {
                compress::mark(&mut response);
            }
            return Ok(response);
        }
        // A write is not to be torn where it stands because its client went away.
        let write = self.0.writes.spawn(async move { answer(&call).await }.in_current_span());
        match write.await {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(status::internal("the write was cancelled")),
            },
        }
    }

    /// Takes over a connection that asks to be upgraded.
    pub async fn upgrade(&self, request: http::Request<()>, io: Io) {
        let audit_id = audit_id(request.headers());
        let query = Query::parse(request.uri().query());
        let said = RequestInfo::parse(request.method(), request.uri().path(), &query);
        let mut info = said.clone();
        // Rules name `create` for exec and its like; a WebSocket handshake is a GET only by form.
        if matches!(info.subresource.as_str(), "exec" | "attach" | "portforward") {
            info.verb = "create".into();
        }
        let info = Arc::new(info);
        let series = self.series(&info, &query, request.headers());
        let arrival = Arrival::new(self, &info, &query, &series, &audit_id);
        let code = self.taken_over(request, io, &arrival, &said).await;
        let Arrival { at, audit, .. } = arrival;
        if let Some(audit) = audit.into_inner() {
            audit.coded(if code == connect::TAKEN_OVER { 101 } else { code });
            audit.complete().await;
            audit.disarm();
        }
        series.finished(&self.0.metrics, code, at.elapsed(), Duration::ZERO, None);
    }

    /// Serves an upgraded connection to its end, and tells the code of the answer to the request.
    async fn taken_over(&self, request: http::Request<()>, io: Io, arrival: &Arrival<'_>, said: &RequestInfo) -> u16 {
        let Arrival { info, query, at, .. } = *arrival;
        let (mut head, ()) = request.into_parts();
        let peer = head.extensions.get::<Peer>().cloned();
        let admitted = async {
            let user = self.authenticate(&head.headers, &head.uri, peer.as_ref(), arrival).await?;
            self.audit(&user, &head.headers, &head.uri, peer.as_ref(), arrival, said);
            arrival.audit().received().await?;
            let user = self.impersonate(&mut head.headers, &user, arrival.audit())?;
            let seat = if info.verb == "watch" {
                self.admit(&user, arrival, flowcontrol::waits_until(at, self.0.config.request_timeout)).await?
            } else {
                None
            };
            self.authorize(&user, info, query, arrival.audit()).await?;
            Ok::<_, Status>((user, seat))
        };
        let (user, seat) = match admitted.await {
            Ok(admitted) => admitted,
            Err(status) => return refuse(io, status, arrival.audit()).await,
        };
        if arrival.audit().is_on() {
            head.extensions.insert(arrival.audit().clone());
        }
        let _open = Open::new(arrival.series.longrunning(&self.0.metrics));
        if let Some(remote) = self.0.aggregation.find(&info.path) {
            return match aggregation::prepare(self, &remote, &mut head.headers, &user) {
                Ok(target) => {
                    arrival.audit().switched().await;
                    let done = proxy::forward_upgrade(http::Request::from_parts(head, ()), io, target).await;
                    if let Err(error) = done {
                        tracing::debug!(error = &error as &dyn std::error::Error, "connection to an api service ended");
                    }
                    connect::TAKEN_OVER
                }
                Err(status) => refuse(io, status, arrival.audit()).await,
            };
        }
        let request = http::Request::from_parts(head, ());
        if let Some((mounted, path)) = self.0.mounts.find(&info.path) {
            let mut request = request;
            set_path(&mut request, &path);
            request.extensions_mut().insert(user);
            arrival.audit().switched().await;
            mounted.mount.upgrade(request, io).await;
            return connect::TAKEN_OVER;
        }
        connect::upgrade(self, request, user, info, query, io, seat).await
    }
}

/// A request whose answer's body is still being made is served until that ends; of a watch the beginning is enough.
fn held(response: Response, info: &RequestInfo, seat: Option<Seat>) -> Response {
    match seat {
        Some(seat) if info.verb != "watch" => response.map(|body| carry(body, seat)),
        _ => response,
    }
}

/// Counts a request whose client goes away before the answer: this is dropped where it stands then.
struct Abandoned<'a>(Option<(&'a Metrics, &'a Series)>);

impl Abandoned<'_> {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some((metrics, series)) = self.0 {
            series.aborted(metrics);
        }
    }
}

/// Refuses to upgrade a connection; the code of the answer.
async fn refuse(io: Io, status: Status, audit: &Audit) -> u16 {
    let code = status.code().as_u16();
    audit.refused(&status);
    audit.started().await;
    respond::refuse_upgrade(io, status).await;
    code
}

/// Answers a call and adds the warnings it gathered.
async fn answer(call: &Call) -> Result<Response, Status> {
    let mut response = match verbs::dispatch(call).await {
        Ok(response) => response,
        Err(status) => {
            call.audit.refused(&status);
            respond::status(&status, negotiate::of_status(call.headers.get_all(http::header::ACCEPT)))
        }
    };
    for text in call.warnings.lock().drain(..) {
        respond::warn(&mut response, &text);
    }
    Ok(response)
}

fn impersonation_refused(error: impersonation::Error) -> Status {
    match error {
        impersonation::Error::Forbidden { message, group, resource, name } => {
            Status::new(403, "Forbidden", message).with_details(group, resource, &name)
        }
        other => status::internal(other),
    }
}

fn audit_id(headers: &http::HeaderMap) -> String {
    let given = headers.get("audit-id").and_then(|value| value.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= 64 => id.to_owned(),
        _ => uuid::Uuid::new_v4().to_string(),
    }
}

/// The name and the attributes of a request's span, as `WithTracing` (`apiserver/pkg/endpoints/filters/traces.go`) and
/// `otelhttp` give them.
fn describe(request: &Request, info: &RequestInfo, audit_id: &str) -> (String, Vec<(&'static str, String)>) {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut attributes = vec![
        ("http.request.method", request.method().as_str().to_owned()),
        ("url.path", request.uri().path().to_owned()),
        ("http.target", target.to_owned()),
        ("audit-id", audit_id.to_owned()),
    ];
    if let Some(agent) = request.headers().get(http::header::USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        attributes.push(("user_agent.original", agent.to_owned()));
    }
    (span_name(request.method(), info), attributes)
}

/// The method and the route, without what tells one object from another.
fn span_name(method: &Method, info: &RequestInfo) -> String {
    if !info.is_resource {
        return method.to_string();
    }
    let mut name = if info.group.is_empty() { format!("{method} /api") } else { format!("{method} /apis/{}", info.group) };
    let namespace = if info.namespace.is_empty() { "" } else { "namespaces/{:namespace}" };
    let object = if info.name.is_empty() { "" } else { "{:name}" };
    for part in [info.version.as_str(), namespace, info.resource.as_str(), object, info.subresource.as_str()] {
        if !part.is_empty() {
            name.push('/');
            name.push_str(part);
        }
    }
    name
}

async fn read(body: Body) -> Result<Bytes, Status> {
    body.into_bytes(MAX_BODY_BYTES).await.map_err(|error| match error {
        ReadError::TooLarge { limit_bytes } => status::too_large(limit_bytes),
        ReadError::Broken(_) => status::bad_request("unable to read the body of the request"),
    })
}

/// Replaces the path of a request and keeps its query.
fn set_path<B>(request: &mut http::Request<B>, path: &str) {
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    if let Ok(uri) = target.parse() {
        *request.uri_mut() = uri;
    }
}

/// Counts something open for as long as it is.
struct Open(IntGauge);

impl Open {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Open(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[async_trait::async_trait]
impl Handler for Api {
    async fn handle(&self, request: Request) -> Response {
        Api::handle(self, request).await
    }

    async fn upgrade(&self, request: http::Request<()>, io: Io) {
        Api::upgrade(self, request, io).await;
    }
}

impl Component for Api {
    const NAME: &'static str = "apiserver";
    type Error = Error;

    async fn run(&self, ctx: Ctx) -> Result<()> {
        background::start(self, &ctx).await?;
        bootstrap::run(self).await?;
        self.0.webhooks.bootstrapped();
        flowcontrol::start(self, &ctx);
        self.authenticator().follow_configuration(&ctx);
        ctx.ready();
        ctx.stopped().await;
        self.0.writes.close();
        self.0.writes.wait().await;
        self.0.writes.reopen();
        self.0.auditor.finish().await;
        Ok(())
    }
}

/// A tower service that calls the API core directly, as one user.
#[derive(Clone)]
pub struct Service {
    api: Api,
    user: UserInfo,
}

impl<B> tower::Service<http::Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Trusted(self.user.clone()));
        let api = self.api.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}

/// Gives Services their numbers back at start.
pub(crate) fn adopt_services(api: &Api) -> Result<(), Error> {
    if let Some(kind) = api.0.resources.lookup("", "v1", "services")
        && let Ok(cache) = api.0.storage.cache(&kind)
    {
        let snapshot = cache.snapshot();
        let services: Vec<_> = snapshot.iter(&pharos_store::Scope::All, None).map(|(_, object)| object.clone()).collect();
        strategy::adopt(api, &services);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_named_by_route() {
        for (method, path, name) in [
            (Method::GET, "/version", "GET"),
            (Method::GET, "/api/v1/pods", "GET /api/v1/pods"),
            (Method::POST, "/api/v1/namespaces/a/pods", "POST /api/v1/namespaces/{:namespace}/pods"),
            (Method::GET, "/api/v1/nodes/b", "GET /api/v1/nodes/{:name}"),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/deployments/b/status",
                "PATCH /apis/apps/v1/namespaces/{:namespace}/deployments/{:name}/status",
            ),
        ] {
            assert_eq!(span_name(&method, &RequestInfo::parse(&method, path, &Query::parse(None))), name);
        }
    }
}
