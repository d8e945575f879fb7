//! pharos-transport
