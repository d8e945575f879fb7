//! Which authorizers are asked, in which order, where it is not Node and RBAC: an `AuthorizationConfiguration` of
//! `apiserver.config.k8s.io`, or kube-apiserver's flags.
//!
//! Follows `pkg/kubeapiserver/authorizer` and `pkg/apis/apiserver/validation/validation.go`.

mod webhook;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use pharos_api::validation::FieldError;
use serde::Deserialize;

use webhook::{Settings, Webhook};

const API_VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
/// The longest a webhook may be given.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// `--authorization-webhook-cache-authorized-ttl`, and how long refusals hold.
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

/// The authorizers, in the order they are asked.
#[derive(Debug)]
pub struct Chain {
    links: Vec<Link>,
}

/// One of them.
#[derive(Debug)]
pub(super) enum Link {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(Box<Webhook>),
}

/// kube-apiserver's flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    /// `--authorization-mode`
    pub modes: Vec<String>,
    /// `--authorization-webhook-config-file`: a kubeconfig.
    pub webhook_file: Option<PathBuf>,
    /// `--authorization-webhook-version`: `v1` or `v1beta1`.
    pub webhook_version: String,
    /// `--authorization-webhook-cache-authorized-ttl`
    pub authorized_ttl: Duration,
    /// `--authorization-webhook-cache-unauthorized-ttl`
    pub unauthorized_ttl: Duration,
}

