use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
use pharos_client::Key;

use crate::{owners, pods};

const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// When the changes happened that endpoints are to tell, for measuring how long that takes (upstream's `TriggerTimeTracker`).
///
/// Holds what each Service looked like in its last sync. Bounded by the Services and their pods.
#[derive(Default)]
pub(crate) struct TriggerTimes(Mutex<HashMap<Key, Seen>>);

struct Seen {
    created: Option<Timestamp>,
    /// When each pod became ready or ceased to be, by name.
    pods: HashMap<String, Timestamp>,
}

impl TriggerTimes {
    /// The earliest of the changes since the last call for the Service; for a Service that is new here, when it was made.
    /// To be called by each sync, also by those that write nothing.
    pub(crate) fn observe(&self, service: &Service, pods: &[Arc<Pod>]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let changed = |pod: &Pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref().map(|time| time.0);
        let pods = pods.iter().filter_map(|pod| Some((owners::name(&**pod).to_owned(), changed(pod)?)));
        let now = Seen { created, pods: pods.collect() };
        let key = Key::of(service);
        let mut seen = self.0.lock();
        let trigger = match seen.get(&key) {
            None => created,
            Some(before) => {
                let pods = now.pods.iter().filter(|(name, at)| before.pods.get(*name).is_none_or(|before| *at > before));
                let created = created.filter(|at| before.created.is_none_or(|before| *at > before));
                pods.map(|(_, at)| *at).chain(created).min()
            }
        };
        seen.insert(key, now);
        trigger
    }

    pub(crate) fn forget(&self, service: &Key) {
        self.0.lock().remove(service);
    }
}

/// Writes down when the change happened that an object tells first. One that tells no such change must not carry an older time.
pub(crate) fn set_trigger(meta: &mut ObjectMeta, at: Option<Timestamp>) {
    let mut annotations = meta.annotations.take().unwrap_or_default();
    match at {
        Some(at) => annotations.insert(TRIGGER.into(), pharos_api::time::format(at)),
        None => annotations.remove(TRIGGER),
    };
    meta.annotations = (!annotations.is_empty()).then_some(annotations);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::testing::pod;

    #[test]
    fn the_earliest_change_since_the_last_sync() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut service = Service::default();
        service.metadata.name = Some("web".into());
        service.metadata.creation_timestamp = Some(crate::env::seconds(at(10)));
        let times = TriggerTimes::default();
        for (pods, expected) in [
            (vec![("a", Some(20))], Some(10)),
            (vec![("a", Some(20))], None),
            (vec![("a", Some(30)), ("b", Some(25))], Some(25)),
            (vec![("a", Some(40)), ("b", Some(25)), ("c", None)], Some(40)),
            (vec![("a", Some(40))], None),
            (vec![("a", Some(40)), ("b", Some(25))], Some(25)),
        ] {
            let pods: Vec<_> = pods.into_iter().map(|(name, ready)| Arc::new(pod(name, "n1", "Running", ready))).collect();
            assert_eq!(times.observe(&service, &pods), expected.map(at), "{pods:?}");
        }
        service.metadata.creation_timestamp = Some(crate::env::seconds(at(50)));
        assert_eq!(times.observe(&service, &[]), Some(at(50)), "made anew");
        times.forget(&Key::of(&service));
        assert_eq!(times.observe(&service, &[]), Some(at(50)));
    }

    #[test]
    fn an_old_time_does_not_stay() {
        let mut meta = ObjectMeta::default();
        set_trigger(&mut meta, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(meta.annotations, Some([(TRIGGER.to_owned(), "1970-01-01T00:00:00Z".to_owned())].into()));
        set_trigger(&mut meta, None);
        assert_eq!(meta.annotations, None);
    }
}
