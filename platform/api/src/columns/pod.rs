//! Pods: above all the STATUS column, which sums up phase, reason, containers and deletion.

use serde_json::Value;

use super::{Cells, Print, condition, items, or, text};
use crate::{meta, time};

pub(super) fn find(kind: &str) -> Option<(&'static str, Print)> {
    match kind {
        "Pod" => Some(("Name|Ready|Status|Restarts|Age|IP*|Node*|Nominated Node*|Readiness Gates*", pod)),
        _ => None,
    }
}

/// What the containers of a pod add up to.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<String>,
}

impl Summary {
    fn add_restarts(&mut self, status: &Value) {
        self.restarts += status.get("restartCount").and_then(Value::as_i64).unwrap_or_default();
        let finished = text(status, "lastState.terminated.finishedAt");
        if !finished.is_empty() && self.last_restart.as_deref().is_none_or(|last| last < finished) {
            self.last_restart = Some(finished.to_owned());
        }
    }
}

fn terminated_reason(terminated: &Value) -> String {
    let number = |name| terminated.get(name).and_then(Value::as_i64).unwrap_or_default();
    match (text(terminated, "reason"), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn pod(o: &Cells<'_>) -> Vec<Value> {
    let conditions = o.list("status.conditions");
    let init_containers = o.list("spec.initContainers");
    let restartable =
        |name: &str| init_containers.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always");
    let sidecars = init_containers.iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let total = o.list("spec.containers").len() + sidecars;

    let phase = o.text("status.phase");
    let mut summary = Summary { reason: or(o.text("status.reason"), phase).to_owned(), ..Summary::default() };
    if conditions.iter().any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }

    let mut sidecar_restarts = Summary::default();
    let mut initializing = false;
    for (i, status) in o.list("status.initContainerStatuses").iter().enumerate() {
        summary.add_restarts(status);
        let sidecar = restartable(text(status, "name"));
        if sidecar {
            sidecar_restarts.add_restarts(status);
        }
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        let waiting = text(status, "state.waiting.reason");
        match terminated {
            Some(terminated) if terminated.get("exitCode").and_then(Value::as_i64).unwrap_or_default() == 0 => continue,
            _ if sidecar && status.get("started") == Some(&Value::Bool(true)) => {
                summary.ready += usize::from(status.get("ready") == Some(&Value::Bool(true)));
                continue;
            }
            Some(terminated) => summary.reason = format!("Init:{}", terminated_reason(terminated)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => summary.reason = format!("Init:{waiting}"),
            None => summary.reason = format!("Init:{i}/{}", init_containers.len()),
        }
        initializing = true;
        break;
    }
    if !initializing || condition(conditions, "Initialized") == Some("True") {
        summary.restarts = sidecar_restarts.restarts;
        summary.last_restart = sidecar_restarts.last_restart;
        main_containers(o, conditions, &mut summary);
    }

    if meta::is_deleting(o.object) {
        if o.text("status.reason") == "NodeLost" {
            summary.reason = "Unknown".to_owned();
        } else if phase != "Succeeded" && phase != "Failed" {
            summary.reason = "Terminating".to_owned();
        }
    }
    let restarts = match (&summary.last_restart, summary.restarts) {
        (Some(last), restarts) if restarts != 0 => format!("{restarts} ({} ago)", time::age(Some(last), o.now)),
        (_, restarts) => restarts.to_string(),
    };
    let ip = items(o.at("status.podIPs")).first().map_or(o.text("status.podIP"), |ip| text(ip, "ip"));
    vec![
        o.name(),
        format!("{}/{total}", summary.ready).into(),
        summary.reason.into(),
        restarts.into(),
        o.age(),
        or(ip, "<none>").into(),
        or(o.text("spec.nodeName"), "<none>").into(),
        or(o.text("status.nominatedNodeName"), "<none>").into(),
        readiness_gates(o, conditions).into(),
    ]
}

fn main_containers(o: &Cells<'_>, conditions: &[Value], summary: &mut Summary) {
    let mut running = false;
    for status in o.list("status.containerStatuses").iter().rev() {
        summary.add_restarts(status);
        let waiting = text(status, "state.waiting.reason");
        let terminated = status.pointer("/state/terminated").filter(|t| !t.is_null());
        if !waiting.is_empty() {
            summary.reason = waiting.to_owned();
        } else if let Some(terminated) = terminated {
            summary.reason = terminated_reason(terminated);
        } else if status.get("ready") == Some(&Value::Bool(true))
            && status.pointer("/state/running").is_some_and(|r| !r.is_null())
        {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = condition(conditions, "Ready") == Some("True");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn readiness_gates(o: &Cells<'_>, conditions: &[Value]) -> String {
    let gates = o.list("spec.readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|g| condition(conditions, text(g, "conditionType")) == Some("True")).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(pod: Value, ready: &str, status: &str, restarts: &str) {
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let cells = super::pod(&Cells::new(&pod, now));
        assert_eq!(cells[1..4], [json!(ready), json!(status), json!(restarts)], "{pod}");
    }

    #[test]
    fn status() {
        let spec = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let running = |restarts: i64| {
            json!({"name": "a", "ready": true, "restartCount": restarts, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}})
        };
        let state = |state: Value| json!({"name": "b", "restartCount": 0, "state": state});
        check(json!({"spec": spec, "status": {"phase": "Pending"}}), "0/2", "Pending", "0");
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running(3), running(0)]}}),
            "2/2",
            "Running",
            "3 (5m ago)",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [running(0), state(json!({"waiting": {"reason": "CrashLoopBackOff"}}))]}}),
            "1/2",
            "CrashLoopBackOff",
            "0",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Succeeded", "containerStatuses": [state(json!({"terminated": {"reason": "Completed", "exitCode": 0}}))]}}),
            "0/2",
            "Completed",
            "0",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Running", "containerStatuses": [state(json!({"terminated": {"reason": "Completed", "exitCode": 0}})), running(0)]}}),
            "1/2",
            "NotReady",
            "0",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Failed", "containerStatuses": [state(json!({"terminated": {"exitCode": 3}}))]}}),
            "0/2",
            "ExitCode:3",
            "0",
        );
        check(json!({"spec": spec, "status": {"phase": "Failed", "reason": "Evicted"}}), "0/2", "Evicted", "0");
        check(
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": {"phase": "Running"}}),
            "0/2",
            "Terminating",
            "0",
        );
        check(
            json!({"spec": spec, "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}}),
            "0/2",
            "SchedulingGated",
            "0",
        );
    }

    #[test]
    fn init_containers() {
        let spec =
            json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}], "containers": [{"name": "a"}]});
        let pod = |statuses: Value| json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": statuses}});
        check(pod(json!([{"name": "i", "state": {"running": {}}}])), "0/2", "Init:0/2", "0");
        check(pod(json!([{"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}])), "0/2", "Init:Error", "0");
        check(pod(json!([{"name": "i", "state": {"terminated": {"exitCode": 1}}}])), "0/2", "Init:ExitCode:1", "0");
        check(
            pod(json!([{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}])),
            "0/2",
            "Init:ImagePullBackOff",
            "0",
        );
        check(
            pod(
                json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "s", "started": true, "ready": true, "state": {"running": {}}}]),
            ),
            "1/2",
            "Pending",
            "0",
        );
    }
}
