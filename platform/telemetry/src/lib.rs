//! pharos-telemetry
