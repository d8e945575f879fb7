//! pharos-client
