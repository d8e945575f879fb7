//! Tables: lists of objects as `kubectl get` shows them (`meta.k8s.io` `Table`).
//!
//! A [`Printer`] knows the columns of one kind and makes one row per object. Built-in kinds have theirs in [`crate::columns`], custom
//! ones in their definition.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::columns::{self, Cells};
use crate::registry::{Column, Kind};
use crate::{meta, partial, time};

mod json_path;

pub use json_path::JsonPath;

const NAME_HELP: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a \
                         client to request the generation of an appropriate name automatically.";
const AGE_HELP: &str = "CreationTimestamp is a timestamp representing the server time when this object was created.";

/// How much of each object its row carries (`includeObject`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl Include {
    /// Reads the query parameter; empty means [`Include::Metadata`].
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// Makes the table of one kind.
pub struct Printer {
    columns: Vec<Column>,
    cells: Source,
}

enum Source {
    Builtin(fn(&Cells<'_>) -> Vec<Value>),
    Custom(Vec<Option<JsonPath>>),
}

fn column(name: &str, ty: &'static str, priority: i32) -> Column {
    let (format, description) = match name {
        "Name" => ("name", NAME_HELP),
        "Age" | "Created At" => ("", AGE_HELP),
        _ => ("", ""),
    };
    Column {
        name: name.to_owned().into(),
        ty: ty.into(),
        format: format.into(),
        description: description.into(),
        priority,
        json_path: "".into(),
    }
}

/// Reads `Name|Ready#|IP*`: `#` for integers, `?` for booleans, `@` for dates, then `*` for the wide view.
fn parse_columns(text: &str) -> Vec<Column> {
    let parse = |text: &str| {
        let (text, priority) = text.strip_suffix('*').map_or((text, 0), |text| (text, 1));
        let types = [('#', "integer"), ('?', "boolean"), ('@', "date")];
        let typed = types.into_iter().find_map(|(mark, ty)| Some((text.strip_suffix(mark)?, ty)));
        let (name, ty) = typed.unwrap_or((text, "string"));
        column(name, ty, priority)
    };
    text.split('|').map(parse).collect()
}

impl Printer {
    /// The printer of a kind.
    pub fn of(kind: &Kind) -> Self {
        if kind.custom { Self::custom(&kind.columns) } else { Self::builtin(&kind.group, &kind.kind) }
    }

    /// The printer of a built-in kind; one without columns of its own shows name and age.
    pub fn builtin(group: &str, kind: &str) -> Self {
        let (columns, cells) = columns::find(group, kind);
        Self { columns: parse_columns(columns), cells: Source::Builtin(cells) }
    }

    /// The printer of a custom kind with these `additionalPrinterColumns`; none show name and age.
    pub fn custom(additional: &[Column]) -> Self {
        let age = Column { ty: "date".into(), json_path: ".metadata.creationTimestamp".into(), ..column("Age", "date", 0) };
        let additional = if additional.is_empty() { vec![age] } else { additional.to_vec() };
        let paths = additional.iter().map(|c| JsonPath::parse(&c.json_path)).collect();
        let columns = std::iter::once(column("Name", "string", 0)).chain(additional).collect();
        Self { columns, cells: Source::Custom(paths) }
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The cells of one object.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match &self.cells {
            Source::Builtin(cells) => cells(&Cells::new(object, now)),
            Source::Custom(paths) => {
                let cell = |(column, path): (&Column, &Option<JsonPath>)| match path.as_ref().and_then(|p| p.first(object)) {
                    Some(value) => custom_cell(&column.ty, value, now),
                    None => Value::Null,
                };
                let name = std::iter::once(meta::name(object).into());
                name.chain(self.columns[1..].iter().zip(paths).map(cell)).collect()
            }
        }
    }

    /// The row of one object. `version` is that of `meta.k8s.io`.
    pub fn row(&self, object: &Value, include: Include, version: &str, now: Timestamp) -> Value {
        let mut row = Map::new();
        row.insert("cells".to_owned(), Value::Array(self.cells(object, now)));
        if let Some(condition) = completed(object) {
            row.insert("conditions".to_owned(), json!([condition]));
        }
        let carried = match include {
            Include::None => Value::Null,
            Include::Metadata => partial::metadata(object, version),
            Include::Object => object.clone(),
        };
        row.insert("object".to_owned(), carried);
        Value::Object(row)
    }

    /// A table of rows. `metadata` is that of the list, or the object's `resourceVersion`; later tables of a watch leave the headers
    /// out.
    pub fn table(&self, rows: Vec<Value>, metadata: Value, version: &str, headers: bool) -> Value {
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
            "columnDefinitions": if headers { self.definitions() } else { Value::Null },
            "rows": rows,
        })
    }

