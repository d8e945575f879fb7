//! Images: names, the store, archives, registries, and an archive writer.
//!
//! Everything here but [`pull`] and [`login`] is plain blocking file I/O; callers run it on blocking threads.

pub mod build;
pub mod reference;
pub(crate) mod archive;
pub(crate) mod config;
pub(crate) mod login;
pub(crate) mod mount;
pub(crate) mod pull;
pub(crate) mod store;
pub(crate) mod unpack;
pub(crate) mod user;

pub use build::{BuildFile, BuildImage, build};
pub use reference::Reference;
