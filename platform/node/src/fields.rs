//! The downward API: fields of the pod and resources of its containers as text (`pkg/fieldpath`, `pkg/api/v1/resource`).

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{ObjectFieldSelector, Pod, ResourceFieldSelector},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    names,
    quantity::{milli, milli_of},
    resources,
};

/// Where the pod runs, as far as fields tell it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    /// Addresses of the node.
    pub(crate) host_ips: Vec<IpAddr>,
    /// Addresses of the pod.
    pub(crate) pod_ips: Vec<IpAddr>,
    /// What the node can give, which unlimited containers are told as their limit.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

/// The value of a field.
pub(crate) fn field(pod: &Pod, selector: &ObjectFieldSelector, place: &Place) -> Result<String, String> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let path = selector.field_path.as_str();
    if let Some((base, key)) = subscript(path) {
        let map = match base {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("field label \"{path}\" does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => names::name(pod).to_owned(),
        "metadata.namespace" => names::namespace(pod).to_owned(),
        "metadata.uid" => names::uid(pod).to_owned(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.hostIP" => first(&place.host_ips),
        "status.hostIPs" => list(&place.host_ips),
        "status.podIP" => first(&place.pod_ips),
        "status.podIPs" => list(&place.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (base, rest) = path.split_once("['")?;
    Some((base, rest.strip_suffix("']")?))
}

fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

/// Go's `%q`.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a container's request or limit in units of the divisor, rounded up.
pub(crate) fn resource(pod: &Pod, selector: &ResourceFieldSelector, container: &str, place: &Place) -> Result<String, String> {
    let name = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(container);
    let Some((_, container)) = names::find(pod, name) else { return Err(format!("container {name} not found")) };
    let (value, unit) = match selector.resource.split_once('.') {
        Some(("limits", unit)) => (resources::limit(&container, unit).or_else(|| place.allocatable.get(unit).cloned()), unit),
        Some(("requests", unit)) => (resources::request(&container, unit), unit),
        _ => return Err(format!("unsupported container resource : {}", selector.resource)),
    };
    if !matches!(unit, "cpu" | "memory" | "ephemeral-storage") && !unit.starts_with("hugepages-") {
        return Err(format!("unsupported container resource : {}", selector.resource));
    }
    let divisor = selector.divisor.as_ref().map_or(1000, |d| milli(&d.0).unwrap_or(1000));
    let divisor = if divisor <= 0 { 1000 } else { divisor };
    let value = value.as_ref().map_or(0, milli_of);
    Ok((value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {
                "nodeName": "node", "serviceAccountName": "sa",
                "containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}],
            }
        }))
        .unwrap()
    }

    fn place() -> Place {
        Place {
            host_ips: vec![[10, 0, 0, 1].into()],
            pod_ips: vec![[10, 42, 0, 5].into(), "fd00::5".parse().unwrap()],
            allocatable: BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]),
        }
    }

    #[test]
    fn fields_of_a_pod() {
        for (path, expect) in [
            ("metadata.name", Ok("p")),
            ("metadata.labels", Ok("a=\"x\\\"y\"\nb=\"2\"")),
            ("metadata.labels['b']", Ok("2")),
            ("metadata.annotations['none']", Ok("")),
            ("spec.nodeName", Ok("node")),
            ("spec.serviceAccountName", Ok("sa")),
            ("status.hostIP", Ok("10.0.0.1")),
            ("status.podIPs", Ok("10.42.0.5,fd00::5")),
            ("status.phase", Err("unsupported fieldPath: status.phase")),
        ] {
            let selector = ObjectFieldSelector { field_path: path.into(), api_version: None };
            let value = field(&pod(), &selector, &place());
            assert_eq!(value.as_deref().map_err(String::as_str), expect, "{path}");
        }
    }

    #[test]
    fn resources_of_a_container() {
        for (resource_, divisor, expect) in [
            ("limits.memory", None, "67108864"),
            ("limits.memory", Some("1Mi"), "64"),
            ("requests.cpu", None, "1"),
            ("requests.cpu", Some("1m"), "250"),
            ("limits.cpu", None, "2"),
            ("requests.memory", None, "67108864"),
        ] {
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor: divisor.map(|d| Quantity(d.into())),
                resource: resource_.into(),
            };
            assert_eq!(resource(&pod(), &selector, "c", &place()).unwrap(), expect, "{resource_} {divisor:?}");
        }
    }
}
