//! The API server's core as a black box: requests in, answers out, over a store in a temporary directory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;
mod compression;
mod remote;
mod aggregation;
mod audit;
mod auth;
mod conversion;
mod fairness;
mod metrics;
mod objects;
mod openapi;
mod plugins;
mod pod_security;
mod policies;
mod protobuf;
mod refusals;
mod rules;
mod webhooks;
