//! `csrapproving`, `csrsigning` and `csrcleaner`: kubelets' requests for client certificates are approved when their makers may
//! have them, what is approved is signed for Kubernetes' own signers, and what is old is deleted.
//!
//! Follows `pkg/controller/certificates/{approver,signer,cleaner}` and `pkg/apis/certificates/helpers.go`. One queue does all
//! three, and a timer a request replaces the cleaner's hourly scan. Who holds the CA is handed in ([`SignCertificate`]).

mod request;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use pharos_client::{Event, Key, Next, is_conflict};

use crate::{
    Result,
    config::SignCertificate,
    env::Env,
    error::{During as _, gone_is_fine},
    owners,
};

use request::Request;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// For how long requests are kept that were issued, denied or failed.
const KEEP_DECIDED: Duration = Duration::from_secs(3600);
/// For how long those are kept about which nobody decided, or which nobody signed.
const KEEP_PENDING: Duration = Duration::from_secs(24 * 3600);
/// The shortest time a certificate is valid, whatever was asked for.
const LEAST_DURATION: Duration = Duration::from_secs(600);
/// When a kubelet's request whose maker may not have it is looked at again: roles may have changed.
const REVIEW_AGAIN: Duration = Duration::from_secs(300);

pub(crate) fn start(env: &Env) {
    let queue = env.queue("certificate");
    let put = queue.clone();
    env.informers.certificate_requests.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            put.add(Key::of(&**event.object()));
        }
    });
    let (env_, client) = (env.clone(), env.client("certificate-controller"));
    queue.spawn_workers(&env.ctx, 2, move |key| {
        let (env, client) = (env_.clone(), client.clone());
        async move { sync(&env, client, &key).await }
    });
}

async fn sync(env: &Env, client: Client, key: &Key) -> Result<Next> {
    let Some(request) = env.informers.certificate_requests.get(key) else { return Ok(Next::Done) };
    if owners::is_deleting(&*request) {
        return Ok(Next::Done);
    }
    let now = env.ctx.clock().now();
    let left = left(&request, now);
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    if left == Some(Duration::ZERO) {
        let preconditions = Preconditions { uid: request.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&key.name, &params).await {
            Err(error) if is_conflict(&error) => {} // Another request has its name now; its event comes.
            result => _ = gone_is_fine(result).during("delete certificatesigningrequest", key)?,
        }
        return Ok(Next::Done);
    }
    let mut wait = left;
    for (permission, message) in recognized(&request) {
        if may(&client, &request, permission).await.during("review the access of the maker of", key)? {
            let mut approved = (*request).clone();
            add_condition(&mut approved, "Approved", "AutoApproved", message, None);
            match api.replace_subresource("approval", &key.name, &PostParams::default(), &approved).await {
                Err(error) if is_conflict(&error) => {} // Its event comes.
                result => _ = gone_is_fine(result).during("approve certificatesigningrequest", key)?,
            }
            return Ok(Next::Done);
        }
        tracing::debug!(name = &*key.name, permission, "the maker of a kubelet's certificate request may not have it");
        wait = Some(wait.map_or(REVIEW_AGAIN, |left| left.min(REVIEW_AGAIN)));
    }
    let config = &env.config;
    if let Some(sign) = &config.sign_certificate
        && let Some(signed) = signed(&request, sign, config.cluster_signing_duration, &env.now())
    {
        match api.replace_status(&key.name, &PostParams::default(), &signed).await {
            Err(error) if is_conflict(&error) => {}
            result => _ = gone_is_fine(result).during("sign certificatesigningrequest", key)?,
        }
        return Ok(Next::Done);
    }
    Ok(wait.map_or(Next::Done, Next::After))
}

/// The permissions, one of which is enough to approve a request at once, each with the sentence that says so.
fn recognized(request: &CertificateSigningRequest) -> Vec<(&'static str, &'static str)> {
    let spec = &request.spec;
    if !certificate(request).is_empty() || has(request, "Approved") || has(request, "Denied") {
        return Vec::new();
    }
    let Ok(parsed) = Request::parse(&spec.request.0) else { return Vec::new() };
    if spec.signer_name != KUBELET_CLIENT || parsed.check_kubelet_client(usages(request)).is_err() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if spec.username.as_deref() == Some(parsed.common_name.as_str()) {
        found.push(("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."));
    }
    found.push(("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."));
    found
}

