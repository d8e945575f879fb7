//! A stored object: its JSON as it is served, and an index card of what is asked about it.
//!
//! The bytes never change once made; a list joins them, a watch sends them, nobody serialises them again. The card is
//! read from them in one partial pass, the first time someone asks, and kept. What else is derived from the bytes
//! (protobuf, a table row, a watch line) has a slot that is filled once and shared by every client.

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// An object at one revision.
pub struct Object {
    bytes: Bytes,
    revision: u64,
    create_revision: u64,
    fields: Arc<Fields>,
    card: OnceLock<Box<Card>>,
    encodings: [OnceLock<Bytes>; Encoding::COUNT],
}

/// What is known of an object without reading it whole.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Card {
    /// `apiVersion`, as stored.
    pub api_version: Box<str>,
    /// `kind`, as stored.
    pub kind: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`, empty for what has none.
    pub namespace: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`, ordered by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `metadata.ownerReferences`.
    pub owners: Box<[OwnerReference]>,
    /// Whether `metadata.finalizers` holds any.
    pub has_finalizers: bool,
    /// `metadata.generation`, 0 where the kind has none.
    pub generation: i64,
    /// `metadata.creationTimestamp`, RFC 3339.
    pub creation_timestamp: Option<Box<str>>,
    /// `metadata.deletionTimestamp`, RFC 3339.
    pub deletion_timestamp: Option<Box<str>>,
    /// Why the bytes could not be read as an object. The rest of the card then holds what came before the fault.
    pub fault: Option<Box<str>>,
    /// Values of the selectable fields, in the order of [`Fields::names`].
    values: Box<[Box<str>]>,
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerReference {
    /// Group and version of the owner.
    pub api_version: Box<str>,
    /// Kind of the owner.
    pub kind: Box<str>,
    /// Name of the owner, in the same namespace or cluster-scoped.
    pub name: Box<str>,
    /// UID of the owner.
    pub uid: Box<str>,
    /// Whether the owner is the managing controller.
    pub controller: bool,
    /// Whether the owner cannot go, in the foreground, before this object.
    pub block_owner_deletion: bool,
}

/// A representation kept beside the object once someone needed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `application/vnd.kubernetes.protobuf`, with its envelope.
    Protobuf,
    /// A row of the kind's `Table`.
    TableRow,
    /// What a JSON watch line has after its `type`.
    WatchLine,
}

/// The fields objects of a kind can be selected by, besides `metadata.name` and `metadata.namespace`.
#[derive(Debug, Default)]
pub struct Fields {
    specs: Vec<Field>,
    root: Node,
}

/// A selectable field: the name selectors use and where its value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The name in a selector, such as `spec.nodeName`.
    pub name: String,
    /// Dotted paths into the object; the first that holds a scalar gives the value.
    pub paths: Vec<String>,
    /// The value when no path holds one.
    pub default: String,
}

/// A step of the paths, merged into one tree.
#[derive(Debug, Default)]
struct Node {
    /// Fields whose path ends here: index of the field and rank of the path.
    ends: Vec<(usize, usize)>,
    children: Vec<(String, Node)>,
}

// === impl Object ===

impl Object {
    /// Wraps complete JSON bytes stored at `revision`. Reads nothing yet.
    pub fn new(bytes: Bytes, revision: u64, create_revision: u64, fields: Arc<Fields>) -> Self {
        Self { bytes, revision, create_revision, fields, card: OnceLock::new(), encodings: Default::default() }
    }

    /// The JSON, resource version included, ready to be sent.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The revision this state was committed at: the `resourceVersion`.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision the object was created at.
    pub fn create_revision(&self) -> u64 {
        self.create_revision
    }

    /// The index card, read from the bytes on first use.
    pub fn card(&self) -> &Card {
        self.card.get_or_init(|| Box::new(Card::read(&self.bytes, &self.fields)))
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.card().name
    }

