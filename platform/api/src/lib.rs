//! pharos-api
