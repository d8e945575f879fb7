use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, PodIP, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::*;
use crate::pods::testing::pod;

fn service(publish: bool) -> Service {
    let mut service = Service::default();
    service.metadata.name = Some("web".into());
    service.metadata.namespace = Some("default".into());
    service.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
    service.spec = Some(ServiceSpec {
        ports: Some(vec![ServicePort {
            name: Some("http".into()),
            port: 80,
            target_port: Some(IntOrString::String("web".into())),
            ..ServicePort::default()
        }]),
        ip_families: Some(vec!["IPv4".into()]),
        publish_not_ready_addresses: Some(publish),
        ..ServiceSpec::default()
    });
    service
}

fn backend(name: &str, ip: &str, ready: Option<i64>, port: i32) -> Arc<Pod> {
    let mut pod = pod(name, "n1", "Running", ready);
    let status = pod.status.as_mut().unwrap();
    status.pod_ip = Some(ip.into());
    status.pod_ips = Some(vec![PodIP { ip: ip.into() }, PodIP { ip: "fd00::1".into() }]);
    pod.spec.as_mut().unwrap().containers = vec![Container {
        ports: Some(vec![ContainerPort { name: Some("web".into()), container_port: port, ..ContainerPort::default() }]),
        ..Container::default()
    }];
    Arc::new(pod)
}

fn node(_: &str) -> Option<Arc<Node>> {
    let mut node = Node::default();
    node.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), "z".to_owned())].into());
    Some(Arc::new(node))
}

fn stored(slice: &EndpointSlice, name: &str) -> Arc<EndpointSlice> {
    let mut slice = slice.clone();
    slice.metadata.name = Some(name.into());
    slice.metadata.uid = Some(name.into());
    Arc::new(slice)
}

#[test]
fn conditions_follow_the_pod() {
    let mut going = (*backend("c", "10.0.0.3", Some(1), 8080)).clone();
    going.metadata.deletion_timestamp = Some(crate::env::seconds(jiff::Timestamp::UNIX_EPOCH));
    let pods = [backend("a", "10.0.0.1", Some(1), 8080), backend("b", "10.0.0.2", None, 8080), Arc::new(going)];
    for (publish, expected) in [
        (false, [(true, true, false), (false, false, false), (false, true, true)]),
        (true, [(true, true, false), (true, false, false), (true, true, true)]),
    ] {
        let wanted = wanted::of(&service(publish), &pods, &node);
        let (ports, endpoints) = &wanted["IPv4"][0];
        assert_eq!(ports[0].port, Some(8080));
        assert_eq!(endpoints[0].zone.as_deref(), Some("z"));
        let told: Vec<_> = endpoints
            .iter()
            .map(|e| e.conditions.clone().unwrap())
            .map(|c| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()))
            .collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn pods_with_other_ports_get_other_slices() {
    let pods = [backend("a", "10.0.0.1", Some(1), 8080), backend("b", "10.0.0.2", Some(1), 9090)];
    let changes = pack(&service(false), CONTROLLER, &[], wanted::of(&service(false), &pods, &node));
    assert_eq!(changes.create.len(), 2);
}

#[test]
fn the_time_of_a_change_is_told_with_it() {
    let service = service(false);
    let told = |pods: &[Arc<Pod>]| wanted::of(&service, pods, &node);
    let time = |slice: &EndpointSlice| {
        slice.metadata.annotations.as_ref()?.get("endpoints.kubernetes.io/last-change-trigger-time").cloned()
    };
    let pods = [backend("a", "10.0.0.1", Some(1), 8080), backend("b", "10.0.0.2", Some(1), 8080)];
    let mut made = pack(&service, CONTROLLER, &[], told(&pods[..1]));
    made.set_trigger(Some(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(time(&made.create[0]).as_deref(), Some("1970-01-01T00:00:00Z"));

    let slice = stored(&made.create[0], "web-1");
    let mut same = pack(&service, CONTROLLER, std::slice::from_ref(&slice), told(&pods[..1]));
    same.set_trigger(None);
    assert_eq!(same, Changes::default(), "another time is no difference");
    let mut more = pack(&service, CONTROLLER, std::slice::from_ref(&slice), told(&pods));
    more.set_trigger(None);
    assert_eq!((more.update.len(), time(&more.update[0])), (1, None));
}

#[test]
fn slices_are_written_only_when_they_change() {
    let service = service(false);
    let told = |pods: &[Arc<Pod>]| wanted::of(&service, pods, &node);
    let empty = pack(&service, CONTROLLER, &[], told(&[]));
    assert_eq!(empty.create.len(), 1, "a slice says that there is nothing");
    let slice = stored(&empty.create[0], "web-1");
    assert_eq!(pack(&service, CONTROLLER, std::slice::from_ref(&slice), told(&[])), Changes::default());

    let pods: Vec<_> = (0..150).map(|n| backend(&format!("p{n}"), &format!("10.0.0.{n}"), Some(1), 8080)).collect();
    let full = pack(&service, CONTROLLER, std::slice::from_ref(&slice), told(&pods));
    assert_eq!((full.create.len(), full.update.len(), full.delete.len()), (2, 0, 1), "the empty one has no ports");
    let slices: Vec<_> = full.create.iter().enumerate().map(|(n, s)| stored(s, &format!("web-{n}"))).collect();
    assert_eq!(pack(&service, CONTROLLER, &slices, told(&pods)), Changes::default());

    let fewer = pack(&service, CONTROLLER, &slices, told(&pods[1..]));
    assert_eq!((fewer.create.len(), fewer.update.len(), fewer.delete.len()), (0, 1, 0), "one endpoint left one slice");
    let none = pack(&service, CONTROLLER, &slices, told(&[]));
    assert_eq!((none.create.len(), none.update.len(), none.delete.len()), (1, 0, 2));
}
