//! Watches: a cache's events, seen through a client's selectors, as JSON lines, protobuf frames or WebSocket messages.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use http::StatusCode;
use pharos_api::{
    object::Object,
    table::{Include, Printer},
};
use pharos_store::{EventType, Item, Scope, Start, Subscription, WatchEvent};
use pharos_telemetry::Clock;
use pharos_transport::{Body, Response};
use prometheus::IntGauge;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::list::{check_fields, protobuf, selects};
use crate::{
    api::Api,
    call::Call,
    convert,
    flowcontrol::{Seat, Watching},
    negotiate::{Format, Offer, Output, Shape},
    options::ListOptions,
    respond,
    status::{self, Status},
    storage,
};

/// How often a client that allows bookmarks gets one (`apiserver/pkg/storage/cacher`, `bookmarkFrequency`).
const BOOKMARK_PERIOD: Duration = Duration::from_secs(60);

/// Events are joined into one chunk up to this size, as long as they are there already.
const CHUNK_BYTES: usize = 32 << 10;

/// What a protobuf frame begins with: its length.
const LENGTH_BYTES: usize = 4;

/// Marks the bookmark after the initial events.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

pub(super) async fn watch(call: &Call) -> Result<Response, Status> {
    let output = call.output(Offer::Transformable)?;
    let content_type = match output.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Format::Json => "application/json",
        Format::Yaml => return Err(status::not_acceptable()), // YAML does not say where an event ends.
    };
    let mut response = Response::new(stream(frames(call, output, CHUNK_BYTES).await?));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// A watch for a WebSocket: each chunk is a message, one event.
pub(crate) enum Messages {
    /// JSON.
    Text(Body),
    /// Protobuf.
    Binary(Body),
}

/// The watch as a WebSocket's messages (`HandleWS` in `endpoints/handlers/watch.go`).
pub(crate) async fn messages(call: &Call) -> Result<Messages, Status> {
    let output = call.output(Offer::Transformable)?;
    if output.format == Format::Yaml {
        return Err(status::not_acceptable());
    }
    let frames = frames(call, output, 0).await?;
    Ok(match output.format {
        // A message has a length of its own.
        Format::Protobuf => {
            let whole = futures::StreamExt::map(frames, |frame: Bytes| frame.slice(LENGTH_BYTES.min(frame.len())..));
            Messages::Binary(stream(whole))
        }
        Format::Json | Format::Yaml => Messages::Text(stream(frames)),
    })
}

fn stream(frames: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    Body::stream(futures::StreamExt::map(frames, Ok::<_, std::io::Error>)).long_running()
}

async fn frames(
    call: &Call,
    output: Output,
    chunk_bytes: usize,
) -> Result<impl Stream<Item = Bytes> + Send + 'static + use<>, Status> {
    let mut options = ListOptions::parse(&call.query, true)?;
    check_fields(call, &mut options)?;
    let cache = call.api.0.storage.cache(&call.kind)?;
    if let Some(version) = options.resource_version {
        cache.wait(version).await?;
    }
    let start = match (options.send_initial_events, options.resource_version) {
        (Some(true), _) | (None, None | Some(0)) => Start::Initial,
        (Some(false), None | Some(0)) => Start::Now,
        (_, Some(version)) => Start::Revision(version),
    };
    let seconds = options.timeout_seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs);
    let timeout = seconds.unwrap_or_else(|| {
        let shortest = call.api.0.config.min_request_timeout;
        shortest + shortest.mul_f64(rand::rng().random_range(0.0..1.0))
    });
    let scope = call.scope(&options);
    let api = &call.api.0;
    let [group, version] = [&*call.kind.group, &*call.kind.version];
    let by_resource = [group, version, &*call.kind.plural];
    let listed = (options.send_initial_events == Some(true)).then(|| {
        let scope = match scope {
            Scope::Name { .. } => "resource",
            _ if !call.info.namespace.is_empty() => "namespace",
            _ => "cluster",
        };
        let histogram = api.metrics.watch_lists.with_label_values(&[group, version, &*call.kind.plural, scope]);
        (Instant::now(), histogram)
    });
    let view = View {
        output,
        api: call.api.clone(),
        kind: call.kind.clone(),
        headers_sent: false,
        printer: Printer::of(&call.kind),
        include: respond::include(call)?,
        clock: call.api.0.clock.clone(),
    };
    let ticks = options.allow_bookmarks.then(|| {
        let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARK_PERIOD, BOOKMARK_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    });
    let (subscription, failure) = match cache.subscribe(scope, start) {
        Ok(subscription) => (Some(subscription), None),
        Err(pharos_store::Error::Closed) => (None, None),
        // Too old a revision is told in the stream, as upstream does.
        Err(error) => (None, Some(Status::from(error))),
    };
    let watch = Watch {
        subscription,
        failure,
        view,
        marks_end: options.send_initial_events == Some(true) && options.allow_bookmarks,
        ticks,
        // Without initial events it has begun.
        seat: call.seat.lock().take().filter(|_| start == Start::Initial),
        _watching: watching(call, &options),
        options,
        deadline: Instant::now() + timeout,
        chunk_bytes,
        events: api.metrics.watch_events.with_label_values(&by_resource),
        sizes: api.metrics.watch_events_sizes.with_label_values(&by_resource),
        listed,
        _open: OpenWatch::new(api.metrics.registered_watchers.with_label_values(&[group, version, &*call.kind.kind])),
    };
    Ok(futures::stream::unfold(watch, |mut watch| async move { watch.next().await.map(|chunk| (chunk, watch)) }))
}

