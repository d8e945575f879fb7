//! What makes pods: replica sets and their owners, jobs, autoscalers, budgets.

use std::borrow::Cow;

use serde_json::Value;

use super::{Cells, Print, condition, containers, get, int_or_string, labels, or, quantity, selector, text};
use crate::{meta, time};

pub(super) fn core(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "ReplicationController" => {
            ("Name|Desired#|Current#|Ready#|Age|Containers*|Images*|Selector*", |o| replicas(o, labels(o.at("spec.selector"))))
        }
        "PodTemplate" => ("Name|Containers|Images|Pod Labels", pod_template),
        _ => return None,
    })
}

pub(super) fn find(kind: &str) -> Option<(&'static str, Print)> {
    Some(match kind {
        "Deployment" => ("Name|Ready|Up-to-date#|Available#|Age|Containers*|Images*|Selector*", deployment),
        "ReplicaSet" => {
            ("Name|Desired#|Current#|Ready#|Age|Containers*|Images*|Selector*", |o| replicas(o, selector(o.at("spec.selector"))))
        }
        "StatefulSet" => ("Name|Ready|Age|Containers*|Images*", stateful_set),
        "DaemonSet" => {
            ("Name|Desired#|Current#|Ready#|Up-to-date#|Available#|Node Selector|Age|Containers*|Images*|Selector*", daemon_set)
        }
        "ControllerRevision" => ("Name|Controller|Revision|Age", controller_revision),
        "Job" => ("Name|Status|Completions|Duration|Age|Containers*|Images*|Selector*", job),
        "CronJob" => ("Name|Schedule|Timezone|Suspend?|Active#|Last Schedule|Age|Containers*|Images*|Selector*", cron_job),
        "HorizontalPodAutoscaler" => ("Name|Reference|Targets|MinPods|MaxPods|Replicas|Age", autoscaler),
        "Scale" => ("Name|Desired#|Available#|Age", |o| {
            vec![o.name(), o.number("spec.replicas").into(), o.number("status.replicas").into(), o.age()]
        }),
        "PodDisruptionBudget" => ("Name|Min Available|Max Unavailable|Allowed Disruptions#|Age", budget),
        _ => return None,
    })
}

fn template_containers(o: &Cells<'_>) -> [Value; 2] {
    containers(o.list("spec.template.spec.containers"))
}

fn replicas(o: &Cells<'_>, selector: String) -> Vec<Value> {
    let [names, images] = template_containers(o);
    vec![
        o.name(),
        o.number("spec.replicas").into(),
        o.number("status.replicas").into(),
        o.number("status.readyReplicas").into(),
        o.age(),
        names,
        images,
        selector.into(),
    ]
}

fn pod_template(o: &Cells<'_>) -> Vec<Value> {
    let [names, images] = containers(o.list("template.spec.containers"));
    vec![o.name(), names, images, labels(o.at("template.metadata.labels")).into()]
}

fn ready(o: &Cells<'_>) -> Value {
    format!("{}/{}", o.number("status.readyReplicas"), o.number("spec.replicas")).into()
}

fn deployment(o: &Cells<'_>) -> Vec<Value> {
    let [names, images] = template_containers(o);
    let selector = match crate::selector::LabelSelector::from_value(Some(o.at("spec.selector"))) {
        Ok(selector) => selector.to_string(),
        Err(_) => "<invalid>".to_owned(),
    };
    vec![
        o.name(),
        ready(o),
        o.number("status.updatedReplicas").into(),
        o.number("status.availableReplicas").into(),
        o.age(),
        names,
        images,
        selector.into(),
    ]
}

fn stateful_set(o: &Cells<'_>) -> Vec<Value> {
    let [names, images] = template_containers(o);
    vec![o.name(), ready(o), o.age(), names, images]
}

fn daemon_set(o: &Cells<'_>) -> Vec<Value> {
    let [names, images] = template_containers(o);
    vec![
        o.name(),
        o.number("status.desiredNumberScheduled").into(),
        o.number("status.currentNumberScheduled").into(),
        o.number("status.numberReady").into(),
        o.number("status.updatedNumberScheduled").into(),
        o.number("status.numberAvailable").into(),
        labels(o.at("spec.template.spec.nodeSelector")).into(),
        o.age(),
        names,
        images,
        selector(o.at("spec.selector")).into(),
    ]
}

fn controller_revision(o: &Cells<'_>) -> Vec<Value> {
    let controller = match meta::controller(o.object) {
        None => "<none>".to_owned(),
        Some(owner) => {
            let (group, _) = meta::split_api_version(text(owner, "apiVersion"));
            let dot = if group.is_empty() { "" } else { "." };
            format!("{}{dot}{group}/{}", text(owner, "kind").to_lowercase(), text(owner, "name"))
        }
    };
    vec![o.name(), controller.into(), o.number("revision").into(), o.age()]
}

fn job(o: &Cells<'_>) -> Vec<Value> {
    let succeeded = o.number("status.succeeded");
    let completions = match (o.at("spec.completions").as_i64(), o.number("spec.parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let duration = match (time::parse(o.text("status.startTime")), time::parse(o.text("status.completionTime"))) {
        (None, _) => String::new(),
        (Some(start), end) => time::human(end.unwrap_or(o.now).duration_since(start)),
    };
    let conditions = o.list("status.conditions");
    let holds = |ty| condition(conditions, ty) == Some("True");
    let status = match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if meta::is_deleting(o.object) => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () => "Running",
    };
    let [names, images] = template_containers(o);
    let selector = selector(o.at("spec.selector"));
    vec![o.name(), status.into(), completions.into(), duration.into(), o.age(), names, images, selector.into()]
}

