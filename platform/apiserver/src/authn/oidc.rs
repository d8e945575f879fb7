//! JSON Web Tokens of other issuers: OpenID Connect.
//!
//! Whom to believe, and what of a token makes a user, is told by an `AuthenticationConfiguration` ([`Structured`]) or by
//! kube-apiserver's `--oidc-…` flags ([`Flags`]). Keys are fetched when the first token of an issuer comes, and again when one
//! is signed by a key that is not known.
//!
//! Follows `plugin/pkg/authenticator/token/oidc` and `pkg/apis/apiserver/validation` of `k8s.io/apiserver`.

mod config;
mod keys;
mod provider;

use pharos_cel::{Bindings, Budget, Program, RUNTIME_BUDGET, Val};
use serde_json::{Map, Value, json};

pub use config::{Flags, Structured};

use super::{ALL_AUTHENTICATED, CREDENTIAL_ID, UserInfo, Verified};
use crate::authz::rules::{quote_list, strings};
use keys::Token;
use provider::Provider;

/// How far an issuer's clock may be ahead (go-oidc's leeway for `nbf`).
const NOT_BEFORE_LEEWAY: i64 = 300;

/// One issuer that is believed.
#[derive(Debug)]
pub(super) struct Issuer {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    required: Vec<(String, String)>,
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Program)>,
    claim_rules: Vec<Rule>,
    user_rules: Vec<Rule>,
    provider: Provider,
}

/// Where a part of a user is in the claims.
#[derive(Debug)]
enum Source {
    Claim { name: String, prefix: String },
    Expression(Program),
}

/// What must be true, and what is said if it is not.
#[derive(Debug)]
struct Rule {
    program: Program,
    message: String,
}

/// What a token that was not verified says of its issuer.
pub(super) fn issuer_of(token: &str) -> Option<String> {
    let token = Token::parse(token).ok()?;
    let issuer = token.claims["iss"].as_str()?;
    // The oldest tokens of Google (OpenID Connect Core, `GoogleIss`).
    Some(if issuer == "accounts.google.com" { "https://accounts.google.com".to_owned() } else { issuer.to_owned() })
}

impl Issuer {
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Tells whose a token of this issuer is.
    ///
    /// # Errors
    ///
    /// In upstream's words, for the log and for `TokenReview`.
    pub(super) async fn verify(&self, token: &str, now: i64) -> Result<Verified, String> {
        let token = Token::parse(token).map_err(|error| format!("oidc: verify token: oidc: malformed jwt: {error}"))?;
        self.check(&token, now).map_err(|error| format!("oidc: verify token: {error}"))?;
        self.provider.verify(&token).await.map_err(|error| format!("oidc: verify token: {error}"))?;
        let user = self.user(&token.claims)?;
        Ok(Verified { user, audiences: None, expires: token.claims["exp"].as_f64().map(|exp| exp as i64) })
    }

    /// What can be known of a token without its issuer's keys.
    fn check(&self, token: &Token<'_>, now: i64) -> Result<(), String> {
        let claims = &token.claims;
        let granted = match &claims["aud"] {
            Value::String(one) => vec![one.clone()],
            list => strings(list),
        };
        if !self.audiences.iter().any(|audience| granted.contains(audience)) {
            return Err(format!("oidc: expected audience in {} got {}", quote_list(&self.audiences), quote_list(&granted)));
        }
        // Dates may have fractions.
        let date = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
        match date("exp") {
            Some(end) if now <= end => {}
            end => return Err(format!("oidc: token is expired (Token Expiry: {})", moment(end.unwrap_or_default()))),
        }
        if let Some(start) = date("nbf")
            && now + NOT_BEFORE_LEEWAY < start
        {
            return Err(format!("oidc: current time {} before the nbf (not before) time: {}", moment(now), moment(start)));
        }
        if !self.algorithms.iter().any(|known| known == token.algorithm()) {
            let (known, found) = (quote_list(&self.algorithms), token.algorithm());
            return Err(format!("oidc: id token signed with unsupported algorithm, expected {known} got {found:?}"));
        }
        Ok(())
    }

