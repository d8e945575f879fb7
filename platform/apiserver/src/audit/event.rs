//! An event, as `audit.k8s.io/v1` writes it.
//!
//! Follows `apiserver/pkg/apis/audit/v1/types.go` and `apiserver/pkg/audit/format.go`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json, value::RawValue};

use super::policy::{Level, Stage};
use crate::{authn::UserInfo, authz::rules::quote, request::RequestInfo};

/// What is known of a request at one stage.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    kind: &'static str,
    api_version: &'static str,
    pub(super) level: Level,
    #[serde(rename = "auditID")]
    pub(super) audit_id: String,
    pub(super) stage: Stage,
    #[serde(rename = "requestURI")]
    pub(super) request_uri: String,
    pub(super) verb: String,
    #[serde(serialize_with = "user")]
    pub(super) user: Option<UserInfo>,
    #[serde(serialize_with = "user", skip_serializing_if = "Option::is_none")]
    pub(super) impersonated_user: Option<UserInfo>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub(super) source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object_ref: Option<ObjectReference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_object: Option<Box<RawValue>>,
    #[serde(serialize_with = "micro_time")]
    pub(super) request_received_timestamp: Timestamp,
    #[serde(serialize_with = "micro_time")]
    pub(super) stage_timestamp: Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// Which object a request is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ObjectReference {
    #[serde(skip_serializing_if = "String::is_empty")]
    resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

impl ObjectReference {
    fn new(info: &RequestInfo) -> Self {
        ObjectReference {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        }
    }

    /// Fills in what the path did not say, from the object in the request.
    pub(super) fn complete(&mut self, object: &Value) {
        let metadata = &object["metadata"];
        for (field, place) in [
            ("namespace", &mut self.namespace),
            ("name", &mut self.name),
            ("uid", &mut self.uid),
            ("resourceVersion", &mut self.resource_version),
        ] {
            if let Some(text) = metadata[field].as_str().filter(|_| place.is_empty()) {
                *place = text.to_owned();
            }
        }
    }
}

impl Event {
    /// The event of a request that has just come in.
    pub(super) fn new(level: Level, info: &RequestInfo, received: Timestamp) -> Self {
        Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level,
            audit_id: String::new(),
            stage: Stage::RequestReceived,
            request_uri: String::new(),
            verb: info.verb.clone(),
            user: None,
            impersonated_user: None,
            source_ips: Vec::new(),
            user_agent: String::new(),
            object_ref: info.is_resource.then(|| ObjectReference::new(info)),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: received,
            stage_timestamp: received,
            annotations: BTreeMap::new(),
        }
    }

    /// The event as a line of JSON, without its end.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same without bodies.
    pub(super) fn json_without_bodies(&self) -> String {
        if self.request_object.is_none() && self.response_object.is_none() {
            return self.json();
        }
        Event { request_object: None, response_object: None, ..self.clone() }.json()
    }

    /// The event as a line of text: upstream's `legacy` format.
    pub(super) fn legacy(&self) -> String {
        let list = |groups: &[String]| groups.iter().map(|group| quote(group)).collect::<Vec<_>>().join(",");
        let (mut user, mut groups) = ("<none>".to_owned(), "<none>".to_owned());
        if let Some(who) = self.user.as_ref().filter(|who| !who.username.is_empty()) {
            user.clone_from(&who.username);
            if !who.groups.is_empty() {
                groups = list(&who.groups);
            }
        }
        let (as_user, as_groups) = match &self.impersonated_user {
            None => ("<self>", "<lookup>".to_owned()),
            Some(who) => (who.username.as_str(), list(&who.groups)),
        };
        let namespace = self.object_ref.as_ref().map(|object| object.namespace.as_str()).filter(|text| !text.is_empty());
        let response = self.response_status.as_ref().and_then(|status| status["code"].as_u64());
        let ip = self.source_ips.first().map_or("<unknown>", String::as_str);
        format!(
            "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{}\"",
            self.request_received_timestamp,
            quote(&self.audit_id),
            quote(self.stage.name()),
            quote(ip),
            quote(&self.verb),
            quote(&user),
            quote(&groups),
            quote(as_user),
            quote(&as_groups),
            quote(&self.user_agent),
            quote(namespace.unwrap_or("<none>")),
            quote(&self.request_uri),
            response.map_or_else(|| "<deferred>".to_owned(), |code| code.to_string()),
        )
    }
}

