use std::{collections::BTreeSet, net::IpAddr};

use hickory_proto::{op::Message, rr};
use k8s_openapi::api::{core::v1, discovery::v1::EndpointSlice};
use serde::Deserialize as _;

use super::*;
use crate::{Config, index};

/// The objects of a file: a namespace's names, Services, their slices, and pods.
#[derive(Default)]
pub(crate) struct Cluster {
    pub namespaces: Vec<v1::Namespace>,
    pub services: Vec<v1::Service>,
    pub slices: Vec<EndpointSlice>,
    pub pods: Vec<v1::Pod>,
}

impl Cluster {
    pub(crate) fn read() -> Self {
        let mut cluster = Self::default();
        for document in serde_norway::Deserializer::from_str(include_str!("../../testdata/cluster.yaml")) {
            let object = serde_json::Value::deserialize(document).unwrap();
            match object["kind"].as_str().unwrap() {
                "Namespace" => cluster.namespaces.push(serde_json::from_value(object).unwrap()),
                "Service" => cluster.services.push(serde_json::from_value(object).unwrap()),
                "EndpointSlice" => cluster.slices.push(serde_json::from_value(object).unwrap()),
                "Pod" => cluster.pods.push(serde_json::from_value(object).unwrap()),
                kind => panic!("kind {kind}"),
            }
        }
        cluster
    }

    fn index(&self) -> Index {
        let mut index = Index::default();
        (index.synced, index.serial) = (true, 1_700_000_000);
        for namespace in &self.namespaces {
            index.set_namespace(namespace.metadata.name.as_deref().unwrap(), true);
        }
        for service in &self.services {
            let (name, namespace) = (service.metadata.name.as_deref(), service.metadata.namespace.as_deref());
            let of = |slice: &&EndpointSlice| {
                slice.metadata.labels.as_ref().unwrap().get("kubernetes.io/service-name").map(String::as_str) == name
            };
            let slices: Vec<_> = self.slices.iter().filter(of).cloned().map(Arc::new).collect();
            index.set_service(
                index::service_key(namespace.unwrap(), name.unwrap()).unwrap(),
                ServiceRecords::new(service, &slices),
            );
        }
        for pod in &self.pods {
            index::pod_ips(pod).into_iter().for_each(|ip| index.add_pod(pod.metadata.namespace.as_deref().unwrap(), ip));
        }
        index
    }
}

pub(crate) fn settings(pods: Pods) -> Settings {
    let cidrs = ["10.42.0.0/16", "10.43.0.0/16", "fd42::/64", "fd43::/64"].map(str::to_owned).to_vec();
    let config = Config { cluster_cidrs: cidrs, pods, listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    config.check().unwrap()
}

/// A query in the case in which it is typed.
pub(crate) fn packet(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        crate::wire::push_opt(&mut out, size, 0, false);
    }
    out
}

fn ask(settings: &Settings, index: &Index, packet: &[u8], limit: usize) -> Option<Message> {
    let query = Query::read(packet).ok().unwrap();
    let own: [IpAddr; 1] = ["10.43.0.10".parse().unwrap()];
    let mut out = Vec::new();
    match answer(settings, &own, index, &query, limit, &mut out) {
        Verdict::Answered(_) => {
            assert!(out.len() <= limit);
            // An independent decoder reads what was written by hand.
            Some(Message::from_vec(&out).unwrap())
        }
        _ => None,
    }
}

fn text(record: &rr::Record) -> String {
    match &record.data {
        rr::RData::SOA(_) => format!("SOA {}", record.name),
        rr::RData::TXT(txt) => format!("{} TXT {}", record.name, String::from_utf8_lossy(&txt.txt_data[0])),
        data => format!("{} {} {data}", record.name, data.record_type()),
    }
}

fn wanted(owner: &str, section: &str) -> BTreeSet<String> {
    let whole = |record: &str| {
        let record = record.trim();
        let first = record.split(' ').next().unwrap_or_default();
        if first == "SOA" || first.ends_with('.') { record.to_owned() } else { format!("{owner} {record}") }
    };
    section.split(';').filter(|record| !record.trim().is_empty()).map(whole).collect()
}

fn got(records: &[rr::Record]) -> BTreeSet<String> {
    let set: BTreeSet<_> = records.iter().map(text).collect();
    assert_eq!(set.len(), records.len(), "a record comes twice: {set:?}");
    set
}

