//! The network in real network namespaces. Needs root, `ip` and `nft`; nothing outside the namespaces made here is touched.

mod pods;
mod world;
