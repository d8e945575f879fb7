//! The network in real network namespaces. Needs root, `ip` and `nft`; nothing outside the namespaces made here is touched.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails")]

mod world; // Namespaces,
mod api; // and an API server to tell components about them;
mod pods; // one node,
mod services; // its Services,
mod nodes; // and two.
