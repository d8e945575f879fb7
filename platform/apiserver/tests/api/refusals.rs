//! Requests that are wrong, and the `Status` each must get.

use crate::common::{Server, read};
use http::Method;
use pharos_apiserver::authn::UserInfo;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_get_their_status() {
    let server = Server::start().await;
    server.create(MAPS, json!({"metadata": {"name": "there"}, "data": {"a": "1"}})).await;
    server.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let json = "application/json";
    let big = format!("{{\"data\": {{\"a\": \"{}\"}}}}", "x".repeat(4 << 20));
    // Method, path, content type, body, code, reason, part of the message.
    let table: &[(Method, &str, &str, &str, u16, &str, &str)] = &[
        (Method::POST, MAPS, json, "{", 400, "BadRequest", "json parse error"),
        (Method::POST, MAPS, json, "[]", 400, "BadRequest", ""),
        (Method::POST, MAPS, json, "null", 400, "BadRequest", ""),
        (Method::POST, MAPS, json, "", 400, "BadRequest", "empty body"),
        (Method::POST, MAPS, json, r#"{"metadata":{"name":1}}"#, 400, "BadRequest", "cannot be handled as a ConfigMap"),
        (Method::POST, MAPS, json, r#"{"data":{"a":1}}"#, 400, "BadRequest", "cannot unmarshal number"),
        (Method::POST, MAPS, json, r#"{"kind":"Pod","apiVersion":"v1"}"#, 400, "BadRequest", "Pod in version"),
        (
            Method::POST,
            MAPS,
            json,
            r#"{"kind":"ConfigMap","apiVersion":"v2"}"#,
            400,
            "BadRequest",
            "does not match the expected API version",
        ),
        (
            Method::POST,
            MAPS,
            json,
            r#"{"metadata":{"name":"a","namespace":"other"}}"#,
            400,
            "BadRequest",
            "does not match the namespace",
        ),
        (Method::POST, MAPS, json, r#"{"metadata":{}}"#, 422, "Invalid", "name or generateName is required"),
        (Method::POST, MAPS, json, r#"{"metadata":{"name":"A_B"}}"#, 422, "Invalid", "metadata.name"),
        (
            Method::POST,
            MAPS,
            json,
            r#"{"metadata":{"name":"there"}}"#,
            409,
            "AlreadyExists",
            "configmaps \"there\" already exists",
        ),
        (
            Method::POST,
            MAPS,
            json,
            r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#,
            400,
            "BadRequest",
            "resourceVersion should not be set",
        ),
        (Method::POST, MAPS, json, &big, 413, "RequestEntityTooLarge", ""),
        (Method::POST, MAPS, "text/csv", "a,b", 415, "UnsupportedMediaType", "application/json"),
        (
            Method::POST,
            MAPS,
            "application/vnd.kubernetes.protobuf",
            "nonsense",
            400,
            "BadRequest",
            "does not appear to be a protobuf message",
        ),
        (Method::POST, MAPS, "application/yaml", "a: [", 400, "BadRequest", "YAML"),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            json,
            r#"{"metadata":{"name":"s"},"dta":{}}"#,
            400,
            "BadRequest",
            "strict decoding error: unknown field \"dta\"",
        ),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps?fieldValidation=Strict",
            json,
            r#"{"metadata":{"name":"s"},"data":{},"data":{}}"#,
            400,
            "BadRequest",
            "duplicate field \"data\"",
        ),
        (Method::POST, "/api/v1/namespaces/default/configmaps?fieldValidation=No", json, "{}", 422, "Invalid", "fieldValidation"),
        (Method::POST, "/api/v1/namespaces/default/configmaps?dryRun=Some", json, "{}", 422, "Invalid", "dryRun"),
        (
            Method::POST,
            "/api/v1/namespaces/missing/configmaps",
            json,
            r#"{"metadata":{"name":"a"}}"#,
            404,
            "NotFound",
            "namespaces \"missing\" not found",
        ),
        (Method::GET, "/api/v1/namespaces/default/configmaps/none", "", "", 404, "NotFound", "configmaps \"none\" not found"),
        (Method::GET, "/api/v1/nosuch", "", "", 404, "NotFound", "could not find the requested resource"),
        (Method::GET, "/apis/no.such/v1/things", "", "", 404, "NotFound", ""),
        (Method::GET, "/nowhere", "", "", 404, "NotFound", ""),
        (Method::GET, "/api/v1/namespaces/default/configmaps/there/status", "", "", 404, "NotFound", ""),
        (Method::POST, "/api/v1/namespaces/default/configmaps/there", json, "{}", 405, "MethodNotAllowed", ""),
        (Method::PUT, MAPS, json, "{}", 405, "MethodNotAllowed", ""),
        (Method::POST, "/api/v1/configmaps", json, r#"{"metadata":{"name":"a"}}"#, 405, "MethodNotAllowed", ""),
        (Method::DELETE, "/api/v1/configmaps", "", "", 405, "MethodNotAllowed", ""),
        (Method::GET, "/api/v1/configmaps/there", "", "", 404, "NotFound", ""),
        (Method::GET, "/api/v1/pods?labelSelector=a+in+(", "", "", 400, "BadRequest", "unable to parse requirement"),
        (Method::GET, "/api/v1/pods?fieldSelector=spec.nope=1", "", "", 400, "BadRequest", "spec.nope"),
        (Method::GET, "/api/v1/pods?resourceVersion=x", "", "", 422, "Invalid", "resourceVersion"),
        (
            Method::GET,
            "/api/v1/pods?resourceVersionMatch=Exact",
            "",
            "",
            422,
            "Invalid",
            "forbidden unless resourceVersion is provided",
        ),
        (
            Method::GET,
            "/api/v1/pods?resourceVersion=0&resourceVersionMatch=Exact",
            "",
            "",
            422,
            "Invalid",
            "forbidden for resourceVersion",
        ),
        (Method::GET, "/api/v1/pods?continue=nonsense", "", "", 400, "BadRequest", "continue key is not valid"),
        (Method::GET, "/api/v1/pods?watch=1&sendInitialEvents=true", "", "", 422, "Invalid", "NotOlderThan"),
        (Method::GET, "/api/v1/pods?timeoutSeconds=x&watch=1", "", "", 400, "BadRequest", "ParseInt"),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            "{}",
            415,
            "UnsupportedMediaType",
            "strategic-merge-patch",
        ),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/there",
            "application/merge-patch+json",
            "[",
            400,
            "BadRequest",
            "patch",
        ),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/there",
            "application/json-patch+json",
            r#"[{"op":"test","path":"/data/a","value":"2"}]"#,
            422,
            "Invalid",
            "",
        ),
        (Method::PATCH, "/api/v1/namespaces/default/configmaps/none", "application/merge-patch+json", "{}", 404, "NotFound", ""),
        (
            Method::PATCH,
            "/api/v1/namespaces/default/configmaps/there",
            "application/apply-patch+yaml",
            "{}",
            422,
            "Invalid",
            "fieldManager",
        ),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"metadata":{"name":"there","resourceVersion":"1"}}"#,
            409,
            "Conflict",
            "the object has been modified",
        ),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"metadata":{"name":"other"}}"#,
            400,
            "BadRequest",
            "does not match the name on the URL",
        ),
        (
            Method::PUT,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"metadata":{"name":"there","uid":"no"}}"#,
            409,
            "Conflict",
            "Precondition failed: UID",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"dryRun":"All"}"#,
            400,
            "BadRequest",
            "DeleteOptions.dryRun",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"gracePeriodSeconds":"x"}"#,
            400,
            "BadRequest",
            "DeleteOptions.gracePeriodSeconds",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"preconditions":"x"}"#,
            400,
            "BadRequest",
            "DeleteOptions.preconditions",
        ),
        (Method::DELETE, MAPS, json, r#"{"dryRun":"All"}"#, 400, "BadRequest", "DeleteOptions.dryRun"),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"preconditions":{"uid":"no"}}"#,
            409,
            "Conflict",
            "UID in precondition: no",
        ),
        (
            Method::DELETE,
            "/api/v1/namespaces/default/configmaps/there",
            json,
            r#"{"propagationPolicy":"Sideways"}"#,
            422,
            "Invalid",
            "propagationPolicy",
        ),
        (Method::DELETE, "/api/v1/namespaces/default", json, "", 403, "Forbidden", "may not be deleted"),
        (
            Method::DELETE,
            "/apis/scheduling.k8s.io/v1/priorityclasses/system-node-critical",
            json,
            "",
            403,
            "Forbidden",
            "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot",
        ),
        (Method::POST, PODS, json, r#"{"metadata":{"name":"p"},"spec":{"containers":[]}}"#, 422, "Invalid", "spec.containers"),
        (Method::GET, "/api/v1/namespaces/default/pods/none/log", "", "", 404, "NotFound", "pods \"none\" not found"),
        (Method::POST, "/version", json, "{}", 405, "MethodNotAllowed", ""),
        (
            Method::GET,
            "/api/v1/namespaces/default/pods/a/log?tailLines=-1&limitBytes=0",
            "",
            "",
            422,
            "Invalid",
            "PodLogOptions \"a\" is invalid: [tailLines: Invalid value: -1: must be greater than or equal to 0, limitBytes: ",
        ),
        (Method::GET, "/api/v1/namespaces/default/pods/a/log?tailLines=x", "", "", 400, "BadRequest", "strconv.ParseInt"),
    ];
    for (method, path, content_type, body, code, reason, message) in table {
        let answer = server.ask(method.clone(), path, content_type, (*body).to_owned()).await;
        let case = format!("{method} {path} {}", &body[..body.len().min(80)]);
        assert_eq!(answer.code, *code, "{case}: {}", answer.text);
        assert_eq!(answer.body["kind"], "Status", "{case}: {}", answer.text);
        assert_eq!(answer.body["status"], "Failure", "{case}");
        assert_eq!(answer.body["code"], *code, "{case}");
        assert_eq!(answer.body["reason"], *reason, "{case}: {}", answer.text);
        let text = answer.body["message"].as_str().unwrap_or_default();
        assert!(text.contains(message), "{case}: {text}");
        assert!(answer.headers.contains_key("audit-id"), "{case}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_allowed_passes() {
    let server = Server::start().await;
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    let answer = read(server.send(&jane, Method::GET, "/api/v1/pods", &[], "").await).await;
    assert_eq!(answer.code, 403);
    let message = r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#;
    assert_eq!(answer.body["message"], message);
    let answer = read(server.send(&jane, Method::GET, "/version", &[], "").await).await;
    assert_eq!(answer.code, 200);
    assert_eq!(answer.body["minor"], "37");

    let outside = http::Request::get("/api/v1/pods").header("authorization", "Bearer nonsense").body("".into()).unwrap();
    let answer = read(server.api.handle(outside).await).await;
    assert_eq!((answer.code.as_u16(), answer.body["message"].as_str()), (401, Some("Unauthorized")));
    let outside = http::Request::get("/api/v1/pods").body("".into()).unwrap();
    assert_eq!(read(server.api.handle(outside).await).await.code, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_get_a_form_they_accept() {
    let server = Server::start().await;
    let accept = |text: &'static str| [("accept", text)];
    let admin = crate::common::admin();
    let get = |headers: [(&'static str, &'static str); 1]| {
        let (server, admin) = (&server, &admin);
        async move { read(server.send(admin, Method::GET, "/api/v1/namespaces", &headers, "").await).await }
    };
    assert_eq!(get(accept("text/html")).await.code, 406);
    let table = get(accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")).await;
    assert_eq!((table.body["kind"].as_str(), table.body["columnDefinitions"][0]["name"].as_str()), (Some("Table"), Some("Name")));
    let partial = get(accept("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")).await;
    assert_eq!(partial.body["kind"], "PartialObjectMetadataList");
    assert!(partial.body["items"][0].get("spec").is_none());
    let yaml = get(accept("application/yaml")).await;
    assert!(yaml.text.contains("kind: NamespaceList"), "{}", yaml.text);
    let protobuf = get(accept("application/vnd.kubernetes.protobuf,application/json")).await;
    assert!(protobuf.text.starts_with("k8s\0"), "{}", protobuf.text);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}}).to_string();
    let only_table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), ("content-type", "application/json")];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(read(server.send(&admin, Method::POST, path, &only_table, review).await).await.code, 406);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrades_are_counted() {
    let server = Server::start().await;
    let (mut client, io) = tokio::io::duplex(1 << 16);
    let request = http::Request::get("/api/v1/namespaces/default/pods/none/exec?command=x")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(())
        .unwrap();
    server.api.upgrade(request, Box::new(io)).await;
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let families = server.registry.gather();
    let requests = families.iter().find(|family| family.name() == "apiserver_request_total").unwrap();
    let counted = requests.get_metric().iter().any(|metric| {
        let has = |name: &str, value: &str| metric.get_label().iter().any(|pair| pair.name() == name && pair.value() == value);
        has("verb", "CONNECT") && has("subresource", "exec") && has("code", "403")
    });
    assert!(counted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn options_are_refused_by_the_verbs_own_names() {
    let server = Server::start().await;
    let (maps, map) = ("/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps/a");
    let object = json!({"metadata": {"name": "a"}});
    server.create(maps, object.clone()).await;
    for (answer, kind) in [
        (server.post(&format!("{maps}?dryRun=x"), &object).await, "CreateOptions"),
        (server.put(&format!("{map}?fieldValidation=x"), &object).await, "UpdateOptions"),
        (server.merge(&format!("{map}?dryRun=x"), &object).await, "PatchOptions"),
        (server.delete(&format!("{map}?dryRun=x")).await, "DeleteOptions"),
    ] {
        assert_eq!((answer.code.as_u16(), answer.body["details"]["kind"].as_str()), (422, Some(kind)), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deprecated_kinds_are_told() {
    let server = Server::start().await;
    let warning = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    for path in ["/api/v1/endpoints", "/api/v1/namespaces/default/endpoints/none"] {
        assert_eq!(server.get(path).await.headers["warning"], warning, "{path}");
    }
    assert!(server.get("/api/v1/services").await.headers.get("warning").is_none());
    let cidr = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.99.0.0/24"]}});
    let answer = server.post("/apis/networking.k8s.io/v1/servicecidrs", &cidr).await;
    let warning = answer.headers["warning"].to_str().unwrap();
    assert!(answer.code == 201 && warning.contains("servicecidrs are stored but have no effect"), "{warning} {}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collection_is_deleted_by_pages() {
    let server = Server::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    for name in ["a", "b", "c"] {
        server.create(maps, json!({"metadata": {"name": name}})).await;
    }
    let first = server.delete(&format!("{maps}?limit=2")).await;
    assert_eq!((first.code.as_u16(), first.body["items"].as_array().map(Vec::len)), (200, Some(2)), "{}", first.text);
    let token = first.body["metadata"]["continue"].as_str().unwrap();
    let names = |list: &Value| -> Vec<String> {
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let left = server.get(maps).await.body;
    assert!(names(&left).contains(&"c".to_owned()) && !names(&left).contains(&"a".to_owned()), "{left}");
    let rest = server.delete(&format!("{maps}?continue={token}")).await;
    assert_eq!(rest.code, 200, "{}", rest.text);
    assert!(!names(&server.get(maps).await.body).contains(&"c".to_owned()));
}
