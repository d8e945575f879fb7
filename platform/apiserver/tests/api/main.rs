//! The API server's core as a black box: requests in, answers out, over a store in a temporary directory.

mod common;
mod objects;
mod refusals;
