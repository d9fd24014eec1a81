//! Validation of custom resources against their schema: all errors at once, in upstream's words.

use serde_json::Value;

use super::constraints::{Constraints, Junctor};
use super::formats;
use super::{ListType, Node, Type};
use crate::field::{FieldError, FieldPath};

/// Most errors reported of one object.
const MAX_ERRORS: usize = 100;

/// Checks a custom resource. CEL rules (`x-kubernetes-validations`) are not evaluated here: see
/// [`super::Constraints::rules`]. Metadata is left to the validation common to all objects.
pub fn validate(node: Node<'_>, value: &Value) -> Vec<FieldError> {
    let mut checker = Checker { errors: Vec::new() };
    let root = FieldPath::root("");
    if let Value::Object(object) = value {
        checker.object_rules(node, &root, value);
        for (name, child) in node.fields().filter(|(name, _)| !matches!(*name, "apiVersion" | "kind" | "metadata")) {
            if let Some(value) = object.get(name) {
                checker.check(child, &FieldPath::root(name), value);
            } else if child.is_required() {
                checker.push(FieldError::required(&FieldPath::root(name), ""));
            }
        }
    }
    checker.errors
}

struct Checker {
    errors: Vec<FieldError>,
}

impl Checker {
    fn push(&mut self, error: FieldError) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(error);
        }
    }

    /// A rule that is broken: `path in body …`.
    fn broken(&mut self, path: &FieldPath<'_>, value: &Value, rule: &str) {
        self.push(FieldError::invalid(path, value.clone(), format!("{path} in body {rule}")));
    }

    fn check(&mut self, node: Node<'_>, path: &FieldPath<'_>, value: &Value) {
        if value.is_null() && node.is_nullable() {
            return;
        }
        if !is_of_type(node.ty(), value) {
            let found = type_of(value);
            let detail = format!("{path} in body must be of type {}: {found:?}", type_name(node.ty()));
            return self.push(FieldError::type_invalid(path, found, detail));
        }
        match value {
            Value::Object(object) => {
                self.object_rules(node, path, value);
                if node.is_embedded_resource() {
                    self.embedded(path, value);
                }
                for (name, child) in node.fields() {
                    let skipped = node.is_embedded_resource() && matches!(name, "apiVersion" | "kind" | "metadata");
                    if child.is_required() && !object.contains_key(name) && !skipped {
                        self.push(FieldError::required(&path.child(name), ""));
                    }
                }
                for (name, value) in object {
                    if node.is_embedded_resource() && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                        continue;
                    }
                    if let Some(child) = node.child(name) {
                        self.check(child, &path.child(name), value);
                    }
                }
            }
            Value::Array(items) => {
                self.list_rules(node, path, value, items);
                let Some(element) = node.element() else { return };
                for (index, item) in items.iter().enumerate() {
                    self.check(element, &path.index(index), item);
                }
            }
            _ => self.scalar_rules(node, path, value),
        }
    }

    fn embedded(&mut self, path: &FieldPath<'_>, value: &Value) {
        for name in ["apiVersion", "kind"] {
            match value.get(name).and_then(Value::as_str) {
                None => self.push(FieldError::required(&path.child(name), "must not be empty")),
                Some("") => self.push(FieldError::required(&path.child(name), "must not be empty")),
                Some(_) => {}
            }
        }
    }

    fn object_rules(&mut self, node: Node<'_>, path: &FieldPath<'_>, value: &Value) {
        let Some(constraints) = node.constraints() else { return };
        let count = value.as_object().map_or(0, serde_json::Map::len) as u64;
        if constraints.properties.0.is_some_and(|min| count < min) {
            let min = constraints.properties.0.unwrap_or_default();
            self.broken(path, value, &format!("should have at least {min} properties"));
        }
        if let Some(max) = constraints.properties.1.filter(|max| count > *max) {
            self.push(FieldError::too_many(path, count as usize, max as usize));
        }
        self.common_rules(constraints, path, value);
    }

    fn list_rules(&mut self, node: Node<'_>, path: &FieldPath<'_>, value: &Value, items: &[Value]) {
        if let Some(constraints) = node.constraints() {
            let count = items.len() as u64;
            if let Some(min) = constraints.items.0.filter(|min| count < *min) {
                self.broken(path, value, &format!("should have at least {min} items"));
            }
            if let Some(max) = constraints.items.1.filter(|max| count > *max) {
                self.push(FieldError::too_many(path, items.len(), max as usize));
            }
            if constraints.unique && (1..items.len()).any(|at| items[..at].contains(&items[at])) {
                self.broken(path, value, "shouldn't contain duplicates");
            }
            self.common_rules(constraints, path, value);
        }
        let same = |a: &Value, b: &Value| match node.list_type() {
            ListType::Atomic => false,
            ListType::Set => a == b,
            ListType::Map => node.map_keys().iter().all(|key| a.get(&**key) == b.get(&**key)),
        };
        for (at, item) in items.iter().enumerate() {
            if items[..at].iter().any(|before| same(before, item)) {
                let shown = match node.list_type() {
                    ListType::Map => {
                        let keys = node.map_keys().iter();
                        keys.map(|k| (k.to_string(), item.get(&**k).cloned().unwrap_or_default())).collect()
                    }
                    _ => item.clone(),
                };
                self.push(FieldError::duplicate(&path.index(at), shown));
            }
        }
    }

    fn scalar_rules(&mut self, node: Node<'_>, path: &FieldPath<'_>, value: &Value) {
        let Some(constraints) = node.constraints() else { return };
        if let Some(text) = value.as_str() {
            let length = text.chars().count() as u64;
            if let Some(min) = constraints.length.0.filter(|min| length < *min) {
                self.broken(path, value, &format!("should be at least {min} chars long"));
            }
            if let Some(max) = constraints.length.1.filter(|max| length > *max) {
                self.push(FieldError::too_long(path, max as usize));
            }
            if let Some(pattern) = constraints.pattern.as_ref().filter(|p| !p.matches(text)) {
                self.broken(path, value, &format!("should match '{}'", pattern.text));
            }
        }
        if let Some(number) = value.as_f64() {
            for rule in number_rules(constraints, number) {
                self.broken(path, value, &rule);
            }
        }
        if let Some(format) = constraints.format.as_deref().filter(|f| !formats::fits(f, value)) {
            self.broken(path, value, &format!("must be of type {format}: {}", value));
        }
        self.common_rules(constraints, path, value);
    }

    fn common_rules(&mut self, constraints: &Constraints, path: &FieldPath<'_>, value: &Value) {
        if !constraints.allowed.is_empty() && !constraints.allowed.contains(value) {
            let allowed: Vec<String> =
                constraints.allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
            self.push(FieldError::not_supported(path, value.clone(), &allowed));
        }
        for (junctor, schemas) in &constraints.junctors {
            if let Some(rule) = broken_junctor(*junctor, schemas, value) {
                self.push(FieldError::invalid(path, shown(value), format!("\"{path}\" {rule}")));
            }
        }
    }
}

