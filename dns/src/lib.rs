//! pharos-dns
