//! Nodes, namespaces, events, configuration, quotas, leases and what else belongs to the cluster as a whole.

use std::borrow::Cow;

use serde_json::Value;

use super::{Cells, Print, condition, first_three, join, name_and_creation, or, quantity, text};
use crate::{meta, time};

pub(super) fn core(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "Node" => ("Name|Status|Roles|Age|Version|Internal-IP*|External-IP*|OS-Image*|Kernel-Version*|Container-Runtime*", node),
        "Event" => (EVENT, event),
        "Namespace" => ("Name|Status|Age", |o| vec![o.name(), o.text("status.phase").into(), o.age()]),
        "Secret" => ("Name|Type|Data|Age", |o| vec![o.name(), o.text("type").into(), o.count("data").into(), o.age()]),
        "ConfigMap" => ("Name|Data|Age", |o| vec![o.name(), (o.count("data") + o.count("binaryData")).into(), o.age()]),
        "ServiceAccount" => ("Name|Secrets|Age", |o| vec![o.name(), o.count("secrets").into(), o.age()]),
        "ResourceQuota" => ("Name|Request|Limit|Age", quota),
        "LimitRange" => ("Name|Created At@", name_and_creation),
        "ComponentStatus" => ("Name|Status|Message|Error", component),
        _ => return None,
    })
}

pub(super) fn find(group: &str, kind: &str) -> Option<(&'static str, Print)> {
    Some(match (group, kind) {
        ("events.k8s.io", "Event") => (EVENT, event),
        ("coordination.k8s.io", "Lease") => {
            ("Name|Holder|Age", |o| vec![o.name(), o.text("spec.holderIdentity").into(), o.age()])
        }
        ("coordination.k8s.io", "LeaseCandidate") => ("Name|LeaseName|BinaryVersion|EmulationVersion|Age", |o| {
            let field = |name| o.text(name).into();
            vec![o.name(), field("spec.leaseName"), field("spec.binaryVersion"), field("spec.emulationVersion"), o.age()]
        }),
        ("scheduling.k8s.io", "PriorityClass") => ("Name|Value#|Global-Default?|Age|PreemptionPolicy", |o| {
            let value = o.number("value").into();
            vec![o.name(), value, o.flag("globalDefault", false), o.age(), o.text("preemptionPolicy").into()]
        }),
        ("node.k8s.io", "RuntimeClass") => ("Name|Handler|Age", |o| vec![o.name(), o.text("handler").into(), o.age()]),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => {
            ("Name|PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL", flow_schema)
        }
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            ("Name|Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age", priority_level)
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => ("Name|Created At@", name_and_creation),
        ("apiregistration.k8s.io", "APIService") => ("Name|Service|Available|Age", api_service),
        ("resource.k8s.io", "ResourceClaim") => ("Name|State|Age", |o| vec![o.name(), claim_state(o).into(), o.age()]),
        ("resource.k8s.io", "ResourceSlice") => ("Name|Node|Driver|Pool|Age", |o| {
            let field = |name| o.text(name).into();
            vec![o.name(), field("spec.nodeName"), field("spec.driver"), field("spec.pool.name"), o.age()]
        }),
        ("storagemigration.k8s.io", "StorageVersionMigration") => ("Name|Resource", |o| {
            let (group, resource) = (o.text("spec.resource.group"), o.text("spec.resource.resource"));
            let dot = if group.is_empty() { "" } else { "." };
            vec![o.name(), format!("{resource}{dot}{group}").into()]
        }),
        ("internal.apiserver.k8s.io", "StorageVersion") => ("Name|CommonEncodingVersion|StorageVersions|Age", storage_version),
        _ => return None,
    })
}

const EVENT: &str = "Last Seen|Type|Reason|Object|Subobject*|Source*|Message|First Seen*|Count*|Name*";

