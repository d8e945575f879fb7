//! Collectors that are built in: what node_exporter and kube-state-metrics say elsewhere, as far as dashboards need it most.

pub(crate) mod node;
pub(crate) mod objects;
