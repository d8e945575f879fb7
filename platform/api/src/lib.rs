//! pharos-api
pub mod object;
pub mod status;
pub mod registry;
pub mod schema;
pub mod accept;
pub mod meta;
pub mod names;
pub mod partial;
pub mod quantity;
pub mod selector;
pub mod time;
pub mod yaml;
