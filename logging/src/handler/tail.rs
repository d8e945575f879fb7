//! `tail`: lines as they come, over a WebSocket.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use http::{Request, StatusCode};
use pharos_transport::{
    Io,
    websocket::{self, WebSocket},
};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio_tungstenite::tungstenite::Message;

use super::{LogsHandler, Params, Refusal, query};
use crate::{
    engine::{self, Found, LogQuery},
    entry::{Entry, Labels},
    logql::{Expr, LogExpr, Pipeline},
};

/// The longest that a client may ask to be held back, as in Loki.
const MOST_DELAY: u64 = 5;

/// How often a client that follows is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(15);

/// How long a client may take to accept a message.
const SEND_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn serve(handler: &LogsHandler, request: Request<()>, io: Io) {
    let asked = match Asked::read(handler, &request).await {
        Ok(asked) => asked,
        Err(refusal) => {
            // The client may be gone already.
            let _ = websocket::refuse(io, refusal.into_response()).await;
            return;
        }
    };
    let Ok((socket, _)) = websocket::accept(&request, io, &[""]).await else { return };
    let gauge = handler.index.metrics.tails.clone();
    gauge.inc();
    let _ = follow(handler, &asked, socket).await; // It ends when the client leaves.
    gauge.dec();
}

struct Asked {
    log: LogExpr,
    start: i64,
    limit: usize,
    delay: Duration,
}

impl Asked {
    async fn read(handler: &LogsHandler, request: &Request<()>) -> Result<Self, Refusal> {
        let path = request.uri().path();
        if path.strip_prefix("/loki/api/v1/") != Some("tail") {
            return Err(Refusal { status: StatusCode::NOT_FOUND, message: "404 page not found".to_owned() });
        }
        let params = Params::of_query(request.uri().query().unwrap_or_default());
        let Expr::Log(log) = handler.parse(params.query()?).await? else {
            return Err(Refusal::bad("only log selector is supported"));
        };
        let delay = match params.get("delay_for") {
            None => 0,
            Some(delay) => match delay.parse() {
                Ok(delay) if delay <= MOST_DELAY => delay,
                _ => return Err(Refusal::bad(format!("delay_for can't be greater than {MOST_DELAY}"))),
            },
        };
        let (start, _) = params.range(handler.now(), 1)?;
        let most = handler.index.config.max_entries_limit_per_query;
        Ok(Self { log, start, limit: params.limit(100)?.min(most), delay: Duration::from_secs(delay) })
    }
}

type Sent = Result<(), Box<dyn std::error::Error + Send + Sync>>;

async fn follow(handler: &LogsHandler, asked: &Asked, mut socket: WebSocket) -> Sent {
    let (log, start, limit) = (asked.log.clone(), asked.start, asked.limit);
    let looked_up = handler.run(move |index, limits| {
        // The newest of those that came before this moment, in the order they came.
        let query = LogQuery { expr: &log, start, end: i64::MAX, limit, backward: true, interval: 0 };
        let (mut found, following) = engine::logs_and_following(index, &query, limits)?;
        found.reverse();
        Ok((found, following))
    });
    let (found, mut lines) = match looked_up.await {
        Ok(looked_up) => looked_up,
        Err(refusal) => return Err(refusal.message.into()),
    };
    send(&mut socket, found, &[]).await?;
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {} // Pings are answered by reading.
                Some(Err(error)) => return Err(error.into()),
            },
            batch = lines.recv() => match batch {
                Ok(batch) => {
                    if !asked.delay.is_zero() {
                        tokio::time::sleep(asked.delay).await;
                    }
                    send(&mut socket, through(&asked.log, &batch), &[]).await?;
                }
                Err(RecvError::Lagged(_)) => {
                    let dropped = [(handler.now(), Labels::new([("reason", "client too slow")]))];
                    handler.index.metrics.tail_lagged.inc();
                    send(&mut socket, Vec::new(), &dropped).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            _ = ping.tick() => tokio::time::timeout(SEND_WITHIN, socket.send(Message::Ping(Vec::new().into()))).await??,
        }
    }
}

/// What of a batch comes through a query.
fn through(log: &LogExpr, batch: &[Arc<Entry>]) -> Vec<Found> {
    let pipeline = Pipeline::new(&log.stages);
    let mut selected: BTreeMap<u64, bool> = BTreeMap::new();
    let wanted =
        batch.iter().filter(|entry| *selected.entry(entry.stream.id).or_insert_with(|| log.selects(&entry.stream.labels)));
    let found = wanted.filter_map(|entry| {
        let line = pipeline.run(entry.raw())?;
        Some(Found {
            time: line.time,
            stream: line.stream_labels(),
            parsed: line.parsed_labels(),
            text: line.text.into_owned(),
            metadata: line.metadata,
        })
    });
    found.collect()
}

async fn send(socket: &mut WebSocket, found: Vec<Found>, dropped: &[(i64, Labels)]) -> Sent {
    if found.is_empty() && dropped.is_empty() {
        return Ok(());
    }
    let dropped: Vec<_> = dropped.iter().map(|(time, labels)| json!({"timestamp": time.to_string(), "labels": labels})).collect();
    let frame = json!({"streams": query::streams(found, false), "dropped_entries": dropped});
    tokio::time::timeout(SEND_WITHIN, socket.send(Message::text(frame.to_string()))).await??;
    Ok(())
}
