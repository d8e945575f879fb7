//! pharos-network