#[test]
fn questions_are_answered_as_written() {
    let cluster = Cluster::read();
    let (mut settings, mut index) = (settings(Pods::Insecure), cluster.index());
    let mut count = 0;
    for line in include_str!("../../testdata/questions.txt").lines() {
        match line {
            "@ pods verified" => settings.pods = Pods::Verified,
            "@ pods disabled" => settings.pods = Pods::Disabled,
            "@ synced no" => index.synced = false,
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => {
                count += 1;
                check(&settings, &index, line);
            }
        }
    }
    assert!(count > 80, "{count} questions");
}

fn check(settings: &Settings, index: &Index, line: &str) {
    let (question, expect) = line.split_once(" -> ").unwrap();
    let (name, kind) = question.split_once(' ').unwrap();
    let kind: rr::RecordType = kind.parse().unwrap();
    let reply = ask(settings, index, &packet(name, kind.into(), Some(1232)), 4096);
    if expect == "FORWARD" {
        assert!(reply.is_none(), "{line}");
        return;
    }
    let reply = reply.unwrap_or_else(|| panic!("not ours: {line}"));
    let mut parts = expect.split(" | ");
    let code = parts.next().unwrap();
    let (mut answers, mut authorities, mut additionals) = ("", "", "");
    for part in parts {
        match part.split_once(' ').unwrap() {
            ("auth", records) => authorities = records,
            ("add", records) => additionals = records,
            _ => answers = part,
        }
    }
    let codes = [(0, "NOERROR"), (2, "SERVFAIL"), (3, "NXDOMAIN")];
    let rcode = u16::from(reply.metadata.response_code);
    assert_eq!(codes.iter().find(|(number, _)| *number == rcode).unwrap().1, code, "{line}");
    assert_eq!(got(&reply.answers), wanted(name, answers), "{line}");
    assert_eq!(got(&reply.authorities), wanted(name, authorities), "{line}");
    assert_eq!(got(&reply.additionals), wanted(name, additionals), "{line}");
    assert!(reply.metadata.authoritative && !reply.metadata.recursion_available && reply.edns.is_some(), "{line}");
    assert_eq!(reply.queries[0].name().to_string(), name, "{line}");
    for record in reply.answers.iter().chain(&reply.authorities).chain(&reply.additionals) {
        let ttl = if record.record_type() == rr::RecordType::TXT { VERSION_TTL } else { 5 };
        assert_eq!(record.ttl, ttl, "{line}");
        if let rr::RData::SOA(soa) = &record.data {
            assert_eq!(soa.mname.to_string(), format!("ns.dns.{}", record.name), "{line}");
            assert_eq!(
                (soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum),
                (1_700_000_000, 7200, 1800, 86400, 5),
                "{line}"
            );
        }
    }
    // A CNAME stands before what it leads to.
    let first = reply.answers.iter().position(|record| record.record_type() == rr::RecordType::CNAME);
    assert!(first.is_none_or(|at| at == 0), "{line}");
}

#[test]
fn what_does_not_fit_is_truncated() {
    let mut index = Index::default();
    index.synced = true;
    let endpoints = (0..200).map(|n| Endpoint {
        label: format!("e{n}").into_bytes().into(),
        ip: IpAddr::from([10, 42, 1, n]),
        ports: Arc::from([]),
    });
    let records = ServiceRecords { kind: ServiceKind::Headless, endpoints: endpoints.collect() };
    index.set_service(index::service_key("shop", "many").unwrap(), Some(records));
    let settings = settings(Pods::Disabled);
    for (edns, limit, count, truncated) in [(None, 512, 29, true), (Some(1232), 1232, 73, true), (Some(4096), 65535, 200, false)]
    {
        let reply = ask(&settings, &index, &packet("many.shop.svc.cluster.local", 1, edns), limit).unwrap();
        assert_eq!((reply.answers.len(), reply.metadata.truncation), (count, truncated), "{limit}");
        assert_eq!(reply.edns.is_some(), edns.is_some(), "EDNS is never added unasked");
    }
}

#[test]
fn a_service_that_goes_takes_its_addresses_along() {
    let cluster = Cluster::read();
    let mut index = cluster.index();
    let key = |name| index::service_key("shop", name).unwrap();
    assert!(index.set_service(key("db"), None) && !index.set_service(key("db"), None));
    let left = index.reverse(&"10.42.0.10".parse().unwrap()).unwrap();
    assert_eq!(left.endpoints.len(), 1);
    assert!(index.set_service(key("db-write"), None));
    assert!(index.reverse(&"10.42.0.10".parse().unwrap()).is_none());
    assert!(index.set_service(key("web"), None));
    assert!(index.reverse(&"10.43.0.20".parse().unwrap()).is_none());
}
