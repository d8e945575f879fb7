use super::{keys::Key, *};
use crate::authn::jws::SigningKey;

const NOW: i64 = 1_800_000_000;

/// A configuration of one issuer: what stands beside `issuer`.
fn parse(rest: &str) -> Result<Structured, String> {
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {{url: 'https://login.example', audiences: [me]}}\n{rest}"
    );
    Structured::parse(text.as_bytes(), &["https://own"])
}

fn issuer(rest: &str) -> Issuer {
    parse(rest).unwrap().issuers.remove(0)
}

fn claims(more: Value) -> Value {
    let mut claims = json!({"iss": "https://login.example", "aud": "me", "sub": "jane", "exp": NOW + 60});
    for (name, value) in object(more).unwrap() {
        claims[name] = value;
    }
    claims
}

const BY_CLAIM: &str =
    "  claimMappings: {username: {claim: sub, prefix: 'x:'}, groups: {claim: roles, prefix: 'y:'}, uid: {claim: sub}}\n";

const BY_EXPRESSION: &str = r#"  claimMappings:
    username: {expression: 'claims.sub + "@" + claims.org'}
    groups: {expression: 'claims.roles.split(",")'}
    uid: {expression: 'claims.sub'}
    extra: [{key: example.com/org, valueExpression: claims.org}]
  claimValidationRules:
  - {claim: hd, requiredValue: example.com}
  - {expression: 'claims.org != "evil"', message: no evil}
  userValidationRules:
  - {expression: "!user.username.startsWith('system:')", message: reserved}
"#;

#[test]
fn users_come_from_claims() {
    let user = issuer(BY_CLAIM).user(&claims(json!({"roles": ["a", "b"], "jti": "1"}))).unwrap();
    assert_eq!((user.username.as_str(), user.uid.as_str()), ("x:jane", "jane"));
    assert_eq!(user.groups, ["y:a", "y:b", ALL_AUTHENTICATED]);
    assert_eq!(user.extra[CREDENTIAL_ID], ["JTI=1"]);
    assert_eq!(issuer(BY_CLAIM).user(&claims(json!({"roles": "a"}))).unwrap().groups, ["y:a", ALL_AUTHENTICATED]);
    assert!(issuer(BY_CLAIM).user(&claims(json!({"sub": 7}))).unwrap_err().starts_with("oidc: parse username claims"));
    assert!(issuer(BY_CLAIM).user(&claims(json!({"roles": 7}))).is_err());
    let distributed = claims(json!({"_claim_names": {"roles": "src"}}));
    assert!(issuer(BY_CLAIM).user(&distributed).unwrap_err().contains("distributed claims"));
}