/// Whole objects and lists are not repeated in errors.
fn shown(value: &Value) -> Value {
    match value {
        Value::Object(_) | Value::Array(_) => Value::from(""),
        other => other.clone(),
    }
}

fn number_rules(constraints: &Constraints, number: f64) -> Vec<String> {
    let mut broken = Vec::new();
    if let Some((min, exclusive)) = constraints.minimum
        && (number < min || exclusive && number == min)
    {
        broken.push(match exclusive {
            true => format!("should be greater than {min}"),
            false => format!("should be greater than or equal to {min}"),
        });
    }
    if let Some((max, exclusive)) = constraints.maximum
        && (number > max || exclusive && number == max)
    {
        broken.push(match exclusive {
            true => format!("should be less than {max}"),
            false => format!("should be less than or equal to {max}"),
        });
    }
    if let Some(step) = constraints.multiple_of.filter(|s| *s > 0.0) {
        let times = number / step;
        if (times - times.round()).abs() > 1e-9 {
            broken.push(format!("should be a multiple of {step}"));
        }
    }
    broken
}

fn broken_junctor(junctor: Junctor, schemas: &[Value], value: &Value) -> Option<&'static str> {
    let fitting = schemas.iter().filter(|s| fits(s, value, 0)).count();
    match junctor {
        Junctor::All => (fitting < schemas.len()).then_some("must validate all the schemas (allOf)"),
        Junctor::Any => (fitting == 0).then_some("must validate at least one schema (anyOf)"),
        Junctor::One if fitting == 0 => Some("must validate one and only one schema (oneOf). Found none valid"),
        Junctor::One => (fitting > 1).then_some("must validate one and only one schema (oneOf). Found several valid"),
        Junctor::Not => (fitting > 0).then_some("must not validate the schema (not)"),
    }
}

