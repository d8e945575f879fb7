//! Which issuers are believed: an `AuthenticationConfiguration` of `apiserver.config.k8s.io`, or flags.
//!
//! Rules, paths and messages are those of `pkg/apis/apiserver/validation/validation.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use pharos_api::validation::FieldError;
use pharos_cel::{Bindings, Declaration, Environment, Program, Type};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Issuer, Rule, Source, keys::ALGORITHMS, provider::Provider};

/// The most issuers (`ValidateAuthenticationConfiguration`).
const MAX_ISSUERS: usize = 64;
const API_VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];

/// Whom to believe, beside this cluster's own credentials.
#[derive(Debug, Default)]
pub struct Structured {
    pub(in crate::authn) issuers: Vec<Issuer>,
    anonymous: Option<Anonymous>,
}

/// kube-apiserver's flags for one issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--oidc-issuer-url`
    pub issuer_url: String,
    /// `--oidc-client-id`
    pub client_id: String,
    /// `--oidc-username-claim`
    pub username_claim: String,
    /// `--oidc-username-prefix`
    pub username_prefix: String,
    /// `--oidc-groups-claim`
    pub groups_claim: String,
    /// `--oidc-groups-prefix`
    pub groups_prefix: String,
    /// `--oidc-required-claim`
    pub required_claims: BTreeMap<String, String>,
    /// `--oidc-ca-file`
    pub ca_file: Option<PathBuf>,
    /// `--oidc-signing-algs`
    pub signing_algorithms: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    jwt: Vec<Jwt>,
    anonymous: Option<Anonymous>,
    api_version: String,
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Anonymous {
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Jwt {
    issuer: JwtIssuer,
    #[serde(default)]
    claim_validation_rules: Vec<ClaimRule>,
    #[serde(default)]
    claim_mappings: Mappings,
    #[serde(default)]
    user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct JwtIssuer {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: String,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
    egress_selector_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ClaimRule {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mappings {
    username: Mapping,
    groups: Mapping,
    uid: Mapping,
    extra: Vec<Extra>,
}

/// `prefix` is not of a `uid`.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mapping {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Extra {
    key: String,
    value_expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UserRule {
    expression: String,
    message: String,
}

/// `kubernetes.UserInfo` of expressions.
static USER: LazyLock<Option<Arc<Declaration>>> = LazyLock::new(|| {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let schema = json!({"type": "object", "properties": {
        "username": {"type": "string"}, "uid": {"type": "string"}, "groups": texts,
        "extra": {"type": "object", "additionalProperties": texts},
    }});
    Some(Declaration::new(&schema, false)?.with_plain_names())
});

/// Binds `user`.
pub(super) fn bind_user(user: &Value) -> Bindings<'_> {
    match &*USER {
        Some(declaration) => Bindings::new().declared("user", user, declaration),
        None => Bindings::new().json("user", user),
    }
}

fn environment(name: &str) -> Environment {
    let environment = Environment::new([name]);
    match &*USER {
        Some(declaration) if name == "user" => environment.with_declaration(name, declaration),
        _ => environment,
    }
}

/// Whether an expression reads a claim: `claims.NAME`, `claims.?NAME` or `claims[?"NAME"]`.
fn reads(expression: &str, claim: &str) -> bool {
    let pattern = format!(r#"claims\s*(\.\s*\??\s*{claim}([^A-Za-z0-9_]|$)|\[\s*\?\s*["']{claim}["']\s*\])"#);
    Regex::new(&pattern).is_ok_and(|pattern| pattern.is_match(expression))
}

impl Structured {
    /// Reads an `AuthenticationConfiguration`. Issuers that may not be in it are this cluster's own.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, in upstream's words.
    pub fn parse(text: &[u8], disallowed: &[&str]) -> Result<Self, String> {
        let document = pharos_api::yaml::decode(text).map_err(|error| error.to_string())?;
        let document: Document = serde_json::from_value(document.value).map_err(|error| error.to_string())?;
        if document.kind != "AuthenticationConfiguration" || !API_VERSIONS.contains(&document.api_version.as_str()) {
            return Err(format!("expected AuthenticationConfiguration, got {} of {}", document.kind, document.api_version));
        }
        Self::check(document.jwt, document.anonymous, disallowed, &ALGORITHMS.map(str::to_owned))
    }

    /// Takes the flags for one issuer.
    ///
    /// # Errors
    ///
    /// All that is wrong with them.
    pub fn of_flags(flags: &Flags, disallowed: &[&str]) -> Result<Self, String> {
        if flags.issuer_url.is_empty() || flags.client_id.is_empty() {
            return Err("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set".into());
        }
        let algorithms =
            if flags.signing_algorithms.is_empty() { vec!["RS256".to_owned()] } else { flags.signing_algorithms.clone() };
        if let Some(unknown) = algorithms.iter().find(|name| !ALGORITHMS.contains(&name.as_str())) {
            return Err(format!("oidc: unsupported signing alg: {unknown}"));
        }
        let certificate_authority = match &flags.ca_file {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file)
                .map_err(|error| format!("Failed to read the CA file {}: {error}", file.display()))?,
        };
        let username_prefix = match (flags.username_prefix.as_str(), flags.username_claim.as_str()) {
            ("-", _) | ("", "email") => String::new(),
            ("", _) => format!("{}#", flags.issuer_url),
            (prefix, _) => prefix.to_owned(),
        };
        let mapping =
            |claim: &str, prefix: String| Mapping { claim: claim.to_owned(), prefix: Some(prefix), expression: String::new() };
        let groups = match flags.groups_claim.as_str() {
            "" => Mapping::default(),
            claim => mapping(claim, flags.groups_prefix.clone()),
        };
        let rule = |(claim, value): (&String, &String)| ClaimRule {
            claim: claim.clone(),
            required_value: value.clone(),
            ..ClaimRule::default()
        };
        let username_claim = if flags.username_claim.is_empty() { "sub" } else { &flags.username_claim };
        let jwt = Jwt {
            issuer: JwtIssuer {
                url: flags.issuer_url.clone(),
                audiences: vec![flags.client_id.clone()],
                certificate_authority,
                ..JwtIssuer::default()
            },
            claim_validation_rules: flags.required_claims.iter().map(rule).collect(),
            claim_mappings: Mappings { username: mapping(username_claim, username_prefix), groups, ..Mappings::default() },
            user_validation_rules: Vec::new(),
        };
        Self::check(vec![jwt], None, disallowed, &algorithms)
    }

    fn check(jwts: Vec<Jwt>, anonymous: Option<Anonymous>, disallowed: &[&str], algorithms: &[String]) -> Result<Self, String> {
        let mut errors = Vec::new();
        if jwts.len() > MAX_ISSUERS {
            errors.push(FieldError::too_many("jwt", jwts.len(), MAX_ISSUERS));
        }
        let (mut urls, mut discovery_urls) = (BTreeSet::new(), BTreeSet::new());
        let mut issuers = Vec::new();
        for (index, jwt) in jwts.iter().enumerate() {
            let path = format!("jwt[{index}]");
            issuers.extend(issuer(jwt, &path, disallowed, algorithms, &mut errors));
            let JwtIssuer { url, discovery_url, .. } = &jwt.issuer;
            if !urls.insert(url.as_str()) {
                errors.push(FieldError::duplicate(format!("{path}.issuer.url"), url.as_str()));
            }
            if !discovery_url.is_empty() && !discovery_urls.insert(discovery_url.as_str()) {
                errors.push(FieldError::duplicate(format!("{path}.issuer.discoveryURL"), discovery_url.as_str()));
            }
        }
        if anonymous.as_ref().is_some_and(|anonymous| !anonymous.enabled && !anonymous.conditions.is_empty()) {
            let paths =
                anonymous.iter().flat_map(|anonymous| &anonymous.conditions).map(|condition| json!({"path": condition.path}));
            let (value, why) = (Value::Array(paths.collect()), "enabled should be set to true when conditions are defined");
            errors.push(FieldError::invalid("anonymous.conditions", value, why));
        }
        if errors.is_empty() {
            return Ok(Structured { issuers, anonymous });
        }
        Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// Whether requests without credentials to this path go on as `system:anonymous`; none if it is not said.
    pub(in crate::authn) fn allows_anonymous(&self, path: &str) -> Option<bool> {
        let Anonymous { enabled, conditions } = self.anonymous.as_ref()?;
        Some(*enabled && (conditions.is_empty() || conditions.iter().any(|condition| condition.path == path)))
    }
}

/// Checks one issuer, and compiles its expressions.
fn issuer(jwt: &Jwt, path: &str, disallowed: &[&str], algorithms: &[String], errors: &mut Vec<FieldError>) -> Option<Issuer> {
    let before = errors.len();
    let JwtIssuer { url, discovery_url, certificate_authority, audiences, audience_match_policy, egress_selector_type } =
        &jwt.issuer;
    let at = |field: &str| format!("{path}.issuer.{field}");
    if url.is_empty() {
        errors.push(FieldError::required(at("url"), ""));
    } else {
        check_url(url, &at("url"), disallowed, errors);
    }
    if !discovery_url.is_empty() {
        if !url.is_empty() && url.trim_end_matches('/') == discovery_url.trim_end_matches('/') {
            let why = "discoveryURL must be different from URL";
            errors.push(FieldError::invalid(at("discoveryURL"), discovery_url.as_str(), why));
        }
        check_url(discovery_url, &at("discoveryURL"), &[], errors);
    }
    check_audiences(audiences, audience_match_policy, &at("audiences"), &at("audienceMatchPolicy"), errors);
    if !egress_selector_type.is_empty() {
        let why = "there are no egress selectors here";
        errors.push(FieldError::invalid(at("egressSelectorType"), egress_selector_type.as_str(), why));
    }
    let provider = Provider::new(url, discovery_url, certificate_authority.as_bytes())
        .map_err(|why| errors.push(FieldError::invalid(at("certificateAuthority"), "<omitted>", why)));

    let (required, claim_rules) = claim_rules(&jwt.claim_validation_rules, &format!("{path}.claimValidationRules"), errors);
    let mappings = &jwt.claim_mappings;
    let at = |field: &str| format!("{path}.claimMappings.{field}");
    let username = mapping(&mappings.username, &at("username"), true, errors);
    let groups = mapping(&mappings.groups, &at("groups"), false, errors);
    if mappings.uid.prefix.is_some() {
        errors.push(FieldError::forbidden(at("uid.prefix"), "a uid has no prefix"));
    }
    let uid = Mapping { prefix: Some(String::new()), ..mappings.uid.clone() };
    let uid = if uid.expression.is_empty() {
        mapping(&uid, &at("uid"), false, errors)
    } else {
        only_expression(&uid, &at("uid"), errors)
    };
    let extra = extra(&mappings.extra, &at("extra"), errors);
    let said = &mappings.username.expression;
    let verified = std::iter::once(said)
        .chain(mappings.extra.iter().map(|extra| &extra.value_expression))
        .chain(jwt.claim_validation_rules.iter().map(|rule| &rule.expression))
        .any(|expression| reads(expression, "email_verified"));
    if reads(said, "email") && !verified {
        let why = "claims.email_verified must be used in claimMappings.username.expression or \
                   claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in \
                   claimMappings.username.expression";
        errors.push(FieldError::invalid(at("username.expression"), said.as_str(), why));
    }
    let user_rules = user_rules(&jwt.user_validation_rules, &format!("{path}.userValidationRules"), errors);
    if errors.len() > before {
        return None;
    }
    Some(Issuer {
        url: url.clone(),
        audiences: audiences.clone(),
        algorithms: algorithms.to_vec(),
        required,
        username: username?,
        groups,
        uid,
        extra,
        claim_rules,
        user_rules,
        provider: provider.ok()?,
    })
}

/// The expression of a `uid`.
fn only_expression(mapping: &Mapping, path: &str, errors: &mut Vec<FieldError>) -> Option<Source> {
    if !mapping.claim.is_empty() {
        errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
        return None;
    }
    compile("claims", &mapping.expression, &format!("{path}.expression"), false, errors).map(Source::Expression)
}

fn check_url(text: &str, path: &str, disallowed: &[&str], errors: &mut Vec<FieldError>) {
    let mut wrong = |why: String| errors.push(FieldError::invalid(path, text, why));
    if disallowed.contains(&text) {
        wrong(format!("URL must not overlap with disallowed issuers: [{}]", disallowed.join(" ")));
    }
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(error.to_string()),
    };
    if url.scheme() != "https" {
        wrong("URL scheme must be https".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        wrong("URL must not contain a username or password".into());
    }
    if url.query().is_some_and(|query| !query.is_empty()) {
        wrong("URL must not contain a query".into());
    }
    if url.fragment().is_some_and(|fragment| !fragment.is_empty()) {
        wrong("URL must not contain a fragment".into());
    }
}

fn check_audiences(audiences: &[String], policy: &str, path: &str, policy_path: &str, errors: &mut Vec<FieldError>) {
    if audiences.is_empty() {
        errors.push(FieldError::required(path, format!("at least one {path} is required")));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, audience) in audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(FieldError::required(format!("{path}[{index}]"), ""));
        }
        if !seen.insert(audience) {
            errors.push(FieldError::duplicate(format!("{path}[{index}]"), audience.as_str()));
        }
    }
    let why = match (audiences.len(), policy) {
        (_, "MatchAny") | (1, "") => return,
        (1, _) => "audienceMatchPolicy must be empty or MatchAny for single audience",
        _ => "audienceMatchPolicy must be MatchAny for multiple audiences",
    };
    errors.push(FieldError::invalid(policy_path, policy, why));
}

/// The claims that must have a value, and the expressions that must be true.
fn claim_rules(rules: &[ClaimRule], path: &str, errors: &mut Vec<FieldError>) -> (Vec<(String, String)>, Vec<Rule>) {
    let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
    let (mut required, mut compiled) = (Vec::new(), Vec::new());
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match (rule.claim.as_str(), rule.expression.as_str()) {
            ("", "") => errors.push(FieldError::required(path, "claim or expression is required")),
            (claim, "") => {
                if !rule.message.is_empty() {
                    let why = "may not be specified when claim is set";
                    errors.push(FieldError::invalid(format!("{path}.message"), rule.message.as_str(), why));
                }
                if !claims.insert(claim) {
                    errors.push(FieldError::duplicate(format!("{path}.claim"), claim));
                }
                required.push((claim.to_owned(), rule.required_value.clone()));
            }
            ("", expression) => {
                if !rule.required_value.is_empty() {
                    let why = "may not be specified when expression is set";
                    errors.push(FieldError::invalid(format!("{path}.requiredValue"), rule.required_value.as_str(), why));
                }
                let path = format!("{path}.expression");
                if !expressions.insert(expression) {
                    errors.push(FieldError::duplicate(path, expression));
                    continue;
                }
                let program = compile("claims", expression, &path, true, errors);
                compiled.extend(program.map(|program| Rule { program, message: rule.message.clone() }));
            }
            (claim, _) => errors.push(FieldError::invalid(path, claim, "claim and expression can't both be set")),
        }
    }
    (required, compiled)
}

fn user_rules(rules: &[UserRule], path: &str, errors: &mut Vec<FieldError>) -> Vec<Rule> {
    let mut seen = BTreeSet::new();
    let mut compiled = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}].expression");
        if rule.expression.is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !seen.insert(&rule.expression) {
            errors.push(FieldError::duplicate(path, rule.expression.as_str()));
        } else {
            let program = compile("user", &rule.expression, &path, true, errors);
            compiled.extend(program.map(|program| Rule { program, message: rule.message.clone() }));
        }
    }
    compiled
}

