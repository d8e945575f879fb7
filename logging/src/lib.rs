//! The log index: keeps every line that Pharos, its containers and its API server emit, and answers LogQL over Loki's HTTP API.
//!
//! Lines come from the queue of component records, from container log files and from Kubernetes events. They go into a
//! write-ahead log and a head in memory, and from there into time-bounded splits, each a tantivy index. A line can be
//! queried as soon as it is in the head. It never parses lines when they are stored: LogQL does so when they are read.
//!
//! Follows Grafana Loki 3 (HTTP API and LogQL). Start reading at [`Logging`], then [`LogsHandler`]; on a node without
//! an index, at [`LogShipper`].

mod config; // What can be set,
mod error; // go wrong.
mod entry; // What is kept,
mod wal; // at once,
mod split; // then for long;
mod index; // and found
mod scan; // again
mod logql; // by a language,
mod engine; // which is run.
mod metrics; // What is measured,
mod inputs; // what comes in.
mod component; // What runs,
mod handler; // and who answers.
mod ship; // On a node without an index: what takes lines to the server's.

pub use component::Logging;
pub use config::Config;
pub use error::{Error, Result};
pub use handler::{LogsHandler, PushedBy};
pub use ship::{LogShipper, ShipperConfig};
