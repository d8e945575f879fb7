use serde_json::json;

use super::*;

#[test]
fn messages() {
    let cases = [
        (Status::not_found("", "pods", "x"), 404, "NotFound", r#"pods "x" not found"#),
        (Status::not_found("apps", "deployments", "x"), 404, "NotFound", r#"deployments.apps "x" not found"#),
        (Status::already_exists("", "pods", "x"), 409, "AlreadyExists", r#"pods "x" already exists"#),
        (
            Status::modified("", "pods", "x"),
            409,
            "Conflict",
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to the \
             latest version and try again",
        ),
        (
            Status::method_not_supported("", "bindings", "list"),
            405,
            "MethodNotAllowed",
            r#"list is not supported on resources of kind "bindings""#,
        ),
        (Status::internal("boom"), 500, "InternalError", "Internal error occurred: boom"),
        (
            Status::not_acceptable(&["application/json", "application/yaml"]),
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml",
        ),
        (
            Status::denied(Denied { user: "bob", verb: "list", resource: "pods", namespace: "default", ..Denied::default() }),
            403,
            "Forbidden",
            r#"pods is forbidden: User "bob" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            Status::denied(Denied {
                user: "bob",
                verb: "get",
                resource: "deployments",
                subresource: "scale",
                group: "apps",
                name: "d",
                ..Denied::default()
            }),
            403,
            "Forbidden",
            "deployments.apps \"d\" is forbidden: User \"bob\" cannot get resource \"deployments/scale\" in API group \"apps\" at \
             the cluster scope",
        ),
        (
            Status::denied(Denied { user: "u", verb: "get", path: "/metrics", ..Denied::default() }),
            403,
            "Forbidden",
            r#"forbidden: User "u" cannot get path "/metrics""#,
        ),
    ];
    for (status, code, reason, message) in cases {
        assert_eq!((status.code, status.reason.as_ref(), status.message.as_str()), (code, reason, message));
    }
}

#[test]
fn invalid() {
    let errors = [
        FieldError::required("spec.selector", ""),
        FieldError::not_supported("spec.type", "X", &["B", "A"]),
        FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0"),
        FieldError::too_long("metadata.name", 63),
    ];
    let status = Status::invalid("apps", "Deployment", "d", &errors);
    assert_eq!(
        status.message,
        "Deployment.apps \"d\" is invalid: [spec.selector: Required value, spec.type: Unsupported value: \"X\": supported values: \
         \"A\", \"B\", spec.replicas: Invalid value: -1: must be greater than or equal to 0, metadata.name: Too long: may not be \
         more than 63 bytes]"
    );
    assert_eq!(status.to_value()["details"]["causes"][0]["reason"], "FieldValueRequired");
    assert_eq!(Status::invalid("", "Pod", "p", &errors[..1]).message, r#"Pod "p" is invalid: spec.selector: Required value"#);
}

#[test]
fn round_trip() {
    let body = Status::not_found("", "pods", "x").to_value();
    assert_eq!(
        body,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "pods \"x\" not found",
               "reason": "NotFound", "details": {"name": "x", "kind": "pods"}, "code": 404})
    );
    assert_eq!(Status::from_value(&body), Some(Status::not_found("", "pods", "x")));
    assert_eq!(
        Status::deleted("", "pods", "x", "u").to_value(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
               "details": {"name": "x", "kind": "pods", "uid": "u"}})
    );
}