    /// `metadata.namespace`, empty for what has none.
    pub fn namespace(&self) -> &str {
        &self.card().namespace
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.card().uid
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.card().label(key)
    }

    /// The value of a selectable field, `None` if objects of this kind cannot be selected by it.
    pub fn field(&self, name: &str) -> Option<&str> {
        let card = self.card();
        match name {
            "metadata.name" => Some(&card.name),
            "metadata.namespace" => Some(&card.namespace),
            _ => self.fields.position(name).and_then(|i| card.values.get(i)).map(|v| &**v),
        }
    }

    /// The selectable fields of the object's kind.
    pub fn fields(&self) -> &Arc<Fields> {
        &self.fields
    }

    /// A kept encoding, or what `make` gives, which is then kept.
    ///
    /// # Errors
    ///
    /// Those of `make`; nothing is kept then. Two first callers may both make it; one result stays.
    pub fn encoded<E>(&self, encoding: Encoding, make: impl FnOnce(&Self) -> Result<Bytes, E>) -> Result<Bytes, E> {
        let slot = &self.encodings[encoding as usize];
        if let Some(bytes) = slot.get() {
            return Ok(bytes.clone());
        }
        let made = make(self)?;
        Ok(slot.get_or_init(|| made).clone())
    }
}

impl fmt::Debug for Object {
    /// Names the object and leaves its content out: it may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let card = self.card();
        f.debug_struct("Object")
            .field("kind", &card.kind)
            .field("namespace", &card.namespace)
            .field("name", &card.name)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

impl Encoding {
    const COUNT: usize = 3;
}

// === impl Card ===

impl Card {
    /// Reads the card of an object's JSON in one pass over it.
    pub fn read(json: &[u8], fields: &Fields) -> Self {
        let mut reading = Reading::new(fields);
        let mut json = serde_json::Deserializer::from_slice(json);
        let outcome = RootSeed(&mut reading).deserialize(&mut json).and_then(|()| json.end());
        let mut card = reading.finish();
        card.fault = outcome.err().map(|e| e.to_string().into());
        card
    }

    /// The group part of `apiVersion`, empty for the core group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The owner that manages the object, if one does.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|owner| owner.controller)
    }
}

// === impl Fields ===

impl Fields {
    /// Merges the paths of a kind's fields. A later field of the same name is ignored.
    pub fn new(specs: impl IntoIterator<Item = Field>) -> Self {
        let mut fields = Self::default();
        for spec in specs {
            if fields.position(&spec.name).is_some() {
                continue;
            }
            for (rank, path) in spec.paths.iter().enumerate() {
                fields.root.at(path).ends.push((fields.specs.len(), rank));
            }
            fields.specs.push(spec);
        }
        fields
    }

    /// The names, in the order given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.specs.iter().map(|spec| spec.name.as_str())
    }

    /// Whether a selector may name the field; `metadata.name` and `metadata.namespace` always.
    pub fn contains(&self, name: &str) -> bool {
        matches!(name, "metadata.name" | "metadata.namespace") || self.position(name).is_some()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|spec| spec.name == name)
    }
}

impl Field {
    /// A field named by its own path, empty when absent.
    pub fn plain(path: &str) -> Self {
        Self { name: path.to_owned(), paths: vec![path.to_owned()], default: String::new() }
    }

    /// A field named by its own path, with a value for when it is absent.
    pub fn with_default(path: &str, default: &str) -> Self {
        Self { default: default.to_owned(), ..Self::plain(path) }
    }
}

impl Node {
    /// The node at a dotted path, made on the way. A leading dot, as in a JSONPath, is allowed.
    fn at(&mut self, path: &str) -> &mut Self {
        path.trim_start_matches('.').split('.').fold(self, |node, step| {
            let at = node.children.iter().position(|(name, _)| name == step).unwrap_or_else(|| {
                node.children.push((step.to_owned(), Self::default()));
                node.children.len() - 1
            });
            &mut node.children[at].1
        })
    }

