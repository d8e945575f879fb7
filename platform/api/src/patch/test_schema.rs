//! A small schema in the shape of a Deployment, for the tests of patches.

use std::borrow::Cow;
use std::sync::Arc;

use crate::schema::{Extra, ExtraRef, ListType, Node, Property, Schema, Seq, Type};

fn object(fields: Vec<(&'static str, Schema)>) -> Schema {
    let property = |(name, schema)| Property {
        name: Cow::Borrowed(name),
        tag: 0,
        via: 0,
        required: false,
        optional_zero: false,
        default: None,
        schema,
    };
    let mut properties: Vec<Property> = fields.into_iter().map(property).collect();
    properties.sort_by(|a, b| a.name.cmp(&b.name));
    Schema { properties: Seq::Owned(properties.into()), ..Schema::new(Type::Object) }
}

fn of(ty: Type, items: Schema) -> Schema {
    Schema { items: Some(Node::Owned(Arc::new(items))), ..Schema::new(ty) }
}

fn keyed(items: Schema, keys: &[&'static str], merge_key: &'static str) -> Schema {
    let extra = Extra {
        list_map_keys: keys.iter().map(|k| Cow::Borrowed(*k)).collect(),
        patch_merge_key: Some(Cow::Borrowed(merge_key)),
        ..Extra::default()
    };
    let list = of(Type::Array, items);
    Schema { list_type: ListType::Map, patch_merge: true, extra: Some(ExtraRef::Owned(Arc::new(extra))), ..list }
}

pub(super) fn deployment() -> Schema {
    let text = || Schema::new(Type::String);
    let strings = || of(Type::Map, text());
    let port = object(vec![("containerPort", Schema::new(Type::Integer)), ("protocol", text()), ("name", text())]);
    let container = object(vec![
        ("name", text()),
        ("image", text()),
        ("args", of(Type::Array, text())),
        ("ports", keyed(port, &["containerPort", "protocol"], "containerPort")),
    ]);
    let finalizers = Schema { list_type: ListType::Set, patch_merge: true, ..of(Type::Array, text()) };
    let selector = Schema { map_atomic: true, ..object(vec![("matchLabels", strings())]) };
    let strategy = object(vec![("type", text()), ("rollingUpdate", object(vec![("maxSurge", Schema::new(Type::IntOrString))]))]);
    object(vec![
        ("apiVersion", text()),
        ("kind", text()),
        (
            "metadata",
            object(vec![
                ("name", text()),
                ("namespace", text()),
                ("labels", strings()),
                ("annotations", strings()),
                ("finalizers", finalizers),
                ("managedFields", of(Type::Array, Schema::new(Type::Any))),
            ]),
        ),
        (
            "spec",
            object(vec![
                ("replicas", Schema::new(Type::Integer)),
                ("args", of(Type::Array, text())),
                ("selector", selector),
                ("strategy", strategy),
                ("containers", keyed(container, &["name"], "name")),
            ]),
        ),
    ])
}
