//! The paths of kinds: one operation a verb, with the extensions and parameters clients look for.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use super::{Format, gvk};
use crate::registry::{Kind, Subresource, Verbs};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Name, type and description of a query parameter.
type Parameter = (&'static str, &'static str, &'static str);

const PRETTY: Parameter = ("pretty", "string", "If 'true', then the output is pretty printed.");
const DRY_RUN: Parameter = (
    "dryRun",
    "string",
    "When present, indicates that modifications should not be persisted. Valid values are: - All: all dry run stages will be processed",
);
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "fieldManager is a name associated with the actor or entity that is making these changes.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "fieldValidation instructs the server on how to handle objects in the request containing unknown or duplicate fields. Valid values are: Ignore, Warn, Strict.",
);
const FORCE: Parameter = (
    "force",
    "boolean",
    "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people.",
);
const WRITE: [Parameter; 4] = [PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const PATCH: [Parameter; 5] = [PRETTY, DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
const LIST: [Parameter; 10] = [
    ("allowWatchBookmarks", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."),
    ("continue", "string", "The continue option should be set when retrieving more results from the server."),
    ("fieldSelector", "string", "A selector to restrict the list of returned objects by their fields. Defaults to everything."),
    ("labelSelector", "string", "A selector to restrict the list of returned objects by their labels. Defaults to everything."),
    ("limit", "integer", "limit is a maximum number of responses to return for a list call."),
    ("resourceVersion", "string", "resourceVersion sets a constraint on what resource versions a request may be served from."),
    ("resourceVersionMatch", "string", "resourceVersionMatch determines how resourceVersion is applied to list calls."),
    ("sendInitialEvents", "boolean", "`sendInitialEvents=true` may be set together with `watch=true`."),
    ("timeoutSeconds", "integer", "Timeout for the list/watch call."),
    (
        "watch",
        "boolean",
        "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications.",
    ),
];
const DELETE: [Parameter; 4] = [
    PRETTY,
    DRY_RUN,
    ("gracePeriodSeconds", "integer", "The duration in seconds before the object should be deleted."),
    ("propagationPolicy", "string", "Whether and how garbage collection will be performed."),
];

/// One operation about to be written.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    id: String,
    kind: (&'a str, &'a str, &'a str),
    parameters: &'a [Parameter],
    body: Option<Value>,
    response: Value,
}

/// Every path of the given kinds.
pub(super) fn all(format: Format, kinds: &[&Kind], schemas: &mut Schemas) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let base = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let scoped = if kind.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{base}/{}", kind.plural)
        };
        let own = (kind.group.as_ref(), kind.version.as_ref(), kind.kind.as_ref());
        let name = operation_name(kind);
        if kind.namespaced && kind.verbs.contains(Verbs::LIST) {
            let list = list(kind, own, format!("list{name}ForAllNamespaces"), schemas);
            add(format, &mut paths, &format!("{base}/{}", kind.plural), list);
        }
        collection(format, kind, own, &scoped, schemas, &mut paths);
        let item = format!("{scoped}/{{name}}");
        let schema = schemas.kind(kind);
        for operation in item_operations(kind.verbs, own, &name, &schema, schemas) {
            add(format, &mut paths, &item, operation);
        }
        for sub in &kind.subresources {
            let path = format!("{item}/{}", sub.name);
            for operation in subresource(kind, sub, &name, schemas) {
                add(format, &mut paths, &path, operation);
            }
        }
    }
    paths
}

/// `CoreV1NamespacedPod`.
fn operation_name(kind: &Kind) -> String {
    let capital = |text: &str| -> String {
        let mut chars = text.chars();
        chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
    };
    let group = if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or_default() };
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    format!("{}{}{scope}{}", capital(group), capital(&kind.version), kind.kind)
}

fn list<'a>(kind: &Kind, own: (&'a str, &'a str, &'a str), id: String, schemas: &mut Schemas) -> Operation<'a> {
    Operation { method: "get", action: "list", id, kind: own, parameters: &LIST, body: None, response: schemas.list(kind) }
}

fn collection(
    format: Format,
    kind: &Kind,
    own: (&str, &str, &str),
    path: &str,
    schemas: &mut Schemas,
    paths: &mut Map<String, Value>,
) {
    let name = operation_name(kind);
    if kind.verbs.contains(Verbs::LIST) {
        let operation = list(kind, own, format!("list{name}"), schemas);
        add(format, paths, path, operation);
    }
    if kind.verbs.contains(Verbs::CREATE) {
        let schema = schemas.kind(kind);
        let id = format!("create{name}");
        let operation = Operation {
            method: "post",
            action: "post",
            id,
            kind: own,
            parameters: &WRITE,
            body: Some(schema.clone()),
            response: schema,
        };
        add(format, paths, path, operation);
    }
    if kind.verbs.contains(Verbs::DELETE_COLLECTION) {
        let body = Some(schemas.named(&format!("{META}DeleteOptions")));
        let response = schemas.named(&format!("{META}Status"));
        let id =
            format!("delete{name}Collection").replacen("delete", "deleteCollection", 1).trim_end_matches("Collection").to_owned();
        add(
            format,
            paths,
            path,
            Operation { method: "delete", action: "deletecollection", id, kind: own, parameters: &DELETE, body, response },
        );
    }
}