fn node(o: &Cells<'_>) -> Vec<Value> {
    let mut status = match condition(o.list("status.conditions"), "Ready") {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if o.at("spec.unschedulable") == &Value::Bool(true) {
        status += ",SchedulingDisabled";
    }
    let role = |(key, value): (&'_ str, &'_ str)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => role.to_owned(),
        None if key == "kubernetes.io/role" => value.to_owned(),
        None => String::new(),
    };
    let mut roles: Vec<String> = meta::labels(o.object).map(role).filter(|r| !r.is_empty()).collect();
    roles.sort();
    roles.dedup();
    let address = |ty: &str| {
        let found = o.list("status.addresses").iter().find(|a| text(a, "type") == ty);
        Value::from(found.map_or("<none>", |a| text(a, "address")))
    };
    let info = |name: &str| Value::from(or(text(o.at("status.nodeInfo"), name), "<unknown>"));
    vec![
        o.name(),
        status.into(),
        or(&roles.join(","), "<none>").into(),
        o.age(),
        o.text("status.nodeInfo.kubeletVersion").into(),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

/// Events of both groups: the newer one has other names for the same fields.
fn event(o: &Cells<'_>) -> Vec<Value> {
    let either = |core: &str, newer: &str| if o.text(core).is_empty() { o.text(newer) } else { o.text(core) };
    let ago = |at: &str| time::age((!at.is_empty()).then_some(at), o.now);
    let first = or(either("firstTimestamp", "deprecatedFirstTimestamp"), o.text("eventTime"));
    let last = match o.text("series.lastObservedTime") {
        "" => or(either("lastTimestamp", "deprecatedLastTimestamp"), first),
        last => last,
    };
    let count = [o.number("series.count"), o.number("count"), o.number("deprecatedCount")].into_iter().find(|c| *c != 0);
    let about = if o.at("involvedObject").is_null() { o.at("regarding") } else { o.at("involvedObject") };
    let kind = text(about, "kind").to_lowercase();
    let target = match text(about, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component =
        or(either("source.component", "deprecatedSource.component"), either("reportingComponent", "reportingController"));
    let host = or(either("source.host", "deprecatedSource.host"), o.text("reportingInstance"));
    let source = if host.is_empty() { component.to_owned() } else { format!("{component}, {host}") };
    vec![
        ago(last).into(),
        o.text("type").into(),
        o.text("reason").into(),
        target.into(),
        text(about, "fieldPath").into(),
        source.into(),
        either("message", "note").trim().into(),
        ago(first).into(),
        count.unwrap_or(1).into(),
        o.name(),
    ]
}

fn quota(o: &Cells<'_>) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in o.at("status.hard").as_object().into_iter().flatten() {
        let used = o.at("status.used").get(resource).unwrap_or(&Value::Null);
        let text = format!("{resource}: {}/{}", quantity(used), quantity(hard));
        if resource.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
    }
    vec![o.name(), requests.join(", ").into(), limits.join(", ").into(), o.age()]
}

fn component(o: &Cells<'_>) -> Vec<Value> {
    let healthy = o.list("conditions").iter().find(|c| text(c, "type") == "Healthy");
    let status = match healthy.map(|c| text(c, "status")) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    let field = |name| Value::from(healthy.map_or("", |c| text(c, name)));
    vec![o.name(), status.into(), field("message"), field("error")]
}

fn flow_schema(o: &Cells<'_>) -> Vec<Value> {
    let dangling = condition(o.list("status.conditions"), "Dangling").unwrap_or("?");
    vec![
        o.name(),
        o.text("spec.priorityLevelConfiguration.name").into(),
        o.number("spec.matchingPrecedence").into(),
        or(o.text("spec.distinguisherMethod.type"), "<none>").into(),
        o.age(),
        dangling.into(),
    ]
}

fn priority_level(o: &Cells<'_>) -> Vec<Value> {
    let number = |path: &str| o.at(path).as_i64().map_or_else(|| Value::from("<none>"), Value::from);
    vec![
        o.name(),
        o.text("spec.type").into(),
        number("spec.limited.nominalConcurrencyShares"),
        number("spec.limited.limitResponse.queuing.queues"),
        number("spec.limited.limitResponse.queuing.handSize"),
        number("spec.limited.limitResponse.queuing.queueLengthLimit"),
        o.age(),
    ]
}

fn api_service(o: &Cells<'_>) -> Vec<Value> {
    let service = match o.at("spec.service") {
        Value::Object(_) => format!("{}/{}", o.text("spec.service.namespace"), o.text("spec.service.name")),
        _ => "Local".to_owned(),
    };
    let available = o.list("status.conditions").iter().find(|c| text(c, "type") == "Available");
    let available = match available.map(|c| (text(c, "status"), text(c, "reason"))) {
        None => "Unknown".to_owned(),
        Some(("True", _)) => "True".to_owned(),
        Some((status, reason)) => format!("{status} ({reason})"),
    };
    vec![o.name(), service.into(), available.into(), o.age()]
}

fn claim_state(o: &Cells<'_>) -> String {
    let deleting = meta::is_deleting(o.object);
    let allocated = o.at("status.allocation").is_object();
    let reserved = allocated && o.count("status.reservedFor") > 0;
    let states = [(deleting, "deleted"), (!allocated && !deleting, "pending"), (allocated, "allocated"), (reserved, "reserved")];
    join(states.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name), ",")
}

fn storage_version(o: &Cells<'_>) -> Vec<Value> {
    let version = |v: &Value| format!("{}={}", text(v, "apiServerID"), text(v, "encodingVersion"));
    let versions: Vec<Cow<'_, str>> = o.list("status.storageVersions").iter().map(|v| Cow::Owned(version(v))).collect();
    let common = or(o.text("status.commonEncodingVersion"), "<unset>");
    vec![o.name(), common.into(), first_three(&versions, "<unset>").into(), o.age()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells() {
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let print = |print: Print, object: Value| Value::from(print(&Cells::new(&object, now)));
        assert_eq!(
            print(
                node,
                json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1.37.0"},
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}})
            ),
            json!([
                "n",
                "Ready,SchedulingDisabled",
                "control-plane",
                "<unknown>",
                "v1.37.0",
                "10.0.0.1",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>"
            ])
        );
        assert_eq!(
            print(
                event,
                json!({"metadata": {"name": "e"}, "type": "Normal", "reason": "R", "message": " m\n", "count": 3,
                "firstTimestamp": "2026-01-01T00:50:00Z", "lastTimestamp": "2026-01-01T00:59:00Z", "involvedObject": {"kind": "Pod", "name": "p"},
                "source": {"component": "kubelet", "host": "n"}})
            ),
            json!(["60s", "Normal", "R", "pod/p", "", "kubelet, n", "m", "10m", 3, "e"])
        );
        assert_eq!(
            print(quota, json!({"status": {"hard": {"limits.cpu": "2", "pods": "10"}, "used": {"pods": "1"}}})),
            json!(["", "pods: 1/10", "limits.cpu: 0/2", "<unknown>"])
        );
        assert_eq!(
            print(api_service, json!({"status": {"conditions": [{"type": "Available", "status": "False", "reason": "X"}]}}))[2],
            "False (X)"
        );
    }
}
