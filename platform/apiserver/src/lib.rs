//! The API server: the one door to the cluster's objects.
//!
//! [`Api`] maps an `http::Request` to a response or a stream: authentication, authorization, then one generic pipeline
//! for every kind (decode, default, admission, validation, compare-and-swap, encode). It knows no sockets: the front in
//! `pharos-transport` calls it as a `Handler`, components in the same process through [`Api::service`]. There are no
//! handlers per kind; what is special to a kind is a hook in [`strategy`], a built-in admission plugin in [`admission`]
//! or a subresource in [`subresources`].
//!
//! Follows kube-apiserver 1.37 (`staging/src/k8s.io/apiserver`, `pkg/registry`).
//!
//! Start reading at [`Api`], then [`verbs`].

mod api; // Where requests come in,
mod config;
mod error;
mod metrics;
mod request; // what they ask,
mod options;
mod negotiate;
mod body;
mod respond; // how they are answered,
mod compress;
mod carry;
mod status;
pub mod authn; // who asks,
pub mod authz; // and whether they may;
mod flowcontrol; // when it is their turn;
mod mount; // what others answer;
mod resources; // the kinds,
mod storage; // where their objects are,
mod lists;
mod convert;
mod names;
mod call;
mod took;
mod verbs; // and what can be done with them.
mod patches;
mod managed_fields;
mod subresources;
mod strategy;
mod admission;
mod authz_hooks;
mod custom;
mod discovery;
mod nonresource;
mod services; // Others this one calls;
mod outbound;
mod kubeconfig;
mod aggregation;
mod bootstrap;
mod background;
pub mod audit; // What is written down of it all.

/// What the PodSecurity admission is told.
pub mod pod_security {
    pub use crate::admission::pod_security::{
        Configuration,
        policy::{Level, Policy, Standard, Version},
    };
}

pub use api::{Api, Parts, Service};
pub use config::Config;
pub use error::{Error, Result};
pub use mount::{ApiGroup, Mount};
pub use nonresource::version;
