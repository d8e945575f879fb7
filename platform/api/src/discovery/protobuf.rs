//! Discovery documents as protobuf: messages of `apimachinery/pkg/apis/meta/v1/generated.proto` and
//! `api/apidiscovery/v2/generated.proto`.
//!
//! They are not in the schema table, or not as they are sent: `verbs` is a message of its own.

use serde_json::Value;

use crate::protobuf::{
    envelope,
    wire::{put_bytes, put_varint},
};

/// How a field is written.
enum Form {
    Text,
    Flag,
    Texts,
    /// A message whose only field, 1, is a list of texts.
    TextList,
    One(&'static [Field]),
    Many(&'static [Field]),
}

/// The JSON name, the number and the form of a field.
type Field = (&'static str, u32, Form);

use Form::*;

static VERSIONS: [Field; 2] = [("versions", 1, Texts), ("serverAddressByClientCIDRs", 2, Many(&SERVER_ADDRESS))];
static GROUP_LIST: [Field; 1] = [("groups", 1, Many(&GROUP))];
static GROUP: [Field; 4] = [
    ("name", 1, Text),
    ("versions", 2, Many(&GROUP_VERSION)),
    ("preferredVersion", 3, One(&GROUP_VERSION)),
    ("serverAddressByClientCIDRs", 4, Many(&SERVER_ADDRESS)),
];
static GROUP_VERSION: [Field; 2] = [("groupVersion", 1, Text), ("version", 2, Text)];
static SERVER_ADDRESS: [Field; 2] = [("clientCIDR", 1, Text), ("serverAddress", 2, Text)];
static RESOURCE_LIST: [Field; 2] = [("groupVersion", 1, Text), ("resources", 2, Many(&RESOURCE))];
static RESOURCE: [Field; 10] = [
    ("name", 1, Text),
    ("namespaced", 2, Flag),
    ("kind", 3, Text),
    ("verbs", 4, TextList),
    ("shortNames", 5, Texts),
    ("singularName", 6, Text),
    ("categories", 7, Texts),
    ("group", 8, Text),
    ("version", 9, Text),
    ("storageVersionHash", 10, Text),
];

static AGGREGATED: [Field; 2] = [("metadata", 1, One(&[])), ("items", 2, Many(&AGGREGATED_GROUP))];
static AGGREGATED_GROUP: [Field; 2] = [("metadata", 1, One(&METADATA)), ("versions", 2, Many(&AGGREGATED_VERSION))];
static METADATA: [Field; 1] = [("name", 1, Text)];
static AGGREGATED_VERSION: [Field; 3] =
    [("version", 1, Text), ("resources", 2, Many(&AGGREGATED_RESOURCE)), ("freshness", 3, Text)];
static AGGREGATED_RESOURCE: [Field; 8] = [
    ("resource", 1, Text),
    ("responseKind", 2, One(&KIND)),
    ("scope", 3, Text),
    ("singularResource", 4, Text),
    ("verbs", 5, Texts),
    ("shortNames", 6, Texts),
    ("categories", 7, Texts),
    ("subresources", 8, Many(&SUBRESOURCE)),
];
static SUBRESOURCE: [Field; 3] = [("subresource", 1, Text), ("responseKind", 2, One(&KIND)), ("verbs", 4, Texts)];
static KIND: [Field; 3] = [("group", 1, Text), ("version", 2, Text), ("kind", 3, Text)];

/// A discovery document as protobuf with its envelope; `None` if it is no such document.
pub fn protobuf(document: &Value) -> Option<Vec<u8>> {
    let kind = document["kind"].as_str()?;
    let table: &[Field] = match kind {
        "APIVersions" => &VERSIONS,
        "APIGroupList" => &GROUP_LIST,
        "APIGroup" => &GROUP,
        "APIResourceList" => &RESOURCE_LIST,
        "APIGroupDiscoveryList" => &AGGREGATED,
        _ => return None,
    };
    // The oldest documents leave it out in JSON.
    let api_version = document["apiVersion"].as_str().unwrap_or("v1");
    Some(envelope(api_version, kind, &message(table, document)))
}

fn message(table: &[Field], value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, number, form) in table {
        let value = &value[*name];
        if !value.is_null() {
            field(&mut out, *number, form, value);
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, form: &Form, value: &Value) {
    let items = || value.as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().as_bytes().to_vec();
    match form {
        Text => put_bytes(out, number, &text(value)),
        Flag => put_varint(out, number, value.as_bool().unwrap_or_default().into()),
        Texts => items().for_each(|item| put_bytes(out, number, &text(item))),
        TextList => {
            let mut list = Vec::new();
            items().for_each(|item| put_bytes(&mut list, 1, &text(item)));
            put_bytes(out, number, &list);
        }
        One(table) => put_bytes(out, number, &message(table, value)),
        Many(table) => items().for_each(|item| put_bytes(out, number, &message(table, item))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{discovery, protobuf::wire, registry::Registry};

    fn fields(message: &[u8], number: u32) -> Vec<&[u8]> {
        let mut found = Vec::new();
        wire::each(message, |n, field| {
            if n == number {
                found.push(field.bytes()?);
            }
            Ok(())
        })
        .expect("a message");
        found
    }

    /// The message of a document, and what its envelope says it is.
    fn open(enveloped: &[u8]) -> (&[u8], Vec<&[u8]>) {
        let envelope = enveloped.strip_prefix(b"k8s\0").expect("a prefix");
        let meta = fields(envelope, 1)[0];
        (fields(envelope, 2)[0], [fields(meta, 1), fields(meta, 2)].concat())
    }

    #[test]
    fn documents_have_what_go_clients_read() {
        let registry = Registry::builtin();
        let list = protobuf(&discovery::resource_list(&registry, "", "v1").expect("core")).expect("protobuf");
        let (list, kind) = open(&list);
        assert_eq!(kind, [&b"v1"[..], b"APIResourceList"]);
        assert_eq!(fields(list, 1), [b"v1"]);
        let pods = fields(list, 2).into_iter().find(|resource| fields(resource, 1) == [b"pods"]).expect("pods");
        assert_eq!(fields(pods, 5), [b"po"]);
        assert!(fields(fields(pods, 4)[0], 1).contains(&&b"watch"[..]));

        let list = protobuf(&discovery::aggregated(&registry, false, discovery::Aggregated::V2)).expect("protobuf");
        let (list, kind) = open(&list);
        assert_eq!(kind, [&b"apidiscovery.k8s.io/v2"[..], b"APIGroupDiscoveryList"]);
        let apps = fields(list, 2).into_iter().find(|group| fields(fields(group, 1)[0], 1) == [b"apps"]).expect("apps");
        let version = fields(apps, 2)[0];
        assert_eq!((fields(version, 1), fields(version, 3)), (vec![&b"v1"[..]], vec![&b"Current"[..]]));
        let find = |resource: &&&[u8]| fields(resource, 1) == [b"deployments"];
        let resources = fields(version, 2);
        let deployments = resources.iter().find(find).expect("deployments");
        assert_eq!(fields(fields(deployments, 2)[0], 3), [b"Deployment"]);
        assert_eq!(fields(deployments, 8).len(), 2);

        assert_eq!(protobuf(&json!({"kind": "Pod", "apiVersion": "v1"})), None);
    }
}
