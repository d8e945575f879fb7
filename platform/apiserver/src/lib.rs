//! pharos-apiserver