    fn child(&self, step: &str) -> Option<&Self> {
        self.children.iter().find(|(name, _)| name == step).map(|(_, node)| node)
    }
}

// === reading ===

/// A card being filled.
struct Reading<'f> {
    fields: &'f Fields,
    /// The value found for each field and the rank of the path it was found at.
    found: Vec<Option<(usize, Box<str>)>>,
    card: Card,
}

/// A string borrowed from the input where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// `metadata`, as far as the card goes. `null` counts as absent, as everywhere in Kubernetes.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow)]
    uid: Option<Cow<'a, str>>,
    labels: Option<Labels>,
    owner_references: Option<Box<[OwnerReference]>>,
    finalizers: Option<Vec<IgnoredAny>>,
    generation: Option<i64>,
    creation_timestamp: Option<Box<str>>,
    deletion_timestamp: Option<Box<str>>,
}

/// Labels in the order of the document.
struct Labels(Vec<(Box<str>, Box<str>)>);

struct RootSeed<'r, 'f>(&'r mut Reading<'f>);
struct FieldSeed<'r, 'f>(&'r mut Reading<'f>, &'r Node);

impl<'f> Reading<'f> {
    fn new(fields: &'f Fields) -> Self {
        Self { fields, found: vec![None; fields.specs.len()], card: Card::default() }
    }

    fn keep(&mut self, node: &Node, value: &dyn fmt::Display) {
        for &(field, rank) in &node.ends {
            let slot = &mut self.found[field];
            if slot.as_ref().is_none_or(|(best, _)| rank < *best) {
                let value = value.to_string();
                if !value.is_empty() {
                    *slot = Some((rank, value.into()));
                }
            }
        }
    }

    fn metadata(&mut self, metadata: Metadata<'_>) {
        let card = &mut self.card;
        card.name = metadata.name.unwrap_or_default().into();
        card.namespace = metadata.namespace.unwrap_or_default().into();
        card.uid = metadata.uid.unwrap_or_default().into();
        let mut labels = metadata.labels.map(|labels| labels.0).unwrap_or_default();
        labels.sort();
        card.labels = labels.into();
        card.owners = metadata.owner_references.unwrap_or_default();
        card.has_finalizers = metadata.finalizers.is_some_and(|finalizers| !finalizers.is_empty());
        card.generation = metadata.generation.unwrap_or_default();
        card.creation_timestamp = metadata.creation_timestamp;
        card.deletion_timestamp = metadata.deletion_timestamp;
    }

    fn finish(self) -> Card {
        let values = self.found.into_iter().zip(&self.fields.specs);
        let values = values.map(|(found, spec)| found.map_or_else(|| spec.default.as_str().into(), |(_, value)| value));
        Card { values: values.collect(), ..self.card }
    }
}

impl<'de> DeserializeSeed<'de> for RootSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RootSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reading = self.0;
        let fields = reading.fields;
        while let Some(Text(key)) = map.next_key()? {
            match &*key {
                "apiVersion" => reading.card.api_version = map.next_value::<Text<'_>>()?.0.into(),
                "kind" => reading.card.kind = map.next_value::<Text<'_>>()?.0.into(),
                "metadata" => {
                    let metadata = map.next_value::<Option<Metadata<'_>>>()?;
                    reading.metadata(metadata.unwrap_or_default());
                }
                key => next_field(reading, &fields.root, key, &mut map)?,
            }
        }
        Ok(())
    }
}

/// Reads the value of `key` if a field lies there or below, and skips it otherwise.
fn next_field<'de, A: MapAccess<'de>>(reading: &mut Reading<'_>, node: &Node, key: &str, map: &mut A) -> Result<(), A::Error> {
    match node.child(key) {
        Some(child) => map.next_value_seed(FieldSeed(reading, child)),
        None => map.next_value::<IgnoredAny>().map(drop),
    }
}

