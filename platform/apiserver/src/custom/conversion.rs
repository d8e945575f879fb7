//! Custom resources from one version into another: by name alone, or by their definition's webhook.
//!
//! Follows `apiextensions-apiserver/pkg/apiserver/conversion`.

use std::time::Duration;

use pharos_api::{defaulting, fields, registry::Kind};
use serde_json::{Map, Value, json};

use crate::{
    api::Api,
    outbound::Webhook,
    status::{self, Status},
};

/// How long a webhook may take (`webhook_converter.go`).
const TIMEOUT: Duration = Duration::from_secs(30);

/// The webhook of a definition.
#[derive(Debug)]
pub(super) struct Conversion {
    client: Webhook,
    /// The first version of reviews it wants that this server knows.
    review: Option<&'static str>,
}

impl Conversion {
    /// The webhook of a definition, if it has one.
    pub(super) fn parse(definition: &Value) -> Option<Self> {
        let conversion = &definition["spec"]["conversion"];
        if conversion["strategy"] != "Webhook" {
            return None;
        }
        let versions = conversion["webhook"]["conversionReviewVersions"].as_array().into_iter().flatten();
        Some(Conversion {
            client: Webhook::parse(&conversion["webhook"]["clientConfig"], "kube-apiserver-admission"),
            review: versions.into_iter().find_map(|version| match version.as_str() {
                Some("v1") => Some("v1"),
                Some("v1beta1") => Some("v1beta1"),
                _ => None,
            }),
        })
    }
}

/// Brings objects, which may be of several versions, into the one of `api_version`. The webhook is asked once for all.
pub(crate) async fn convert(api: &Api, kind: &Kind, api_version: &str, mut objects: Vec<Value>) -> Result<Vec<Value>, Status> {
    let others: Vec<usize> = (0..objects.len()).filter(|at| objects[*at]["apiVersion"] != api_version).collect();
    let Some(first) = others.first() else { return Ok(objects) };
    match super::conversion_of(api, kind) {
        Some(webhook) => {
            let of = &objects[*first];
            let (group, version) = pharos_api::meta::split_api_version(of["apiVersion"].as_str().unwrap_or_default());
            let what = format!("{group}/{version}, Kind={}", of["kind"].as_str().unwrap_or_default());
            let refuse = |why: String| status::internal(format!("conversion webhook for {what} {why}"));
            let originals: Vec<&Value> = others.iter().map(|at| &objects[*at]).collect();
            let answers = ask(api, &webhook, api_version, &originals).await.map_err(|why| refuse(format!("failed: {why}")))?;
            if answers.len() != originals.len() {
                return Err(refuse(format!("returned {} objects, expected {}", answers.len(), originals.len())));
            }
            for (at, answer) in others.iter().zip(answers) {
                let made = accept(&objects[*at], answer, api_version);
                objects[*at] = made.map_err(|why| refuse(format!("returned invalid converted object at index {at}: {why}")))?;
            }
        }
        None => others.iter().for_each(|at| objects[*at]["apiVersion"] = json!(api_version)),
    }
    // Only fields of the new version, and all it has.
    let (group, version) = pharos_api::meta::split_api_version(api_version);
    if let Some(row) = api.0.resources.lookup(group, version, &kind.plural) {
        for at in others {
            fields::prune(&row, &mut objects[at]);
            defaulting::apply(&row, &mut objects[at]);
        }
    }
    Ok(objects)
}

async fn ask(api: &Api, webhook: &Conversion, api_version: &str, objects: &[&Value]) -> Result<Vec<Value>, String> {
    let version = webhook.review.ok_or("webhook does not accept known ConversionReview versions (v1, v1beta1)")?;
    let review_version = format!("apiextensions.k8s.io/{version}");
    let uid = uuid::Uuid::new_v4().to_string();
    let review = json!({
        "kind": "ConversionReview",
        "apiVersion": review_version,
        "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
    });
    let mut answer = webhook.client.post(api, &review, TIMEOUT).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let response = &answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if version == "v1" {
        let (found, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
        if found != review_version || kind != "ConversionReview" {
            return Err(format!(
                "expected webhook response of {review_version}, Kind=ConversionReview, got {found}, Kind={kind}"
            ));
        }
        let given = text(&response["uid"]);
        if given != uid {
            return Err(format!("expected response.uid={uid:?}, got {given:?}"));
        }
    }
    let result = &response["result"];
    if result["status"] != "Success" {
        let message = text(&result["message"]);
        let why = format!("response.result.status was '{}', expected 'Success'", text(&result["status"]));
        return Err(if message.is_empty() { why } else { message });
    }
    match answer["response"]["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// Checks a converted object. Of the metadata, labels and annotations are all a webhook may change.
fn accept(original: &Value, mut answer: Value, api_version: &str) -> Result<Value, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["apiVersion"] != api_version {
        return Err(format!("invalid groupVersion: {}", text(&answer["apiVersion"])));
    }
    if answer["kind"] != original["kind"] {
        return Err(format!("must have the same kind: {} != {}", text(&answer["kind"]), text(&original["kind"])));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (found, wanted) = (text(&answer["metadata"][field]), text(&original["metadata"][field]));
        if found != wanted {
            return Err(format!("must have the same {name}: {found} != {wanted}"));
        }
    }
    let changed: Map<String, Value> = ["labels", "annotations"]
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), answer["metadata"].get(field)?.clone())))
        .filter(|(_, value)| !value.is_null())
        .collect();
    for (field, values) in &changed {
        if !values.as_object().is_some_and(|values| values.values().all(Value::is_string)) {
            return Err(format!("invalid metadata.{field}: must be a map of strings"));
        }
    }
    let mut metadata = original["metadata"].as_object().cloned().unwrap_or_default();
    metadata.remove("labels");
    metadata.remove("annotations");
    metadata.extend(changed);
    answer["metadata"] = Value::Object(metadata);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labels_and_annotations_change() {
        let original = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}}});
        let answer = |change: Value| {
            let mut answer = json!({"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u"}});
            pharos_api::patch::merge::merge(&mut answer, &change);
            accept(&original, answer, "g/v2")
        };
        let made = answer(json!({"metadata": {"generation": 7, "annotations": {"n": "o"}}})).unwrap();
        assert_eq!(made["metadata"], json!({"name": "a", "uid": "u", "annotations": {"n": "o"}}));
        for (change, wanted) in [
            (json!({"kind": "L"}), "must have the same kind: L != K"),
            (json!({"apiVersion": "g/v3"}), "invalid groupVersion: g/v3"),
            (json!({"metadata": {"name": "b"}}), "must have the same name: b != a"),
            (json!({"metadata": {"uid": "v"}}), "must have the same UID: v != u"),
            (json!({"metadata": {"labels": {"n": 1}}}), "invalid metadata.labels: must be a map of strings"),
        ] {
            assert_eq!(answer(change).unwrap_err(), wanted);
        }
    }
}
