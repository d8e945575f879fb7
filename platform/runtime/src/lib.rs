//! pharos-runtime
