//! Tokens that another server knows: `TokenReview`s posted to a webhook.
//!
//! Follows `plugin/pkg/authenticator/token/webhook` of `k8s.io/apiserver`.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use pharos_transport::proxy::Proxy;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{ALL_AUTHENTICATED, UserInfo, Verified};
use crate::{authz::rules::strings, kubeconfig::Server};

/// How long an answer may take, attempts included.
const LIMIT: Duration = Duration::from_secs(10);
/// Answers kept; when there are more, what has run out goes, then all.
const CAPACITY: usize = 4096;

/// Where the server is, and for how long its answers hold.
#[derive(Debug, Clone)]
pub struct Options {
    /// `--authentication-token-webhook-config-file`: a kubeconfig.
    pub file: PathBuf,
    /// `--authentication-token-webhook-version`: `v1` or `v1beta1`. Default `v1beta1`, as upstream.
    pub version: String,
    /// `--authentication-token-webhook-cache-ttl`. Default 2 min.
    pub cache_ttl: Duration,
}

impl Options {
    /// The defaults for a server.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Options { file: file.into(), version: "v1beta1".into(), cache_ttl: Duration::from_secs(120) }
    }

    /// What is wrong with them.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        Webhook::new(self).err().into_iter().collect()
    }
}

/// What the server said of a token, and until when that holds.
type Answer = (Option<Verified>, Instant);

/// Asks the server.
pub(super) struct Webhook {
    server: Server,
    proxy: Proxy,
    api_version: String,
    cache_ttl: Duration,
    answers: Mutex<HashMap<[u8; 32], Answer>>,
}

impl Webhook {
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let Options { file, version, cache_ttl } = options;
        if version != "v1" && version != "v1beta1" {
            return Err(format!(
                "unsupported webhook authenticator version {version:?}, supported versions are \"v1\", \"v1beta1\""
            ));
        }
        Ok(Webhook {
            server: Server::read(file)?,
            proxy: Proxy::new(),
            api_version: format!("authentication.k8s.io/{version}"),
            cache_ttl: *cache_ttl,
            answers: Mutex::default(),
        })
    }

    /// Tells whose a token for one of these audiences is. Only errors are not remembered.
    pub(super) async fn review(
        &self,
        token: &str,
        audiences: &[String],
        implicit: &[String],
        now: Timestamp,
    ) -> Result<Verified, String> {
        let key: [u8; 32] = Sha256::digest(json!([token, audiences]).to_string()).into();
        let refused = || "the token is not authenticated by the webhook".to_owned();
        if let Some((answer, until)) = self.answers.lock().get(&key)
            && Instant::now() < *until
        {
            return answer.clone().ok_or_else(refused);
        }
        let review = json!({
            "kind": "TokenReview", "apiVersion": self.api_version, "metadata": {}, "spec": {"token": token, "audiences": audiences},
        });
        let reviewed = self.server.review(&self.proxy, &review, LIMIT).await;
        let reviewed = reviewed.inspect_err(|error| tracing::warn!(error, "the authentication webhook does not answer"))?;
        let answer = read(&reviewed["status"], audiences, implicit, now, self.cache_ttl)?;
        if !self.cache_ttl.is_zero() {
            let mut answers = self.answers.lock();
            let now = Instant::now();
            if answers.len() >= CAPACITY {
                answers.retain(|_, (_, until)| now < *until);
            }
            if answers.len() >= CAPACITY {
                answers.clear();
            }
            answers.insert(key, (answer.clone(), now + self.cache_ttl));
        }
        answer.ok_or_else(refused)
    }
}

/// Reads the status of a review; nobody, if it is nobody's token or for others.
fn read(
    status: &Value,
    wanted: &[String],
    implicit: &[String],
    now: Timestamp,
    ttl: Duration,
) -> Result<Option<Verified>, String> {
    let granted = strings(&status["audiences"]);
    let granted = if granted.is_empty() { implicit.to_vec() } else { granted };
    let audiences: Vec<String> = wanted.iter().filter(|audience| granted.contains(audience)).cloned().collect();
    if audiences.is_empty() {
        return Ok(None);
    }
    if status["authenticated"] != true {
        return match status["error"].as_str() {
            Some(error) if !error.is_empty() => Err(error.to_owned()),
            _ => Ok(None),
        };
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or_default().to_owned();
    let mut groups = strings(&user["groups"]);
    if !groups.iter().any(|group| group == ALL_AUTHENTICATED) {
        groups.push(ALL_AUTHENTICATED.into());
    }
    let extra = user["extra"].as_object().into_iter().flatten().map(|(key, values)| (key.clone(), strings(values))).collect();
    let user = UserInfo { username: text("username"), uid: text("uid"), groups, extra };
    let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    Ok(Some(Verified { user, audiences: Some(audiences), expires: Some(now.as_second().saturating_add(seconds.max(1))) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_answers() {
        let api = ["api".to_owned()];
        let now = Timestamp::from_second(1000).unwrap();
        let check = |status: Value| read(&status, &api, &api, now, Duration::from_secs(120));
        let user = json!({"username": "jane", "uid": "1", "groups": ["dev"], "extra": {"a": ["b"]}});
        let good = check(json!({"authenticated": true, "user": user})).unwrap().unwrap();
        assert_eq!((good.user.username.as_str(), good.user.uid.as_str()), ("jane", "1"));
        assert_eq!(good.user.groups, ["dev", ALL_AUTHENTICATED]);
        assert_eq!((good.user.extra["a"].as_slice(), good.audiences.as_deref()), (&["b".to_owned()][..], Some(&api[..])));
        assert_eq!(good.expires, Some(1120));
        assert!(check(json!({"authenticated": true, "user": user, "audiences": ["other"]})).unwrap().is_none());
        assert!(check(json!({"authenticated": false})).unwrap().is_none());
        assert_eq!(check(json!({"error": "no such token"})).unwrap_err(), "no such token");
    }

    #[test]
    fn versions() {
        let options = Options { version: "v2".into(), ..Options::new("/no/such") };
        assert!(options.mistakes()[0].contains("unsupported webhook authenticator version"));
    }
}