fn item_operations<'a>(
    verbs: Verbs,
    own: (&'a str, &'a str, &'a str),
    name: &str,
    schema: &Value,
    schemas: &mut Schemas,
) -> Vec<Operation<'a>> {
    let mut found = Vec::new();
    let mut push = |method, action, id: String, parameters: &'a [Parameter], body, response: Value| {
        found.push(Operation { method, action, id, kind: own, parameters, body, response });
    };
    if verbs.contains(Verbs::GET) {
        push("get", "get", format!("read{name}"), &[PRETTY], None, schema.clone());
    }
    if verbs.contains(Verbs::UPDATE) {
        push("put", "put", format!("replace{name}"), &WRITE, Some(schema.clone()), schema.clone());
    }
    if verbs.contains(Verbs::PATCH) {
        let body = schemas.named(&format!("{META}Patch"));
        push("patch", "patch", format!("patch{name}"), &PATCH, Some(body), schema.clone());
    }
    if verbs.contains(Verbs::DELETE) {
        let body = schemas.named(&format!("{META}DeleteOptions"));
        let response = schemas.named(&format!("{META}Status"));
        push("delete", "delete", format!("delete{name}"), &DELETE, Some(body), response);
    }
    found
}

fn subresource<'a>(kind: &'a Kind, sub: &'a Subresource, name: &str, schemas: &mut Schemas) -> Vec<Operation<'a>> {
    let (group, version) = sub.group_version.as_ref().map_or((&kind.group, &kind.version), |(g, v)| (g, v));
    let gvk = (group.as_ref(), version.as_ref(), sub.kind.as_ref());
    let mut chars = sub.name.chars();
    let suffix: String = chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect();
    let name = format!("{name}{suffix}");
    if matches!(sub.name.as_ref(), "exec" | "attach" | "portforward" | "proxy" | "log") {
        let connect = [
            (Verbs::GET, "get"),
            (Verbs::CREATE, "post"),
            (Verbs::UPDATE, "put"),
            (Verbs::PATCH, "patch"),
            (Verbs::DELETE, "delete"),
        ];
        let operations = connect.into_iter().filter(|(verb, _)| sub.verbs.contains(*verb)).map(|(_, method)| Operation {
            method,
            action: if sub.name == "log" { "get" } else { "connect" },
            id: if sub.name == "log" { format!("read{name}") } else { format!("connect{method}{name}") },
            kind: gvk,
            parameters: &[],
            body: None,
            response: json!({"type": "string"}),
        });
        return operations.collect();
    }
    let schema =
        if sub.kind == kind.kind && sub.group_version.is_none() { schemas.kind(kind) } else { schemas.gvk(gvk.0, gvk.1, gvk.2) };
    let mut operations = item_operations(sub.verbs, gvk, &name, &schema, schemas);
    if sub.verbs.contains(Verbs::CREATE) {
        let id = format!("create{name}");
        operations.push(Operation {
            method: "post",
            action: "post",
            id,
            kind: gvk,
            parameters: &WRITE,
            body: Some(schema.clone()),
            response: schema,
        });
    }
    operations
}

fn add(format: Format, paths: &mut Map<String, Value>, path: &str, operation: Operation<'_>) {
    let entry = paths.entry(path.to_owned()).or_insert_with(|| json!({"parameters": path_parameters(format, path)}));
    let method = operation.method;
    entry[method] = write(format, operation);
}

fn path_parameters(format: Format, path: &str) -> Vec<Value> {
    let described = [
        ("{name}", "name", "name of the resource"),
        ("{namespace}", "namespace", "object name and auth scope, such as for teams and projects"),
    ];
    let present = described.iter().filter(|(mark, ..)| path.contains(mark));
    present.map(|(_, name, text)| parameter(format, name, "string", text, "path")).collect()
}

fn parameter(format: Format, name: &str, ty: &str, description: &str, place: &str) -> Value {
    let mut out = json!({"name": name, "in": place, "description": description});
    match format {
        Format::V2 => out["type"] = ty.into(),
        Format::V3 => out["schema"] = json!({"type": ty}),
    }
    match format {
        Format::V2 => out["uniqueItems"] = true.into(),
        Format::V3 => out["schema"]["uniqueItems"] = true.into(),
    }
    if place == "path" {
        out["required"] = true.into();
    }
    out
}

fn write(format: Format, operation: Operation<'_>) -> Value {
    let Operation { action, id, kind: (group, version, kind), parameters, body, response, .. } = operation;
    let mut query: Vec<Value> = parameters.iter().map(|(name, ty, text)| parameter(format, name, ty, text, "query")).collect();
    let mut out = json!({
        "operationId": id,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(group, version, kind),
    });
    let types = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
    let patches = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    // Custom kinds have no merge keys, and clients choose their patch by what is listed here.
    let custom = crate::schema::definition_for(group, version, kind).is_none();
    let without_strategic = [patches[0], patches[1], patches[3]];
    let consumed: &[&str] = match action {
        "patch" if custom => &without_strategic,
        "patch" => &patches,
        _ => &["*/*"],
    };
    match format {
        Format::V2 => {
            if let Some(body) = body {
                query.push(json!({"name": "body", "in": "body", "required": action != "delete" && action != "deletecollection", "schema": body}));
            }
            out["consumes"] = json!(consumed);
            out["produces"] = json!(types);
            out["schemes"] = json!(["https"]);
            out["responses"] = json!({"200": {"description": "OK", "schema": response}, "401": {"description": "Unauthorized"}});
        }
        Format::V3 => {
            if let Some(body) = body {
                let content: Map<String, Value> = consumed.iter().map(|ty| ((*ty).to_owned(), json!({"schema": body}))).collect();
                out["requestBody"] = json!({"content": content, "required": action != "delete" && action != "deletecollection"});
            }
            let content: Map<String, Value> = types.iter().map(|ty| ((*ty).to_owned(), json!({"schema": response}))).collect();
            out["responses"] = json!({"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}});
        }
    }
    if !query.is_empty() {
        out["parameters"] = query.into();
    }
    out
}
