//! How many watch what: each change costs as much as there are watchers to be told
//! (`apiserver/pkg/util/flowcontrol/watch_tracker.go`).
//!
//! Watches in this process are counted too: they wake on a change as others do.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::request::RequestInfo;

/// Open watches, by resource and group.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<String, HashMap<String, Counts>>>);

/// Watches of a resource, by what they are about: all objects, a namespace's, or one (namespace and name).
#[derive(Default)]
struct Counts {
    all: usize,
    namespaces: HashMap<String, usize>,
    names: HashMap<(String, String), usize>,
}

/// What a watch is about; namespace and name may be empty.
#[derive(Debug, Clone)]
struct About {
    group: String,
    resource: String,
    namespace: String,
    name: String,
}

/// Counts a watch for as long as it lives.
pub(crate) struct Watching(Arc<Watches>, About);

impl Watches {
    /// Counts a watch. Watches of one node's pods, of which a change wakes only those of its node, are not to be counted.
    pub(crate) fn register(self: &Arc<Self>, group: &str, resource: &str, namespace: &str, name: &str) -> Watching {
        let about = About {
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        self.add(&about, 1);
        Watching(self.clone(), about)
    }

    fn add(&self, about: &About, delta: isize) {
        let mut watches = self.0.lock();
        let groups = watches.entry(about.resource.clone()).or_default();
        let counts = groups.entry(about.group.clone()).or_default();
        match (about.namespace.is_empty(), about.name.is_empty()) {
            (true, true) => counts.all = counts.all.saturating_add_signed(delta),
            (false, true) => change(&mut counts.namespaces, about.namespace.clone(), delta),
            (_, false) => change(&mut counts.names, (about.namespace.clone(), about.name.clone()), delta),
        }
        if counts.all == 0 && counts.namespaces.is_empty() && counts.names.is_empty() {
            groups.remove(&about.group);
        }
        if groups.is_empty() {
            watches.remove(&about.resource);
        }
    }

    /// How many would be told of a change that a request makes.
    pub(super) fn interested(&self, info: &RequestInfo) -> usize {
        let watches = self.0.lock();
        let Some(counts) = watches.get(&info.resource).and_then(|groups| groups.get(&info.group)) else { return 0 };
        let namespace = counts.namespaces.get(&info.namespace).copied().unwrap_or(0);
        let name = if counts.names.is_empty() || info.name.is_empty() {
            0
        } else {
            counts.names.get(&(info.namespace.clone(), info.name.clone())).copied().unwrap_or(0)
        };
        counts.all + namespace + name
    }
}

fn change<K: std::hash::Hash + Eq + Clone>(counts: &mut HashMap<K, usize>, key: K, delta: isize) {
    let count = counts.entry(key.clone()).or_default();
    *count = count.saturating_add_signed(delta);
    if *count == 0 {
        counts.remove(&key);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.add(&self.1, -1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_concerned_are_counted() {
        let watches = Arc::new(Watches::default());
        let watch = |namespace: &str, name: &str| watches.register("apps", "deployments", namespace, name);
        let open = [watch("", ""), watch("", ""), watch("a", ""), watch("a", "x"), watch("b", "x")];
        let info = |group: &str, namespace: &str, name: &str| RequestInfo {
            group: group.into(),
            resource: "deployments".into(),
            namespace: namespace.into(),
            name: name.into(),
            ..RequestInfo::default()
        };
        for (group, namespace, name, want) in [
            ("apps", "a", "x", 4),
            ("apps", "a", "y", 3),
            ("apps", "a", "", 3),
            ("apps", "b", "x", 3),
            ("apps", "c", "", 2),
            ("", "a", "x", 0),
        ] {
            assert_eq!(watches.interested(&info(group, namespace, name)), want, "{group} {namespace} {name}");
        }
        drop(open);
        assert!(watches.0.lock().is_empty());
    }
}
