//! pharos-metrics
