//! `AdmissionReview`: the question put to a webhook, and what its answer says.
//!
//! Follows `apiserver/pkg/admission/plugin/webhook/request/admissionreview.go`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pharos_api::registry::Kind;
use serde_json::{Value, json};

use super::{Attributes, metrics::Step};
use crate::admission::request;

/// What a webhook says.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// The `Status` of a refusal.
    pub(super) result: Value,
    /// A JSON patch; empty if there is none.
    pub(super) patch: Vec<u8>,
    pub(super) patch_type: String,
    pub(super) warnings: Vec<String>,
    pub(super) audit_annotations: Vec<(String, String)>,
}

/// The question about a write, in the version `kind`.
pub(super) fn question(
    attributes: &Attributes<'_>,
    kind: &Kind,
    version: &str,
    uid: &str,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let mut request = request::describe(attributes, kind);
    for (field, value) in [("uid", json!(uid)), ("object", json!(object)), ("oldObject", json!(old))] {
        request[field] = value;
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": request})
}

/// Reads and checks an answer.
pub(super) fn answer(review: &Value, version: &str, uid: &str, step: Step) -> Result<Answer, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let patch_type = response["patchType"].as_str();
    if version == "v1" {
        let given = text(&response["uid"]);
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
        let (api_version, kind) = (text(&review["apiVersion"]), text(&review["kind"]));
        if api_version != "admission.k8s.io/v1" || kind != "AdmissionReview" {
            let (group, version) = pharos_api::meta::split_api_version(&api_version);
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}"
            ));
        }
        match (step, patch, patch_type) {
            (Step::Validating, Some(_), _) => return Err("validating webhook may not return response.patch".to_owned()),
            (Step::Validating, None, Some(_)) => return Err("validating webhook may not return response.patchType".to_owned()),
            (Step::Mutating, Some(_), None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (Step::Mutating, None, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (Step::Mutating, Some(_), Some("")) => {
                return Err("webhook returned invalid response.patchType of \"\"".to_owned());
            }
            _ => {}
        }
    }
    let patch = match (step, patch) {
        (Step::Mutating, Some(patch)) => {
            STANDARD.decode(patch).map_err(|error| format!("response.patch is not base64: {error}"))?
        }
        _ => Vec::new(),
    };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = response["warnings"].as_array().into_iter().flatten();
    Ok(Answer {
        allowed: response["allowed"] == true,
        result: response["status"].clone(),
        patch,
        patch_type: patch_type.unwrap_or("JSONPatch").to_owned(),
        warnings: warnings.filter_map(Value::as_str).map(str::to_owned).collect(),
        audit_annotations: annotations.map(|(key, value)| (key.clone(), text(value))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let review =
            |response: Value| json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response});
        let check = |review: Value, version: &str, step: Step, wanted: &str| {
            let outcome = answer(&review, version, "u", step);
            assert_eq!(outcome.err().unwrap_or_default(), wanted, "{review}");
        };
        use Step::{Mutating, Validating};
        check(review(json!({"uid": "u", "allowed": true})), "v1", Validating, "");
        check(json!({}), "v1", Validating, "webhook response was absent");
        check(review(json!({"uid": "x"})), "v1", Validating, "expected response.uid=\"u\", got \"x\"");
        check(
            json!({"apiVersion": "a/v2", "kind": "B", "response": {"uid": "u"}}),
            "v1",
            Validating,
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got a/v2, Kind=B",
        );
        check(json!({"response": {"allowed": true}}), "v1beta1", Validating, "");
        let patch = json!({"uid": "u", "patch": "W10="});
        check(review(patch.clone()), "v1", Validating, "validating webhook may not return response.patch");
        check(review(patch.clone()), "v1", Mutating, "webhook returned response.patch but not response.patchType");
        check(review(patch), "v1beta1", Mutating, "");
        let only_type = json!({"uid": "u", "patchType": "JSONPatch"});
        check(review(only_type.clone()), "v1", Mutating, "webhook returned response.patchType but not response.patch");
        check(review(only_type), "v1", Validating, "validating webhook may not return response.patchType");
    }

    #[test]
    fn refusals_keep_their_status() {
        let review =
            json!({"response": {"allowed": false, "status": {"code": 418}, "warnings": ["w"], "auditAnnotations": {"k": "v"}}});
        let answer = answer(&review, "v1beta1", "", Step::Validating).unwrap();
        assert!(!answer.allowed);
        assert_eq!(answer.result["code"], 418);
        assert_eq!(answer.warnings, ["w"]);
        assert_eq!(answer.audit_annotations, [("k".to_owned(), "v".to_owned())]);
    }
}
