//! The protobuf form of an OpenAPI version 2 document, `openapi.v2.Document` of gnostic, which `client-go` asks for.
//!
//! Field numbers are those of the published `OpenAPIv2.proto`. Extensions and other free values travel as
//! YAML text, for which JSON will do.

use serde_json::Value;

/// Media type by which clients ask for the encoded document.
pub const ACCEPTED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Media type under which it is sent: `@` is no character of a media type (RFC 2045), and Go's parser refuses it.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Encodes a version 2 document.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, |m| {
        m.text(1, &document["info"]["title"]);
        m.text(2, &document["info"]["version"]);
    });
    out.message(8, |m| {
        for (path, item) in entries(&document["paths"]) {
            m.named(2, path, |m| path_item(m, item));
        }
    });
    out.message(9, |m| {
        for (name, schema) in entries(&document["definitions"]) {
            m.named(1, name, |m| self::schema(m, schema));
        }
    });
    if document["parameters"].is_object() {
        out.message(10, |m| {
            for (name, parameter) in entries(&document["parameters"]) {
                m.named(1, name, |m| self::parameter(m, parameter));
            }
        });
    }
    for requirement in document["security"].as_array().into_iter().flatten() {
        out.message(12, |m| {
            for (name, scopes) in entries(requirement) {
                m.named(1, name, |m| m.texts(1, scopes));
            }
        });
    }
    out.message(13, |m| {
        for (name, definition) in entries(&document["securityDefinitions"]) {
            m.named(1, name, |m| {
                m.message(2, |m| {
                    for (number, key) in [(1, "type"), (2, "name"), (3, "in"), (4, "description")] {
                        m.text(number, &definition[key]);
                    }
                });
            });
        }
    });
    out.bytes
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn path_item(m: &mut Message, item: &Value) {
    for (number, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if item[method].is_object() {
            m.message(number, |m| operation(m, &item[method]));
        }
    }
    for parameter in item["parameters"].as_array().into_iter().flatten() {
        m.message(9, |m| parameter_or_reference(m, parameter));
    }
}

fn operation(m: &mut Message, operation: &Value) {
    m.texts(1, &operation["tags"]);
    m.text(3, &operation["description"]);
    m.text(5, &operation["operationId"]);
    m.texts(6, &operation["produces"]);
    m.texts(7, &operation["consumes"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        m.message(8, |m| parameter_or_reference(m, parameter));
    }
    m.message(9, |m| {
        for (code, response) in entries(&operation["responses"]) {
            m.named(1, code, |m| {
                m.message(1, |m| {
                    m.text(1, &response["description"]);
                    if response["schema"].is_object() {
                        m.message(2, |m| m.message(1, |m| schema(m, &response["schema"])));
                    }
                });
            });
        }
    });
    m.texts(10, &operation["schemes"]);
    extensions(m, 13, operation);
}

/// Documents of other servers say what many operations share once.
fn parameter_or_reference(m: &mut Message, parameter: &Value) {
    match parameter.get("$ref") {
        Some(reference) => m.message(2, |m| m.text(1, reference)),
        None => m.message(1, |m| self::parameter(m, parameter)),
    }
}

fn parameter(m: &mut Message, parameter: &Value) {
    match parameter["in"].as_str().unwrap_or_default() {
        "body" => m.message(1, |m| {
            m.text(1, &parameter["description"]);
            m.text(2, &parameter["name"]);
            m.text(3, &parameter["in"]);
            m.flag(4, &parameter["required"]);
            m.message(5, |m| schema(m, &parameter["schema"]));
        }),
        // The others have the same fields, but that queries and forms know one more.
        place => m.message(2, |m| {
            let (number, shift) = match place {
                "header" => (1, 0),
                "formData" => (2, 1),
                "query" => (3, 1),
                _ => (4, 0),
            };
            m.message(number, |m| {
                m.flag(1, &parameter["required"]);
                m.text(2, &parameter["in"]);
                m.text(3, &parameter["description"]);
                m.text(4, &parameter["name"]);
                m.text(5 + shift, &parameter["type"]);
                m.flag(19 + shift, &parameter["uniqueItems"]);
            });
        }),
    }
}

fn schema(m: &mut Message, schema: &Value) {
    m.text(1, &schema["$ref"]);
    m.text(2, &schema["format"]);
    m.text(3, &schema["title"]);
    m.text(4, &schema["description"]);
    m.any(5, &schema["default"]);
    for (number, key) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        m.double(number, &schema[key]);
    }
    for (number, key) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems"), (27, "readOnly")] {
        m.flag(number, &schema[key]);
    }
    for (number, key) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        m.integer(number, &schema[key]);
    }
    m.text(13, &schema["pattern"]);
    m.texts(19, &schema["required"]);
    for value in schema["enum"].as_array().into_iter().flatten() {
        m.any(20, value);
    }
    match &schema["additionalProperties"] {
        Value::Bool(allowed) => m.message(21, |m| m.varint_field(2, u64::from(*allowed))),
        Value::Object(_) => m.message(21, |m| m.message(1, |m| self::schema(m, &schema["additionalProperties"]))),
        _ => {}
    }
    match &schema["type"] {
        Value::String(_) => m.message(22, |m| m.text(1, &schema["type"])),
        Value::Array(_) => m.message(22, |m| m.texts(1, &schema["type"])),
        _ => {}
    }
    if schema["items"].is_object() {
        m.message(23, |m| m.message(1, |m| self::schema(m, &schema["items"])));
    }
    for one in schema["allOf"].as_array().into_iter().flatten() {
        m.message(24, |m| self::schema(m, one));
    }
    if schema["properties"].is_object() {
        m.message(25, |m| {
            for (name, property) in entries(&schema["properties"]) {
                m.named(1, name, |m| self::schema(m, property));
            }
        });
    }
    m.any(30, &schema["example"]);
    extensions(m, 31, schema);
}

