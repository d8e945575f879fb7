//! A server that is asked by `SubjectAccessReview`s.
//!
//! Follows `plugin/pkg/authorizer/webhook` and `pkg/authorization/cel` of `k8s.io/apiserver`.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use pharos_cel::{Bindings, Budget, Declaration, Environment, MATCH_CONDITIONS_BUDGET, Program, Type};
use pharos_transport::proxy::Proxy;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{
    authz::{Attributes, Decision},
    kubeconfig::Server,
};

/// Answers kept, as many as upstream keeps; when there are more, what has run out goes, then all.
const CAPACITY: usize = 8192;

/// What a webhook is made of.
pub(super) struct Settings {
    pub(super) name: String,
    /// A kubeconfig.
    pub(super) file: PathBuf,
    pub(super) version: String,
    /// Zero: not remembered. So for the next.
    pub(super) authorized_ttl: Duration,
    pub(super) unauthorized_ttl: Duration,
    pub(super) timeout: Duration,
    /// Whether a failure refuses; else the next authorizer is asked.
    pub(super) deny_on_failure: bool,
    /// All must be true for the webhook to be asked.
    pub(super) conditions: Vec<Program>,
}

/// Asks the server.
pub(in crate::authz) struct Webhook {
    settings: Settings,
    server: Server,
    proxy: Proxy,
    answers: Mutex<HashMap<[u8; 32], (Decision, Instant)>>,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("name", &self.settings.name).field("server", &self.server).finish_non_exhaustive()
    }
}

/// `request` of conditions: the spec of a `SubjectAccessReview` of version 1.
static REQUEST: LazyLock<Option<Arc<Declaration>>> = LazyLock::new(|| {
    let text = json!({"type": "string"});
    let texts = json!({"type": "array", "items": text});
    let object = |fields: Value| json!({"type": "object", "properties": fields});
    let resource = object(json!({
        "namespace": text, "verb": text, "group": text, "version": text, "resource": text, "subresource": text, "name": text,
    }));
    let schema = object(json!({
        "resourceAttributes": resource, "nonResourceAttributes": object(json!({"path": text, "verb": text})), "user": text,
        "groups": texts, "extra": {"type": "object", "additionalProperties": texts}, "uid": text,
    }));
    Some(Declaration::new(&schema, false)?.with_plain_names())
});

/// Compiles a condition.
pub(super) fn compile(expression: &str) -> Result<Program, String> {
    let environment = Environment::new(["request"]);
    let environment = match &*REQUEST {
        Some(declaration) => environment.with_declaration("request", declaration),
        None => environment,
    };
    let program = Program::compile(&environment, expression).map_err(|error| format!("compilation failed: {error}"))?;
    if program.result_type() == Type::Bool { Ok(program) } else { Err("must evaluate to bool".to_owned()) }
}

impl Webhook {
    pub(super) fn new(settings: Settings) -> Result<Self, String> {
        let server = Server::read(&settings.file)?;
        Ok(Webhook { settings, server, proxy: Proxy::new(), answers: Mutex::default() })
    }

    /// What the server thinks of a request.
    pub(in crate::authz) async fn decide(&self, attributes: &Attributes<'_>) -> Decision {
        let spec = spec(attributes);
        match matches(&self.settings.conditions, &spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(error) => return self.failed(&error),
        }
        let key: [u8; 32] = Sha256::digest(spec.to_string()).into();
        if let Some((decision, until)) = self.answers.lock().get(&key)
            && Instant::now() < *until
        {
            return decision.clone();
        }
        let reviewed = self.server.review(&self.proxy, &review(&self.settings.version, spec), self.settings.timeout).await;
        let decision = match reviewed.and_then(|reviewed| read(&reviewed["status"])) {
            Ok(decision) => decision,
            Err(error) => return self.failed(&error),
        };
        let ttl = if decision.allowed() { self.settings.authorized_ttl } else { self.settings.unauthorized_ttl };
        if !ttl.is_zero() {
            let mut answers = self.answers.lock();
            let now = Instant::now();
            if answers.len() >= CAPACITY {
                answers.retain(|_, (_, until)| now < *until);
            }
            if answers.len() >= CAPACITY {
                answers.clear();
            }
            answers.insert(key, (decision.clone(), now + ttl));
        }
        decision
    }

    /// What the failure policy makes of an error.
    fn failed(&self, error: &str) -> Decision {
        tracing::warn!(webhook = self.settings.name, error, "an authorization webhook has failed");
        if self.settings.deny_on_failure { Decision::Deny(String::new()) } else { Decision::NoOpinion(String::new()) }
    }
}