fn cron_job(o: &Cells<'_>) -> Vec<Value> {
    let last = match o.text("status.lastScheduleTime") {
        "" => "<none>".to_owned(),
        last => time::age(Some(last), o.now),
    };
    let suspend = match o.at("spec.suspend").as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let [names, images] = containers(o.list("spec.jobTemplate.spec.template.spec.containers"));
    vec![
        o.name(),
        o.text("spec.schedule").into(),
        or(o.text("spec.timeZone"), "<none>").into(),
        suspend.into(),
        o.count("status.active").into(),
        last.into(),
        o.age(),
        names,
        images,
        selector(o.at("spec.jobTemplate.spec.selector")).into(),
    ]
}

fn budget(o: &Cells<'_>) -> Vec<Value> {
    vec![
        o.name(),
        int_or_string(o.at("spec.minAvailable"), "N/A").into(),
        int_or_string(o.at("spec.maxUnavailable"), "N/A").into(),
        o.number("status.disruptionsAllowed").into(),
        o.age(),
    ]
}

fn autoscaler(o: &Cells<'_>) -> Vec<Value> {
    let reference = format!("{}/{}", o.text("spec.scaleTargetRef.kind"), o.text("spec.scaleTargetRef.name"));
    let min = o.at("spec.minReplicas").as_i64().map_or_else(|| "<unset>".to_owned(), |min| min.to_string());
    vec![
        o.name(),
        reference.into(),
        targets(o).into(),
        min.into(),
        o.number("spec.maxReplicas").into(),
        o.number("status.currentReplicas").into(),
        o.age(),
    ]
}

fn targets(o: &Cells<'_>) -> String {
    let percent = |value: &Value, absent: &str| value.as_i64().map_or_else(|| absent.to_owned(), |p| format!("{p}%"));
    // Version 1 knows only the CPU.
    let target = o.at("spec.targetCPUUtilizationPercentage");
    if !target.is_null() {
        let current = percent(o.at("status.currentCPUUtilizationPercentage"), "<unknown>");
        return format!("cpu: {current}/{}", percent(target, "<auto>"));
    }
    let current = o.list("status.currentMetrics");
    let all: Vec<Cow<'_, str>> = o
        .list("spec.metrics")
        .iter()
        .enumerate()
        .map(|(i, metric)| Cow::Owned(one_target(metric, current.get(i).unwrap_or(&Value::Null))))
        .collect();
    match all.as_slice() {
        [] => "<none>".to_owned(),
        [one] => one.to_string(),
        [one, two] => format!("{one}, {two}"),
        [one, two, more @ ..] => format!("{one}, {two} + {} more...", more.len()),
    }
}

/// `current/target` of one metric.
fn one_target(metric: &Value, status: &Value) -> String {
    let ty = text(metric, "type");
    let field = match ty {
        "External" => "external",
        "Pods" => "pods",
        "Object" => "object",
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (get(metric, field).get("target").unwrap_or(&Value::Null), &status[field]["current"]);
    let amount = |value: &Value| if value.is_null() { "<unknown>".to_owned() } else { quantity(value) };
    let named = matches!(ty, "Resource" | "ContainerResource");
    let prefix = if named { format!("{}: ", text(metric, &format!("{field}.name"))) } else { String::new() };
    let average = &target["averageValue"];
    match (average.is_null(), named) {
        (false, _) => {
            let suffix = if matches!(ty, "External" | "Object") { " (avg)" } else { "" };
            format!("{prefix}{}/{}{suffix}", amount(&current["averageValue"]), quantity(average))
        }
        (true, true) => {
            let percent = |value: &Value, absent: &str| value.as_i64().map_or_else(|| absent.to_owned(), |p| format!("{p}%"));
            let current = percent(&current["averageUtilization"], "<unknown>");
            format!("{prefix}{current}/{}", percent(&target["averageUtilization"], "<auto>"))
        }
        (true, false) => format!("{}/{}", amount(&current["value"]), quantity(&target["value"])),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::columns::items;

    fn print(kind: &str, object: Value) -> Value {
        let now = time::parse("2026-01-01T01:00:00Z").unwrap();
        let mut cells = find(kind).unwrap().1(&Cells::new(&object, now));
        cells.remove(0);
        cells.into()
    }

    #[test]
    fn cells() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}});
        let created = json!({"creationTimestamp": "2026-01-01T00:59:00Z"});
        assert_eq!(
            print(
                "Deployment",
                json!({"metadata": created, "spec": {"replicas": 3, "template": template, "selector": {"matchLabels": {"k": "v"}}},
                "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}})
            ),
            json!(["2/3", 3, 1, "60s", "a,b", "x,y", "k=v"])
        );
        assert_eq!(
            print(
                "Job",
                json!({"metadata": created, "spec": {"completions": 2, "template": template},
                "status": {"succeeded": 2, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:05Z",
                "conditions": [{"type": "Complete", "status": "True"}]}})
            ),
            json!(["Complete", "2/2", "5s", "60s", "a,b", "x,y", "<none>"])
        );
        assert_eq!(print("PodDisruptionBudget", json!({"spec": {"minAvailable": "50%"}})), json!(["50%", "N/A", 0, "<unknown>"]));
        assert_eq!(
            print(
                "HorizontalPodAutoscaler",
                json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 5,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
                    {"type": "Pods", "pods": {"target": {"averageValue": "1000m"}}}]},
                "status": {"currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 10}}}]}})
            ),
            json!(["Deployment/d", "cpu: 10%/80%, <unknown>/1", "<unset>", 5, 0, "<unknown>"])
        );
        assert_eq!(
            items(&print("CronJob", json!({"spec": {"schedule": "* * * * *", "suspend": false}})))[..5],
            [json!("* * * * *"), json!("<none>"), json!("False"), json!(0), json!("<none>")]
        );
    }
}
