//! The options of each verb, read from the query (and, for deletes, the body), checked as upstream checks them.

use pharos_api::selector::{FieldSelector, LabelSelector};
use serde_json::{Value, json};

use crate::{
    request::Query,
    status::{self, Status},
};

/// How unknown and duplicate fields in a body are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// The options of writes: create, update and patch.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: Option<String>,
    pub(crate) field_validation: FieldValidation,
    /// Whether an apply takes fields from other managers.
    pub(crate) force: bool,
}

impl WriteOptions {
    /// Reads and checks the options; `kind` is what upstream calls those of the verb: `CreateOptions`, `UpdateOptions`,
    /// `PatchOptions`.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        let field_validation = match query.get("fieldValidation") {
            None | Some("" | "Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                return Err(option_error(
                    kind,
                    "fieldValidation",
                    "FieldValueNotSupported",
                    format!("Unsupported value: \"{other}\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""),
                ));
            }
        };
        let field_manager = query.get("fieldManager").filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = &field_manager
            && (name.len() > 128 || name.chars().any(char::is_control))
        {
            return Err(option_error(
                kind,
                "fieldManager",
                "FieldValueInvalid",
                format!("Invalid value: {name:?}: must be no more than 128 printable characters"),
            ));
        }
        Ok(WriteOptions { dry_run: dry_run(query, kind)?, field_manager, field_validation, force: query.flag("force") })
    }

    /// A server-side apply has to name its manager.
    pub(crate) fn check_apply(&self) -> Result<(), Status> {
        if self.field_manager.is_some() {
            return Ok(());
        }
        let message = "Required value: is required for apply patch".to_owned();
        Err(option_error("PatchOptions", "fieldManager", "FieldValueRequired", message))
    }

    /// Only a server-side apply can take fields by force.
    pub(crate) fn check_other_patch(query: &Query) -> Result<(), Status> {
        if query.get("force").is_none() {
            return Ok(());
        }
        let message = "Forbidden: may not be specified for non-apply patch".to_owned();
        Err(option_error("PatchOptions", "force", "FieldValueForbidden", message))
    }

    /// As `CreateOptions` or `UpdateOptions`, without `dryRun`.
    pub(crate) fn to_value(&self, kind: &str) -> Value {
        let mut value = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if let Some(manager) = &self.field_manager {
            value["fieldManager"] = json!(manager);
        }
        value["fieldValidation"] = json!(match self.field_validation {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        });
        value
    }
}

fn dry_run(query: &Query, kind: &str) -> Result<bool, Status> {
    let mut dry = false;
    for value in query.all("dryRun") {
        match value {
            "All" => dry = true,
            "" => {}
            other => {
                return Err(option_error(
                    kind,
                    "dryRun",
                    "FieldValueNotSupported",
                    format!("Unsupported value: \"{other}\": supported values: \"All\""),
                ));
            }
        }
    }
    Ok(dry)
}

/// How a list's `resourceVersion` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    Exact,
    NotOlderThan,
}

/// The options of list, watch and deletecollection.
#[derive(Debug, Clone)]
pub(crate) struct ListOptions {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    /// `None`: unset; zero: "any".
    pub(crate) resource_version: Option<u64>,
    pub(crate) version_match: Option<Match>,
    pub(crate) allow_bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_seconds: Option<u64>,
}

impl ListOptions {
    /// Reads and checks the options of a list (`watch` false) or a watch.
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| status::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default())
            .map_err(|error| status::bad_request(error.to_string()))?;
        let resource_version = match query.get("resourceVersion").filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(text.parse::<u64>().map_err(|_| {
                list_error(
                    "resourceVersion",
                    "FieldValueInvalid",
                    format!("Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"),
                )
            })?),
        };
        let options = ListOptions {
            labels,
            fields,
            limit: integer(query, "limit")?.unwrap_or(0) as usize,
            continue_token: query.get("continue").filter(|token| !token.is_empty()).map(str::to_owned),
            resource_version,
            version_match: match query.get("resourceVersionMatch").filter(|text| !text.is_empty()) {
                None => None,
                Some("Exact") => Some(Match::Exact),
                Some("NotOlderThan") => Some(Match::NotOlderThan),
                Some(other) => {
                    return Err(list_error(
                        "resourceVersionMatch",
                        "FieldValueNotSupported",
                        format!("Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""),
                    ));
                }
            },
            allow_bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.optional_flag("sendInitialEvents"),
            timeout_seconds: integer(query, "timeoutSeconds")?,
        };
        options.check(watch)?;
        Ok(options)
    }

    fn check(&self, watch: bool) -> Result<(), Status> {
        let forbidden = |field: &str, why: &str| Err(list_error(field, "FieldValueForbidden", format!("Forbidden: {why}")));
        if watch {
            return match (self.send_initial_events, self.version_match) {
                (None, Some(_)) => forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ),
                (Some(_), None | Some(Match::Exact)) => {
                    forbidden("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
                }
                _ => Ok(()),
            };
        }
        if self.send_initial_events.is_some() {
            return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        }
        if self.version_match.is_some() {
            if self.continue_token.is_some() {
                return forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
            }
            if self.resource_version.is_none() {
                return forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if self.version_match == Some(Match::Exact) && self.resource_version == Some(0) {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if self.continue_token.is_some() && self.resource_version.is_some_and(|version| version != 0) {
            return Err(status::bad_request("specifying resource version is not allowed when using continue".to_owned()));
        }
        Ok(())
    }
}

/// What a delete asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) dry_run: bool,
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
}

/// What happens to an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Orphan,
    Background,
    Foreground,
}