fn mapping(mapping: &Mapping, path: &str, is_required: bool, errors: &mut Vec<FieldError>) -> Option<Source> {
    match (mapping.claim.as_str(), mapping.expression.as_str()) {
        ("", "") => {
            if is_required {
                errors.push(FieldError::required(path, "claim or expression is required"));
            }
            None
        }
        ("", expression) => {
            if let Some(prefix) = &mapping.prefix {
                let why = "may not be specified when expression is set";
                errors.push(FieldError::invalid(format!("{path}.prefix"), prefix.as_str(), why));
            }
            compile("claims", expression, &format!("{path}.expression"), false, errors).map(Source::Expression)
        }
        (claim, "") => match &mapping.prefix {
            Some(prefix) => Some(Source::Claim { name: claim.to_owned(), prefix: prefix.clone() }),
            None => {
                let why = "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                errors.push(FieldError::required(format!("{path}.prefix"), why));
                None
            }
        },
        _ => {
            errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
            None
        }
    }
}

fn extra(mappings: &[Extra], path: &str, errors: &mut Vec<FieldError>) -> Vec<(String, Program)> {
    let mut seen = BTreeSet::new();
    let mut compiled = Vec::new();
    for (index, Extra { key, value_expression }) in mappings.iter().enumerate() {
        let at = |field: &str| format!("{path}[{index}].{field}");
        let mut wrong = |why: String| errors.push(FieldError::invalid(at("key"), key.as_str(), why));
        let domain = key.split_once('/').map(|(domain, _)| domain);
        match key.split_once('/') {
            Some((domain, rest)) if !rest.is_empty() => {
                pharos_api::names::dns1123_subdomain(domain).into_iter().for_each(&mut wrong);
            }
            _ => wrong("must be a domain-prefixed path (such as \"acme.io/foo\")".into()),
        }
        if key.chars().any(char::is_uppercase) {
            wrong("must be lowercase".into());
        }
        let reserved = |own: &str| domain.is_some_and(|domain| domain == own || domain.ends_with(&format!(".{own}")));
        if reserved("kubernetes.io") || reserved("k8s.io") {
            wrong("k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use".into());
        }
        if !seen.insert(key) {
            errors.push(FieldError::duplicate(at("key"), key.as_str()));
        } else if value_expression.is_empty() {
            errors.push(FieldError::required(at("valueExpression"), ""));
        } else {
            let program = compile("claims", value_expression, &at("valueExpression"), false, errors);
            compiled.extend(program.map(|program| (key.clone(), program)));
        }
    }
    compiled
}

fn compile(name: &str, expression: &str, path: &str, must_be_bool: bool, errors: &mut Vec<FieldError>) -> Option<Program> {
    let mut wrong = |why: String| errors.push(FieldError::invalid(path, expression, why));
    match Program::compile(&environment(name), expression) {
        Ok(program) if must_be_bool && program.result_type() != Type::Bool => wrong("must evaluate to bool".into()),
        Ok(program) => return Some(program),
        Err(error) => wrong(format!("compilation failed: {error}")),
    }
    None
}
