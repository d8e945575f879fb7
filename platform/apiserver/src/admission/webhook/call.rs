//! One webhook, asked once.

use pharos_api::registry::Kind;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Attributes,
    configuration::Hook,
    metrics::Step,
    review::{self, Answer},
};
use crate::status::{self, Status};

/// Why a write may not go on as it is.
#[derive(Debug)]
pub(super) enum Failure {
    /// The webhook could not be asked, or its answer makes no sense: its `failurePolicy` decides.
    Call(String),
    /// It says no.
    Refused(Status),
    /// It cannot be asked this, or what it wants cannot be done, whatever its policy.
    Other(Status),
}

/// Asks a webhook about a write in the version `kind`.
pub(super) async fn ask(
    attributes: &Attributes<'_>,
    hook: &Hook,
    kind: &Kind,
    step: Step,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<Answer, Failure> {
    if attributes.options.dry_run() && !hook.dry_run {
        let message = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Failure::Other(status::bad_request(message)));
    }
    let version = hook.review.ok_or_else(|| {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        Failure::Call(why.to_owned())
    })?;
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(attributes, kind, version, &uid, object, old);
    let answered = hook.client.post(attributes.api, &question, hook.timeout).await;
    let answered = answered.map_err(|why| Failure::Call(format!("failed to call webhook: {why}")))?;
    let answer = review::answer(&answered, version, &uid, step)
        .map_err(|why| Failure::Call(format!("received invalid webhook response: {why}")))?;
    attributes.warnings.lock().extend(answer.warnings.iter().cloned());
    for (key, value) in &answer.audit_annotations {
        attributes.annotate(&format!("{}/{key}", hook.name), value);
    }
    if !answer.allowed {
        return Err(Failure::Refused(refusal(&hook.name, &answer.result)));
    }
    Ok(answer)
}

/// Counts what a webhook did, and decides whether the write goes on without its answer.
pub(super) fn settle(
    attributes: &Attributes<'_>,
    hook: &Hook,
    step: Step,
    start: Instant,
    failure: Option<Failure>,
) -> Result<(), Status> {
    let metrics = &attributes.api.0.webhooks.metrics;
    let operation = attributes.operation;
    let asked = |code: u16, rejected: bool| metrics.asked(&hook.name, step, operation, start.elapsed(), code, rejected);
    match failure {
        None => {
            asked(200, false);
            Ok(())
        }
        Some(Failure::Refused(status)) => {
            let code = status.code().as_u16();
            asked(code, true);
            metrics.rejected(&hook.name, step, operation, "no_error", code);
            Err(status)
        }
        Some(Failure::Other(status)) => {
            let code = status.code().as_u16();
            asked(code, true);
            metrics.rejected(&hook.name, step, operation, "apiserver_internal_error", code);
            Err(status)
        }
        Some(Failure::Call(why)) => {
            let error = format!("failed calling webhook {:?}: {why}", hook.name);
            if hook.fail_open {
                asked(503, false);
                metrics.failed_open(&hook.name, step);
                tracing::warn!(error, "admission webhook not asked: failing open");
                return Ok(());
            }
            asked(503, true);
            metrics.rejected(&hook.name, step, operation, "calling_webhook_error", 503);
            tracing::warn!(error, "admission webhook not asked: failing closed");
            Err(status::internal(error))
        }
    }
}

/// The `Status` of a refusal, made to be one (`errors/statuserror.go`).
fn refusal(webhook: &str, result: &Value) -> Status {
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (400..1000).contains(code));
    let text = |field: &str| result[field].as_str().filter(|text| !text.is_empty());
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match text("message").or_else(|| text("reason")) {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    let status = Status::new(code.unwrap_or(400), text("reason").unwrap_or_default().to_owned(), message);
    if result["details"].is_object() { status.with_foreign_details(&result["details"]) } else { status }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn refusals() {
        for (result, code, message) in [
            (Value::Null, 400, "admission webhook \"w\" denied the request without explanation"),
            (json!({"code": 200, "message": "no"}), 400, "admission webhook \"w\" denied the request: no"),
            (json!({"code": 403, "reason": "Forbidden"}), 403, "admission webhook \"w\" denied the request: Forbidden"),
        ] {
            let status = refusal("w", &result);
            assert_eq!((status.code().as_u16(), status.message()), (code, message), "{result}");
        }
        let details = json!({"causes": [{"message": "c"}]});
        assert_eq!(refusal("w", &json!({"details": details})).to_value()["details"], details);
    }
}
