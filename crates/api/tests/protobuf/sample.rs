//! Values made from the schema alone.

use caravel_api::schema::{Node, Type};
use serde_json::{Map, Value, json};

/// Makes values; no two texts or numbers of one full value are equal.
pub struct Samples<'a> {
    made: i64,
    /// Types that are being made: a type within itself ends in an empty object.
    within: Vec<String>,
    /// Fields that are left out, as `type.field`.
    without: &'a [&'a str],
    /// With a state, fields and values are drawn by chance; without, every field is set.
    chance: Option<u64>,
}

impl<'a> Samples<'a> {
    /// Values with every field set, all the way down, but those named.
    pub fn full(without: &'a [&'a str]) -> Self {
        Self { made: 0, within: Vec::new(), without, chance: None }
    }

    /// Values with some fields set, and some of these zero or empty.
    pub fn some(seed: u64) -> Self {
        Self { chance: Some(seed), ..Self::full(&[]) }
    }

    /// A value of the schema.
    pub fn make(&mut self, node: Node<'_>) -> Value {
        if self.one_in(5)
            && let Some(zero) = zero(node)
        {
            return zero;
        }
        self.made += 1;
        let made = self.made;
        match node.ty() {
            Type::Object => self.object(node),
            Type::List => json!([self.element(node), self.element(node)]),
            Type::Map => json!({"k": self.element(node), "é/l": self.element(node)}),
            Type::String => json!(format!("é{made}")),
            Type::Bytes => json!("AAEC/w=="),
            Type::Bool => json!(true),
            Type::Int32 => json!(-made),
            Type::Int64 => json!((1_i64 << 40) + made),
            Type::Double => json!(1.5 + made as f64),
            Type::Quantity => json!(format!("{made}Mi")),
            Type::IntOrString if made % 2 == 0 => json!(-made),
            Type::IntOrString => json!(format!("{made}%")),
            Type::Time => json!(format!("2026-01-02T03:04:{:02}Z", made % 60)),
            Type::MicroTime => json!(format!("2026-01-02T03:04:05.{:06}Z", made % 1_000_000)),
            Type::Duration => json!(format!("{}h{}m{}s", made % 7 + 1, made % 60, made % 59)),
            Type::Raw | Type::Fields | Type::Json => json!({"a": [made, null, {"b": "é"}]}),
            Type::PropsOrBool if made % 2 == 0 => json!(false),
            Type::PropsOrArray if made % 2 == 0 => json!([self.element(node), self.element(node)]),
            Type::PropsOrStrings if made % 2 == 0 => json!(["a", "b"]),
            Type::PropsOrBool | Type::PropsOrArray | Type::PropsOrStrings => self.element(node),
        }
    }

    fn element(&mut self, node: Node<'_>) -> Value {
        node.element().map(|e| self.make(e)).unwrap_or_default()
    }

    fn object(&mut self, node: Node<'_>) -> Value {
        if self.within.iter().any(|name| name == node.type_name()) {
            return json!({});
        }
        self.within.push(node.type_name().to_owned());
        let mut fields = Map::new();
        for (name, child, path) in node.proto_fields() {
            let left_out = self.without.contains(&format!("{}.{name}", node.type_name()).as_str());
            // What is not in the message is in the envelope, of kinds only.
            let outside = path[0] == 0 && self.within.len() > 1;
            if !left_out && !outside && !self.one_in(2) {
                fields.insert(name.to_owned(), self.make(child));
            }
        }
        self.within.pop();
        fields.into()
    }

    /// Whether chance has it; never without chance.
    fn one_in(&mut self, n: u64) -> bool {
        let Some(state) = self.chance.as_mut() else { return false };
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33).is_multiple_of(n)
    }
}

fn zero(node: Node<'_>) -> Option<Value> {
    match node.ty() {
        Type::String => Some(json!("")),
        Type::Bool => Some(json!(false)),
        Type::Int32 | Type::Int64 => Some(json!(0)),
        Type::List => Some(json!([])),
        Type::Map | Type::Object => Some(json!({})),
        Type::IntOrString => Some(json!(0)),
        _ => None,
    }
}

/// The value as messages can say it: an empty list or map is none, and neither is a zero that Go holds by value and leaves out.
pub fn sayable(node: Node<'_>, value: &Value) -> Value {
    let Value::Object(fields) = value else { return nested(node, value) };
    if node.ty() != Type::Object {
        return nested(node, value);
    }
    let mut out = Map::new();
    for (name, value) in fields {
        let Some((child, path)) = node.proto_field(name) else { continue };
        let empty = matches!(child.ty(), Type::List | Type::Map)
            && (value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty));
        let zero = child.is_plain() && zero(child).as_ref() == Some(value);
        // The envelope says nothing by an empty text.
        let unsaid = path[0] == 0 && *value == "";
        if !empty && !zero && !unsaid {
            out.insert(name.clone(), sayable(child, value));
        }
    }
    out.into()
}

fn nested(node: Node<'_>, value: &Value) -> Value {
    match (node.ty(), node.element(), value) {
        (Type::List | Type::PropsOrArray, Some(element), Value::Array(items)) => {
            items.iter().map(|item| sayable(element, item)).collect()
        }
        (Type::Map, Some(element), Value::Object(entries)) => {
            entries.iter().map(|(key, value)| (key.clone(), sayable(element, value))).collect()
        }
        (Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings, Some(schema), Value::Object(_)) => {
            sayable(schema, value)
        }
        _ => value.clone(),
    }
}

/// Whether values of the type name themselves: `apiVersion` and `kind` are in the envelope, not in the message.
pub fn is_kind(node: Node<'_>) -> bool {
    let unnumbered = |name| node.proto_field(name).is_some_and(|(_, path)| path[0] == 0);
    unnumbered("apiVersion") && unnumbered("kind")
}
