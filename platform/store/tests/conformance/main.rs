//! Every engine, one suite; what only etcd does; and what goes from one engine to the other.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking and owns its tasks")]

mod suite;
mod server;
mod shared;
mod moves;

use std::sync::Arc;

use pharos_store::{Config, Embedded, EtcdConfig, Metrics, Store};
use pharos_telemetry::Clock;
use prometheus::Registry;
use server::Server;

/// Runs each case of the suite on an engine of its own.
macro_rules! conformance {
    ($engine:ident: $($case:ident),+ $(,)?) => {
        mod $engine {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (store, _guard) = super::$engine().await;
                super::suite::$case(store).await;
            })+
        }
    };
}

/// Runs the whole suite on engines.
macro_rules! engines {
    ($($engine:ident),+) => {
        $(conformance! {
            $engine:
            revisions_are_global_and_gapless,
            expectations_are_checked,
            a_commit_is_all_or_nothing,
            what_changes_nothing_makes_no_revision,
            invalid_and_large_commits_are_refused,
            the_revision_is_spliced,
            lists_page_in_key_order,
            long_lists_are_whole,
            the_past_can_be_read,
            compaction_forgets,
            a_watch_starts_at_any_revision,
            a_watch_keeps_commits_whole_and_in_order,
            a_watch_behind_compaction_ends,
            a_sink_gets_state_then_events,
            sinks_do_not_overlap,
            concurrent_writers_of_one_key_take_turns,
            what_is_acknowledged_is_in_the_cache,
            it_tells_of_itself,
            encrypted_values_are_written_again,
        })+
    };
}

engines!(embedded, etcd);

async fn embedded() -> (Arc<dyn Store>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes: 1 << 20, max_commit_bytes: 256 << 10, ..Config::new(dir.path()) };
    let store = Embedded::open(config, Clock::system(), Metrics::new(&Registry::new()).unwrap()).unwrap();
    (store, dir)
}

async fn etcd() -> (Arc<dyn Store>, Server) {
    let server = Server::start().await;
    // The suite's keys are below nothing.
    let store = server.open(EtcdConfig { root: String::new(), ..server.config("keys") }).await;
    (store, server)
}
