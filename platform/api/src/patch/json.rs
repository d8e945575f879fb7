//! JSON Patch (RFC 6902), with the habits of the Go library upstream uses: negative indices count from the end, and `test` for
//! null holds where there is nothing.

use serde_json::Value;

use crate::status::{Status, reason};

/// The most operations one patch may have.
const MAX_OPERATIONS: usize = 10_000;

/// Applies a patch.
///
/// # Errors
/// 400 for a malformed patch, 413 for too many operations, 422 where an operation cannot be applied or a test fails.
pub fn apply(document: &Value, patch: &[u8]) -> Result<Value, Status> {
    let Value::Array(operations) = super::parse(patch)? else {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch",
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        let message = format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        );
        return Err(Status::failure(413, reason::REQUEST_ENTITY_TOO_LARGE, message));
    }
    let mut result = document.clone();
    for operation in &operations {
        step(&mut result, operation).ok_or_else(Status::unprocessable)?;
    }
    Ok(result)
}

/// Applies operations made by this server. None if a test fails: the document stays as it is.
///
/// # Errors
/// The text of the library upstream uses, where an operation cannot be applied.
pub fn apply_operations(document: &Value, operations: &[Value]) -> Result<Option<Value>, String> {
    let mut result = document.clone();
    for operation in operations {
        if step(&mut result, operation).is_some() {
            continue;
        }
        let text = |name| operation.get(name).and_then(Value::as_str).unwrap_or_default();
        return match text("op") {
            "test" => Ok(None),
            op @ ("add" | "remove" | "replace" | "move" | "copy") => {
                Err(format!("{op} operation does not apply: doc is missing path: {:?}: missing value", text("path")))
            }
            op => Err(format!("Unexpected kind: {op}")),
        };
    }
    Ok(Some(result))
}

fn step(document: &mut Value, operation: &Value) -> Option<()> {
    let text = |name| operation.get(name).and_then(Value::as_str);
    let path = pointer(text("path")?)?;
    let value = || operation.get("value").cloned();
    match text("op")? {
        "add" => add(document, &path, value()?),
        "remove" => remove(document, &path).map(drop),
        "replace" => replace(document, &path, value()?),
        "move" => {
            let from = pointer(text("from")?)?;
            let moved = remove(document, &from)?;
            add(document, &path, moved)
        }
        "copy" => {
            let from = pointer(text("from")?)?;
            let copied = get(document, &from)?.clone();
            add(document, &path, copied)
        }
        "test" => {
            let expected = value().unwrap_or(Value::Null);
            match get(document, &path) {
                Some(found) => equal(found, &expected).then_some(()),
                None => expected.is_null().then_some(()),
            }
        }
        _ => None,
    }
}

/// Numbers compare by value, so that `1` and `1.0` are the same.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn pointer(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let parts = text.strip_prefix('/')?.split('/');
    Some(parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

fn index(part: &str, length: usize) -> Option<usize> {
    let index: i64 = part.parse().ok()?;
    let length = i64::try_from(length).ok()?;
    let index = if index < 0 { index + length } else { index };
    (0..length).contains(&index).then(|| usize::try_from(index).ok()).flatten()
}

fn get<'a>(document: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(document, |at, part| match at {
        Value::Object(map) => map.get(part),
        Value::Array(items) => items.get(index(part, items.len())?),
        _ => None,
    })
}

fn get_mut<'a>(document: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |at, part| match at {
        Value::Object(map) => map.get_mut(part),
        Value::Array(items) => {
            let index = index(part, items.len())?;
            items.get_mut(index)
        }
        _ => None,
    })
}

fn add(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    let Some((last, parent)) = path.split_last() else {
        *document = value;
        return Some(());
    };
    match get_mut(document, parent)? {
        Value::Object(map) => _ = map.insert(last.clone(), value),
        Value::Array(items) => {
            let at = if last == "-" { items.len() } else { index(last, items.len() + 1)? };
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(document: &mut Value, path: &[String]) -> Option<Value> {
    let (last, parent) = path.split_last()?;
    match get_mut(document, parent)? {
        Value::Object(map) => map.remove(last),
        Value::Array(items) => {
            let at = index(last, items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

fn replace(document: &mut Value, path: &[String], value: Value) -> Option<()> {
    *get_mut(document, path)? = value;
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations() {
        let document = json!({"a": {"b": 1}, "l": [1, 2, 3], "x/y": 0, "n": null});
        let cases = [
            (
                json!([{"op": "add", "path": "/a/c", "value": 2}]),
                Some(json!({"a": {"b": 1, "c": 2}, "l": [1, 2, 3], "x/y": 0, "n": null})),
            ),
            (
                json!([{"op": "add", "path": "/l/-", "value": 4}, {"op": "remove", "path": "/l/0"}]),
                Some(json!({"a": {"b": 1}, "l": [2, 3, 4], "x/y": 0, "n": null})),
            ),
            (json!([{"op": "remove", "path": "/l/-1"}]), Some(json!({"a": {"b": 1}, "l": [1, 2], "x/y": 0, "n": null}))),
            (
                json!([{"op": "replace", "path": "/x~1y", "value": 7}]),
                Some(json!({"a": {"b": 1}, "l": [1, 2, 3], "x/y": 7, "n": null})),
            ),
            (
                json!([{"op": "move", "from": "/a/b", "path": "/a/c"}]),
                Some(json!({"a": {"c": 1}, "l": [1, 2, 3], "x/y": 0, "n": null})),
            ),
            (
                json!([{"op": "copy", "from": "/a", "path": "/l/0"}]),
                Some(json!({"a": {"b": 1}, "l": [{"b": 1}, 1, 2, 3], "x/y": 0, "n": null})),
            ),
            (json!([{"op": "test", "path": "/zzz/q", "value": null}]), Some(document.clone())),
            (json!([{"op": "test", "path": "/n", "value": null}]), Some(document.clone())),
            (json!([{"op": "test", "path": "/a/b", "value": 1.0}]), Some(document.clone())),
            (json!([{"op": "test", "path": "/a/b", "value": 2}]), None),
            (json!([{"op": "remove", "path": "/zzz"}]), None),
            (json!([{"op": "replace", "path": "/zzz", "value": 1}]), None),
            (json!([{"op": "add", "path": "/zzz/y", "value": 1}]), None),
            (json!([{"op": "add", "path": "/l/9", "value": 1}]), None),
            (json!([{"op": "frob", "path": "/l"}]), None),
        ];
        for (patch, expected) in cases {
            assert_eq!(apply(&document, patch.to_string().as_bytes()).ok(), expected, "{patch}");
        }
        assert_eq!(apply(&document, b"[{\"op\": \"remove\", \"path\": \"/q\"}]").unwrap_err().code, 422);
        assert_eq!(apply(&document, b"{}").unwrap_err().code, 400);
        assert_eq!(apply(&document, b"[").unwrap_err().code, 400);
    }

    #[test]
    fn operations_of_the_servers_own() {
        let document = json!({"a": 1});
        let missing = "add operation does not apply: doc is missing path: \"/b/c\": missing value";
        for (operation, expected) in [
            (json!({"op": "add", "path": "/b", "value": 2}), Ok(Some(json!({"a": 1, "b": 2})))),
            (json!({"op": "test", "path": "/a", "value": 2}), Ok(None)),
            (json!({"op": "add", "path": "/b/c", "value": 2}), Err(missing.to_owned())),
            (json!({"op": "frob", "path": "/a"}), Err("Unexpected kind: frob".to_owned())),
        ] {
            assert_eq!(apply_operations(&document, std::slice::from_ref(&operation)), expected, "{operation}");
        }
    }
}