impl DeleteOptions {
    /// Reads the options from the query and, where there is one, the body, which wins. The body's fields are of their types:
    /// [`crate::body`] has seen to that.
    pub(crate) fn parse(query: &Query, body: Option<&Value>) -> Result<Self, Status> {
        let mut options = DeleteOptions { dry_run: dry_run(query, "DeleteOptions")?, ..Self::default() };
        if let Some(text) = query.get("gracePeriodSeconds").filter(|text| !text.is_empty()) {
            options.grace_period_seconds =
                Some(text.parse().map_err(|_| status::bad_request(format!("invalid gracePeriodSeconds {text:?}")))?);
        }
        if let Some(text) = query.get("propagationPolicy").filter(|text| !text.is_empty()) {
            options.propagation = Some(propagation(text)?);
        }
        if let (Some(_), Some(text)) =
            (query.optional_flag("orphanDependents"), query.get("propagationPolicy").filter(|text| !text.is_empty()))
        {
            return Err(both_set(text));
        }
        match query.optional_flag("orphanDependents") {
            Some(true) => options.propagation = Some(Propagation::Orphan),
            Some(false) => options.propagation = Some(Propagation::Background),
            None => {}
        }
        let Some(body) = body else { return Ok(options) };
        for value in body["dryRun"].as_array().into_iter().flatten() {
            match value.as_str() {
                Some("All") => options.dry_run = true,
                other => {
                    return Err(option_error(
                        "DeleteOptions",
                        "dryRun",
                        "FieldValueNotSupported",
                        format!("Unsupported value: {:?}: supported values: \"All\"", other.unwrap_or_default()),
                    ));
                }
            }
        }
        if let Some(seconds) = body["gracePeriodSeconds"].as_i64() {
            options.grace_period_seconds = Some(seconds);
        }
        let orphan = body["orphanDependents"].as_bool();
        if let Some(text) = body["propagationPolicy"].as_str().filter(|text| !text.is_empty()) {
            if orphan.is_some() {
                return Err(both_set(text));
            }
            options.propagation = Some(propagation(text)?);
        } else if let Some(orphan) = orphan {
            options.propagation = Some(if orphan { Propagation::Orphan } else { Propagation::Background });
        }
        let precondition = |field: &str| body["preconditions"][field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        (options.uid, options.resource_version) = (precondition("uid"), precondition("resourceVersion"));
        Ok(options)
    }

    /// As `DeleteOptions`, without `dryRun`.
    pub(crate) fn to_value(&self) -> Value {
        let mut value = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if let Some(seconds) = self.grace_period_seconds {
            value["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(propagation) = self.propagation {
            value["propagationPolicy"] = json!(match propagation {
                Propagation::Orphan => "Orphan",
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
            });
        }
        for (field, text) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(text) = text {
                value["preconditions"][field] = json!(text);
            }
        }
        value
    }
}

fn both_set(policy: &str) -> Status {
    option_error(
        "DeleteOptions",
        "propagationPolicy",
        "FieldValueInvalid",
        format!("Invalid value: \"{policy}\": orphanDependents and deletionPropagation cannot be both set"),
    )
}

fn propagation(text: &str) -> Result<Propagation, Status> {
    match text {
        "Orphan" => Ok(Propagation::Orphan),
        "Background" => Ok(Propagation::Background),
        "Foreground" => Ok(Propagation::Foreground),
        other => Err(option_error(
            "DeleteOptions",
            "propagationPolicy",
            "FieldValueNotSupported",
            format!("Unsupported value: \"{other}\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""),
        )),
    }
}

pub(crate) fn integer(query: &Query, name: &str) -> Result<Option<u64>, Status> {
    match query.get(name).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text
            .parse::<i64>()
            .map(|number| u64::try_from(number).ok())
            .map_err(|_| status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax"))),
    }
}

fn list_error(field: &str, reason: &str, message: String) -> Status {
    option_error("ListOptions", field, reason, message)
}

fn option_error(kind: &str, field: &str, reason: &str, message: String) -> Status {
    crate::status::invalid_one("meta.k8s.io", kind, "", reason, field, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_options() {
        let parse = |query: &str, body: Value| {
            DeleteOptions::parse(&Query::parse(Some(query)), Some(&body)).map_err(|status| status.code().as_u16())
        };
        let options = parse("", json!({"gracePeriodSeconds": 0, "dryRun": ["All"], "preconditions": {"uid": "u"}})).unwrap();
        assert_eq!((options.grace_period_seconds, options.dry_run, options.uid.as_deref()), (Some(0), true, Some("u")));
        let options = parse("gracePeriodSeconds=5&dryRun=All", json!({})).unwrap();
        assert_eq!((options.grace_period_seconds, options.dry_run), (Some(5), true));
        let table = [
            ("", json!({"dryRun": ["Some"]}), 422),
            ("", json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
            ("gracePeriodSeconds=x", json!({}), 400),
            ("dryRun=Some", json!({}), 422),
            ("propagationPolicy=Sideways", json!({}), 422),
            ("propagationPolicy=Orphan&orphanDependents=true", json!({}), 422),
        ];
        for (query, body, code) in table {
            assert_eq!(parse(query, body.clone()).unwrap_err(), code, "{query} {body}");
        }
    }
}
