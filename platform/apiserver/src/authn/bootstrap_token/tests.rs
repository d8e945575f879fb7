use super::*;
use crate::authn::tests::{Fake, START};

const TOKEN: &str = "abcdef.0123456789abcdef";

fn stored(change: impl FnOnce(&mut Value)) -> Fake {
    let wanted = NewToken {
        token: Some(TOKEN.into()),
        expires: Some(Timestamp::from_second(START + 60).unwrap()),
        groups: vec!["system:bootstrappers:pharos:agents".into()],
        ..NewToken::default()
    };
    let (_, mut secret) = new_secret(&wanted).unwrap();
    change(&mut secret);
    // What the API server does with stringData.
    let data: serde_json::Map<String, Value> = secret["stringData"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(key, value)| (key.clone(), json!(BASE64.encode(value.as_str().unwrap()))))
        .collect();
    secret["data"] = Value::Object(data);
    let fake = Fake::default();
    fake.put("secrets", NAMESPACE, "bootstrap-token-abcdef", secret);
    fake
}

#[test]
fn verifies() {
    let check = |token: &str, second: i64, change: &dyn Fn(&mut Value), want: Result<(), &str>| {
        let now = Timestamp::from_second(START + second).unwrap();
        let got = verify(token, &stored(change), now).map(drop).map_err(|error| error.to_string());
        assert_eq!(got, want.map_err(|reason| format!("bootstrap token is not valid: {reason}")), "{token} {second}");
    };
    let same: &dyn Fn(&mut Value) = &|_| {};
    check(TOKEN, 0, same, Ok(()));
    check(TOKEN, 60, same, Err("expired"));
    check("abcdef.0123456789abcdee", 0, same, Err("wrong secret"));
    check("zzzzzz.0123456789abcdef", 0, same, Err("unknown token id"));
    check("abcdef.0123", 0, same, Err("not a bootstrap token"));
    check(TOKEN, 0, &|secret| secret["type"] = json!("Opaque"), Err("secret is of another type"));
    check(
        TOKEN,
        0,
        &|secret| secret["stringData"]["usage-bootstrap-authentication"] = json!("false"),
        Err("not for authentication"),
    );
    check(TOKEN, 0, &|secret| secret["stringData"]["expiration"] = json!("tomorrow"), Err("expiration is no time"));
    check(TOKEN, 0, &|secret| secret["stringData"]["token-id"] = json!("another"), Err("token-id is another one"));
    check(TOKEN, 0, &|secret| secret["stringData"]["auth-extra-groups"] = json!("system:masters"), Err("invalid group"));
    check(
        TOKEN,
        0,
        &|secret| secret["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:00:00Z"),
        Err("secret is being deleted"),
    );

    let got = verify(TOKEN, &stored(|_| {}), Timestamp::from_second(START).unwrap()).unwrap();
    assert_eq!(
        got.user,
        UserInfo::new("system:bootstrap:abcdef", [GROUP, "system:bootstrappers:pharos:agents", ALL_AUTHENTICATED])
    );
    assert_eq!(got.expires, Some(START + 60));
}

#[test]
fn makes_tokens() {
    let (token, secret) = new_secret(&NewToken::default()).unwrap();
    assert!(looks_like_one(&token), "{token}");
    assert_eq!(secret["metadata"]["name"], secret_name(&token[..6]));
    assert_eq!(secret["stringData"]["token-secret"], token[7..]);
    assert_ne!(token, new_secret(&NewToken::default()).unwrap().0);
    assert!(new_secret(&NewToken { token: Some("ABCDEF.0123456789abcdef".into()), ..NewToken::default() }).is_err());
    assert!(new_secret(&NewToken { groups: vec!["system:masters".into()], ..NewToken::default() }).is_err());
}
