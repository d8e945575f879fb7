//! pharos-scheduler
