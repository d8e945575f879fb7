//! The flags of authentication and authorization: kube-apiserver's.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use pharos_apiserver::{
    authn::{self, Flags, Structured, WebhookOptions},
    authz::{Chain, Modes},
};

use crate::audit::duration;

/// Whom to believe, beside the cluster's own certificates and tokens.
#[derive(Debug, Clone, Args)]
pub struct AuthenticationOptions {
    /// An AuthenticationConfiguration of apiserver.config.k8s.io; it is read again when it changes
    #[arg(long, env = "PHAROS_AUTHENTICATION_CONFIG", overrides_with = "authentication_config")]
    pub authentication_config: Option<PathBuf>,
    /// The URL of an OpenID Connect issuer whose tokens are believed
    #[arg(long, env = "PHAROS_OIDC_ISSUER_URL", overrides_with = "oidc_issuer_url")]
    pub oidc_issuer_url: Option<String>,
    /// The audience its tokens must be for
    #[arg(long, env = "PHAROS_OIDC_CLIENT_ID", overrides_with = "oidc_client_id")]
    pub oidc_client_id: Option<String>,
    /// The claim that is the user's name
    #[arg(long, default_value = "sub", overrides_with = "oidc_username_claim")]
    pub oidc_username_claim: String,
    /// What is put before users' names; `-` is nothing [default: the issuer's URL and `#`; nothing for the claim email]
    #[arg(long, allow_hyphen_values = true, overrides_with = "oidc_username_prefix")]
    pub oidc_username_prefix: Option<String>,
    /// The claim that holds the user's groups
    #[arg(long, overrides_with = "oidc_groups_claim")]
    pub oidc_groups_claim: Option<String>,
    /// What is put before groups' names
    #[arg(long, overrides_with = "oidc_groups_prefix")]
    pub oidc_groups_prefix: Option<String>,
    /// A claim that tokens must have, as CLAIM=VALUE; may be repeated
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// CA certificates (PEM) that vouch for the issuer [default: the system's]
    #[arg(long, overrides_with = "oidc_ca_file")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Algorithms its tokens may be signed with
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// A kubeconfig whose current context is the server that is asked about tokens nobody else knows
    #[arg(
        long,
        env = "PHAROS_AUTHENTICATION_TOKEN_WEBHOOK_CONFIG_FILE",
        overrides_with = "authentication_token_webhook_config_file"
    )]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers hold
    #[arg(long, default_value = "2m", value_parser = duration, overrides_with = "authentication_token_webhook_cache_ttl")]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// The version of the TokenReviews it is sent: v1 or v1beta1
    #[arg(long, default_value = "v1beta1", overrides_with = "authentication_token_webhook_version")]
    pub authentication_token_webhook_version: String,
}

impl AuthenticationOptions {
    /// As the API server takes them, but for the cluster's CA; `own` is the issuer of ServiceAccounts' tokens.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn of_server(&self, own: &str) -> Result<authn::Config, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut config = authn::Config::default();
        match self.structured(own) {
            Ok(structured) => config.structured = structured.map(Arc::new),
            Err(error) => mistakes.push(error),
        }
        config.structured_file.clone_from(&self.authentication_config);
        config.webhook = self.authentication_token_webhook_config_file.as_ref().map(|file| WebhookOptions {
            version: self.authentication_token_webhook_version.clone(),
            cache_ttl: self.authentication_token_webhook_cache_ttl,
            ..WebhookOptions::new(file)
        });
        let wrong = config.webhook.iter().flat_map(WebhookOptions::mistakes);
        mistakes.extend(wrong.map(|why| format!("--authentication-token-webhook-config-file: {why}")));
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    fn structured(&self, own: &str) -> Result<Option<Structured>, String> {
        let text = |option: &Option<String>| option.clone().unwrap_or_default();
        let mut required_claims = BTreeMap::new();
        for claim in &self.oidc_required_claim {
            let Some((name, value)) = claim.split_once('=') else {
                return Err(format!("--oidc-required-claim {claim}: not written CLAIM=VALUE"));
            };
            required_claims.insert(name.to_owned(), value.to_owned());
        }
        let has_flags = self.oidc_issuer_url.is_some()
            || self.oidc_client_id.is_some()
            || self.oidc_username_prefix.is_some()
            || self.oidc_groups_claim.is_some()
            || self.oidc_groups_prefix.is_some()
            || self.oidc_ca_file.is_some()
            || !required_claims.is_empty();
        if let Some(file) = &self.authentication_config {
            if has_flags {
                return Err("--authentication-config and --oidc-* flags are mutually exclusive".to_owned());
            }
            let failed = |why: String| format!("--authentication-config {}: {why}", file.display());
            let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
            return Structured::parse(&text, &[own]).map(Some).map_err(failed);
        }
        if !has_flags {
            return Ok(None);
        }
        let flags = Flags {
            issuer_url: text(&self.oidc_issuer_url),
            client_id: text(&self.oidc_client_id),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: text(&self.oidc_username_prefix),
            groups_claim: text(&self.oidc_groups_claim),
            groups_prefix: text(&self.oidc_groups_prefix),
            required_claims,
            ca_file: self.oidc_ca_file.clone(),
            signing_algorithms: self.oidc_signing_algs.clone(),
        };
        Structured::of_flags(&flags, &[own]).map(Some)
    }
}

/// Who says what users may do.
#[derive(Debug, Clone, Args)]
pub struct AuthorizationOptions {
    /// An AuthorizationConfiguration of apiserver.config.k8s.io: which authorizers are asked, in place of the next five
    #[arg(long, env = "PHAROS_AUTHORIZATION_CONFIG", overrides_with = "authorization_config")]
    pub authorization_config: Option<PathBuf>,
    /// Which authorizers are asked, in order: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook
    #[arg(long, env = "PHAROS_AUTHORIZATION_MODE", value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// A kubeconfig whose current context is the server that mode Webhook asks
    #[arg(long, env = "PHAROS_AUTHORIZATION_WEBHOOK_CONFIG_FILE", overrides_with = "authorization_webhook_config_file")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of the SubjectAccessReviews it is sent: v1 or v1beta1
    #[arg(long, default_value = "v1beta1", overrides_with = "authorization_webhook_version")]
    pub authorization_webhook_version: String,
    /// How long its permissions hold
    #[arg(long, default_value = "5m", value_parser = duration, overrides_with = "authorization_webhook_cache_authorized_ttl")]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long its refusals hold
    #[arg(long, default_value = "30s", value_parser = duration, overrides_with = "authorization_webhook_cache_unauthorized_ttl")]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

impl AuthorizationOptions {
    /// As the API server takes them; none is Node, then RBAC.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn of_server(&self) -> Result<Option<Arc<Chain>>, String> {
        let modes = Modes {
            modes: self.authorization_mode.clone(),
            webhook_file: self.authorization_webhook_config_file.clone(),
            webhook_version: self.authorization_webhook_version.clone(),
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
        };
        let Some(file) = &self.authorization_config else { return Ok(Chain::of_modes(&modes)?.map(Arc::new)) };
        if modes != Modes::default() {
            return Err(
                "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags \
                        are defined"
                    .to_owned(),
            );
        }
        let failed = |why: String| format!("--authorization-config {}: {why}", file.display());
        let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
        Chain::parse(&text).map(|chain| Some(Arc::new(chain))).map_err(failed)
    }
}