impl<'de> DeserializeSeed<'de> for FieldSeed<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.0.keep(self.1, &value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.0.keep(self.1, &value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.0.keep(self.1, &value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.0.keep(self.1, &value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.0.keep(self.1, &value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(reading, node) = self;
        while let Some(Text(key)) = map.next_key()? {
            next_field(reading, node, &key, &mut map)?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;

        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Vec::with_capacity(map.size_hint().unwrap_or(0));
                while let Some((key, value)) = map.next_entry::<Box<str>, Option<Box<str>>>()? {
                    labels.push((key, value.unwrap_or_default()));
                }
                Ok(Labels(labels))
            }
        }

        deserializer.deserialize_map(LabelsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"n","uid":"u","generation":2,
        "labels":{"z":"1","a":"\u0062"},"annotations":{"x":"{}"},"finalizers":["f"],
        "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"o","controller":true}],
        "creationTimestamp":"2026-01-01T00:00:00Z","deletionTimestamp":null},
        "spec":{"nodeName":"node-1","hostNetwork":true,"containers":[{"name":"c"}],"priority":7},"status":{"phase":"Running"}}"#;

    fn pod_fields() -> Arc<Fields> {
        Arc::new(Fields::new([
            Field::plain("spec.nodeName"),
            Field::with_default("spec.schedulerName", "default-scheduler"),
            Field::with_default("spec.hostNetwork", "false"),
            Field { name: "p".into(), paths: vec!["status.none".into(), ".spec.priority".into()], default: "0".into() },
            Field { name: "q".into(), paths: vec!["status.phase".into(), "spec.nodeName".into()], default: "".into() },
        ]))
    }

    #[test]
    fn the_card_is_what_the_object_says() {
        let object = Object::new(Bytes::from_static(POD.as_bytes()), 7, 3, pod_fields());
        let card = object.card();
        assert_eq!((object.name(), object.namespace(), object.uid()), ("a", "n", "u"));
        assert_eq!((&*card.api_version, &*card.kind, card.group(), card.generation), ("v1", "Pod", "", 2));
        assert_eq!((object.label("a"), object.label("z"), object.label("b")), (Some("b"), Some("1"), None));
        assert_eq!(card.controller().map(|owner| &*owner.name), Some("r"));
        assert!(card.has_finalizers && card.deletion_timestamp.is_none() && card.fault.is_none());
        assert_eq!((object.revision(), object.create_revision()), (7, 3));
        for (field, value) in [
            ("metadata.name", Some("a")),
            ("metadata.namespace", Some("n")),
            ("spec.nodeName", Some("node-1")),
            ("spec.schedulerName", Some("default-scheduler")),
            ("spec.hostNetwork", Some("true")),
            ("p", Some("7")),
            ("q", Some("Running")),
            ("spec.other", None),
        ] {
            assert_eq!(object.field(field), value, "{field}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_so() {
        for (json, name) in [("", ""), ("[]", ""), (r#"{"metadata":{"name":"a"},"spec":"#, "a"), ("{} x", "")] {
            let card = Card::read(json.as_bytes(), &Fields::default());
            assert!(card.fault.is_some(), "{json}");
            assert_eq!(&*card.name, name, "{json}");
        }
        assert!(Card::read(br#"{"metadata":null,"spec":1}"#, &pod_fields()).fault.is_none());
    }

    #[test]
    fn an_encoding_is_made_once() {
        let object = Object::new(Bytes::from_static(b"{}"), 1, 1, Arc::default());
        let failed: Result<_, &str> = object.encoded(Encoding::Protobuf, |_| Err("no"));
        assert_eq!(failed, Err("no"));
        for content in ["one", "two"] {
            let bytes = object.encoded(Encoding::Protobuf, |_| Ok::<_, ()>(Bytes::from(content)));
            assert_eq!(bytes, Ok(Bytes::from("one")));
        }
    }
}