    /// The user that claims describe.
    fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let mut budget = Budget::new(RUNTIME_BUDGET);
        let bindings = Bindings::new().json("claims", claims);
        let mut user = UserInfo::new(self.username(claims, &bindings, &mut budget)?, Vec::<String>::new());
        user.groups = self.groups(claims, &bindings, &mut budget)?;
        user.uid = match &self.uid {
            None => String::new(),
            Some(Source::Claim { name, .. }) => {
                text(claims, name).map_err(|why| format!("oidc: parse uid claim {name:?}: {why}"))?
            }
            Some(Source::Expression(program)) => {
                let failed = |why: String| format!("oidc: error evaluating uid claim expression: {why}");
                let value = program.evaluate(&bindings, &mut budget).map_err(|error| failed(error.to_string()))?;
                value.as_str().ok_or_else(|| failed("uid claim expression must return a string".into()))?.to_owned()
            }
        };
        if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
            user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
        }
        for (key, program) in &self.extra {
            let failed = |why: String| format!("oidc: error evaluating extra claim expression: {}: {why}", program.source());
            let value = program.evaluate(&bindings, &mut budget).map_err(|error| failed(error.to_string()))?;
            let values = string_list(&value).map_err(failed)?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            if claims.get(claim).is_none() {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let found = text(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if found != *wanted {
                return Err(format!("oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"));
            }
        }
        check_rules(&self.claim_rules, &bindings, &mut budget)
            .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        if !self.user_rules.is_empty() {
            let shown = json!({"username": user.username, "uid": user.uid, "groups": user.groups, "extra": user.extra});
            let bindings = config::bind_user(&shown);
            check_rules(&self.user_rules, &bindings, &mut budget)
                .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        }
        user.groups.push(ALL_AUTHENTICATED.into());
        Ok(user)
    }

    fn username(&self, claims: &Value, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<String, String> {
        match &self.username {
            Source::Expression(program) => {
                let failed = |why: String| format!("oidc: error evaluating username claim expression: {why}");
                let value = program.evaluate(bindings, budget).map_err(|error| failed(error.to_string()))?;
                let name = value.as_str().ok_or_else(|| failed("username claim expression must return a string".into()))?;
                if name.is_empty() {
                    return Err("oidc: empty username via CEL expression is not allowed".into());
                }
                Ok(name.to_owned())
            }
            Source::Claim { name, prefix } => {
                let found = text(claims, name).map_err(|why| format!("oidc: parse username claims {name:?}: {why}"))?;
                if name == "email" {
                    match &claims["email_verified"] {
                        Value::Null if claims.get("email_verified").is_none() => {}
                        Value::Bool(true) => {}
                        Value::Bool(false) => return Err("oidc: email not verified".into()),
                        _ => return Err("oidc: parse 'email_verified' claim: it is not a boolean".into()),
                    }
                }
                Ok(format!("{prefix}{found}"))
            }
        }
    }

    fn groups(&self, claims: &Value, bindings: &Bindings<'_>, budget: &mut Budget) -> Result<Vec<String>, String> {
        match &self.groups {
            None => Ok(Vec::new()),
            Some(Source::Claim { name, prefix }) => {
                let groups = match claims.get(name) {
                    None if claims["_claim_names"].get(name).is_some() => {
                        return Err("oidc: could not expand distributed claims: they are not supported".into());
                    }
                    None => Vec::new(),
                    Some(Value::String(one)) => vec![one.clone()],
                    Some(Value::Array(list)) if list.iter().all(Value::is_string) => strings(&claims[name]),
                    Some(_) => {
                        return Err(format!("oidc: parse groups claim {name:?}: it is neither a string nor a list of strings"));
                    }
                };
                Ok(groups.into_iter().map(|group| format!("{prefix}{group}")).collect())
            }
            Some(Source::Expression(program)) => {
                let failed = |why: String| format!("oidc: error evaluating group claim expression: {why}");
                let value = program.evaluate(bindings, budget).map_err(|error| failed(error.to_string()))?;
                string_list(&value).map_err(failed)
            }
        }
    }
}

fn check_rules(rules: &[Rule], bindings: &Bindings<'_>, budget: &mut Budget) -> Result<(), String> {
    for Rule { program, message } in rules {
        if !program.evaluate_bool(bindings, budget).map_err(|error| error.to_string())? {
            return Err(format!("validation expression '{}' failed: {message}", program.source()));
        }
    }
    Ok(())
}

/// A claim that is a string.
fn text(claims: &Value, name: &str) -> Result<String, &'static str> {
    match claims.get(name) {
        None => Err("claim not present"),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err("it is not a string"),
    }
}

/// `convertCELValueToStringList`: what is empty is not there.
fn string_list(value: &Val<'_>) -> Result<Vec<String>, String> {
    let json = value.to_json().map_err(|error| error.to_string())?;
    let wrong = || Err("expression must return a string or a list of strings".to_owned());
    let list = match json {
        Value::Null => return Ok(Vec::new()),
        Value::String(one) => vec![Value::String(one)],
        Value::Array(list) => list,
        _ => return wrong(),
    };
    let mut strings = Vec::new();
    for item in list {
        match item {
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => strings.push(text),
            _ => return wrong(),
        }
    }
    Ok(strings)
}

fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

/// An object, or nothing: what JSON of other servers has to be.
fn object(value: Value) -> Option<Map<String, Value>> {
    match value {
        Value::Object(map) => Some(map),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
