//! Servers that files tell this one to call: the current context of a kubeconfig, as webhooks of auditing, authentication and
//! authorization have it.
//!
//! Follows `apiserver/pkg/util/webhook/webhook.go`.

use std::{path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, StatusCode, header};
use pharos_transport::{
    Body,
    pki::{self, Identity, Issued},
    proxy::{Proxy, Target},
};
use rand::Rng as _;
use rustls::ClientConfig;
use serde_json::Value;

use crate::outbound;

/// The largest answer read.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// `DefaultAuthWebhookRetryBackoff`: attempts, the first wait between them, its growth, and how much of it is chance.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

/// Where to post, and with whose name.
pub(crate) struct Server {
    target: Target,
    path: String,
    token: Option<Token>,
}

enum Token {
    Given(String),
    /// Read anew for each request, for it may be replaced.
    File(std::path::PathBuf),
}

impl Server {
    /// Reads a kubeconfig's current context.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or asks for what there is not: plugins that find credentials, or credentials for a server that is
    /// not verified.
    pub(crate) fn read(file: &Path) -> Result<Self, String> {
        let text = std::fs::read(file).map_err(|error| format!("read {}: {error}", file.display()))?;
        Self::parse(&text, file.parent().unwrap_or(Path::new("."))).map_err(|why| format!("{}: {why}", file.display()))
    }

    fn parse(text: &[u8], folder: &Path) -> Result<Self, String> {
        let config = pharos_api::yaml::decode(text).map_err(|error| error.to_string())?.value;
        let named = |list: &str, name: &str, entry: &str| {
            let found = config[list].as_array().into_iter().flatten().find(|item| item["name"] == name);
            found.map(|item| item[entry].clone())
        };
        let current = config["current-context"].as_str().unwrap_or_default();
        let context = named("contexts", current, "context").ok_or_else(|| format!("there is no context {current:?}"))?;
        let cluster_name = context["cluster"].as_str().unwrap_or_default();
        let cluster =
            named("clusters", cluster_name, "cluster").ok_or_else(|| format!("there is no cluster {cluster_name:?}"))?;
        let user = match context["user"].as_str().filter(|name| !name.is_empty()) {
            None => Value::Null,
            Some(name) => named("users", name, "user").ok_or_else(|| format!("there is no user {name:?}"))?,
        };
        for field in ["exec", "auth-provider", "username", "password", "as"] {
            if !user[field].is_null() {
                return Err(format!("{field} of a user is not supported: give a certificate, a token or a tokenFile"));
            }
        }
        if cluster["proxy-url"].is_string() {
            return Err("proxy-url of a cluster is not supported".to_owned());
        }
        let text = cluster["server"].as_str().unwrap_or_default();
        let uri: http::Uri = text.parse().map_err(|error| format!("server {text:?}: {error}"))?;
        let authority = uri.authority().cloned().ok_or_else(|| format!("server {text:?}: host must be specified"))?;
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (_, Some(file)) => Some(Token::File(folder.join(file))),
            (Some(token), None) => Some(Token::Given(token.to_owned())),
            (None, None) => None,
        };
        let tls = match uri.scheme_str() {
            Some("https") => Some(tls(&cluster, &user, folder, token.is_some())?),
            Some("http") => None,
            _ => return Err(format!("server {text:?}: neither https nor http")),
        };
        let mut target = Target::new(authority, tls);
        target.server_name = cluster["tls-server-name"].as_str().map(str::to_owned);
        target.respond = None; // The whole exchange has a limit.
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Server { target, path, token })
    }

    /// Posts JSON; gives the answer's code and body. The caller sets a deadline.
    pub(crate) async fn post(&self, proxy: &Proxy, body: bytes::Bytes) -> Result<(StatusCode, bytes::Bytes), String> {
        let Server { target, path, token } = self;
        let mut request = http::Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, target.authority.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, concat!("pharos-apiserver/", env!("CARGO_PKG_VERSION")))
            .body(Body::full(body))
            .map_err(|error| error.to_string())?;
        let token = match token {
            None => None,
            Some(Token::Given(token)) => Some(token.clone()),
            Some(Token::File(file)) => {
                let read = tokio::fs::read_to_string(file).await;
                Some(read.map_err(|error| format!("read {}: {error}", file.display()))?.trim().to_owned())
            }
        };
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let response = proxy.forward(request, target).await.map_err(|error| outbound::reason(&error))?;
        let code = response.status();
        let answer = response.into_body().into_bytes(MAX_ANSWER_BYTES).await.map_err(|error| outbound::reason(&error))?;
        Ok((code, answer))
    }

    /// Posts a review and reads the answer; tries again while the server is not there, overloaded or broken, until the
    /// deadline (`WithExponentialBackoff` and `DefaultShouldRetry` of `webhook.go`).
    pub(crate) async fn review(&self, proxy: &Proxy, review: &Value, limit: Duration) -> Result<Value, String> {
        let body = bytes::Bytes::from(review.to_string());
        let failed = |why: String| format!("Post {:?}: {why}", self.url());
        let attempts = async {
            let mut wait = FIRST_WAIT;
            for attempt in 1.. {
                let error = match self.post(proxy, body.clone()).await {
                    Ok((code, answer)) if code.is_success() => {
                        return serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()));
                    }
                    Ok((code, _)) if code.is_server_error() || code == StatusCode::TOO_MANY_REQUESTS => {
                        failed(format!("the server responded with the status code {code}"))
                    }
                    Ok((code, _)) => return Err(failed(format!("the server responded with the status code {code}"))),
                    Err(error) => failed(error),
                };
                if attempt >= ATTEMPTS {
                    return Err(error);
                }
                tracing::debug!(attempt, error, "a webhook does not answer, retrying");
                let pause = wait.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
                tokio::time::sleep(pause).await;
                wait = wait.mul_f64(FACTOR);
            }
            Err(failed("it was not asked".into()))
        };
        match tokio::time::timeout(limit, attempts).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failed("context deadline exceeded".into())),
        }
    }

    fn url(&self) -> String {
        let scheme = if self.target.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.target.authority, self.path)
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.url()).finish_non_exhaustive()
    }
}

