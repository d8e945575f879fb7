//! Other API servers behind this one's door.

use std::{sync::Arc, time::Duration};

use http::Method;
use pharos_apiserver::{Config, authn::UserInfo};
use pharos_telemetry::Clock;
use pharos_transport::{
    Body, Handler, Io, Peer, PeerCertificate, Request, Response,
    pki::{Ca, Identity, Subject, Template},
};
use serde_json::{Value, json};

use crate::{
    common::{Server, admin, read},
    remote::Remote,
};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// An API server with one kind, which says who asks.
struct Extension;

#[async_trait::async_trait]
impl Handler for Extension {
    async fn handle(&self, request: Request) -> Response {
        let verified = request.extensions().get::<Peer>().is_some_and(|peer| peer.certificate == PeerCertificate::Verified);
        let answer = match request.uri().path() {
            "/apis/wardle.example.com/v1alpha1" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "wardle.example.com/v1alpha1", "resources": [
                {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]},
                {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            ]}),
            "/openapi/v3" => {
                json!({"paths": {"apis/wardle.example.com/v1alpha1": {"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=H"}}})
            }
            "/openapi/v2" => json!({
                "swagger": "2.0", "info": {"title": "wardle", "version": "1"},
                "paths": {
                    "/apis/wardle.example.com/v1alpha1/flunders": {"get": {
                        "operationId": "listFlunders",
                        "responses": {"200": {"description": "OK", "schema": {"$ref": "#/definitions/Flunder"}}},
                    }},
                    "/version/": {"get": {"operationId": "theirs"}},
                },
                "definitions": {
                    "Flunder": {"properties": {"metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
                    "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta": {"type": "object", "description": "theirs"},
                    "Unused": {"type": "object"},
                },
            }),
            path => {
                let header = |name: &str| {
                    let values = request.headers().get_all(name).iter();
                    values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
                };
                json!({"path": path, "query": request.uri().query(), "user": header("x-remote-user"),
                    "groups": header("x-remote-group"), "verified": verified, "host": header("host")})
            }
        };
        Response::new(Body::full(answer.to_string()))
    }

    async fn upgrade(&self, _: http::Request<()>, _: Io) {}
}

