use std::{collections::HashMap, sync::atomic::AtomicI64};

use http::HeaderValue;
use jiff::Timestamp;
use parking_lot::Mutex;
use prometheus::Registry;

use super::{jws::SigningKey, *};

/// Objects in a map, by resource, namespace and name.
#[derive(Default)]
pub(crate) struct Fake(Mutex<HashMap<(String, String, String), Arc<Value>>>, pub(crate) Mutex<Vec<String>>);

impl Fake {
    pub(crate) fn put(&self, resource: &str, namespace: &str, name: &str, object: Value) {
        self.0.lock().insert((resource.into(), namespace.into(), name.into()), Arc::new(object));
    }

    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.0.lock().remove(&(resource.into(), namespace.into(), name.into()));
    }
}

impl Objects for Fake {
    fn get(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.0.lock().get(&(resource.into(), namespace.into(), name.into())).cloned()
    }

    fn note_use(&self, namespace: &str, secret: &str, day: &str) {
        self.1.lock().push(format!("{namespace}/{secret} {day}"));
    }
}

/// An authenticator with an issuer, a few objects and a clock to set.
pub(crate) struct Bench {
    pub(crate) objects: Arc<Fake>,
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) authenticator: Authenticator,
    pub(crate) registry: Registry,
    pub(crate) second: Arc<AtomicI64>,
}

pub(crate) const START: i64 = 1_800_000_000;

impl Bench {
    pub(crate) fn new(config: Config) -> Self {
        let second = Arc::new(AtomicI64::new(START));
        let now = Arc::clone(&second);
        let clock = Clock::from_fn(move || Timestamp::from_second(now.load(std::sync::atomic::Ordering::Relaxed)).unwrap());
        let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
        let issuer = Arc::new(TokenIssuer::new(issuer::Config::default(), key, Vec::new(), clock.clone()));
        let objects = Arc::new(Fake::default());
        let uid = |uid: &str| json!({"metadata": {"uid": uid}});
        objects.put("serviceaccounts", "dev", "app", uid("sa-1"));
        objects.put("nodes", "", "n1", uid("node-1"));
        objects.put("secrets", "dev", "s", uid("secret-1"));
        objects.put(
            "pods",
            "dev",
            "web",
            json!({
                "metadata": {"uid": "pod-1"},
                "spec": {"serviceAccountName": "app", "nodeName": "n1"},
            }),
        );
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).unwrap();
        let authenticator = Authenticator::new(config, Arc::clone(&issuer), objects.clone(), clock, metrics).unwrap();
        Bench { objects, issuer, authenticator, registry, second }
    }

    pub(crate) fn at(&self, seconds_after_start: i64) -> &Self {
        self.second.store(START + seconds_after_start, std::sync::atomic::Ordering::Relaxed);
        self
    }

    pub(crate) fn request(&self, spec: Value) -> Result<Value, issuer::Refused> {
        self.issuer.request("dev", "app", &json!({"spec": spec}), &*self.objects)
    }

    pub(crate) fn token(&self, spec: Value) -> String {
        self.request(spec).unwrap()["status"]["token"].as_str().unwrap().to_owned()
    }

    fn ask(&self, headers: &[(&'static str, String)]) -> Result<Arc<UserInfo>, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
        }
        futures::executor::block_on(self.authenticator.authenticate(&map, "/api", &[]))
    }
}

#[test]
fn reads_credentials() {
    let bench = Bench::new(Config::default());
    let token = bench.token(json!({}));
    let check = |headers: &[(&'static str, String)], want: Option<&str>| {
        assert_eq!(bench.ask(headers).ok().map(|user| user.username.clone()).as_deref(), want, "{headers:?}");
    };
    let app = Some("system:serviceaccount:dev:app");
    check(&[], Some(ANONYMOUS));
    check(&[("authorization", format!("Bearer {token}"))], app);
    check(&[("authorization", format!("bearer  {token} "))], app);
    check(&[("authorization", format!("Basic {token}"))], Some(ANONYMOUS));
    check(&[("authorization", "Bearer nonsense".into())], None);
    check(&[("authorization", format!("Bearer {token}x"))], None);
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&token);
    check(&[("sec-websocket-protocol", format!("v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.{encoded}"))], app);

    let text = prometheus::TextEncoder::new().encode_to_string(&bench.registry.gather()).unwrap();
    for line in [
        r#"authentication_attempts{result="success"} 5"#,
        r#"authentication_attempts{result="error"} 2"#,
        r#"authenticated_user_requests{username="other"} 5"#,
        r#"authentication_token_cache_request_total{status="hit"} 2"#,
        r#"authentication_token_cache_request_total{status="miss"} 3"#,
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[test]
fn anonymous_can_be_off() {
    let bench = Bench::new(Config { anonymous: false, ..Config::default() });
    assert!(matches!(bench.ask(&[]), Err(Error::NoCredentials)));
}

#[test]
fn remembers_tokens_for_ten_seconds() {
    let bench = Bench::new(Config::default());
    let token = bench.token(json!({"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web"}}));
    let ask = |bench: &Bench| bench.authenticator.token(&token).map(|user| user.username.clone());
    assert!(ask(&bench).is_ok());
    bench.objects.remove("pods", "dev", "web");
    assert!(ask(bench.at(9)).is_ok(), "believed for a moment, as upstream");
    assert_eq!(ask(bench.at(10)), Err(token::Error::Invalidated));
}

#[test]
fn reviews_tokens() {
    let bench = Bench::new(Config::default());
    let review = |token: &str, audiences: Value| {
        let review = json!({"kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        futures::executor::block_on(bench.authenticator.review_token(&review)).map(|answer| answer["status"].clone())
    };
    let issuer = "https://kubernetes.default.svc.cluster.local";
    let good = review(&bench.token(json!({})), Value::Null).unwrap();
    assert_eq!(good["authenticated"], true);
    assert_eq!(good["audiences"], json!([issuer]));
    assert_eq!(good["user"]["username"], "system:serviceaccount:dev:app");
    assert_eq!(good["user"]["uid"], "sa-1");
    assert_eq!(good["user"]["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:dev", "system:authenticated"]));
    let vault = bench.token(json!({"audiences": ["vault", "x"]}));
    assert_eq!(review(&vault, json!(["vault", "y"])).unwrap()["audiences"], json!(["vault"]));
    assert_eq!(
        review(&vault, Value::Null).unwrap(),
        json!({"user": {}, "error": r#"[invalid bearer token, token audiences ["vault" "x"] is invalid for the target audiences]"#})
    );
    assert!(review("", Value::Null).is_err());
    let user = UserInfo::new("jane", ["a"]);
    assert_eq!(
        Authenticator::review_self(&json!({"kind": "SelfSubjectReview"}), &user),
        json!({"kind": "SelfSubjectReview", "status": {"userInfo": {"username": "jane", "groups": ["a"]}}})
    );
}

#[test]
fn splits_account_names() {
    let check = |name: &str, want| assert_eq!(split_service_account_username(name), want, "{name}");
    check("system:serviceaccount:a:b", Some(("a", "b")));
    check("system:serviceaccount:a:", None);
    check("system:serviceaccount:a:b:c", None);
    check("jane", None);
}

#[test]
fn passes_no_credentials_on() {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer x"));
    headers.insert(
        "sec-websocket-protocol",
        HeaderValue::from_static("base64url.bearer.authorization.k8s.io.eA, v5.channel.k8s.io, v4.channel.k8s.io"),
    );
    strip_credentials(&mut headers);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers["sec-websocket-protocol"], "v5.channel.k8s.io, v4.channel.k8s.io");
}