/// Deepest nesting of junctors; structural schemas are finite.
const MAX_DEPTH: usize = 64;

/// Whether a value fits a schema as it is written in a definition, inside a junctor.
fn fits(schema: &Value, value: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    if let Some(ty) = schema["type"].as_str()
        && !(is_of_named_type(ty, value) || value.is_null() && schema["nullable"] == true)
    {
        return false;
    }
    if let Value::Object(object) = value {
        let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        if required.into_iter().any(|name| !object.contains_key(name)) {
            return false;
        }
        let known = &schema["properties"];
        for (name, value) in object {
            let inner = match known.get(name) {
                Some(inner) => inner,
                None => &schema["additionalProperties"],
            };
            if *inner == false || inner.is_object() && !fits(inner, value, depth + 1) {
                return false;
            }
        }
    }
    if let (Value::Array(items), inner @ Value::Object(_)) = (value, &schema["items"])
        && !items.iter().all(|item| fits(inner, item, depth + 1))
    {
        return false;
    }
    Constraints::of(schema).is_none_or(|constraints| holds(&constraints, value))
}

fn holds(constraints: &Constraints, value: &Value) -> bool {
    let within = |(min, max): (Option<u64>, Option<u64>), count: usize| {
        let count = count as u64;
        min.is_none_or(|min| count >= min) && max.is_none_or(|max| count <= max)
    };
    let sized = match value {
        Value::String(text) => {
            within(constraints.length, text.chars().count())
                && constraints.pattern.as_ref().is_none_or(|p| p.matches(text))
        }
        Value::Array(items) => within(constraints.items, items.len()),
        Value::Object(object) => within(constraints.properties, object.len()),
        Value::Number(number) => number.as_f64().is_none_or(|n| number_rules(constraints, n).is_empty()),
        _ => true,
    };
    sized
        && (constraints.allowed.is_empty() || constraints.allowed.contains(value))
        && constraints.format.as_deref().is_none_or(|f| formats::fits(f, value))
        && constraints.junctors.iter().all(|(junctor, schemas)| broken_junctor(*junctor, schemas, value).is_none())
}

fn is_of_type(ty: Type, value: &Value) -> bool {
    match ty {
        Type::Object | Type::Map | Type::Raw | Type::Fields => value.is_object(),
        Type::List => value.is_array(),
        Type::Bool => value.is_boolean(),
        Type::Int32 | Type::Int64 => is_of_named_type("integer", value),
        Type::Double => value.is_number(),
        Type::IntOrString => value.is_string() || is_of_named_type("integer", value),
        Type::String | Type::Bytes | Type::Quantity | Type::Time | Type::MicroTime | Type::Duration => {
            value.is_string()
        }
        _ => true,
    }
}

fn is_of_named_type(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        // 1.0 is an integer to JSON schema.
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    }
}

fn type_name(ty: Type) -> &'static str {
    match ty {
        Type::Object | Type::Map | Type::Raw | Type::Fields => "object",
        Type::List => "array",
        Type::Bool => "boolean",
        Type::Int32 | Type::Int64 => "integer",
        Type::Double => "number",
        Type::IntOrString => "integer,string",
        _ => "string",
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
