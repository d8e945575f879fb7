use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Taint},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// What a silent node's conditions are about.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const BY_CONDITION: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What changes as long as a kubelet lives: when its Lease was renewed, and when its status was.
pub(super) type Sign = (Option<Timestamp>, Option<Timestamp>);

pub(super) fn sign(node: &Node, lease: Option<&Lease>) -> Sign {
    let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0);
    // What this controller wrote itself is no sign.
    let beat = condition(node, "Ready").filter(|c| !is_ours(c)).and_then(|c| c.last_heartbeat_time.as_ref()).map(|time| time.0);
    (renewed, beat)
}

fn is_ours(condition: &NodeCondition) -> bool {
    matches!(condition.reason.as_deref(), Some("NodeStatusUnknown" | "NodeStatusNeverUpdated"))
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|c| c.type_ == kind)
}

/// The status of `Ready`; a node that never said is `Unknown`.
pub(super) fn ready(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// The conditions of a node that fell silent, as far as they do not say so yet.
pub(super) fn silenced(node: &Node, now: &Time) -> Option<Vec<NodeCondition>> {
    let unknown: Vec<NodeCondition> = REPORTED
        .iter()
        .filter_map(|kind| {
            let (reason, message) = match condition(node, kind) {
                Some(current) if current.status == "Unknown" => return None,
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            Some(NodeCondition {
                type_: (*kind).into(),
                status: "Unknown".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: condition(node, kind)
                    .and_then(|c| c.last_heartbeat_time.clone())
                    .or_else(|| node.metadata.creation_timestamp.clone()),
                last_transition_time: Some(now.clone()),
            })
        })
        .collect();
    (!unknown.is_empty()).then_some(unknown)
}

/// All taints of the node as its conditions ask, or `None` if it has them. Taints of others stay.
pub(super) fn taints(node: &Node, any_ready: bool, now: &Time) -> Option<Vec<Taint>> {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let absent = match ready(node) {
        "True" => None,
        "False" => Some(NOT_READY),
        _ => Some(UNREACHABLE),
    };
    if let Some(key) = absent {
        wanted.push((key, "NoSchedule"));
        if any_ready {
            wanted.push((key, "NoExecute"));
        }
    }
    wanted.extend(
        BY_CONDITION
            .iter()
            .filter(|(kind, _)| condition(node, kind).is_some_and(|c| c.status == "True"))
            .map(|(_, key)| (*key, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default() {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let is_ours = |taint: &Taint| match taint.effect.as_str() {
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        "NoSchedule" => {
            [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
                || BY_CONDITION.iter().any(|(_, key)| *key == taint.key)
        }
        _ => false,
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = current.iter().filter(|taint| !is_ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if taints.iter().all(|taint| taint.key != key || taint.effect != effect) {
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added: Some(now.clone()) });
        }
    }
    (taints != current).then_some(taints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::seconds;

    fn node(conditions: &[(&str, &str)], unschedulable: bool, taints: Vec<Taint>) -> Node {
        let mut node = Node::default();
        let of = |(kind, status): &(&str, &str)| NodeCondition {
            type_: (*kind).into(),
            status: (*status).into(),
            ..NodeCondition::default()
        };
        node.status.get_or_insert_default().conditions = Some(conditions.iter().map(of).collect());
        let spec = node.spec.get_or_insert_default();
        spec.unschedulable = unschedulable.then_some(true);
        spec.taints = (!taints.is_empty()).then_some(taints);
        node
    }

    #[test]
    fn taints_follow_conditions() {
        let now = seconds(Timestamp::UNIX_EPOCH);
        let foreign = Taint { key: "gpu".into(), effect: "NoSchedule".into(), ..Taint::default() };
        for (conditions, unschedulable, any_ready, expected) in [
            (&[("Ready", "True")][..], false, true, None),
            (&[("Ready", "False")], false, true, Some(&["not-ready NoSchedule", "not-ready NoExecute"][..])),
            (&[("Ready", "False")], false, false, Some(&["not-ready NoSchedule"])),
            (&[("Ready", "Unknown")], false, true, Some(&["unreachable NoSchedule", "unreachable NoExecute"])),
            (
                &[("Ready", "True"), ("DiskPressure", "True")],
                true,
                true,
                Some(&["disk-pressure NoSchedule", "unschedulable NoSchedule"]),
            ),
        ] {
            let node = node(conditions, unschedulable, vec![foreign.clone()]);
            let taints = taints(&node, any_ready, &now);
            let told: Option<Vec<String>> = taints.clone().map(|taints| {
                taints[1..].iter().map(|t| format!("{} {}", t.key.trim_start_matches("node.kubernetes.io/"), t.effect)).collect()
            });
            assert_eq!(told, expected.map(|e| e.iter().map(|s| (*s).to_owned()).collect()));
            if let Some(made) = taints {
                let mut tainted = node.clone();
                tainted.spec.as_mut().unwrap().taints = Some(made);
                assert_eq!(super::taints(&tainted, any_ready, &now), None, "once is enough");
            }
        }
    }

    #[test]
    fn silence_is_told_once() {
        let now = seconds(Timestamp::UNIX_EPOCH);
        let mut node = node(&[("Ready", "True"), ("DiskPressure", "False")], false, vec![]);
        let told = silenced(&node, &now).unwrap();
        assert_eq!(told.len(), 4);
        assert_eq!(told[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(told[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        node.status.as_mut().unwrap().conditions = Some(told);
        assert_eq!(silenced(&node, &now), None);
        assert_eq!(ready(&node), "Unknown");
    }
}
