//! pharos-logging
