use serde_json::json;

use super::*;
use crate::authn::{Config, tests::Bench};

fn bench() -> Bench {
    Bench::new(Config::default())
}

fn user(bench: &Bench, token: &str) -> Result<UserInfo, Error> {
    bench.authenticator.token(token).map(|user| (*user).clone())
}

fn message(bench: &Bench, token: &str) -> String {
    user(bench, token).map_or_else(|error| error.to_string(), |user| format!("is {}", user.username))
}

fn bound(kind: &str, name: &str) -> Value {
    json!({"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name}})
}

#[test]
fn round_trip() {
    let bench = bench();
    let token = bench.token(bound("Pod", "web"));
    let got = user(&bench, &token).unwrap();
    assert_eq!(got.username, "system:serviceaccount:dev:app");
    assert_eq!(got.uid, "sa-1");
    assert_eq!(got.groups, ["system:serviceaccounts", "system:serviceaccounts:dev", "system:authenticated"]);
    let extra = |key: &str| got.extra[&format!("authentication.kubernetes.io/{key}")].join(",");
    assert_eq!(extra("pod-name"), "web");
    assert_eq!(extra("pod-uid"), "pod-1");
    assert_eq!(extra("node-name"), "n1");
    assert_eq!(extra("node-uid"), "node-1");
    assert_eq!(extra("credential-id"), format!("JTI={}", jws::peek(&token).unwrap()["jti"].as_str().unwrap()));
    let plain = user(&bench, &bench.token(json!({}))).unwrap();
    assert_eq!(plain.extra.len(), 1);
}

#[test]
fn ends_in_time() {
    let bench = bench();
    let token = bench.token(json!({"expirationSeconds": 600}));
    assert_eq!(message(bench.at(-61), &token), "service account token is not valid yet");
    assert_eq!(message(bench.at(-30), &token), "is system:serviceaccount:dev:app");
    assert_eq!(message(bench.at(659), &token), "is system:serviceaccount:dev:app");
    assert_eq!(message(bench.at(660), &token), "service account token has expired");
}

#[test]
fn ends_with_what_it_is_bound_to() {
    let check = |spec: Value, change: &dyn Fn(&Bench), want: &str| {
        let bench = bench();
        let token = bench.token(spec.clone());
        change(&bench);
        assert_eq!(message(&bench, &token), want, "{spec}");
    };
    let gone = "service account token has been invalidated";
    check(bound("Pod", "web"), &|bench| bench.objects.remove("pods", "dev", "web"), gone);
    check(bound("Secret", "s"), &|bench| bench.objects.remove("secrets", "dev", "s"), gone);
    check(bound("Node", "n1"), &|bench| bench.objects.remove("nodes", "", "n1"), gone);
    check(bound("Pod", "web"), &|bench| bench.objects.remove("nodes", "", "n1"), "is system:serviceaccount:dev:app");
    check(json!({}), &|bench| bench.objects.remove("serviceaccounts", "dev", "app"), r#"serviceaccounts "app" not found"#);
    let replaced = json!({"metadata": {"uid": "2"}});
    check(
        bound("Pod", "web"),
        &|bench| bench.objects.put("pods", "dev", "web", replaced.clone()),
        "pod UID (2) does not match service account pod ref claim (pod-1)",
    );
    check(
        bound("Secret", "s"),
        &|bench| bench.objects.put("secrets", "dev", "s", replaced.clone()),
        "secret UID (2) does not match service account secret ref claim (secret-1)",
    );
    check(
        json!({}),
        &|bench| bench.objects.put("serviceaccounts", "dev", "app", replaced.clone()),
        "service account UID (2) does not match claim (sa-1)",
    );
    // A pod in its grace period still needs its token.
    let ending = |second: i64| json!({"metadata": {"uid": "pod-1", "deletionTimestamp": Timestamp::from_second(crate::authn::tests::START + second).unwrap().to_string()}});
    check(bound("Pod", "web"), &|bench| bench.objects.put("pods", "dev", "web", ending(30)), "is system:serviceaccount:dev:app");
    check(bound("Pod", "web"), &|bench| bench.objects.put("pods", "dev", "web", ending(-61)), gone);
}

#[test]
fn refuses_others() {
    let bench = bench();
    let other = self::bench();
    assert!(matches!(user(&bench, &other.token(json!({}))), Err(Error::Signature(jws::Error::UnknownKey(_)))));
    assert_eq!(
        message(&bench, &bench.token(json!({"audiences": ["vault"]}))),
        r#"token audiences ["vault"] is invalid for the target audiences"#
    );
    let token = bench.token(json!({}));
    let (head, tail) = token.split_at(token.len() - 10);
    let flipped = if tail.starts_with('A') { "B" } else { "A" };
    assert_eq!(message(&bench, &format!("{head}{flipped}{}", &tail[1..])), "signature does not match");
    assert_eq!(message(&bench, "a.b.c"), "token is not a compact JWS");
    let foreign = jws::SigningKey::from_pkcs8(&jws::SigningKey::generate().unwrap()).unwrap();
    assert_eq!(message(&bench, &foreign.sign(&json!({"iss": "https://else"})).unwrap()), r#"unexpected issuer "https://else""#);
}

#[test]
fn secrets_hold_tokens() {
    let bench = bench();
    let token = bench.issuer.secret_token("dev", "app", "sa-1", "app-token").unwrap();
    assert_eq!(message(&bench, &token), "service account token has been invalidated");
    let secret = |data: &str| json!({"metadata": {"uid": "x"}, "data": {"token": BASE64.encode(data)}});
    bench.objects.put("secrets", "dev", "app-token", secret(&token));
    let got = user(&bench, &token).unwrap();
    assert_eq!(got, UserInfo::service_account("dev", "app", "sa-1"));
    assert_eq!(*bench.objects.1.lock(), ["dev/app-token 2027-01-15"]);
    let labelled = |label: &str, value: &str| {
        let mut secret = secret(&token);
        secret["metadata"]["labels"][label] = json!(value);
        secret
    };
    for (second, day) in [(11, "2027-01-15"), (22, "2027-01-16")] {
        bench.objects.put("secrets", "dev", "app-token", labelled(LAST_USED, day));
        user(bench.at(second), &token).unwrap();
    }
    assert_eq!(bench.objects.1.lock().len(), 1, "what the label tells needs no telling");
    bench.objects.put("secrets", "dev", "app-token", labelled(INVALID_SINCE, "2027-01-01"));
    let marked = message(bench.at(33), &token);
    assert!(marked.starts_with("the token in dev/app-token for service account dev/app has been marked invalid."), "{marked}");
    bench.objects.put("secrets", "dev", "app-token", secret("another"));
    assert_eq!(message(bench.at(44), &token), "service account token has been invalidated");
    let text = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    assert!(text.contains("serviceaccount_legacy_tokens_total 3"), "{text}");
}

#[test]
fn requests() {
    let bench = bench();
    let check = |spec: Value, want: &str| {
        let got = bench.request(spec.clone()).map_or_else(
            |error| error.to_string(),
            |answer| answer["status"]["expirationTimestamp"].as_str().unwrap().to_owned(),
        );
        assert_eq!(got, want, "{spec}");
    };
    check(json!({}), "2027-01-15T09:00:00Z");
    check(json!({"expirationSeconds": 600}), "2027-01-15T08:10:00Z");
    check(
        json!({"expirationSeconds": 599}),
        "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes",
    );
    check(
        json!({"expirationSeconds": (1_i64 << 32) + 1}),
        "spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
    );
    check(bound("Pod", "none"), r#"pods "none" not found"#);
    check(bound("Deployment", "web"), "cannot bind token to object of type /v1, Kind=Deployment");
    check(
        json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "9"}}),
        r#"Operation cannot be fulfilled on pods "web": the UID in the bound object reference (9) does not match the UID in record. The object might have been deleted and then recreated"#,
    );
    bench.objects.put("pods", "dev", "alien", json!({"metadata": {"uid": "a"}, "spec": {"serviceAccountName": "other"}}));
    check(
        bound("Pod", "alien"),
        r#"cannot bind token for serviceaccount "app" to pod running with different serviceaccount name."#,
    );
    let answer = bench.request(json!({})).unwrap();
    assert_eq!(answer["spec"], json!({"audiences": ["https://kubernetes.default.svc.cluster.local"], "expirationSeconds": 3600}));
    assert_eq!(answer["metadata"]["name"], "app");
}

#[test]
fn kubelets_tokens_outlive_their_refresh() {
    let bench = bench();
    let mut spec = bound("Pod", "web");
    spec["expirationSeconds"] = json!(3607);
    let answer = bench.request(spec).unwrap();
    assert_eq!(answer["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(message(bench.at(10), &token), "is system:serviceaccount:dev:app");
    assert_eq!(message(bench.at(364 * 86400), &token), "is system:serviceaccount:dev:app");
    let text = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    assert!(text.contains("serviceaccount_stale_tokens_total 1"), "{text}");
    assert!(text.contains("serviceaccount_valid_tokens_total 1"), "{text}");
}

#[test]
fn publishes_its_keys() {
    let bench = bench();
    let jwks = bench.issuer.jwks();
    assert_eq!(jws::PublicKey::from_jwk(&jwks["keys"][0]).as_ref(), Ok(&bench.issuer.keys()[0]));
    assert_eq!(
        bench.issuer.discovery(),
        json!({
            "issuer": "https://kubernetes.default.svc.cluster.local",
            "jwks_uri": "https://kubernetes.default.svc.cluster.local/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    );
}