fn extensions(m: &mut Message, number: u32, value: &Value) {
    for (name, extension) in entries(value).filter(|(name, _)| name.starts_with("x-")) {
        m.named(number, name, |m| m.text(2, &Value::String(extension.to_string())));
    }
}

/// A message being written.
#[derive(Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn key(&mut self, number: u32, wire: u32) {
        self.varint(u64::from(number << 3 | wire));
    }

    fn varint_field(&mut self, number: u32, value: u64) {
        self.key(number, 0);
        self.varint(value);
    }

    fn bytes_field(&mut self, number: u32, bytes: &[u8]) {
        self.key(number, 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A text; anything else, and the empty text, is left out.
    fn text(&mut self, number: u32, value: &Value) {
        if let Some(text) = value.as_str().filter(|t| !t.is_empty()) {
            self.bytes_field(number, text.as_bytes());
        }
    }

    fn texts(&mut self, number: u32, value: &Value) {
        for text in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes_field(number, text.as_bytes());
        }
    }

    fn flag(&mut self, number: u32, value: &Value) {
        if value.as_bool() == Some(true) {
            self.varint_field(number, 1);
        }
    }

    fn integer(&mut self, number: u32, value: &Value) {
        if let Some(integer) = value.as_i64().filter(|i| *i != 0) {
            self.varint_field(number, integer as u64);
        }
    }

    fn double(&mut self, number: u32, value: &Value) {
        if let Some(double) = value.as_f64().filter(|d| *d != 0.0) {
            self.key(number, 1);
            self.bytes.extend_from_slice(&double.to_le_bytes());
        }
    }

    /// A free value, as YAML text.
    fn any(&mut self, number: u32, value: &Value) {
        if !value.is_null() {
            self.message(number, |m| m.text(2, &Value::String(value.to_string())));
        }
    }

    fn message(&mut self, number: u32, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        fill(&mut inner);
        self.bytes_field(number, &inner.bytes);
    }

    /// A name and its message, as gnostic writes maps.
    fn named(&mut self, number: u32, name: &str, fill: impl FnOnce(&mut Message)) {
        self.message(number, |m| {
            m.bytes_field(1, name.as_bytes());
            m.message(2, fill);
        });
    }
}