/// Counts a watch among those that changes are told to, unless it is of one node's pods, which few changes concern.
fn watching(call: &Call, options: &ListOptions) -> Option<Watching> {
    let of_node = options.fields.exact("spec.nodeName").is_some_and(|node| !node.is_empty());
    if call.kind.plural == "pods" && of_node {
        return None;
    }
    let info = &call.info;
    let name: &str = if info.name.is_empty() { options.fields.exact("metadata.name").unwrap_or_default() } else { &info.name };
    Some(call.api.0.flowcontrol.watches.register(&info.group, &info.resource, &info.namespace, name))
}

/// Counts an open watch for as long as it lives.
struct OpenWatch(IntGauge);

impl OpenWatch {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        OpenWatch(gauge)
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How a client sees objects.
struct View {
    output: Output,
    api: Api,
    kind: Arc<pharos_api::registry::Kind>,
    /// The columns of a table go along with the first event only.
    headers_sent: bool,
    printer: Printer,
    include: Include,
    clock: Clock,
}

struct Watch {
    /// `None` once the watch is over.
    subscription: Option<Subscription>,
    /// Said before the watch ends.
    failure: Option<Status>,
    view: View,
    options: ListOptions,
    /// Whether the end of the initial events is marked.
    marks_end: bool,
    ticks: Option<Interval>,
    /// Held until the initial events have been given.
    seat: Option<Seat>,
    /// `None` if changes elsewhere don't wake it.
    _watching: Option<Watching>,
    deadline: Instant,
    /// A chunk is sent once it is larger.
    chunk_bytes: usize,
    events: prometheus::IntCounter,
    sizes: prometheus::Histogram,
    /// Since when, and where, the time until the end of the initial events is measured.
    listed: Option<(Instant, prometheus::Histogram)>,
    _open: OpenWatch,
}

enum Wake {
    Item(Result<Item, pharos_store::Error>),
    Bookmark,
    Deadline,
}

impl Watch {
    /// The next chunk, or `None` when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(failure) = self.failure.take() {
                self.subscription = None;
                return self.view.framed("ERROR", &failure.to_value()).ok();
            }
            let subscription = self.subscription.as_mut()?;
            let tick = async {
                match &mut self.ticks {
                    Some(ticks) => ticks.tick().await,
                    None => std::future::pending().await,
                }
            };
            let wake = tokio::select! {
                biased;
                item = subscription.next() => Wake::Item(item),
                _ = tick => Wake::Bookmark,
                () = tokio::time::sleep_until(self.deadline) => Wake::Deadline,
            };
            let mut chunk = BytesMut::new();
            match wake {
                Wake::Deadline => {
                    let revision = subscription.bookmark();
                    self.subscription = None;
                    if !self.options.allow_bookmarks {
                        return None;
                    }
                    self.bookmark(&mut chunk, revision, false);
                }
                Wake::Bookmark => {
                    let revision = subscription.bookmark();
                    self.bookmark(&mut chunk, revision, false);
                }
                Wake::Item(item) => self.take(item, &mut chunk).await,
            }
            if !chunk.is_empty() {
                return Some(chunk.freeze());
            }
        }
    }

    /// Writes an item and all that follow it at once.
    async fn take(&mut self, first: Result<Item, pharos_store::Error>, chunk: &mut BytesMut) {
        let mut item = first.map(Some);
        loop {
            match item {
                Ok(Some(Item::Event(event))) => {
                    if let Err(failure) = self.event(&event, chunk).await {
                        self.failure = Some(failure);
                        return;
                    }
                }
                Ok(Some(Item::Synced(revision))) => {
                    self.seat = None;
                    if let Some((since, histogram)) = self.listed.take() {
                        histogram.observe(since.elapsed().as_secs_f64());
                    }
                    if self.marks_end {
                        self.bookmark(chunk, revision, true);
                    }
                }
                Ok(None) => return,
                // The kind is gone, or the server stops: the end of the stream says so, as upstream's does.
                Err(pharos_store::Error::Closed) => {
                    self.subscription = None;
                    return;
                }
                Err(error) => {
                    self.failure = Some(error.into());
                    return;
                }
            }
            if chunk.len() > self.chunk_bytes {
                return;
            }
            let Some(subscription) = self.subscription.as_mut() else { return };
            item = subscription.try_next();
        }
    }

    /// Writes an event as this client sees it: an object that starts or ceases to match comes or goes.
    async fn event(&mut self, event: &WatchEvent, chunk: &mut BytesMut) -> Result<(), Status> {
        let now = event.kind != EventType::Deleted && selects(&self.options, &event.object);
        let before = match &event.previous {
            Some(previous) => selects(&self.options, previous),
            None => event.kind == EventType::Deleted && selects(&self.options, &event.object),
        };
        let start = chunk.len();
        match (event.kind, before, now) {
            (EventType::Added, _, true) => self.view.write(chunk, "ADDED", &event.object).await?,
            (EventType::Modified, true, true) => self.view.write(chunk, "MODIFIED", &event.object).await?,
            (EventType::Modified, false, true) => self.view.write(chunk, "ADDED", &event.object).await?,
            (EventType::Deleted, true, _) => self.view.write(chunk, "DELETED", &event.object).await?,
            (EventType::Modified, true, false) => {
                // The client gets the object as it last saw it, at the revision at which it went out of sight.
                let Some(previous) = &event.previous else { return Ok(()) };
                let mut value = storage::parse(previous.bytes())?;
                value["metadata"]["resourceVersion"] = json!(event.revision.to_string());
                self.view.write_value(chunk, "DELETED", value).await?;
            }
            _ => return Ok(()),
        }
        self.events.inc();
        self.sizes.observe((chunk.len() - start) as f64);
        Ok(())
    }

    fn bookmark(&mut self, chunk: &mut BytesMut, revision: u64, initial_events_end: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let kind = &self.view.kind;
        let value = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        let shaped = match self.view.output.shape {
            Shape::Object => value,
            Shape::Partial(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": value["metadata"],
            }),
            Shape::Table(version) => json!({
                "kind": "Table",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": value["metadata"],
                }}],
            }),
        };
        match self.view.framed("BOOKMARK", &shaped) {
            Ok(frame) => chunk.put_slice(&frame),
            Err(failure) => self.failure = Some(failure),
        }
    }
}

