//! What the black-box tests stand on: clusters of the real binary, each in network namespaces of its own, and the real
//! clients that talk to them.
//!
//! Needs root, `scripts/deps test`, and the binary's path in `PHAROS_BIN` (`make test` sets it). Whatever a test starts
//! or makes is gone when its [`Cluster`] is dropped.

mod net; // Where nodes are,
mod cluster; // what they run,
mod image; // from which images,
mod run; // what is asked of them,
mod session; // once or in a conversation.

pub use cluster::{Cluster, Node, clients};
pub use image::BUSYBOX;
pub use net::Net;
pub use run::{Output, eventually, run};
pub use session::Session;

/// The repository's root.
#[must_use]
pub fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").to_owned()
}