/// Whether a request's maker has the permission to have it approved.
async fn may(client: &Client, request: &CertificateSigningRequest, permission: &str) -> kube::Result<bool> {
    let spec = &request.spec;
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: spec.username.clone(),
            uid: spec.uid.clone(),
            groups: spec.groups.clone(),
            extra: spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                subresource: Some(permission.into()),
                verb: Some("create".into()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviewed = Api::<SubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(reviewed.status.is_some_and(|status| status.allowed))
}

/// An approved request with its certificate, or with the condition that says why it gets none. `None`: it is not one of ours
/// to sign, or not yet, or no longer.
fn signed(
    request: &CertificateSigningRequest,
    sign: &SignCertificate,
    longest: Duration,
    now: &Time,
) -> Option<CertificateSigningRequest> {
    let approved = has(request, "Approved") && !has(request, "Denied");
    if !approved || has(request, "Failed") || !certificate(request).is_empty() {
        return None;
    }
    let spec = &request.spec;
    let parsed = Request::parse(&spec.request.0);
    let checked = match spec.signer_name.as_str() {
        CLIENT => request::check_client_usages(usages(request)),
        KUBELET_CLIENT => parsed.and_then(|parsed| parsed.check_kubelet_client(usages(request))),
        KUBELET_SERVING => parsed.and_then(|parsed| parsed.check_kubelet_serving(usages(request))),
        LEGACY_UNKNOWN => Ok(()),
        _ => return None,
    };
    let issued = checked.and_then(|()| {
        let pem = String::from_utf8_lossy(&spec.request.0);
        sign(&pem, usages(request), duration(spec.expiration_seconds, longest)).map_err(|error| error.to_string())
    });
    let mut signed = request.clone();
    match issued {
        Ok(pem) => signed.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes())),
        // Signing needs nothing but the request: what fails once fails always.
        Err(why) => add_condition(&mut signed, "Failed", "SignerValidationFailure", &why, Some(now)),
    }
    Some(signed)
}

/// How long a certificate is valid.
fn duration(asked: Option<i32>, longest: Duration) -> Duration {
    let asked = asked.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
    asked.map_or(longest, |asked| asked.max(LEAST_DURATION).min(longest))
}

/// How long a request is still kept; `None` is for ever.
fn left(request: &CertificateSigningRequest, now: Timestamp) -> Option<Duration> {
    let left =
        |from: Timestamp, keep: Duration| keep.saturating_sub(Duration::try_from(now.duration_since(from)).unwrap_or_default());
    let conditions = conditions(request);
    if conditions.is_empty() {
        return request.metadata.creation_timestamp.as_ref().map(|created| left(created.0, KEEP_PENDING));
    }
    let is_issued = !certificate(request).is_empty();
    let decided = conditions.iter().filter_map(|condition| {
        let keep = match condition.type_.as_str() {
            "Approved" if !is_issued => KEEP_PENDING,
            "Approved" | "Denied" | "Failed" => KEEP_DECIDED,
            _ => return None,
        };
        condition.last_update_time.as_ref().map(|at| left(at.0, keep))
    });
    let expires = request::expiry(certificate(request)).filter(|_| has(request, "Approved"));
    decided.chain(expires.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default())).min()
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, ty: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == ty)
}

fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    request.status.as_ref().and_then(|status| status.certificate.as_ref()).map_or(&[][..], |certificate| certificate.0.as_slice())
}

fn usages(request: &CertificateSigningRequest) -> &[String] {
    request.spec.usages.as_deref().unwrap_or_default()
}

