//! The messages of version 3 (gnostic's `openapiv3/OpenAPIv3.proto`).

use serde_json::Value;

use super::{EXTERNAL_DOCS, Form::*, Message, message};

static DOCUMENT: Message = Message {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, One(&INFO)),
        ("paths", 4, Named(&PATH_ITEM)),
        ("components", 5, One(&COMPONENTS)),
        ("security", 6, Requirements),
        ("externalDocs", 8, One(&EXTERNAL_DOCS)),
    ],
    extensions: 9,
};

static INFO: Message = Message { fields: &[("title", 1, Text), ("description", 2, Text), ("version", 6, Text)], extensions: 7 };

static COMPONENTS: Message = Message {
    fields: &[("schemas", 1, NamedEither(&SCHEMA)), ("securitySchemes", 7, NamedEither(&SECURITY_SCHEME))],
    extensions: 10,
};

static SECURITY_SCHEME: Message = Message {
    fields: &[
        ("type", 1, Text),
        ("description", 2, Text),
        ("name", 3, Text),
        ("in", 4, Text),
        ("scheme", 5, Text),
        ("bearerFormat", 6, Text),
    ],
    extensions: 9,
};

/// What stands where something else could.
pub(super) static REFERENCE: Message =
    Message { fields: &[("$ref", 1, Text), ("summary", 2, Text), ("description", 3, Text)], extensions: 0 };

static SCHEMA: Message = Message {
    fields: &[
        ("nullable", 1, Flag),
        ("readOnly", 3, Flag),
        ("writeOnly", 4, Flag),
        ("externalDocs", 6, One(&EXTERNAL_DOCS)),
        ("example", 7, Any),
        ("deprecated", 8, Flag),
        ("title", 9, Text),
        ("multipleOf", 10, Number),
        ("maximum", 11, Number),
        ("exclusiveMaximum", 12, Flag),
        ("minimum", 13, Number),
        ("exclusiveMinimum", 14, Flag),
        ("maxLength", 15, Integer),
        ("minLength", 16, Integer),
        ("pattern", 17, Text),
        ("maxItems", 18, Integer),
        ("minItems", 19, Integer),
        ("uniqueItems", 20, Flag),
        ("maxProperties", 21, Integer),
        ("minProperties", 22, Integer),
        ("required", 23, Texts),
        ("enum", 24, Anys),
        ("type", 25, Text),
        ("allOf", 26, Eithers(&SCHEMA)),
        ("oneOf", 27, Eithers(&SCHEMA)),
        ("anyOf", 28, Eithers(&SCHEMA)),
        ("not", 29, One(&SCHEMA)),
        ("items", 30, EitherList(&SCHEMA)),
        ("properties", 31, NamedEither(&SCHEMA)),
        ("additionalProperties", 32, EitherOrFlag(&SCHEMA)),
        ("default", 33, Scalar),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 4, One(&OPERATION)),
        ("put", 5, One(&OPERATION)),
        ("post", 6, One(&OPERATION)),
        ("delete", 7, One(&OPERATION)),
        ("options", 8, One(&OPERATION)),
        ("head", 9, One(&OPERATION)),
        ("patch", 10, One(&OPERATION)),
        ("parameters", 13, Eithers(&PARAMETER)),
    ],
    extensions: 14,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("summary", 2, Text),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, Eithers(&PARAMETER)),
        ("requestBody", 7, Either(&REQUEST_BODY)),
        ("responses", 8, Coded(&RESPONSE)),
        ("deprecated", 10, Flag),
    ],
    extensions: 13,
};

static PARAMETER: Message = Message {
    fields: &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Flag),
        ("deprecated", 5, Flag),
        ("allowEmptyValue", 6, Flag),
        ("schema", 10, Either(&SCHEMA)),
        ("example", 11, Any),
        ("content", 13, Named(&MEDIA_TYPE)),
    ],
    extensions: 14,
};

static REQUEST_BODY: Message =
    Message { fields: &[("description", 1, Text), ("content", 2, Named(&MEDIA_TYPE)), ("required", 3, Flag)], extensions: 4 };

static RESPONSE: Message = Message { fields: &[("description", 1, Text), ("content", 3, Named(&MEDIA_TYPE))], extensions: 5 };

static MEDIA_TYPE: Message = Message { fields: &[("schema", 1, Either(&SCHEMA)), ("example", 2, Any)], extensions: 5 };

/// The document as protobuf.
pub(in crate::openapi) fn document(json: &Value) -> Vec<u8> {
    message(&DOCUMENT, json)
}
