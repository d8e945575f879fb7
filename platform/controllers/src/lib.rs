//! pharos-controllers
