//! Generates the schema tables from the pinned inputs that `scripts/schemas` fetches: OpenAPI definitions (fields, types, merge
//! keys, descriptions), the k8s-pb crate's source (protobuf numbers, declared defaults), and `data/fields.txt` (what neither has).
//!
//! Writes `definitions.rs`, constant tables for `schema::builtin`, and `descriptions.zst`, every description in table order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

type Error = Box<dyn std::error::Error>;

/// Definitions whose JSON is not what their schema says.
const SPECIAL: [(&str, &str); 11] = [
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "IntOrString"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "Quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "Time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "MicroTime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "Any"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "Any"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "Any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "Any"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "SchemaOr"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "SchemaOr"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray", "SchemaOr"),
];

const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

fn main() -> Result<(), Error> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=data/fields.txt");
    println!("cargo:rerun-if-env-changed=PHAROS_SCHEMAS");
    println!("cargo:rerun-if-env-changed=PHAROS_CACHE");
    let inputs = inputs()?;
    println!("cargo:rerun-if-changed={}", inputs.join("definitions.json").display());
    let text = fs::read_to_string(inputs.join("definitions.json"))?;
    let document: Value = serde_json::from_str(&text)?;
    let definitions = document["$defs"].as_object().ok_or("definitions.json has no $defs")?;

    let mut messages = Messages::default();
    messages.read_tree(&inputs.join("k8s-pb-0.9.0/src"), "io.k8s")?;
    let facts = Facts::read(Path::new("data/fields.txt"))?;
    let kept = reachable(definitions);

    let mut generator =
        Generator { definitions, messages, facts, index: BTreeMap::new(), out: String::new(), docs: Vec::new(), statics: 0 };
    generator.index = kept.iter().enumerate().map(|(n, name)| (name.clone(), n)).collect();
    for name in &kept {
        generator.definition(name)?;
    }
    let list: Vec<String> = (0..kept.len()).map(|n| format!("&D{n}")).collect();
    writeln!(generator.out, "static DEFINITIONS: [&Definition; {}] = [{}];", kept.len(), list.join(", "))?;

    let mut hasher = DefaultHasher::new();
    (&generator.out, &generator.docs).hash(&mut hasher);
    println!("cargo:rustc-env=PHAROS_TABLES_HASH={:016x}", hasher.finish());
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("definitions.rs"), &generator.out)?;
    fs::write(out.join("descriptions.zst"), zstd::encode_all(generator.docs.join("\0").as_bytes(), 19)?)?;
    Ok(())
}

/// The folder with the inputs: `PHAROS_SCHEMAS`, or what `scripts/schemas` prints after fetching what is missing.
fn inputs() -> Result<PathBuf, Error> {
    if let Some(dir) = env::var_os("PHAROS_SCHEMAS") {
        return Ok(PathBuf::from(dir));
    }
    let script = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../scripts/schemas");
    let output = Command::new(&script).output().map_err(|e| format!("run {}: {e}", script.display()))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(
            format!("fetching the Kubernetes schemas failed ({reason}); run scripts/schemas or set PHAROS_SCHEMAS").into()
        );
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// Everything of stable versions, and what that refers to.
fn reachable(definitions: &serde_json::Map<String, Value>) -> Vec<String> {
    let unstable =
        |name: &str| name.split('.').any(|part| part.starts_with('v') && (part.contains("alpha") || part.contains("beta")));
    let mut todo: Vec<String> = definitions.keys().filter(|name| !unstable(name)).cloned().collect();
    let mut kept = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if let Some(definition) = definitions.get(&name)
            && kept.insert(name)
        {
            references(definition, &mut todo);
        }
    }
    kept.into_iter().collect()
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                found.push(target.trim_start_matches("#/$defs/").to_owned());
            }
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

/// A name as both JSON and prost write it: lower case, letters and digits.
fn plain(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

#[derive(Clone, Default)]
struct Field {
    tag: u32,
    message: Option<String>,
    default: Option<String>,
}

/// Protobuf messages by package and plain name, fields by plain name.
#[derive(Default)]
struct Messages(BTreeMap<(String, String), BTreeMap<String, Field>>);

impl Messages {
    fn read_tree(&mut self, dir: &Path, package: &str) -> Result<(), Error> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().replace('_', "-");
            if entry.file_type()?.is_dir() {
                self.read_tree(&entry.path(), &format!("{package}.{name}"))?;
            } else if name == "mod.rs" {
                self.read(&fs::read_to_string(entry.path())?, package);
            }
        }
        Ok(())
    }

    /// prost's output is regular: one attribute before each field, one item a line.
    fn read(&mut self, source: &str, package: &str) {
        let mut message = None;
        let mut attribute = String::new();
        let mut default = None;
        for line in source.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("pub struct ") {
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                message = Some((package.to_owned(), plain(name)));
                self.0.entry((package.to_owned(), plain(name))).or_default();
                default = None;
            } else if let Some(text) = line.strip_prefix("/// +default=") {
                default = Some(text.to_owned());
            } else if line.starts_with("#[prost(") {
                attribute = line.to_owned();
            } else if let (Some(field), Some(message)) = (line.strip_prefix("pub "), &message) {
                let Some((name, ty)) = field.split_once(':') else { continue };
                let tag = attribute.split("tag = \"").nth(1).and_then(|t| t.split('"').next()).and_then(|t| t.parse().ok());
                let inner = ty.trim_end_matches(',').trim_end_matches('>').rsplit([':', '<']).next().map(plain);
                if let (Some(tag), Some(fields)) = (tag, self.0.get_mut(message)) {
                    let message = attribute.contains("(message, optional").then_some(inner).flatten();
                    fields.insert(plain(name), Field { tag, message, default: default.take() });
                }
                attribute.clear();
            }
        }
    }

    fn get(&self, package: &str, name: &str) -> Option<&BTreeMap<String, Field>> {
        self.0.get(&(package.to_owned(), plain(name)))
    }
}