async fn until(server: &Server, wanted: impl Fn(&Value) -> bool) -> Value {
    let waiting = async {
        loop {
            let object = server.get(&format!("{SERVICES}/v1alpha1.wardle.example.com")).await.body;
            let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
            if let Some(condition) = conditions.find(|condition| condition["type"] == "Available" && wanted(condition)) {
                return condition.clone();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the condition comes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_carried_to_other_servers() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Arc::new(Ca::load_or_create(dir.path(), "front-proxy-ca", "front-proxy", Clock::system()).unwrap());
    let template = Template::client(Subject::new("front-proxy-client", &[]));
    let identity = Identity::load_or_issue(ca.clone(), dir.path(), "front-proxy-client", template).unwrap();
    let config = Config {
        client_ca_pem: "client".to_owned(),
        front_proxy_ca_pem: ca.certificate_pem().to_owned(),
        front_proxy: Some(identity),
        ..Config::default()
    };
    let server = Server::start_with(config).await;
    let remote = Remote::serve(Arc::new(Extension), Arc::default(), Some(ca.roots())).await;
    let trust = server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.body;
    assert_eq!(trust["data"]["requestheader-client-ca-file"], ca.certificate_pem());
    assert_eq!(trust["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");

    server.create("/api/v1/namespaces", json!({"metadata": {"name": "test"}})).await;
    let definition = json!({"metadata": {"name": "v1alpha1.wardle.example.com"}, "spec": {
        "group": "wardle.example.com", "version": "v1alpha1", "groupPriorityMinimum": 2000, "versionPriority": 200,
        "caBundle": remote.ca_bundle(), "service": {"namespace": "test", "name": "hook", "port": 7443}}});
    server.create(SERVICES, definition).await;
    until(&server, |condition| condition["reason"] == "ServiceNotFound").await;
    let flunders = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";
    assert_eq!(server.get(flunders).await.code, 503);
    assert!(!server.get("/apis").await.text.contains("wardle"));

    server
        .create("/api/v1/namespaces/test/services", json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 7443}]}}))
        .await;
    until(&server, |condition| condition["reason"] == "MissingEndpoints").await;
    let slice = json!({
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}}, "addressType": "IPv4",
        "endpoints": [{"addresses": [remote.endpoint()], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": remote.address.port(), "protocol": "TCP"}],
    });
    server.create("/apis/discovery.k8s.io/v1/namespaces/test/endpointslices", slice).await;
    let condition = until(&server, |condition| condition["status"] == "True").await;
    assert_eq!((&condition["reason"], &condition["message"]), (&json!("Passed"), &json!("all checks passed")));

    let forged = [("x-remote-user", "root"), ("x-remote-group", "system:masters")];
    let answer = read(server.send(&admin(), Method::GET, &format!("{flunders}?limit=3"), &forged, Body::empty()).await).await;
    assert_eq!(answer.code, 200, "{}", answer.text);
    assert_eq!((&answer.body["path"], &answer.body["query"]), (&json!(flunders), &json!("limit=3")));
    assert_eq!((&answer.body["user"], &answer.body["groups"]), (&json!(["admin"]), &json!(["system:masters"])));
    assert_eq!(answer.body["verified"], true, "the client certificate is the front proxy's");
    let nobody = UserInfo::new("jane", ["system:authenticated"]);
    assert_eq!(server.send(&nobody, Method::GET, flunders, &[], Body::empty()).await.status(), 403);

    let groups = server.get("/apis").await.body;
    let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == "wardle.example.com").cloned().unwrap();
    assert_eq!(group["preferredVersion"]["groupVersion"], "wardle.example.com/v1alpha1");
    assert_eq!(server.get("/apis/wardle.example.com").await.body["kind"], "APIGroup");
    assert_eq!(server.get("/apis/wardle.example.com/v1alpha1").await.body["resources"][0]["kind"], "Flunder");
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let aggregated = read(server.send(&admin(), Method::GET, "/apis", &accept, Body::empty()).await).await.body;
    let item = aggregated["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|item| item["metadata"]["name"] == "wardle.example.com")
        .cloned()
        .unwrap();
    assert_eq!(item["versions"][0]["resources"][0]["resource"], "flunders");
    assert_eq!(item["versions"][0]["resources"][0]["subresources"][0]["subresource"], "status");
    let index = server.get("/openapi/v3").await.body;
    let url = "/openapi/v3/apis/wardle.example.com/v1alpha1";
    assert_eq!(index["paths"]["apis/wardle.example.com/v1alpha1"]["serverRelativeURL"], format!("{url}?hash=H"));
    assert_eq!(server.get(url).await.body["path"], url);

    let document = server.get("/openapi/v2").await.body;
    assert_eq!(document["paths"]["/apis/wardle.example.com/v1alpha1/flunders"]["get"]["operationId"], "listFlunders");
    assert_eq!(document["paths"]["/version/"]["get"]["operationId"], "getCodeVersion");
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    let reference = &document["definitions"]["Flunder"]["properties"]["metadata"]["$ref"];
    assert_eq!(*reference, format!("#/definitions/{meta}_v2"));
    assert_eq!(document["definitions"][format!("{meta}_v2")]["description"], "theirs");
    assert_ne!(document["definitions"][meta]["description"], "theirs");
    assert!(document["definitions"]["Unused"].is_null());

    server.delete("/apis/discovery.k8s.io/v1/namespaces/test/endpointslices/hook-1").await;
    until(&server, |condition| condition["status"] == "False").await;
    assert_eq!(server.get(flunders).await.code, 503);
    server.delete(&format!("{SERVICES}/v1alpha1.wardle.example.com")).await;
    let gone = async {
        while server.get(flunders).await.code != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("nobody answers for the group any more");

    let wrong = json!({"metadata": {"name": "x"}, "spec": {"group": "g", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1}});
    let answer = server.post(SERVICES, &wrong).await;
    assert!(answer.text.contains("must be `spec.version+"), "{}", answer.text);
}

/// Waits until an APIService is there, or is not.
async fn until_there(server: &Server, name: &str, there: bool) -> Value {
    let waiting = async {
        loop {
            let answer = server.get(&format!("{SERVICES}/{name}")).await;
            if (answer.code == 200) == there {
                return answer.body;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("the api service comes or goes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_groups_have_api_services() {
    let server = Server::start().await;
    for (name, spec) in [
        ("v1.", json!({"group": "", "version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})),
        ("v1.apps", json!({"group": "apps", "version": "v1", "groupPriorityMinimum": 17800, "versionPriority": 15})),
        (
            "v2.autoscaling",
            json!({"group": "autoscaling", "version": "v2", "groupPriorityMinimum": 17500, "versionPriority": 30}),
        ),
    ] {
        let object = server.get(&format!("{SERVICES}/{name}")).await.body;
        for field in ["version", "groupPriorityMinimum", "versionPriority"] {
            assert_eq!(object["spec"][field], spec[field], "{name}");
        }
        assert_eq!(object["spec"]["group"].as_str().unwrap_or_default(), spec["group"], "{name}");
        assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart", "{name}");
        let condition = &object["status"]["conditions"][0];
        let want = json!(["Available", "True", "Local", "Local APIServices are always available"]);
        assert_eq!(json!([condition["type"], condition["status"], condition["reason"], condition["message"]]), want, "{name}");
    }
    assert_eq!(server.get(&format!("{SERVICES}/v1.apiregistration.k8s.io")).await.code, 404);

    let definition = json!({
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]},
    });
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.create(definitions, definition).await;
    let object = until_there(&server, "v1.example.com", true).await;
    assert_eq!(object["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!((&object["spec"]["groupPriorityMinimum"], &object["spec"]["versionPriority"]), (&json!(1000), &json!(100)));
    let uid = object["metadata"]["uid"].clone();
    server.delete(&format!("{SERVICES}/v1.example.com")).await;
    let again = async {
        while until_there(&server, "v1.example.com", true).await["metadata"]["uid"] == uid {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("what is deleted is made again");
    server.delete(&format!("{definitions}/widgets.example.com")).await;
    until_there(&server, "v1.example.com", false).await;
}
