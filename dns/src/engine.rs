//! The chain that each query goes through: kubernetes, cache, forward.

use std::{net::IpAddr, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};

use crate::{
    cache::{Cache, Key},
    config::Settings,
    forward::{Forward, Question},
    index::Index,
    kubernetes::{self, Verdict},
    metrics::{Metrics, Plugin, Proto, ServerMetrics},
    name::{self, WireName},
    wire::{Answer, HEADER, Query, Rcode, Reject},
};

/// Everything that answers. Shared by all sockets.
pub(crate) struct Engine {
    pub settings: Arc<Settings>,
    pub own: Vec<IpAddr>,
    pub index: ArcSwap<Index>,
    pub cache: Cache,
    pub forward: Forward,
    pub metrics: Arc<Metrics>,
    /// The name of which a query can only be our own, sent upstream and come back.
    pub probe: ArcSwapOption<WireName>,
    /// Whether the index holds all objects.
    pub synced: watch::Sender<bool>,
}

/// How a query came.
#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub proto: Proto,
    pub ipv6: bool,
}

/// What to do with a packet.
pub(crate) enum Step {
    /// The answer is written: send it.
    Reply,
    /// There is nothing to send.
    Ignore,
    /// Others must be asked first: [`Engine::finish`].
    Ask(Box<Pending>),
}

/// A query that waits for upstream.
pub(crate) struct Pending {
    packet: Vec<u8>,
    chain: Vec<WireName>,
    client: Client,
    started: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Engine {
    /// Answers a packet, or says what is to be done with it. Never waits.
    pub(crate) fn handle(&self, server: &ServerMetrics, client: Client, packet: &[u8], out: &mut Vec<u8>) -> Step {
        let started = Instant::now();
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(reject) => return self.reject(server, client, packet, out, reject, started),
        };
        let verdict = {
            let index = self.index.load();
            kubernetes::answer(&self.settings, &self.own, &index, &query, self.limit(client, &query), out)
        };
        match verdict {
            Verdict::Answered(rcode) => {
                self.count(server, client, &query, out, Plugin::Kubernetes, rcode, started);
                Step::Reply
            }
            Verdict::NotOurs => self.elsewhere(server, client, &query, Vec::new(), out, started),
            Verdict::Elsewhere(chain) => self.elsewhere(server, client, &query, chain, out, started),
        }
    }

    /// Asks upstream and writes the answer.
    pub(crate) async fn finish(&self, server: &ServerMetrics, pending: Pending, out: &mut Vec<u8>) {
        let Pending { packet, chain, client, started, .. } = &pending;
        let Ok(query) = Query::read(packet) else { return };
        let typed = &packet[HEADER..query.question_end - 4];
        let question = Question {
            name: chain.last().map_or(typed, WireName::as_bytes),
            kind: query.kind,
            flags: [packet[2] & 1, packet[3] & 0x30],
            dnssec: query.dnssec(),
            proto: client.proto,
        };
        let limit = self.limit(*client, &query);
        let plugin = if chain.is_empty() { Plugin::Forward } else { Plugin::Kubernetes };
        let rcode = match self.forward.ask(&question).await {
            Ok(reply) => {
                let reply = Arc::new(reply);
                let key = Key::new(chain.last().map_or(query.name(), WireName::as_bytes), &query);
                let limit_ttl = self.cache.put(&key, &reply, Instant::now());
                if chain.is_empty() {
                    reply.write(&query, out, limit, limit_ttl, 0, false);
                    reply.rcode()
                } else {
                    reply.write_behind(&query, chain, self.settings.ttl, 0, out, limit)
                }
            }
            Err(failure) => {
                tracing::debug!(error = &failure as &dyn std::error::Error, name = name::text(question.name), "upstream failed");
                self.alone(&query, chain, limit, out, failure.rcode())
            }
        };
        self.count(server, *client, &query, out, plugin, rcode, *started);
    }

    /// A code without records; or the CNAMEs alone, which are true although their target cannot be resolved (RFC 1034, 4.3.2).
    fn alone(&self, query: &Query<'_>, chain: &[WireName], limit: usize, out: &mut Vec<u8>, rcode: Rcode) -> Rcode {
        let mut answer = Answer::to(out, query.packet, query.question_end, query.edns, limit);
        if chain.is_empty() {
            answer.finish(rcode);
            return rcode;
        }
        answer.authoritative();
        kubernetes::cnames(&mut answer, chain, self.settings.ttl);
        answer.finish(Rcode::NOERROR);
        Rcode::NOERROR
    }

