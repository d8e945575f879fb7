//! The paths of kinds: one operation a verb, with the extensions and parameters clients look for; and those of discovery, the
//! version and the token issuer.

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use super::{Format, gvk};
use crate::registry::{Kind, Subresource, Verbs};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const API_VERSIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions";
const API_GROUP: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup";
const API_GROUP_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList";
const API_RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

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

/// A document of its own in version 3, or a path of version 2: what is answered beside resources.
pub(super) struct Page {
    path: String,
    id: String,
    tag: String,
    description: &'static str,
    /// The definition of what is answered; blank for text.
    schema: &'static str,
    produces: &'static [&'static str],
}

static FORMS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

impl Page {
    /// Its name in the index of version 3, such as `apis/apps`.
    pub(super) fn key(&self) -> &str {
        self.path.trim_matches('/')
    }

    /// Adds its path.
    pub(super) fn write(&self, format: Format, paths: &mut Map<String, Value>, schemas: &mut Schemas) {
        let schema = if self.schema.is_empty() { json!({"type": "string"}) } else { schemas.named(self.schema) };
        let mut get = json!({"description": self.description, "operationId": self.id, "tags": [self.tag]});
        let unauthorized = json!({"description": "Unauthorized"});
        match format {
            Format::V2 => {
                get["produces"] = json!(self.produces);
                get["schemes"] = json!(["https"]);
                get["responses"] = json!({"200": {"description": "OK", "schema": schema}, "401": unauthorized});
            }
            Format::V3 => {
                let content: Map<String, Value> =
                    self.produces.iter().map(|ty| ((*ty).to_owned(), json!({"schema": schema}))).collect();
                get["responses"] = json!({"200": {"description": "OK", "content": content}, "401": unauthorized});
            }
        }
        paths.insert(self.path.clone(), json!({"get": get}));
    }
}

/// Everything that is answered beside resources. Groups of custom resources are in no document.
pub(super) fn pages(kinds: &[&Kind]) -> Vec<Page> {
    let page = |path: &str, id: &str, tag: &str, description, schema, produces| Page {
        path: path.to_owned(),
        id: id.to_owned(),
        tag: tag.to_owned(),
        description,
        schema,
        produces,
    };
    let versions = "get available API versions";
    let mut found = vec![
        page(
            "/.well-known/openid-configuration/",
            "getServiceAccountIssuerOpenIDConfiguration",
            "WellKnown",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "",
            &FORMS[..1],
        ),
        page("/api/", "getCoreAPIVersions", "core", versions, API_VERSIONS, &FORMS),
        page("/apis/", "getAPIVersions", "apis", versions, API_GROUP_LIST, &FORMS),
        page(
            "/openid/v1/jwks/",
            "getServiceAccountIssuerOpenIDKeyset",
            "openid",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "",
            &["application/jwk-set+json"],
        ),
        page(
            "/version/",
            "getCodeVersion",
            "version",
            "get the version information for this server",
            "io.k8s.apimachinery.pkg.version.Info",
            &FORMS[..1],
        ),
    ];
    let mut groups: Vec<&Kind> = kinds.iter().copied().filter(|kind| !kind.custom && !kind.group.is_empty()).collect();
    groups.dedup_by(|a, b| a.group == b.group);
    found.extend(groups.into_iter().map(|kind| {
        let (path, name) = (format!("/apis/{}/", kind.group), group_name(kind));
        page(&path, &format!("get{name}APIGroup"), &tag(kind), "get information of a group", API_GROUP, &FORMS)
    }));
    found
}

/// Which resources a group version has: a path of the group version's own document.
fn resources(kind: &Kind) -> Page {
    Page {
        path: format!("{}/", base(kind)),
        id: format!("get{}{}APIResources", group_name(kind), capital(&kind.version)),
        tag: format!("{}_{}", tag(kind), kind.version),
        description: "get available resources",
        schema: API_RESOURCE_LIST,
        produces: &FORMS,
    }
}

