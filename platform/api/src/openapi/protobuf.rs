//! Documents as protobuf: gnostic's `openapi.v2.Document` and `openapi.v3.Document`, which Go clients read.
//!
//! Messages are tables from the JSON name of a field to its number and form (gnostic's `openapiv2/OpenAPIv2.proto`; version 3 has
//! tables of its own); only what our documents are made of is in them. Extensions hold JSON, which is YAML.

use serde_json::{Map, Value};

use crate::protobuf::wire::{put_bytes, put_double, put_varint};

mod v3;

pub(super) use v3::document as v3_document;

/// How a field is written.
enum Form {
    Text,
    Flag,
    Integer,
    Number,
    Texts,
    Any,
    Anys,
    One(&'static Message),
    Many(&'static Message),
    /// A message whose only field, 1, is a list of texts; JSON has the list, or one text.
    TextList,
    /// A message whose only field, 1, is a list of schemas; JSON has the list, or one schema.
    SchemaList,
    /// A message whose only field, 1, is a list of names with values of this message.
    Named(&'static Message),
    AdditionalProperties,
    Paths,
    Parameters,
    Responses,
    /// A message which is one of several: always this number of it.
    Choice(u32, &'static Message),
    Requirements,
    /// A message which is one of two: this one (1), or a reference (2).
    Either(&'static Message),
    Eithers(&'static Message),
    /// A message whose only field, 1, is a list of names with values of this message or references.
    NamedEither(&'static Message),
    /// A message whose only field, 1, is a list of these or of references; JSON has the list, or one of them.
    EitherList(&'static Message),
    /// `AdditionalPropertiesItem` of version 3: values of this message or references, or a flag.
    EitherOrFlag(&'static Message),
    /// `DefaultType`, which has room for scalars only.
    Scalar,
    /// `Responses` of version 3: by code, values of this message or references.
    Coded(&'static Message),
}

/// A message: its fields, and the number of its vendor extensions.
struct Message {
    fields: &'static [(&'static str, u32, Form)],
    extensions: u32,
}

use Form::*;

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, One(&INFO)),
        ("paths", 8, Paths),
        ("definitions", 9, Named(&SCHEMA)),
        ("security", 12, Requirements),
        ("securityDefinitions", 13, Named(&SECURITY)),
    ],
    extensions: 16,
};

static INFO: Message = Message { fields: &[("title", 1, Text), ("version", 2, Text), ("description", 3, Text)], extensions: 7 };

/// `SecurityDefinitionsItem` with its API key, the one kind we have.
static SECURITY: Message = Message { fields: &[("", 2, Choice(2, &API_KEY))], extensions: 0 };

static API_KEY: Message =
    Message { fields: &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)], extensions: 5 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Number),
        ("maximum", 7, Number),
        ("exclusiveMaximum", 8, Flag),
        ("minimum", 9, Number),
        ("exclusiveMinimum", 10, Flag),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Flag),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Texts),
        ("enum", 20, Anys),
        ("additionalProperties", 21, AdditionalProperties),
        ("type", 22, TextList),
        ("items", 23, SchemaList),
        ("allOf", 24, Many(&SCHEMA)),
        ("properties", 25, Named(&SCHEMA)),
        ("externalDocs", 29, One(&EXTERNAL_DOCS)),
        ("example", 30, Any),
    ],
    extensions: 31,
};

static EXTERNAL_DOCS: Message = Message { fields: &[("description", 1, Text), ("url", 2, Text)], extensions: 3 };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, One(&OPERATION)),
        ("put", 3, One(&OPERATION)),
        ("post", 4, One(&OPERATION)),
        ("delete", 5, One(&OPERATION)),
        ("options", 6, One(&OPERATION)),
        ("head", 7, One(&OPERATION)),
        ("patch", 8, One(&OPERATION)),
        ("parameters", 9, Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, Parameters),
        ("responses", 9, Responses),
        ("schemes", 10, Texts),
        ("deprecated", 11, Flag),
    ],
    extensions: 13,
};

static BODY_PARAMETER: Message = Message {
    fields: &[("description", 1, Text), ("name", 2, Text), ("in", 3, Text), ("required", 4, Flag), ("schema", 5, One(&SCHEMA))],
    extensions: 6,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("format", 7, Text),
        ("uniqueItems", 20, Flag),
    ],
    extensions: 23,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Flag),
        ("in", 2, Text),
        ("description", 3, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("format", 6, Text),
        ("uniqueItems", 19, Flag),
    ],
    extensions: 22,
};

static RESPONSE: Message = Message { fields: &[("description", 1, Text), ("schema", 2, Choice(1, &SCHEMA))], extensions: 5 };

/// The document as protobuf.
pub(super) fn document(json: &Value) -> Vec<u8> {
    message(&DOCUMENT, json)
}

fn message(table: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let [("", number, Choice(_, inner))] = table.fields {
        put_bytes(&mut out, *number, &message(inner, value));
        return out;
    }
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    for (name, value) in object {
        match table.fields.iter().find(|(known, ..)| known == name) {
            Some((_, number, form)) => field(&mut out, *number, form, value),
            None if name.starts_with("x-") => put_bytes(&mut out, table.extensions, &named(name, &any(value))),
            None => {}
        }
    }
    out
}

