//! pharos-node
