//! Container runtimes behind one trait: the embedded OCI runtime and Docker.
//!
//! Start reading at [`Runtime`]; its messages are in [`types`]. This crate knows pods only as CRI does (a sandbox with labels)
//! and nothing of the API server; networks are attached by others to the namespace a sandbox gives.

mod cgroup; // Control groups,
pub mod docker; // Docker as the runtime,
pub mod embedded; // the default one,
mod error; // what can go wrong,
pub mod image; // images,
mod runtime; // the trait,
mod selinux; // what is refused of SELinux,
mod spec; // what a container is to the kernel,
pub mod types; // and the trait's messages.

pub use docker::{Docker, DockerConfig};
pub use embedded::{Embedded, EmbeddedConfig, shim_main};
pub use error::{Error, Result};
pub use runtime::Runtime;
