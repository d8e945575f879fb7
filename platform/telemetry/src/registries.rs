use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{
    Encoder as _, Registry, TextEncoder,
    proto::{LabelPair, MetricFamily},
};

/// The metric registry of each component, by name.
///
/// Registries stay apart: a scrape of one component never returns another's series, and no series exists twice.
#[derive(Clone, Default)]
pub struct Registries(Arc<Mutex<Vec<(String, Registry)>>>);

impl Registries {
    /// The registry of a component; made at the first call, so a restarted component finds its own again.
    #[must_use]
    pub fn of(&self, component: &str) -> Registry {
        let mut all = self.0.lock();
        if let Some((_, registry)) = all.iter().find(|(name, _)| name == component) {
            return registry.clone();
        }
        let registry = Registry::new();
        all.push((component.to_owned(), registry.clone()));
        registry
    }

    /// Every component's name and registry, in order of creation.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Registry)> {
        self.0.lock().clone()
    }

    /// The Prometheus text exposition (format 0.0.4) of one component, or `None` if there is no such component.
    ///
    /// # Errors
    /// When a metric family cannot be encoded, which is a bug in the component that registered it.
    pub fn encode(&self, component: &str) -> Option<Result<String, prometheus::Error>> {
        let registry = self.0.lock().iter().find(|(name, _)| name == component)?.1.clone();
        Some(encode(&registry.gather()))
    }

    /// The text exposition of all components together; each series carries the label `component`.
    ///
    /// # Errors
    /// When a metric family cannot be encoded, which is a bug in the component that registered it.
    pub fn encode_all(&self) -> Result<String, prometheus::Error> {
        let mut families: std::collections::BTreeMap<String, MetricFamily> = std::collections::BTreeMap::new();
        for (component, registry) in self.all() {
            for mut family in registry.gather() {
                for metric in family.mut_metric() {
                    let mut labels = metric.take_label();
                    if !labels.iter().any(|l| l.name() == "component") {
                        let mut label = LabelPair::default();
                        label.set_name("component".into());
                        label.set_value(component.clone());
                        labels.push(label);
                    }
                    metric.set_label(labels);
                }
                match families.entry(family.name().to_owned()) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(family);
                    }
                    std::collections::btree_map::Entry::Occupied(mut entry) => {
                        let mut metrics = entry.get_mut().take_metric();
                        metrics.extend(family.take_metric());
                        entry.get_mut().set_metric(metrics);
                    }
                }
            }
        }
        encode(&families.into_values().collect::<Vec<_>>())
    }
}

fn encode(families: &[MetricFamily]) -> Result<String, prometheus::Error> {
    let mut text = Vec::new();
    TextEncoder::new().encode(families, &mut text)?;
    String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Register as _;

    #[test]
    fn components_keep_apart() {
        let registries = Registries::default();
        for name in ["a", "b"] {
            let requests: prometheus::IntCounter = registries.of(name).counter("requests_total", "Requests.").unwrap();
            requests.inc();
        }
        assert!(registries.encode("a").unwrap().unwrap().contains("requests_total 1"));
        assert!(registries.encode("c").is_none());
        let all = registries.encode_all().unwrap();
        assert_eq!(all.matches("# TYPE requests_total counter").count(), 1);
        assert!(all.contains("requests_total{component=\"a\"} 1") && all.contains("requests_total{component=\"b\"} 1"));
    }
}