/// A user; nobody is an empty object.
fn user<S: Serializer>(user: &Option<UserInfo>, serializer: S) -> Result<S::Ok, S::Error> {
    user.as_ref().map_or_else(|| json!({}), UserInfo::to_value).serialize(serializer)
}

/// `metav1.MicroTime`: always six digits.
fn micro_time<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request::Query;

    fn event() -> Event {
        let info = RequestInfo::parse(&Method::POST, "/api/v1/namespaces/a/pods", &Query::parse(None));
        let received = "2026-11-25T14:00:00.5Z".parse().unwrap();
        let mut event = Event::new(Level::Metadata, &info, received);
        event.audit_id = "id".to_owned();
        event.request_uri = "/api/v1/namespaces/a/pods?x=1".to_owned();
        event
    }

    #[test]
    fn fields_are_upstreams() {
        let mut event = event();
        let bare = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id","stage":"RequestReceived","requestURI":"/api/v1/namespaces/a/pods?x=1","verb":"create","user":{},"objectRef":{"resource":"pods","namespace":"a","apiVersion":"v1"},"requestReceivedTimestamp":"2026-11-25T14:00:00.500000Z","stageTimestamp":"2026-11-25T14:00:00.500000Z"}"#;
        assert_eq!(event.json(), bare);
        event.user = Some(UserInfo::new("jane", ["devs"]));
        event.source_ips.push("192.0.2.1".to_owned());
        event.response_status = Some(json!({"metadata": {}, "code": 201}));
        event.annotations.insert("k".to_owned(), "v".to_owned());
        event.request_object = Some(RawValue::from_string("{\"a\":1}".to_owned()).unwrap());
        let value: Value = serde_json::from_str(&event.json()).unwrap();
        assert_eq!(value["user"], json!({"username": "jane", "groups": ["devs"]}));
        assert_eq!((&value["sourceIPs"], &value["annotations"]), (&json!(["192.0.2.1"]), &json!({"k": "v"})));
        assert_eq!((&value["responseStatus"]["code"], &value["requestObject"]), (&json!(201), &json!({"a": 1})));
        let value: Value = serde_json::from_str(&event.json_without_bodies()).unwrap();
        assert!(value["requestObject"].is_null());
    }

    #[test]
    fn the_legacy_format() {
        let mut event = event();
        let start = "2026-11-25T14:00:00.5Z AUDIT: id=\"id\" stage=\"RequestReceived\" ip=\"<unknown>\" method=\"create\" user=\"<none>\" groups=\"<none>\" as=\"<self>\" asgroups=\"<lookup>\" user-agent=\"\" namespace=\"a\" uri=\"/api/v1/namespaces/a/pods?x=1\" response=\"<deferred>\"";
        assert_eq!(event.legacy(), start);
        event.user = Some(UserInfo::new("jane", ["a", "b"]));
        event.response_status = Some(json!({"code": 403}));
        let line = event.legacy();
        assert!(line.contains(r#"user="jane" groups="\"a\",\"b\"""#) && line.ends_with("response=\"403\""), "{line}");
    }

    #[test]
    fn references_are_completed_from_the_object() {
        let mut reference = event().object_ref.unwrap();
        reference.complete(&json!({"metadata": {"name": "p", "namespace": "other", "uid": "u", "resourceVersion": "7"}}));
        let got = serde_json::to_value(&reference).unwrap();
        let want =
            json!({"resource": "pods", "namespace": "a", "name": "p", "uid": "u", "resourceVersion": "7", "apiVersion": "v1"});
        assert_eq!(got, want);
    }
}