#[test]
fn users_come_from_expressions() {
    let good = json!({"org": "dev", "roles": "a,b", "hd": "example.com"});
    let user = issuer(BY_EXPRESSION).user(&claims(good.clone())).unwrap();
    assert_eq!((user.username.as_str(), user.uid.as_str()), ("jane@dev", "jane"));
    assert_eq!(user.groups, ["a", "b", ALL_AUTHENTICATED]);
    assert_eq!(user.extra["example.com/org"], ["dev"]);
    let table = [
        ("hd", json!("other"), "oidc: required claim hd value does not match. Got = other, want = example.com"),
        ("org", json!("evil"), "validation expression 'claims.org != \"evil\"' failed: no evil"),
        ("sub", json!("system:jane"), "failed: reserved"),
    ];
    for (name, value, expected) in table {
        let mut wrong = claims(good.clone());
        wrong[name] = value;
        let error = issuer(BY_EXPRESSION).user(&wrong).unwrap_err();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

#[test]
fn tokens_are_looked_at() {
    let key = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
    let other = SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap();
    let known = [Key::from_jwk(&key.public().to_jwk()).unwrap()];
    let signed = key.sign(&claims(json!({}))).unwrap();
    assert!(Token::parse(&signed).unwrap().is_signed_by(&known));
    let forged = other.sign(&claims(json!({}))).unwrap();
    assert!(!Token::parse(&forged).unwrap().is_signed_by(&known));
    assert_eq!(issuer_of(&signed).as_deref(), Some("https://login.example"));
    assert!(Token::parse("a.b").is_err() && Key::from_jwk(&json!({"kty": "oct", "k": "x"})).is_none());

    let issuer = issuer(BY_CLAIM);
    let check = |more: Value| issuer.check(&Token::parse(&key.sign(&claims(more)).unwrap()).unwrap(), NOW);
    assert_eq!(check(json!({})), Ok(()));
    assert_eq!(check(json!({"aud": ["you", "me"]})), Ok(()));
    assert_eq!(check(json!({"aud": "you"})), Err(r#"oidc: expected audience in ["me"] got ["you"]"#.into()));
    assert!(check(json!({"exp": NOW - 1})).unwrap_err().starts_with("oidc: token is expired"));
    assert_eq!(check(json!({"nbf": NOW + 299})), Ok(()));
    assert!(check(json!({"nbf": NOW + 301})).is_err());
}

#[test]
fn mistakes_are_told() {
    for (rest, expected) in [
        ("  claimMappings: {}\n", "jwt[0].claimMappings.username: Required value: claim or expression is required"),
        (
            "  claimMappings: {username: {claim: sub}}\n",
            "jwt[0].claimMappings.username.prefix: Required value: prefix is required",
        ),
        ("  claimMappings: {username: {claim: sub, prefix: '', expression: x}}\n", "claim and expression can't both be set"),
        (
            "  claimMappings: {username: {expression: 'claims.'}}\n",
            "username.expression: Invalid value: \"claims.\": compilation failed",
        ),
        ("  claimMappings: {username: {expression: claims.email}}\n", "claims.email_verified must be used in"),
        (
            "  claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: a, valueExpression: claims.a}]}\n",
            "domain-prefixed path",
        ),
        (
            "  claimMappings: {username: {claim: sub, prefix: ''}, extra: [{key: x.k8s.io/a, valueExpression: claims.a}]}\n",
            "are reserved for Kubernetes use",
        ),
        (
            "  claimMappings: {username: {claim: sub, prefix: ''}}\n  userValidationRules: [{expression: user.username}]\n",
            "must evaluate to bool",
        ),
        (
            "  claimMappings: {username: {claim: sub, prefix: ''}}\nanonymous: {enabled: false, conditions: [{path: /livez}]}\n",
            "enabled should be set to true when conditions are defined",
        ),
        ("  nonsense: 1\n", "unknown field `nonsense`"),
    ] {
        let error = parse(rest).err().unwrap_or_default();
        assert!(error.contains(expected), "{rest}: {error}");
    }
    let own = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: 'https://own', audiences: [a, b]}\n  claimMappings: {username: {claim: sub, prefix: ''}}\n";
    let error = Structured::parse(own.as_bytes(), &["https://own"]).unwrap_err();
    assert!(error.contains("URL must not overlap with disallowed issuers: [https://own]"), "{error}");
    assert!(error.contains("audienceMatchPolicy must be MatchAny for multiple audiences"), "{error}");
}

#[test]
fn anonymous_requests_may_be_limited_to_paths() {
    let structured = parse(&format!("{BY_CLAIM}anonymous: {{enabled: true, conditions: [{{path: /livez}}]}}\n")).unwrap();
    assert_eq!((structured.allows_anonymous("/livez"), structured.allows_anonymous("/api")), (Some(true), Some(false)));
    assert_eq!(parse(BY_CLAIM).unwrap().allows_anonymous("/api"), None);
}

#[test]
fn flags_are_one_issuer() {
    let flags = Flags { issuer_url: "https://a".into(), client_id: "me".into(), ..Flags::default() };
    let user = |flags: &Flags| Structured::of_flags(flags, &[]).unwrap().issuers[0].user(&claims(json!({"email": "j@x"})));
    assert_eq!(user(&flags).unwrap().username, "https://a#jane");
    let email = Flags { username_claim: "email".into(), ..flags.clone() };
    assert_eq!(user(&email).unwrap().username, "j@x");
    let plain = Flags { username_prefix: "-".into(), ..flags.clone() };
    assert_eq!(user(&plain).unwrap().username, "jane");
    let wrong = Flags { signing_algorithms: vec!["none".into()], ..flags };
    assert_eq!(Structured::of_flags(&wrong, &[]).unwrap_err(), "oidc: unsupported signing alg: none");
}