impl Default for Modes {
    fn default() -> Self {
        Modes {
            modes: vec!["Node".into(), "RBAC".into()],
            webhook_file: None,
            webhook_version: "v1beta1".into(),
            authorized_ttl: AUTHORIZED_TTL,
            unauthorized_ttl: UNAUTHORIZED_TTL,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(rename = "type", default)]
    ty: String,
    #[serde(default)]
    name: String,
    webhook: Option<WebhookEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct WebhookEntry {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: bool,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: bool,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    match_conditions: Vec<MatchCondition>,
}

impl Default for WebhookEntry {
    fn default() -> Self {
        WebhookEntry {
            authorized_ttl: String::new(),
            cache_authorized_requests: true,
            unauthorized_ttl: String::new(),
            cache_unauthorized_requests: true,
            timeout: String::new(),
            subject_access_review_version: String::new(),
            match_condition_subject_access_review_version: String::new(),
            failure_policy: String::new(),
            connection_info: ConnectionInfo::default(),
            match_conditions: Vec::new(),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct ConnectionInfo {
    #[serde(rename = "type")]
    ty: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MatchCondition {
    expression: String,
}

impl Chain {
    /// Reads an `AuthorizationConfiguration`.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, in upstream's words.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let document = pharos_api::yaml::decode(text).map_err(|error| error.to_string())?;
        let document: Document = serde_json::from_value(document.value).map_err(|error| error.to_string())?;
        if document.kind != "AuthorizationConfiguration" || !API_VERSIONS.contains(&document.api_version.as_str()) {
            return Err(format!("expected AuthorizationConfiguration, got {} of {}", document.kind, document.api_version));
        }
        let mut errors = Vec::new();
        if document.authorizers.is_empty() {
            errors.push(FieldError::required("authorizers", "at least one authorization mode must be defined"));
        }
        let (mut types, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut links = Vec::new();
        for (index, entry) in document.authorizers.iter().enumerate() {
            let path = format!("authorizers[{index}]");
            if entry.ty.is_empty() {
                errors.push(FieldError::required(format!("{path}.type"), ""));
            } else if !TYPES.contains(&entry.ty.as_str()) {
                errors.push(FieldError::not_supported(format!("{path}.type"), entry.ty.as_str(), &TYPES));
            } else if !types.insert(entry.ty.as_str()) && entry.ty != "Webhook" {
                errors.push(FieldError::duplicate(format!("{path}.type"), entry.ty.as_str()));
            }
            if entry.name.is_empty() {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            } else if !names.insert(entry.name.as_str()) {
                errors.push(FieldError::duplicate(format!("{path}.name"), entry.name.as_str()));
            } else {
                let wrong = pharos_api::names::dns1123_subdomain(&entry.name);
                errors.extend(wrong.into_iter().map(|why| FieldError::invalid(format!("{path}.name"), entry.name.as_str(), why)));
            }
            links.extend(link(entry, &path, &mut errors));
        }
        if errors.is_empty() {
            return Ok(Chain { links });
        }
        Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    /// Takes the flags; none for what there is without any: Node, then RBAC.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn of_modes(modes: &Modes) -> Result<Option<Self>, String> {
        if *modes == Modes::default() {
            return Ok(None);
        }
        let mut seen = BTreeSet::new();
        let mut links = Vec::new();
        for mode in &modes.modes {
            if !seen.insert(mode) {
                return Err(format!("--authorization-mode has mode specified more than once: {mode}"));
            }
            links.push(match mode.as_str() {
                "AlwaysAllow" => Link::AlwaysAllow,
                "AlwaysDeny" => Link::AlwaysDeny,
                "Node" => Link::Node,
                "RBAC" => Link::Rbac,
                "Webhook" => Link::Webhook(Box::new(modes.webhook()?)),
                other => return Err(format!("--authorization-mode {other:?} is not a valid mode")),
            });
        }
        if links.is_empty() {
            return Err("at least one authorization-mode must be passed".to_owned());
        }
        if modes.webhook_file.is_some() && !modes.modes.iter().any(|mode| mode == "Webhook") {
            return Err("cannot specify --authorization-webhook-config-file without mode Webhook".to_owned());
        }
        Ok(Some(Chain { links }))
    }

    pub(super) fn links(&self) -> &[Link] {
        &self.links
    }

    /// Whether somebody outside is asked.
    pub(super) fn asks_webhooks(&self) -> bool {
        self.links.iter().any(|link| matches!(link, Link::Webhook(_)))
    }
}

impl Modes {
    fn webhook(&self) -> Result<Webhook, String> {
        let file = self.webhook_file.clone();
        let file = file.ok_or("authorization-mode Webhook's authorization config file not passed")?;
        if !["v1", "v1beta1"].contains(&self.webhook_version.as_str()) {
            return Err(format!("--authorization-webhook-version {:?}: neither v1 nor v1beta1", self.webhook_version));
        }
        Webhook::new(Settings {
            name: "default".into(),
            file,
            version: self.webhook_version.clone(),
            authorized_ttl: self.authorized_ttl,
            unauthorized_ttl: self.unauthorized_ttl,
            timeout: LONGEST_TIMEOUT,
            deny_on_failure: false,
            conditions: Vec::new(),
        })
    }
}

fn link(entry: &Entry, path: &str, errors: &mut Vec<FieldError>) -> Option<Link> {
    let path = format!("{path}.webhook");
    match (entry.ty.as_str(), &entry.webhook) {
        ("Webhook", Some(webhook)) => {
            self::webhook(&entry.name, webhook, &path, errors).map(|webhook| Link::Webhook(Box::new(webhook)))
        }
        ("Webhook", None) => {
            errors.push(FieldError::required(path, "required when type=Webhook"));
            None
        }
        (_, Some(_)) => {
            errors.push(FieldError::invalid(path, "non-null", "may only be specified when type=Webhook"));
            None
        }
        ("AlwaysAllow", None) => Some(Link::AlwaysAllow),
        ("AlwaysDeny", None) => Some(Link::AlwaysDeny),
        ("Node", None) => Some(Link::Node),
        ("RBAC", None) => Some(Link::Rbac),
        _ => None,
    }
}

fn webhook(name: &str, entry: &WebhookEntry, path: &str, errors: &mut Vec<FieldError>) -> Option<Webhook> {
    let before = errors.len();
    let at = |field: &str| format!("{path}.{field}");
    let timeout = duration(&entry.timeout, &at("timeout"), errors);
    match timeout {
        None if entry.timeout.is_empty() => errors.push(FieldError::required(at("timeout"), "")),
        Some(timeout) if timeout.is_zero() => {
            errors.push(FieldError::invalid(at("timeout"), entry.timeout.as_str(), "must be greater than zero"));
        }
        Some(timeout) if timeout > LONGEST_TIMEOUT => {
            errors.push(FieldError::invalid(at("timeout"), entry.timeout.as_str(), "must be less than or equal to 30s"));
        }
        _ => {}
    }
    let authorized = duration(&entry.authorized_ttl, &at("authorizedTTL"), errors).unwrap_or(AUTHORIZED_TTL);
    let unauthorized = duration(&entry.unauthorized_ttl, &at("unauthorizedTTL"), errors).unwrap_or(UNAUTHORIZED_TTL);
    let mut one_of = |value: &str, field: &str, allowed: &[&str]| {
        if value.is_empty() {
            errors.push(FieldError::required(at(field), ""));
        } else if !allowed.contains(&value) {
            errors.push(FieldError::not_supported(at(field), value, allowed));
        }
    };
    one_of(&entry.subject_access_review_version, "subjectAccessReviewVersion", &["v1", "v1beta1"]);
    if !entry.match_conditions.is_empty() || !entry.match_condition_subject_access_review_version.is_empty() {
        let version = &entry.match_condition_subject_access_review_version;
        one_of(version, "matchConditionSubjectAccessReviewVersion", &["v1"]);
    }
    one_of(&entry.failure_policy, "failurePolicy", &["Deny", "NoOpinion"]);
    // There is no cluster around this server whose configuration it could use.
    one_of(&entry.connection_info.ty, "connectionInfo.type", &["KubeConfigFile"]);
    let file = entry.connection_info.kube_config_file.clone();
    if file.is_none() {
        errors.push(FieldError::required(at("connectionInfo.kubeConfigFile"), ""));
    }
    let mut conditions = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, MatchCondition { expression }) in entry.match_conditions.iter().enumerate() {
        let path = at(&format!("matchConditions[{index}].expression"));
        if expression.trim().is_empty() {
            errors.push(FieldError::required(path, ""));
        } else if !seen.insert(expression) {
            errors.push(FieldError::duplicate(path, expression.as_str()));
        } else {
            match webhook::compile(expression) {
                Ok(program) => conditions.push(program),
                Err(why) => errors.push(FieldError::invalid(path, expression.as_str(), why)),
            }
        }
    }
    if errors.len() > before {
        return None;
    }
    let settings = Settings {
        name: name.to_owned(),
        file: file?,
        version: entry.subject_access_review_version.clone(),
        authorized_ttl: if entry.cache_authorized_requests { authorized } else { Duration::ZERO },
        unauthorized_ttl: if entry.cache_unauthorized_requests { unauthorized } else { Duration::ZERO },
        timeout: timeout?,
        deny_on_failure: entry.failure_policy == "Deny",
        conditions,
    };
    let built = Webhook::new(settings);
    built.map_err(|why| errors.push(FieldError::invalid(at("connectionInfo.kubeConfigFile"), "", why))).ok()
}

/// A duration as Go writes it; none if there is none, or it is wrong.
fn duration(text: &str, path: &str, errors: &mut Vec<FieldError>) -> Option<Duration> {
    if text.is_empty() {
        return None;
    }
    let read = pharos_api::time::parse_go_duration(text).and_then(|duration| Duration::try_from(duration).ok());
    if read.is_none() {
        errors.push(FieldError::invalid(path, text, "must be a duration, and not negative"));
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(authorizers: &str) -> Result<Chain, String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
        Chain::parse(format!("{head}authorizers: {authorizers}\n").as_bytes())
    }

    #[test]
    fn mistakes_are_told() {
        let webhook = |more: &str| {
            format!("[{{type: Webhook, name: w, webhook: {{subjectAccessReviewVersion: v1, failurePolicy: Deny, {more}}}}}]")
        };
        for (authorizers, expected) in [
            ("[]".to_owned(), "authorizers: Required value: at least one authorization mode must be defined"),
            ("[{type: ABAC, name: a}]".to_owned(), "authorizers[0].type: Unsupported value: \"ABAC\""),
            ("[{type: RBAC}]".to_owned(), "authorizers[0].name: Required value"),
            ("[{type: RBAC, name: a}, {type: RBAC, name: b}]".to_owned(), "authorizers[1].type: Duplicate value: \"RBAC\""),
            ("[{type: Webhook, name: a}]".to_owned(), "authorizers[0].webhook: Required value: required when type=Webhook"),
            (webhook("timeout: 31s"), "timeout: Invalid value: \"31s\": must be less than or equal to 30s"),
            (webhook("timeout: 3s, connectionInfo: {type: InClusterConfig}"), "connectionInfo.type: Unsupported value"),
            (
                webhook(
                    "timeout: 3s, matchConditionSubjectAccessReviewVersion: v1, matchConditions: [{expression: request.nonsense}]",
                ),
                "matchConditions[0].expression: Invalid value: \"request.nonsense\": ",
            ),
            (
                webhook("timeout: 3s, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /no/such}"),
                "connectionInfo.kubeConfigFile: Invalid value",
            ),
        ] {
            let error = parse(&authorizers).err().unwrap_or_default();
            assert!(error.contains(expected), "{authorizers}: {error}");
        }
        assert_eq!(parse("[{type: Node, name: n}, {type: RBAC, name: r}]").unwrap().links().len(), 2);
    }

    #[test]
    fn modes() {
        assert!(Chain::of_modes(&Modes::default()).unwrap().is_none());
        for (modes, expected) in [
            (vec!["ABAC"], "--authorization-mode \"ABAC\" is not a valid mode"),
            (vec!["RBAC", "RBAC"], "has mode specified more than once"),
            (vec!["RBAC", "Webhook"], "authorization config file not passed"),
            (vec![], "at least one authorization-mode must be passed"),
        ] {
            let modes = Modes { modes: modes.into_iter().map(str::to_owned).collect(), ..Modes::default() };
            assert!(Chain::of_modes(&modes).unwrap_err().contains(expected), "{modes:?}");
        }
        let file = Modes { webhook_file: Some("/no/such".into()), ..Modes::default() };
        assert!(Chain::of_modes(&file).unwrap_err().contains("without mode Webhook"));
    }
}