/// `data/fields.txt`: newer protobuf numbers, and scalars whose zero is not absence; both by `group/version.Type` and field.
struct Facts {
    tags: BTreeMap<(String, String), u32>,
    optional: BTreeSet<(String, String)>,
}

impl Facts {
    fn read(path: &Path) -> Result<Self, Error> {
        let mut facts = Self { tags: BTreeMap::new(), optional: BTreeSet::new() };
        for line in fs::read_to_string(path)?.lines().filter(|l| !l.starts_with('#')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["tag", ty, field, number] => drop(facts.tags.insert(((*ty).to_owned(), (*field).to_owned()), number.parse()?)),
                ["opt", ty, fields @ ..] => facts.optional.extend(fields.iter().map(|f| ((*ty).to_owned(), (*f).to_owned()))),
                _ => return Err(format!("data/fields.txt: {line}").into()),
            }
        }
        Ok(facts)
    }
}

struct Generator<'a> {
    definitions: &'a serde_json::Map<String, Value>,
    messages: Messages,
    facts: Facts,
    index: BTreeMap<String, usize>,
    out: String,
    docs: Vec<String>,
    statics: usize,
}

/// How a field travels in protobuf.
#[derive(Default)]
struct Wire {
    tag: u32,
    via: u32,
    optional: bool,
    default: Option<String>,
}