fn add_condition(request: &mut CertificateSigningRequest, ty: &str, reason: &str, message: &str, at: Option<&Time>) {
    let condition = CertificateSigningRequestCondition {
        type_: ty.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: at.cloned(),
        last_transition_time: None, // The API server dates it.
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(text: &str) -> Time {
        Time(text.parse().unwrap())
    }

    fn request(signer: &str, usages: &[&str], conditions: &[(&str, &str)]) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.metadata.creation_timestamp = Some(at("2026-05-01T00:00:00Z"));
        request.spec.signer_name = signer.into();
        request.spec.usages = Some(usages.iter().map(|usage| (*usage).to_owned()).collect());
        for (ty, time) in conditions {
            add_condition(&mut request, ty, "r", "m", Some(&at(time)));
        }
        request
    }

    #[test]
    fn durations() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for (asked, expected) in [(None, year.as_secs()), (Some(60), 600), (Some(3600), 3600), (Some(i32::MAX), year.as_secs())] {
            assert_eq!(duration(asked, year).as_secs(), expected, "{asked:?}");
        }
    }

    /// Conditions and their times, whether there is a certificate, and the seconds that are left.
    type Case<'a> = (&'a [(&'a str, &'a str)], bool, Option<u64>);

    #[test]
    fn old_requests_go() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let table: &[Case<'_>] = &[
            (&[], false, Some(12 * 3600)),
            (&[("Approved", "2026-05-01T11:30:00Z")], false, Some(23 * 3600 + 1800)),
            (&[("Approved", "2026-05-01T11:30:00Z")], true, Some(1800)),
            (&[("Denied", "2026-05-01T10:00:00Z")], false, Some(0)),
            (&[("Approved", "2026-05-01T11:30:00Z"), ("Failed", "2026-05-01T11:30:30Z")], false, Some(1830)),
            (&[("Mine", "2026-05-01T11:30:00Z")], false, None),
        ];
        for (conditions, is_issued, expected) in table {
            let mut request = request(CLIENT, &["client auth"], conditions);
            if *is_issued {
                request.status.get_or_insert_default().certificate = Some(ByteString(b"x".to_vec()));
            }
            assert_eq!(left(&request, now), expected.map(Duration::from_secs), "{conditions:?}");
        }
    }

    #[test]
    fn signs_what_is_approved_and_its_own() {
        let sign: SignCertificate = Arc::new(|_, usages, ttl| Ok(format!("{} {}", usages.join(","), ttl.as_secs())));
        let (now, approved) = (at("2026-05-01T12:00:00Z"), [("Approved", "2026-05-01T11:00:00Z")]);
        let outcome = |request: &CertificateSigningRequest| {
            signed(request, &sign, Duration::from_secs(7200), &now).map(|signed| {
                let failed = conditions(&signed).iter().find(|condition| condition.type_ == "Failed");
                match failed {
                    Some(failed) => failed.message.clone().unwrap_or_default(),
                    None => String::from_utf8_lossy(certificate(&signed)).into_owned(),
                }
            })
        };
        assert_eq!(outcome(&request(CLIENT, &["client auth"], &[])), None);
        assert_eq!(outcome(&request("example.com/mine", &["client auth"], &approved)), None);
        assert_eq!(outcome(&request(CLIENT, &["client auth"], &approved)).as_deref(), Some("client auth 7200"));
        assert_eq!(
            outcome(&request(CLIENT, &["server auth"], &approved)).as_deref(),
            Some("invalid usage for client certificate: server auth")
        );
        assert_eq!(
            outcome(&request(CLIENT, &["digital signature"], &approved)).as_deref(),
            Some("missing required usage for client certificate: client auth")
        );
        assert_eq!(outcome(&request(LEGACY_UNKNOWN, &["any"], &approved)).as_deref(), Some("any 7200"));
        let both = [approved[0], ("Denied", "2026-05-01T11:00:00Z")];
        assert_eq!(outcome(&request(CLIENT, &["client auth"], &both)), None);
        let refusing: SignCertificate = Arc::new(|_, _, _| Err("no".into()));
        let failed = signed(&request(CLIENT, &["client auth"], &approved), &refusing, Duration::from_secs(7200), &now).unwrap();
        assert!(has(&failed, "Failed"));
    }
}