/// The bytes of a field that is given in place (`…-data`) or by the name of a file.
fn bytes(entry: &Value, field: &str, folder: &Path) -> Result<Option<Vec<u8>>, String> {
    if let Some(data) = entry[format!("{field}-data")].as_str().filter(|data| !data.is_empty()) {
        return STANDARD.decode(data).map(Some).map_err(|error| format!("{field}-data: {error}"));
    }
    let Some(file) = entry[field].as_str().filter(|file| !file.is_empty()) else { return Ok(None) };
    std::fs::read(folder.join(file)).map(Some).map_err(|error| format!("{field} {file}: {error}"))
}

fn tls(cluster: &Value, user: &Value, folder: &Path, has_token: bool) -> Result<Arc<ClientConfig>, String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|error| error.to_string());
    let certificate = bytes(user, "client-certificate", folder)?;
    let key = bytes(user, "client-key", folder)?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let issued = Issued { certificate_pem: text(certificate)?, key_pem: text(key)? };
            Some(Identity::from_pem(issued).map_err(|error| error.to_string())?)
        }
        (None, None) => None,
        _ => return Err("client-certificate and client-key must be given together".to_owned()),
    };
    if cluster["insecure-skip-tls-verify"] == true {
        if has_token {
            return Err("a token is not sent to a server that is not verified (insecure-skip-tls-verify)".to_owned());
        }
        return pki::client_config_without_verification(identity).map_err(|error| error.to_string());
    }
    let roots = outbound::roots(&bytes(cluster, "certificate-authority", folder)?.unwrap_or_default())?;
    pki::client_config(Arc::new(roots), identity).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(cluster: &str, user: &str) -> Result<Server, String> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: s, user: u}}}}]\nclusters: [{{name: s, cluster: {cluster}}}]\nusers: [{{name: u, user: {user}}}]\n"
        );
        Server::parse(text.as_bytes(), Path::new("/"))
    }

    #[test]
    fn kubeconfigs_name_the_server() {
        let server = read("{server: 'https://h.example:8443/audit?x=1', tls-server-name: n}", "{token: t}").unwrap();
        assert_eq!((server.target.authority.as_str(), server.path.as_str()), ("h.example:8443", "/audit?x=1"));
        assert_eq!(server.target.server_name.as_deref(), Some("n"));
        assert!(matches!(server.token, Some(Token::Given(token)) if token == "t"));
        let plain = read("{server: 'http://127.0.0.1:9'}", "{}").unwrap();
        assert!(plain.target.tls.is_none() && plain.path == "/");
    }

    #[test]
    fn what_there_is_not_is_refused() {
        for (cluster, user, want) in [
            ("{server: 'ftp://h'}", "{}", "neither https nor http"),
            ("{server: '/x'}", "{}", "host must be specified"),
            ("{server: 'https://h'}", "{exec: {command: x}}", "exec of a user is not supported"),
            ("{server: 'https://h', insecure-skip-tls-verify: true}", "{token: t}", "is not verified"),
            ("{server: 'https://h', certificate-authority-data: AAAA}", "{}", "unable to load root certificates"),
            ("{server: 'https://h'}", "{client-key-data: AAAA}", "must be given together"),
        ] {
            let why = read(cluster, user).err().unwrap_or_default();
            assert!(why.contains(want), "{cluster} {user}: {why}");
        }
        assert!(Server::parse(b"{}", Path::new("/")).err().unwrap().contains("there is no context"));
    }
}
