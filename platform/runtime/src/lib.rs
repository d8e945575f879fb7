//! Container runtimes behind one trait: the embedded OCI runtime and Docker.
//!
//! Start reading at [`Runtime`]; its messages are in [`types`]. This crate knows pods only as CRI does (a sandbox with labels)
//! and nothing of the API server; networks are attached by others to the namespace a sandbox gives.

mod error; // What can go wrong,
mod cgroup; // Control groups;
pub mod image; // images;
mod runtime; // the trait,
pub mod types; // and its messages.

pub use error::{Error, Result};
pub use runtime::Runtime;
