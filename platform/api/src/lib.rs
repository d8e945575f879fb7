//! pharos-api
pub mod object;
pub mod status;
pub mod registry;
pub mod schema;