impl Generator<'_> {
    fn definition(&mut self, name: &str) -> Result<(), Error> {
        let node = &self.definitions[name];
        let number = self.index[name];
        let doc = self.docs.len();
        self.docs.push(text(node, "description").to_owned());
        let special = SPECIAL.iter().find(|(special, _)| *special == name).map(|(_, ty)| *ty);
        let schema = match special {
            Some("SchemaOr") => {
                let properties = format!("&P{}", self.index[JSON_SCHEMA_PROPS]);
                schema_call("SchemaOr", node, &properties, "None", "None", "None")
            }
            Some(ty) => schema_call(ty, node, "&[]", "None", "None", "None"),
            None => self.object(name, node)?,
        };
        let gvks: Vec<String> = node["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|g| format!("({:?}, {:?}, {:?})", text(g, "group"), text(g, "version"), text(g, "kind")))
            .collect();
        let unions = node.get("x-kubernetes-unions").map_or_else(String::new, Value::to_string);
        writeln!(
            self.out,
            "static D{number}: Definition = Definition {{ name: {name:?}, gvks: &[{}], schema: {schema}, doc: {doc}, unions: {unions:?} }};",
            gvks.join(", ")
        )?;
        Ok(())
    }

    /// The schema of a definition with properties; descriptions are pushed in property order.
    fn object(&mut self, name: &str, node: &Value) -> Result<String, Error> {
        let Some(properties) = node["properties"].as_object() else {
            return self.schema(node);
        };
        let required: BTreeSet<&str> = node["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let sorted: BTreeMap<&String, &Value> = properties.iter().collect();
        let mut rows = Vec::new();
        for (field, schema) in sorted {
            self.docs.push(text(schema, "description").to_owned());
            let wire = self.wire(name, field, properties);
            let default = wire.default.map_or_else(|| "None".to_owned(), |d| format!("Some({d:?})"));
            rows.push(format!(
                "Property {{ name: Str::Borrowed({field:?}), tag: {}, via: {}, required: {}, optional_zero: {}, default: {default}, schema: {} }}",
                wire.tag,
                wire.via,
                required.contains(field.as_str()),
                wire.optional,
                self.schema(schema)?
            ));
        }
        let number = self.index[name];
        writeln!(self.out, "static P{number}: [Property; {}] = [\n{}];", rows.len(), rows.join(",\n"))?;
        let extra = self.extra(node)?;
        Ok(schema_call("Object", node, &format!("&P{number}"), "None", "None", &extra))
    }

    fn wire(&self, name: &str, field: &str, properties: &serde_json::Map<String, Value>) -> Wire {
        let (package, ty) = name.rsplit_once('.').unwrap_or_default();
        let mut parts = package.rsplit('.');
        let (version, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let key = |ty: &str| (format!("{group}/{version}.{ty}"), field.to_owned());
        let mut wire = Wire { optional: self.facts.optional.contains(&key(ty)), ..Wire::default() };
        if let Some(tag) = self.facts.tags.get(&key(ty)) {
            wire.tag = *tag;
            return wire;
        }
        let Some(message) = self.messages.get(package, ty) else { return wire };
        if let Some(found) = message.get(&plain(field)) {
            wire.tag = found.tag;
            wire.default = default_json(found.default.as_deref());
            return wire;
        }
        // Embedded structs are flattened in JSON, and messages of their own in protobuf, up to two deep.
        let known: BTreeSet<String> = properties.keys().map(|name| plain(name)).collect();
        let embedded = |message: &BTreeMap<String, Field>| -> Vec<(u32, String)> {
            let hidden = message.iter().filter(|(name, _)| !known.contains(*name));
            hidden.filter_map(|(_, field)| Some((field.tag, field.message.clone()?))).collect()
        };
        let mut todo: Vec<(u32, String)> = embedded(message);
        while let Some((via, inner)) = todo.pop() {
            let Some(fields) = self.messages.get(package, &inner) else { continue };
            if let Some(found) = fields.get(&plain(field)) {
                wire.tag = found.tag;
                wire.via = via;
                wire.default = default_json(found.default.as_deref());
                let prefix = format!("{group}/{version}.");
                let same = |ty: &str| ty.strip_prefix(&prefix).is_some_and(|ty| plain(ty) == inner);
                wire.optional |= self.facts.optional.iter().any(|(ty, name)| name == field && same(ty));
                return wire;
            }
            if via >> 16 == 0 {
                todo.extend(embedded(fields).into_iter().map(|(tag, inner)| (via | tag << 16, inner)));
            }
        }
        wire
    }

    fn schema(&mut self, node: &Value) -> Result<String, Error> {
        let extra = self.extra(node)?;
        if let Some(target) = node["$ref"].as_str() {
            let target = target.trim_start_matches("#/$defs/");
            let special = SPECIAL.iter().find(|(special, _)| *special == target).map_or("Object", |(_, ty)| *ty);
            let number = self.index.get(target).ok_or_else(|| format!("no definition {target}"))?;
            let reference = format!("Some(&D{number})");
            return Ok(schema_call(special, node, "&[]", "None", &reference, &extra));
        }
        let ty = node["type"].as_str().or_else(|| node["type"][0].as_str()).unwrap_or_default();
        let child = node.get("items").or_else(|| node.get("additionalProperties")).filter(|child| child.is_object());
        let items = match child {
            Some(child) => {
                let inner = self.schema(child)?;
                self.statics += 1;
                writeln!(self.out, "static S{}: Schema = {inner};", self.statics)?;
                format!("Some(Node::Static(&S{}))", self.statics)
            }
            None => "None".to_owned(),
        };
        let ty = match (ty, text(node, "format")) {
            ("array", _) => "Array",
            ("object", _) if child.is_some() => "Map",
            ("object", _) => "Object",
            ("string", "byte") => "Bytes",
            ("string", _) => "String",
            ("integer", _) => "Integer",
            ("number", _) => "Number",
            ("boolean", _) => "Boolean",
            _ => "Any",
        };
        Ok(schema_call(ty, node, "&[]", &items, "None", &extra))
    }

    fn extra(&mut self, node: &Value) -> Result<String, Error> {
        let names = |key: &str| -> Vec<String> {
            node[key]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(|s| format!("Str::Borrowed({s:?})"))
                .collect()
        };
        let (keys, required) = (names("x-kubernetes-list-map-keys"), names("required"));
        let merge_key = node["x-kubernetes-patch-merge-key"].as_str();
        if keys.is_empty() && required.is_empty() && merge_key.is_none() {
            return Ok("None".to_owned());
        }
        self.statics += 1;
        writeln!(
            self.out,
            "static E{}: StaticExtra = StaticExtra {{ list_map_keys: &[{}], patch_merge_key: {merge_key:?}, required: &[{}] }};",
            self.statics,
            keys.join(", "),
            required.join(", ")
        )?;
        Ok(format!("Some(ExtraRef::Static(&E{}))", self.statics))
    }
}

fn schema_call(ty: &str, node: &Value, properties: &str, items: &str, target: &str, extra: &str) -> String {
    let strategy = text(node, "x-kubernetes-patch-strategy");
    let list = match text(node, "x-kubernetes-list-type") {
        "map" => "Map",
        "set" => "Set",
        _ => "Atomic",
    };
    let atomic = text(node, "x-kubernetes-map-type") == "atomic";
    format!(
        "Schema::constant(Type::{ty}, {:?}, ListType::{list}, {atomic}, {}, {}, {properties}, {items}, {target}, {extra})",
        text(node, "format"),
        strategy.split(',').any(|s| s == "merge"),
        strategy.split(',').any(|s| s == "retainKeys"),
    )
}

/// A declared default as JSON text; references to Go constants are written out in `defaulting` instead.
fn default_json(marker: Option<&str>) -> Option<String> {
    let marker = marker?;
    serde_json::from_str::<Value>(marker).is_ok().then(|| marker.to_owned())
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node[key].as_str().unwrap_or_default()
}