    fn elsewhere(
        &self,
        server: &ServerMetrics,
        client: Client,
        query: &Query<'_>,
        chain: Vec<WireName>,
        out: &mut Vec<u8>,
        started: Instant,
    ) -> Step {
        let limit = self.limit(client, query);
        if self.probe.load().as_ref().is_some_and(|probe| probe.as_bytes() == query.name()) {
            if self.metrics.loop_detected.get() == 0 {
                self.metrics.loop_detected.set(1);
                tracing::error!("queries sent upstream come back: names outside the cluster are not resolved");
            }
            let rcode = self.alone(query, &[], limit, out, Rcode::SERVFAIL);
            self.count(server, client, query, out, Plugin::Loop, rcode, started);
            return Step::Reply;
        }
        let key = Key::new(chain.last().map_or(query.name(), WireName::as_bytes), query);
        if let Some((entry, age)) = self.cache.get(&key, started, server) {
            let rcode = if chain.is_empty() {
                entry.reply.write(query, out, limit, entry.seconds, age, true);
                entry.reply.rcode()
            } else {
                entry.reply.write_behind(query, &chain, self.settings.ttl, age, out, limit)
            };
            self.count(server, client, query, out, Plugin::Cache, rcode, started);
            return Step::Reply;
        }
        let looping = self.metrics.loop_detected.get() != 0;
        let refusal = if looping { (Rcode::SERVFAIL, Plugin::Loop) } else { (Rcode::REFUSED, Plugin::Forward) };
        match (!looping).then(|| self.forward.permit()).flatten() {
            Some(permit) => {
                Step::Ask(Box::new(Pending { packet: query.packet.to_vec(), chain, client, started, _permit: permit }))
            }
            None => {
                let rcode = self.alone(query, &chain, limit, out, refusal.0);
                self.count(server, client, query, out, refusal.1, rcode, started);
                Step::Reply
            }
        }
    }

    fn reject(
        &self,
        server: &ServerMetrics,
        client: Client,
        packet: &[u8],
        out: &mut Vec<u8>,
        reject: Reject,
        started: Instant,
    ) -> Step {
        match reject {
            Reject::Ignore => {
                self.metrics.malformed.inc();
                Step::Ignore
            }
            Reject::Header(rcode) => {
                self.metrics.malformed.inc();
                Answer::to(out, packet, HEADER, None, 512).finish(rcode);
                Step::Reply
            }
            Reject::Question(rcode, end, edns) => {
                Answer::to(out, packet, end, edns, 512).finish(rcode);
                let kind = u16::from_be_bytes([packet[end - 4], packet[end - 3]]);
                let dnssec = edns.is_some_and(|edns| edns.dnssec);
                let seconds = started.elapsed().as_secs_f64();
                let Client { proto, ipv6 } = client;
                self.metrics.answered(server, proto, ipv6, kind, dnssec, packet.len(), out, Plugin::Server, rcode, seconds);
                Step::Reply
            }
        }
    }

    /// Answers SERVFAIL to what made us panic.
    pub(crate) fn panicked(&self, packet: &[u8], out: &mut Vec<u8>) -> Step {
        self.metrics.panics.inc();
        if packet.len() < HEADER {
            return Step::Ignore;
        }
        Answer::to(out, packet, HEADER, None, 512).finish(Rcode::SERVFAIL);
        Step::Reply
    }

    /// The largest answer that the client takes.
    fn limit(&self, client: Client, query: &Query<'_>) -> usize {
        match (client.proto, query.edns) {
            (Proto::Tcp, _) => usize::from(u16::MAX),
            (Proto::Udp, None) => 512,
            (Proto::Udp, Some(edns)) => usize::from(edns.size).clamp(512, self.settings.max_udp_response_bytes),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a query's end is counted by")]
    fn count(
        &self,
        server: &ServerMetrics,
        client: Client,
        query: &Query<'_>,
        out: &[u8],
        plugin: Plugin,
        rcode: Rcode,
        started: Instant,
    ) {
        let Client { proto, ipv6 } = client;
        let seconds = started.elapsed().as_secs_f64();
        self.metrics.answered(server, proto, ipv6, query.kind, query.dnssec(), query.packet.len(), out, plugin, rcode, seconds);
    }
}
