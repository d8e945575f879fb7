//! Who asks and whether they may, where other servers know.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use http::Method;
use pharos_apiserver::{
    Config,
    authn::{self, Structured, UserInfo, WebhookOptions, jws::SigningKey},
    authz::{Chain, Modes},
};
use pharos_telemetry::Clock;
use pharos_transport::Body;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    common::{Answer, Server, read},
    remote::Remote,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Asks from outside of the process who a bearer token makes one.
async fn whoami(server: &Server, token: &str) -> Answer {
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    read(server.api.handle(request.body(Body::from(body)).unwrap()).await).await
}

/// A kubeconfig that names a remote.
fn kubeconfig(remote: &Remote) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let cluster =
        json!({"server": format!("https://{}/review", remote.address), "certificate-authority-data": remote.ca_bundle()});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "s", "user": "u"}}],
        "clusters": [{"name": "s", "cluster": cluster}],
        "users": [{"name": "u", "user": {}}],
    });
    std::fs::write(&file, config.to_string()).unwrap();
    (folder, file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_an_issuer_are_believed() {
    let new_key = || SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
    let (key, other) = (new_key(), new_key());
    let (jwk, url) = (key.public().to_jwk(), Arc::new(OnceLock::<String>::new()));
    let known = url.clone();
    let remote = Remote::start(move |path, _| {
        let (jwk, url) = (jwk.clone(), known.get().cloned().unwrap_or_default());
        async move {
            match path.as_str() {
                "/.well-known/openid-configuration" => json!({"issuer": url, "jwks_uri": format!("{url}/keys")}),
                _ => json!({"keys": [jwk]}),
            }
        }
    })
    .await;
    let issuer = url.get_or_init(|| format!("https://{}", remote.address));
    let configuration = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": issuer, "audiences": ["me"], "certificateAuthority": remote.ca.certificate_pem()},
            "claimMappings": {
                "username": {"expression": "'oidc:' + claims.sub"},
                "groups": {"claim": "roles", "prefix": ""},
            },
        }],
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
    });
    let structured = Structured::parse(configuration.to_string().as_bytes(), &[]).unwrap();
    let authn = authn::Config { structured: Some(Arc::new(structured)), ..authn::Config::default() };
    let server = Server::start_believing(Config::default(), authn).await;

    let claims = |audience: &str| {
        let end = Clock::system().now().as_second() + 600;
        json!({"iss": issuer, "aud": audience, "sub": "jane", "exp": end, "roles": ["dev"], "jti": "1"})
    };
    let good = whoami(&server, &key.sign(&claims("me")).unwrap()).await;
    let expected = json!({"username": "oidc:jane", "groups": ["dev", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": ["JTI=1"]}});
    assert_eq!(good.body["status"]["userInfo"], expected, "{}", good.text);
    for token in [other.sign(&claims("me")).unwrap(), key.sign(&claims("you")).unwrap(), "nonsense".to_owned()] {
        assert_eq!(whoami(&server, &token).await.code, 401, "{token}");
    }
    let asked: Vec<String> = remote.take().await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(asked, ["/.well-known/openid-configuration", "/keys"], "keys are kept");

    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": {"token": key.sign(&claims("me")).unwrap()}});
    let reviewed = server.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(reviewed["status"]["user"]["username"], "oidc:jane", "{reviewed}");
    for (path, code) in [("/livez", 200), ("/version", 401)] {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(server.api.handle(request).await.status(), code, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_knows_tokens() {
    let remote = Remote::start(|_, review| async move {
        let known = review["spec"]["token"] == "secret";
        json!({"kind": "TokenReview", "apiVersion": review["apiVersion"], "status": {
            "authenticated": known, "user": {"username": if known { "jane" } else { "" }}}})
    })
    .await;
    let (_folder, file) = kubeconfig(&remote);
    let webhook = WebhookOptions { version: "v1".into(), ..WebhookOptions::new(file) };
    let authn = authn::Config { webhook: Some(webhook), ..authn::Config::default() };
    let server = Server::start_believing(Config::default(), authn).await;
    for _ in 0..2 {
        let known = whoami(&server, "secret").await;
        assert_eq!(known.body["status"]["userInfo"]["username"], "jane", "{}", known.text);
        assert_eq!(whoami(&server, "other").await.code, 401);
    }
    let asked = remote.take().await;
    assert_eq!(asked.len(), 2, "answers are kept: {asked:?}");
    assert_eq!(asked[0].1["apiVersion"], "authentication.k8s.io/v1");
    assert_eq!(asked[0].1["spec"]["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_authorizes() {
    let remote = Remote::start(|_, review| async move {
        let spec = &review["spec"];
        let allowed = spec["user"] == "jane" && spec["resourceAttributes"]["verb"] == "list";
        json!({"kind": "SubjectAccessReview", "apiVersion": review["apiVersion"], "status": {"allowed": allowed, "reason": "so I say"}})
    })
    .await;
    let (_folder, file) = kubeconfig(&remote);
    let modes = Modes {
        modes: ["Node", "RBAC", "Webhook"].map(str::to_owned).to_vec(),
        webhook_file: Some(file),
        webhook_version: "v1".into(),
        ..Modes::default()
    };
    let chain = Chain::of_modes(&modes).unwrap().map(Arc::new);
    let server = Server::start_with(Config { authorization: chain, ..Config::default() }).await;
    remote.take().await;
    let jane = UserInfo::new("jane", ["system:authenticated"]);
    let ask = async |method: Method| {
        let headers = [("content-type", "application/json")];
        read(server.send(&jane, method, MAPS, &headers, json!({"metadata": {"name": "m"}}).to_string()).await).await
    };
    for _ in 0..2 {
        assert_eq!(ask(Method::GET).await.code, 200);
        let refused = ask(Method::POST).await;
        assert!(refused.code == 403 && refused.text.contains("so I say"), "{}", refused.text);
    }
    assert_eq!(remote.take().await.len(), 2, "answers are kept");
    // A review asks the same, though its thread has to wait.
    let question = |verb: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "jane",
            "resourceAttributes": {"verb": verb, "resource": "secrets", "namespace": "default"}}})
    };
    for (verb, expected) in [("list", true), ("get", false)] {
        let answer: Value = server.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", question(verb)).await;
        assert_eq!(answer["status"]["allowed"], expected, "{answer}");
    }
}