    /// The `columnDefinitions` of a table.
    pub fn definitions(&self) -> Value {
        let definition = |c: &Column| json!({"name": c.name, "type": c.ty, "format": c.format, "description": c.description, "priority": c.priority});
        self.columns.iter().map(definition).collect()
    }

    /// A table of one object or of a list (anything with `items`).
    pub fn render(&self, object_or_list: &Value, include: Include, version: &str, now: Timestamp) -> Value {
        let row = |object| self.row(object, include, version, now);
        match object_or_list.get("items").and_then(Value::as_array) {
            Some(items) => {
                let metadata = object_or_list.get("metadata").cloned().unwrap_or_else(|| json!({}));
                self.table(items.iter().map(row).collect(), metadata, version, true)
            }
            None => {
                let metadata = match meta::resource_version(object_or_list) {
                    "" => json!({}),
                    version => json!({"resourceVersion": version}),
                };
                self.table(vec![row(object_or_list)], metadata, version, true)
            }
        }
    }
}

/// The row condition of a pod that has ended.
fn completed(object: &Value) -> Option<Value> {
    if meta::kind(object) != "Pod" || meta::api_version(object) != "v1" {
        return None;
    }
    let (reason, message) = match object.pointer("/status/phase")?.as_str()? {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

#[expect(clippy::cast_possible_truncation, reason = "an integer column shows the whole part")]
fn custom_cell(ty: &str, value: &Value, now: Timestamp) -> Value {
    match (ty, value) {
        ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match time::parse(text) {
            Some(_) => time::age(Some(text), now).into(),
            None => "<invalid>".into(),
        },
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", Value::Null) => "".into(),
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        time::parse("2026-01-01T01:00:00Z").unwrap()
    }

    #[test]
    fn builtin_list() {
        let list = json!({"metadata": {"resourceVersion": "9"}, "items": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "data": {"x": "y"}}]});
        let table = Printer::builtin("", "ConfigMap").render(&list, Include::Metadata, "v1", now());
        assert_eq!(
            table["columnDefinitions"][1],
            json!({"name": "Data", "type": "string", "format": "", "description": "", "priority": 0})
        );
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
        assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "60m"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!((&table["metadata"]["resourceVersion"], &table["apiVersion"]), (&json!("9"), &json!("meta.k8s.io/v1")));
        let table = Printer::builtin("x", "Unknown").render(&list["items"][0], Include::None, "v1beta1", now());
        assert_eq!((&table["rows"][0]["cells"], &table["rows"][0]["object"]), (&json!(["a", "60m"]), &Value::Null));
    }

    #[test]
    fn custom_columns() {
        let object = json!({"metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"n": 3, "list": ["a", "b"], "b": true, "f": 1.5},
            "status": {"conditions": [{"type": "X", "status": "no"}, {"type": "Ready", "status": "yes"}]}});
        let columns: Vec<Column> = [
            ("string", ".spec.n"),
            ("integer", ".spec.n"),
            ("integer", ".spec.f"),
            ("number", ".spec.f"),
            ("boolean", ".spec.b"),
            ("string", ".spec.list"),
            ("string", ".spec.list[1]"),
            ("string", ".status.conditions[?(@.type==\"Ready\")].status"),
            ("date", ".metadata.creationTimestamp"),
            ("string", ".spec.none"),
            ("integer", ".spec.b"),
        ]
        .into_iter()
        .map(|(ty, path)| Column { json_path: path.into(), ..column("C", ty, 0) })
        .collect();
        let printer = Printer::custom(&columns);
        assert_eq!(
            Value::Array(printer.cells(&object, now())),
            json!(["c", "3", 3, 1, 1.5, true, "[\"a\",\"b\"]", "b", "yes", "60m", null, null])
        );
        assert_eq!(Printer::custom(&[]).cells(&object, now()), [json!("c"), json!("60m")]);
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        for (group, kind) in columns::KINDS {
            let printer = Printer::builtin(group, kind);
            for object in [json!({}), json!({"metadata": {"name": "x"}, "spec": {}, "status": {}})] {
                assert_eq!(printer.cells(&object, now()).len(), printer.columns().len(), "{group}/{kind}");
            }
        }
    }
}