/// `/api/v1` or `/apis/apps/v1`.
fn base(kind: &Kind) -> String {
    if kind.group.is_empty() { format!("/api/{}", kind.version) } else { format!("/apis/{}/{}", kind.group, kind.version) }
}

/// Every path of the given kinds.
pub(super) fn all(format: Format, kinds: &[&Kind], schemas: &mut Schemas) -> Map<String, Value> {
    let mut paths = Map::new();
    let mut versions: Vec<&Kind> = kinds.iter().copied().filter(|kind| !kind.custom).collect();
    versions.dedup_by(|a, b| a.group == b.group && a.version == b.version);
    for kind in versions {
        resources(kind).write(format, &mut paths, schemas);
    }
    for kind in kinds {
        let base = base(kind);
        let scoped = if kind.namespaced {
            format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
        } else {
            format!("{base}/{}", kind.plural)
        };
        let own = (kind.group.as_ref(), kind.version.as_ref(), kind.kind.as_ref());
        let name = operation_name(kind);
        if kind.namespaced && kind.verbs.contains(Verbs::LIST) {
            let list = list(kind, own, format!("list{}ForAllNamespaces", name.replacen("Namespaced", "", 1)), schemas);
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
        if !kind.custom && kind.verbs.contains(Verbs::WATCH) {
            watches(format, kind, &base, &mut paths, schemas);
        }
    }
    paths
}

/// The paths below `watch/`, which are deprecated, and which custom resources do not have.
fn watches(format: Format, kind: &Kind, base: &str, paths: &mut Map<String, Value>, schemas: &mut Schemas) {
    let name = operation_name(kind);
    let response = schemas.named(&format!("{META}WatchEvent"));
    let mut watch = |path: String, id: String, action, description: String| {
        let own = (kind.group.as_ref(), kind.version.as_ref(), kind.kind.as_ref());
        let operation =
            Operation { method: "get", action, id, kind: own, parameters: &LIST, body: None, response: response.clone() };
        add(format, paths, &path, operation);
        paths[&path]["get"]["description"] = description.into();
    };
    let many = format!(
        "watch individual changes to a list of {}. deprecated: use the 'watch' parameter with a list operation instead.",
        kind.kind
    );
    let scoped = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
    if kind.namespaced {
        let id = format!("watch{}ListForAllNamespaces", name.replacen("Namespaced", "", 1));
        watch(format!("{base}/watch/{}", kind.plural), id, "watchlist", many.clone());
    }
    watch(format!("{base}/watch/{scoped}{}", kind.plural), format!("watch{name}List"), "watchlist", many);
    let one = format!(
        "watch changes to an object of kind {}. deprecated: use the 'watch' parameter with a list operation instead, filtered \
         to a single item with the 'fieldSelector' parameter.",
        kind.kind
    );
    watch(format!("{base}/watch/{scoped}{}/{{name}}", kind.plural), format!("watch{name}"), "watch", one);
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A group as upstream names it (`endpoints/openapi/openapi.go`): without its common ending, such as `rbac.authorization`.
fn short_group(kind: &Kind) -> &str {
    if kind.group.is_empty() { "core" } else { kind.group.strip_suffix(".k8s.io").unwrap_or(&kind.group) }
}

/// The same in the name of an operation: `RbacAuthorization`.
fn group_name(kind: &Kind) -> String {
    short_group(kind).split('.').map(capital).collect()
}

/// The same as a tag: `rbacAuthorization`.
fn tag(kind: &Kind) -> String {
    let mut parts = short_group(kind).split('.');
    let first = parts.next().unwrap_or_default();
    parts.fold(first.to_owned(), |tag, part| tag + &capital(part))
}

/// `CoreV1NamespacedPod`.
fn operation_name(kind: &Kind) -> String {
    let scope = if kind.namespaced { "Namespaced" } else { "" };
    format!("{}{}{scope}{}", group_name(kind), capital(&kind.version), kind.kind)
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
