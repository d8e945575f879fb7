use serde_json::{Value, json};

use super::super::{Rules, check_definition};

/// A schema whose `spec` has these properties and rules.
fn schema(properties: &Value, rules: &Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties, "x-kubernetes-validations": rules}}})
}

fn findings(schema: &Value, new: Value, old: Option<Value>) -> (Vec<String>, Vec<String>) {
    let rules = Rules::new(schema).expect("rules");
    let object = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": spec});
    let old = old.map(object);
    let findings = rules.check(&object(new), old.as_ref());
    (findings.errors.iter().map(ToString::to_string).collect(), findings.warnings)
}

fn errors(schema: &Value, new: Value, old: Option<Value>) -> Vec<String> {
    findings(schema, new, old).0
}

#[test]
fn messages_paths_and_reasons() {
    let properties = json!({"min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string",
        "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}});
    let rules = json!([
        {"rule": "self.min <= self.max"},
        {"rule": "self.min != 3", "message": "must not be three"},
        {"rule": "self.min != 4", "messageExpression": "'not ' + string(self.min)", "message": "other"},
        {"rule": "self.min != 5", "messageExpression": "['a'][self.min]", "message": "other"},
        {"rule": "self.min != 6", "fieldPath": ".min", "reason": "FieldValueForbidden", "message": "no six"},
        {"rule": "self.min != 7", "fieldPath": ".min", "reason": "FieldValueRequired", "message": "no seven"},
    ]);
    let schema = schema(&properties, &rules);
    for (spec, wanted) in [
        (json!({"min": 1, "max": 2, "name": "a"}), vec![]),
        (json!({"min": 2, "max": 1}), vec!["spec: Invalid value: failed rule: self.min <= self.max"]),
        (json!({"min": 3, "max": 9}), vec!["spec: Invalid value: must not be three"]),
        (json!({"min": 4, "max": 9}), vec!["spec: Invalid value: not 4"]),
        (json!({"min": 5, "max": 9}), vec!["spec: Invalid value: other"]),
        (json!({"min": 6, "max": 9}), vec!["spec.min: Forbidden: no six"]),
        (
            json!({"min": 7, "max": 1}),
            vec!["spec: Invalid value: failed rule: self.min <= self.max", "spec.min: Required value: no seven"],
        ),
        (json!({"min": 1, "max": 2, "name": "b"}), vec!["spec.name: Invalid value: \"b\": failed rule: self.startsWith('a')"]),
    ] {
        assert_eq!(errors(&schema, spec.clone(), None), wanted, "{spec}");
    }
    let missing = errors(&schema, json!({"min": 1}), None);
    assert_eq!(missing, ["spec: Invalid value: \"object\": no such key: max evaluating rule: self.min <= self.max"]);
}

#[test]
fn transitions() {
    let item = json!({"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "no less"}]});
    let properties = json!({
        "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
        "once": {"type": "string", "x-kubernetes-validations": [
            {"rule": "!oldSelf.hasValue()", "optionalOldSelf": true, "message": "only once"}]},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": item}});
    let schema = schema(&properties, &json!([]));
    assert!(errors(&schema, json!({"fixed": "a", "once": "x"}), None).is_empty());
    assert!(errors(&schema, json!({"fixed": "a"}), Some(json!({}))).is_empty());
    let changed = errors(&schema, json!({"fixed": "b"}), Some(json!({"fixed": "a"})));
    assert_eq!(changed, ["spec.fixed: Invalid value: \"b\": is immutable"]);
    let again = errors(&schema, json!({"once": "y"}), Some(json!({"once": "x"})));
    assert_eq!(again, ["spec.once: Invalid value: \"y\": only once"]);
    let list = |a: i64, b: i64| json!({"list": [{"k": "a", "v": a}, {"k": "b", "v": b}]});
    let turned = json!({"list": [{"k": "b", "v": 1}, {"k": "c", "v": 0}, {"k": "a", "v": 1}]});
    assert!(errors(&schema, list(2, 2), Some(list(1, 2))).is_empty());
    assert_eq!(errors(&schema, turned, Some(list(1, 2))), ["spec.list[0]: Invalid value: no less"]);
}

#[test]
fn what_was_not_touched_is_only_warned_of() {
    let properties = json!({"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self == 'x'"}]},
        "b": {"type": "string"}});
    let schema = schema(&properties, &json!([{"rule": "self.b != 'bad'"}]));
    let (errors, warnings) = findings(&schema, json!({"a": "y", "b": "new"}), Some(json!({"a": "y", "b": "old"})));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(warnings, ["spec.a: Invalid value: \"y\": failed rule: self == 'x'"]);
    let (errors, _) = findings(&schema, json!({"a": "z", "b": "bad"}), Some(json!({"a": "y", "b": "bad"})));
    assert_eq!(
        errors,
        ["spec: Invalid value: failed rule: self.b != 'bad'", "spec.a: Invalid value: \"z\": failed rule: self == 'x'"]
    );
}

#[test]
fn costs_end_it() {
    let list = json!({"type": "array", "items": {"type": "integer"}});
    let schema = schema(
        &json!({"list": list}),
        &json!([
        {"rule": "self.list.all(x, self.list.all(y, x + y >= 0))", "message": "m"}, {"rule": "false"}]),
    );
    let found = errors(&schema, json!({"list": (0..2000).collect::<Vec<i32>>()}), None);
    let why = "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds \
               limit for rule: m";
    assert_eq!(found, [format!("spec: Invalid value: \"object\": {why}")]);
    let rules = Rules::new(&schema).expect("rules");
    let object = json!({"spec": {"list": [1, 2, 3]}});
    let found = rules.check_within(&object, None, 20).errors;
    assert_eq!(found.len(), 1);
    assert!(found[0].to_string().ends_with("running out of cost budget, no further validation rules will be run"), "{found:?}");
}

#[test]
fn definitions() {
    let path = "spec.validation.openAPIV3Schema";
    let check = |properties: Value, rules: Value| -> Vec<String> {
        check_definition(&schema(&properties, &rules), path).iter().map(ToString::to_string).collect()
    };
    let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0]";
    let a = json!({"a": {"type": "string"}});
    assert!(check(a.clone(), json!([{"rule": "self.a == 'x'", "message": "m"}])).is_empty());
    let found = check(a.clone(), json!([{"rule": "self.b == 'x'"}]));
    assert_eq!(found.len(), 1, "{found:?}");
    let wanted = "compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b == 'x'\n | ....^";
    assert!(found[0].starts_with(&format!("{at}.rule: Invalid value: {{")) && found[0].ends_with(wanted), "{}", found[0]);
    for (rule, wanted) in [
        (json!({"rule": "self.a"}), "rule: Invalid value: "),
        (json!({"rule": " "}), "rule: Required value: rule is not specified"),
        (json!({"rule": "true", "message": "a\nb"}), "message: Invalid value: \"a\\nb\": must not contain line breaks"),
        (json!({"rule": "true\n&& true"}), "message: Required value: message must be specified if rule contains line breaks"),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression: Invalid value: "),
        (json!({"rule": "true", "fieldPath": ".x"}), "fieldPath: Invalid value: \".x\": must be a valid path"),
        (json!({"rule": "true", "reason": "Nope"}), "reason: Unsupported value: \"Nope\": supported values: "),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not",
        ),
    ] {
        let found = check(a.clone(), json!([rule]));
        assert!(found.len() == 1 && found[0].starts_with(&format!("{at}.{wanted}")), "{rule} {found:?}");
    }
    // What is in a list cannot be told from what it was.
    let rule = json!([{"rule": "self == oldSelf", "message": "m"}]);
    let list = json!({"list": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": rule}}});
    let found = check(list, json!([]));
    let wanted = "oldSelf cannot be used on the uncorrelatable portion of the schema within \
                  spec.validation.openAPIV3Schema.properties[spec].properties[list]";
    assert!(found.iter().any(|error| error.ends_with(wanted)), "{found:?}");
    // Nothing bounds these lists.
    let open = json!({"list": {"type": "array", "items": {"type": "string"}}});
    let found = check(open, json!([{"rule": "self.list.all(x, self.list.all(y, x == y))"}]));
    assert!(
        found[0].starts_with(&format!("{at}.rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"))
    );
    assert!(found.iter().any(|error| error.contains("estimated rule cost total for entire OpenAPIv3 schema")), "{found:?}");
    let bounded = json!({"list": {"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10}}});
    assert!(check(bounded, json!([{"rule": "self.list.all(x, self.list.all(y, x == y))"}])).is_empty());
}