/// Whether all conditions are true. One that is false decides, whatever errors others have.
fn matches(conditions: &[Program], spec: &Value) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let bindings = match &*REQUEST {
        Some(declaration) => Bindings::new().declared("request", spec, declaration),
        None => Bindings::new().json("request", spec),
    };
    let mut budget = Budget::new(MATCH_CONDITIONS_BUDGET);
    let mut failed = None;
    for condition in conditions {
        match condition.evaluate_bool(&bindings, &mut budget) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => failed = Some(format!("{}: {error}", condition.source())),
        }
    }
    failed.map_or(Ok(true), Err)
}

/// The spec of the review of a request, in version 1. What is empty is left out.
fn spec(attributes: &Attributes<'_>) -> Value {
    let user = attributes.user;
    let mut asked = serde_json::Map::new();
    let mut put = |name: &str, value: &str| {
        if !value.is_empty() {
            asked.insert(name.to_owned(), json!(value));
        }
    };
    put("verb", attributes.verb);
    let kind = if attributes.is_resource {
        put("namespace", attributes.namespace);
        put("group", attributes.group);
        put("version", attributes.version);
        put("resource", attributes.resource);
        put("subresource", attributes.subresource);
        put("name", attributes.name);
        "resourceAttributes"
    } else {
        put("path", attributes.path);
        "nonResourceAttributes"
    };
    let mut spec = json!({"user": user.username});
    spec[kind] = Value::Object(asked);
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        spec["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    spec
}

/// The review, in the version the server knows.
fn review(version: &str, mut spec: Value) -> Value {
    // The one field that has another name in the older version.
    if version == "v1beta1"
        && let Some(groups) = spec.as_object_mut().and_then(|spec| spec.remove("groups"))
    {
        spec["group"] = groups;
    }
    json!({
        "kind": "SubjectAccessReview", "apiVersion": format!("authorization.k8s.io/{version}"), "metadata": {}, "spec": spec,
    })
}

/// Reads the status of a review.
fn read(status: &Value) -> Result<Decision, String> {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => Err("webhook subject access review returned both allow and deny response".to_owned()),
        (true, false) => Ok(Decision::Allow(reason)),
        (false, true) => Ok(Decision::Deny(reason)),
        (false, false) => Ok(Decision::NoOpinion(reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::UserInfo;

    #[test]
    fn reviews() {
        let user = UserInfo::new("jane", ["dev"]);
        let asked = spec(&Attributes::resource(&user, "get", "", "pods", "default", "p"));
        let expected = json!({"user": "jane", "groups": ["dev"], "resourceAttributes": {
            "verb": "get", "version": "*", "resource": "pods", "namespace": "default", "name": "p"}});
        assert_eq!(asked, expected);
        let old = review("v1beta1", asked.clone());
        assert_eq!((&old["spec"]["group"], &old["spec"]["groups"]), (&json!(["dev"]), &Value::Null));
        assert_eq!(old["apiVersion"], "authorization.k8s.io/v1beta1");
        let path = spec(&Attributes::path(&user, "get", "/livez"));
        assert_eq!(path["nonResourceAttributes"], json!({"verb": "get", "path": "/livez"}));
        for (status, expected) in [
            (json!({"allowed": true, "reason": "r"}), Ok(Decision::Allow("r".into()))),
            (json!({"allowed": false, "denied": true}), Ok(Decision::Deny(String::new()))),
            (json!({"allowed": false}), Ok(Decision::NoOpinion(String::new()))),
        ] {
            assert_eq!(read(&status), expected, "{status}");
        }
        assert!(read(&json!({"allowed": true, "denied": true})).is_err());
    }

    #[test]
    fn conditions() {
        let user = UserInfo::new("jane", ["dev"]);
        let pods = spec(&Attributes::resource(&user, "get", "", "pods", "kube-system", "p"));
        let path = spec(&Attributes::path(&user, "get", "/livez"));
        let check = |expressions: &[&str], spec: &Value| {
            let programs: Vec<Program> = expressions.iter().map(|expression| compile(expression).unwrap()).collect();
            matches(&programs, spec)
        };
        let about_resources = "has(request.resourceAttributes)";
        assert_eq!(check(&[], &pods), Ok(true));
        assert_eq!(check(&[about_resources, "request.resourceAttributes.namespace == 'kube-system'"], &pods), Ok(true));
        assert_eq!(check(&[about_resources], &path), Ok(false));
        assert_eq!(check(&["request.resourceAttributes.verb == 'get'", about_resources], &path), Ok(false));
        assert!(check(&["request.resourceAttributes.verb == 'get'"], &path).is_err());
        assert!(compile("request.user").is_err() && compile("nonsense").is_err());
    }
}
