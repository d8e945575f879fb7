//! Where lines come from.

mod containers; // What containers write,
mod events; // what happens to objects,
mod records; // and what Pharos says itself.

pub(crate) use containers::containers;
pub(crate) use events::events;
pub(crate) use records::records;