impl View {
    async fn write(&mut self, chunk: &mut BytesMut, event: &str, object: &Object) -> Result<(), Status> {
        if self.output.shape == Shape::Object && convert::are_served(&self.kind, object.bytes()) {
            if self.output.format == Format::Protobuf {
                let frame = pharos_api::protobuf::watch_frame(event, &protobuf(object)?);
                chunk.put_slice(&frame.map_err(status::internal)?);
                return Ok(());
            }
            chunk.put_slice(b"{\"type\":\"");
            chunk.put_slice(event.as_bytes());
            chunk.put_slice(b"\",\"object\":");
            chunk.put_slice(object.bytes());
            chunk.put_slice(b"}\n");
            return Ok(());
        }
        self.write_value(chunk, event, storage::parse(object.bytes())?).await
    }

    async fn write_value(&mut self, chunk: &mut BytesMut, event: &str, stored: Value) -> Result<(), Status> {
        let value = convert::from_storage(&self.api, &self.kind, stored).await?;
        let shaped = match self.output.shape {
            Shape::Object => value,
            Shape::Partial(version) => pharos_api::partial::metadata(&value, version),
            Shape::Table(version) => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let row = self.printer.row(&value, self.include, version, self.clock.now());
                let headers = !std::mem::replace(&mut self.headers_sent, true);
                self.printer.table(vec![row], metadata, version, headers)
            }
        };
        chunk.put_slice(&self.framed(event, &shaped)?);
        Ok(())
    }

    /// One event as it goes over the wire.
    fn framed(&self, event: &str, object: &Value) -> Result<Bytes, Status> {
        if self.output.format != Format::Protobuf {
            return Ok(Bytes::from(format!("{}\n", json!({"type": event, "object": object}))));
        }
        let frame = pharos_api::protobuf::watch_frame(event, &respond::protobuf(object)?);
        frame.map(Bytes::from).map_err(status::internal)
    }
}
