//! The environment of a container (`kubelet_pods.go`, `makeEnvironmentVariables`; `pkg/kubelet/envvars`).

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Pod, Service};

use crate::{
    expansion::expand,
    fields::{self, Place},
    names,
    objects::Objects,
};

/// The variables of a container, in order; an error is the message of `CreateContainerConfigError`.
pub(crate) fn variables(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    services: &[Arc<Service>],
    place: &Place,
) -> Result<Vec<(String, String)>, String> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let service = of_services(services, names::namespace(pod), links);
    let mut out = Ordered::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match objects.config_map(&reference.name) {
                Ok(map) => map.data.iter().flatten().for_each(|(key, value)| out.set(format!("{prefix}{key}"), value.clone())),
                Err(_) if reference.optional == Some(true) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secret(&reference.name) {
                Ok(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        out.set(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                Err(_) if reference.optional == Some(true) => {}
                Err(error) => return Err(error),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => match from(pod, &container.name, source, objects, place)? {
                Some(value) => value,
                None => continue, // Optional and absent.
            },
            None => expand(variable.value.as_deref().unwrap_or_default(), |name| {
                out.values.get(name).or_else(|| service.get(name)).cloned()
            }),
        };
        out.set(variable.name.clone(), value);
    }
    for (name, value) in service {
        if !out.values.contains_key(&name) {
            out.set(name, value);
        }
    }
    Ok(out.finish())
}

/// Variables in order of first mention; a later value wins.
#[derive(Default)]
struct Ordered {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        if self.values.insert(name.clone(), value).is_none() {
            self.order.push(name);
        }
    }

    fn finish(mut self) -> Vec<(String, String)> {
        self.order.into_iter().filter_map(|name| self.values.remove(&name).map(|value| (name, value))).collect()
    }
}

fn from(pod: &Pod, container: &str, source: &EnvVarSource, objects: &Objects, place: &Place) -> Result<Option<String>, String> {
    let namespace = names::namespace(pod);
    if let Some(selector) = &source.field_ref {
        return fields::field(pod, selector, place).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return fields::resource(pod, selector, container, place).map(Some);
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let map = match objects.config_map(&selector.name) {
            Err(_) if optional => return Ok(None),
            other => other?,
        };
        return match map.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in ConfigMap {namespace}/{}", selector.key, selector.name)),
        };
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let secret = match objects.secret(&selector.name) {
            Err(_) if optional => return Ok(None),
            other => other?,
        };
        return match secret.data.as_ref().and_then(|data| data.get(&selector.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {} in Secret {namespace}/{}", selector.key, selector.name)),
        };
    }
    Err("fileKeyRef is not supported by this node".to_owned())
}

/// Docker-links-style variables of the namespace's Services, and of the API server's own in any case.
fn of_services(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &Service> = BTreeMap::new();
    let mut seen = HashSet::new();
    for service in services {
        let (Some(name), of) = (service.metadata.name.as_deref(), service.metadata.namespace.as_deref().unwrap_or_default())
        else {
            continue;
        };
        let ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        if ip.is_empty() || ip == "None" || !seen.insert((of, name)) {
            continue;
        }
        let master = of == "default" && name == "kubernetes";
        if links && of == namespace {
            chosen.insert(name, service);
        } else if master {
            chosen.entry(name).or_insert(service);
        }
    }
    let mut out = BTreeMap::new();
    for (name, service) in chosen {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let upper = |text: &str| text.replace('-', "_").to_uppercase();
        let prefix = upper(name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                out.insert(format!("{prefix}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
            }
            let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(format!("{base}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{base}_PORT"), port.port.to_string());
            out.insert(format!("{base}_ADDR"), ip.to_owned());
            out.insert(base, url);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let map: ConfigMap = serde_json::from_value(json!({"data": {"K": "v", "1.x": "odd"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"S": "c2VjcmV0"}})).unwrap();
        Objects {
            config_maps: [("cm".to_owned(), Some(Arc::new(map))), ("gone".to_owned(), None)].into(),
            secrets: [("se".to_owned(), Some(Arc::new(secret)))].into(),
        }
    }

    fn service(name: &str, ip: &str) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"clusterIP": ip, "ports": [{"name": "https", "port": 443}]},
            }))
            .unwrap(),
        )
    }

    fn check(container: serde_json::Value, expect: Result<&[(&str, &str)], &str>) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [container.clone()]},
        }))
        .unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        let found = variables(&pod, &container, &objects(), &[], &Place::default());
        let expect = expect.map(|list| list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(found, expect.map_err(str::to_owned));
    }

    #[test]
    fn sources_in_order() {
        check(
            json!({"name": "c",
                "envFrom": [{"prefix": "P.", "configMapRef": {"name": "cm"}}, {"secretRef": {"name": "se"}}],
                "env": [{"name": "A", "value": "$(S)-$$(S)-$(none)"}, {"name": "B", "value": "$(A)"}, {"name": "S", "value": "over"}]}),
            Ok(&[("P.1.x", "odd"), ("P.K", "v"), ("S", "over"), ("A", "secret-$(S)-$(none)"), ("B", "secret-$(S)-$(none)")]),
        );
    }

    #[test]
    fn absent_sources() {
        let key = |name: &str, key: &str, optional: bool| json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": name, "key": key, "optional": optional}}}]});
        check(key("gone", "K", false), Err("configmap \"gone\" not found"));
        check(key("gone", "K", true), Ok(&[]));
        check(key("cm", "none", false), Err("couldn't find key none in ConfigMap n/cm"));
        check(key("cm", "none", true), Ok(&[]));
        check(json!({"name": "c", "envFrom": [{"secretRef": {"name": "nope"}}]}), Err("secret \"nope\" not found"));
    }

    #[test]
    fn services_by_name() {
        let all = [service("kubernetes", "10.43.0.1"), service("my-db", "10.43.0.2"), service("headless", "None")];
        let linked = of_services(&all, "default", true);
        assert_eq!(linked["MY_DB_SERVICE_HOST"], "10.43.0.2");
        assert_eq!(linked["MY_DB_PORT_443_TCP"], "tcp://10.43.0.2:443");
        assert_eq!(linked["MY_DB_SERVICE_PORT_HTTPS"], "443");
        assert!(!linked.keys().any(|key| key.starts_with("HEADLESS")));
        for unlinked in [of_services(&all, "default", false), of_services(&all, "other", true)] {
            assert_eq!(unlinked["KUBERNETES_SERVICE_HOST"], "10.43.0.1");
            assert!(!unlinked.contains_key("MY_DB_SERVICE_HOST"));
        }
    }
}