fn field(out: &mut Vec<u8>, number: u32, form: &Form, value: &Value) {
    match form {
        Text => put_text(out, number, value),
        Flag => put_varint(out, number, value.as_bool().unwrap_or_default().into()),
        Integer => put_varint(out, number, value.as_i64().unwrap_or_default().cast_unsigned()),
        Number => put_double(out, number, value.as_f64().unwrap_or_default()),
        Texts => list(value).iter().for_each(|text| put_text(out, number, text)),
        Any => put_bytes(out, number, &any(value)),
        Anys => list(value).iter().for_each(|value| put_bytes(out, number, &any(value))),
        One(inner) => put_bytes(out, number, &message(inner, value)),
        Many(inner) => list(value).iter().for_each(|value| put_bytes(out, number, &message(inner, value))),
        TextList => put_bytes(out, number, &nested(list(value), |text| text.as_str().unwrap_or_default().into())),
        SchemaList => put_bytes(out, number, &nested(list(value), |schema| message(&SCHEMA, schema))),
        Named(inner) => {
            let entries = entries(value).map(|(name, value)| named(name, &message(inner, value)));
            put_bytes(out, number, &repeated(1, entries));
        }
        AdditionalProperties => {
            let mut item = Vec::new();
            match value {
                Value::Bool(allowed) => put_varint(&mut item, 2, (*allowed).into()),
                schema => put_bytes(&mut item, 1, &message(&SCHEMA, schema)),
            }
            put_bytes(out, number, &item);
        }
        Paths => {
            let entries = entries(value).map(|(path, item)| named(path, &message(&PATH_ITEM, item)));
            put_bytes(out, number, &repeated(2, entries));
        }
        Parameters => list(value).iter().for_each(|value| put_bytes(out, number, &parameter(value))),
        Responses => {
            let entries = entries(value).map(|(code, response)| {
                named(code, &repeated(1, [message(&RESPONSE, response)])) // `ResponseValue`
            });
            put_bytes(out, number, &repeated(1, entries));
        }
        Choice(choice, inner) => put_bytes(out, number, &repeated(*choice, [message(inner, value)])),
        Requirements => {
            for requirement in list(value) {
                let entries = entries(requirement)
                    .map(|(name, scopes)| named(name, &nested(list(scopes), |scope| scope.as_str().unwrap_or_default().into())));
                put_bytes(out, number, &repeated(1, entries));
            }
        }
        Either(inner) => put_bytes(out, number, &either(inner, value)),
        Eithers(inner) => list(value).iter().for_each(|value| put_bytes(out, number, &either(inner, value))),
        NamedEither(inner) => {
            let entries = entries(value).map(|(name, value)| named(name, &either(inner, value)));
            put_bytes(out, number, &repeated(1, entries));
        }
        EitherList(inner) => put_bytes(out, number, &nested(list(value), |value| either(inner, value))),
        EitherOrFlag(inner) => {
            let mut item = Vec::new();
            match value {
                Value::Bool(allowed) => put_varint(&mut item, 2, (*allowed).into()),
                value => put_bytes(&mut item, 1, &either(inner, value)),
            }
            put_bytes(out, number, &item);
        }
        Scalar => {
            let mut item = Vec::new();
            match value {
                Value::Number(value) => put_double(&mut item, 1, value.as_f64().unwrap_or_default()),
                Value::Bool(value) => put_varint(&mut item, 2, (*value).into()),
                Value::String(value) => put_bytes(&mut item, 3, value.as_bytes()),
                _ => return, // For anything else there is no field, as upstream finds.
            }
            put_bytes(out, number, &item);
        }
        Coded(inner) => {
            let entries = entries(value).map(|(code, response)| named(code, &either(inner, response)));
            put_bytes(out, number, &repeated(2, entries));
        }
    }
}

/// A message of its own or a reference, in the message that is either.
fn either(inner: &Message, value: &Value) -> Vec<u8> {
    match value.get("$ref") {
        Some(_) => repeated(2, [message(&v3::REFERENCE, value)]),
        None => repeated(1, [message(inner, value)]),
    }
}

/// `ParametersItem` of a parameter: for the body, or not.
fn parameter(value: &Value) -> Vec<u8> {
    let parameter = match value["in"].as_str() {
        Some("body") => repeated(1, [message(&BODY_PARAMETER, value)]),
        Some("path") => repeated(2, [repeated(4, [message(&PATH_PARAMETER, value)])]),
        _ => repeated(2, [repeated(3, [message(&QUERY_PARAMETER, value)])]),
    };
    repeated(1, [parameter])
}

/// A message with nothing but this field.
fn repeated(number: u32, values: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        put_bytes(&mut out, number, &value);
    }
    out
}

fn nested(values: &[Value], write: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    repeated(1, values.iter().map(write))
}

/// `NamedAny`, `NamedSchema` and the like, all of one layout.
fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 8);
    put_bytes(&mut out, 1, name.as_bytes());
    put_bytes(&mut out, 2, value);
    out
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, value.to_string().as_bytes());
    out
}

fn put_text(out: &mut Vec<u8>, number: u32, value: &Value) {
    put_bytes(out, number, value.as_str().unwrap_or_default().as_bytes());
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice)
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}
