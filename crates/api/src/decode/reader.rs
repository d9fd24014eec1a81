//! The one pass over a body: a serde seed that knows at every place what the schema expects there.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{MAX_DEPTH, Options, Unknown, scalar};
use crate::schema::{Node, Type, fill_object};

/// Most notes kept of one body; the rest is cut off.
const MAX_NOTES: usize = 100;

/// What a pass has found out so far.
pub(super) struct Reader {
    /// Unknown and duplicate fields.
    pub notes: Vec<String>,
    /// The error that ended the pass, if it was ours and not the parser's.
    pub fatal: Option<String>,
    /// Whether the notes are wanted.
    noting: bool,
    fill: bool,
    /// Whether the root is a custom resource.
    custom: bool,
    /// How much the value may still grow; text that expands beyond this (YAML aliases) is refused.
    budget: usize,
}

impl Reader {
    pub fn new(options: &Options, custom: bool, bytes: usize) -> Self {
        Self {
            notes: Vec::new(),
            fatal: None,
            noting: options.unknown != Unknown::Ignore,
            fill: options.fill,
            custom,
            budget: bytes.saturating_mul(10).saturating_add(4096),
        }
    }

    fn note(&mut self, what: &str, path: &Path<'_>, key: &str) {
        if !self.noting || self.notes.len() > MAX_NOTES {
            return;
        }
        let note = match self.notes.len() {
            MAX_NOTES => "further unknown and duplicate fields are not listed".to_owned(),
            _ => format!("{what} field \"{}\"", Path::Key(path, key)),
        };
        self.notes.push(note);
    }
}

/// Where the pass is; a chain on the stack.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub const ROOT: &'static Path<'static> = &Path::Root;

    /// As Go's decoder names the place of a type error: without indices.
    fn go(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Index(parent, _) => parent.go(),
            Path::Key(parent, key) => match parent.go() {
                above if above.is_empty() => (*key).to_owned(),
                above => format!("{above}.{key}"),
            },
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(parent, key) => write!(f, "{parent}.{key}"),
        }
    }
}

/// Reads one value. `None` means null where null is unset.
pub(super) struct Seed<'r, 's, 'p> {
    pub reader: &'r mut Reader,
    /// What is expected; `None` takes anything.
    pub node: Option<Node<'s>>,
    pub path: &'p Path<'p>,
    /// Name of the struct that the value is inside of.
    pub owner: &'s str,
    pub depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_, '_, '_> {
    /// The type to hold the value against; `None` where anything goes or validation will judge.
    fn expected(&self) -> Option<Type> {
        match self.node.map(Node::ty) {
            None | Some(Type::Json | Type::Fields) => None,
            Some(_) if self.reader.custom => None,
            ty => ty,
        }
    }

    fn fatal<E: de::Error>(&mut self, why: String) -> E {
        self.reader.fatal = Some(why.clone());
        E::custom(why)
    }

    /// The error of a value of the wrong type, as Go's JSON decoder words it.
    fn mismatch<E: de::Error>(&mut self, found: &str) -> E {
        let go_type = self.node.map(go_type).unwrap_or_default();
        let path = self.path.go();
        let why = match self.node.map(Node::ty) {
            Some(Type::IntOrString | Type::Quantity | Type::Time | Type::MicroTime | Type::Duration) => {
                format!("json: cannot unmarshal {found} into Go value of type string at field {path}")
            }
            _ if path.is_empty() => format!("json: cannot unmarshal {found} into Go value of type {go_type}"),
            _ => {
                // apps.v1.DeploymentSpec is DeploymentSpec to Go.
                let owner = self.owner.rsplit('.').next().unwrap_or_default();
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {go_type}")
            }
        };
        self.fatal(why)
    }

    fn spend<E: de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        match self.reader.budget.checked_sub(bytes + 1) {
            Some(left) => {
                self.reader.budget = left;
                Ok(())
            }
            None => Err(self.fatal("the document expands to many times its size (aliases of aliases?)".to_owned())),
        }
    }

    fn descend<E: de::Error>(&mut self) -> Result<usize, E> {
        self.spend(0)?;
        match self.depth < MAX_DEPTH {
            true => Ok(self.depth + 1),
            false => Err(self.fatal(format!("{}: nested deeper than {MAX_DEPTH} levels", self.path))),
        }
    }

    fn integer<E: de::Error>(mut self, number: Number) -> Result<Option<Value>, E> {
        self.spend(0)?;
        match self.expected() {
            None | Some(Type::Double) => Ok(Some(Value::Number(number))),
            Some(Type::Int64) if number.is_i64() => Ok(Some(Value::Number(number))),
            Some(Type::Int32 | Type::IntOrString) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => {
                Ok(Some(Value::Number(number)))
            }
            Some(Type::Quantity) => self.quantity(&Value::Number(number)),
            Some(Type::Int32 | Type::Int64 | Type::IntOrString) => Err(self.mismatch(&format!("number {number}"))),
            Some(_) => Err(self.mismatch("number")),
        }
    }

    fn quantity<E: de::Error>(&mut self, value: &Value) -> Result<Option<Value>, E> {
        match scalar::quantity(value) {
            Ok(text) => Ok(Some(Value::String(text))),
            Err(why) => {
                let why = format!("{why} at field {}", self.path.go());
                Err(self.fatal(why))
            }
        }
    }

    fn text<E: de::Error>(mut self, text: Cow<'_, str>) -> Result<Option<Value>, E> {
        self.spend(text.len())?;
        let checked = match self.expected() {
            None | Some(Type::String | Type::IntOrString | Type::Duration) => Ok(text),
            Some(Type::Quantity) => scalar::canonical_quantity(text),
            Some(Type::Time) => scalar::time(text, false),
            Some(Type::MicroTime) => scalar::time(text, true),
            Some(Type::Bytes) => scalar::bytes(text),
            Some(_) => return Err(self.mismatch("string")),
        };
        match checked {
            Ok(text) => Ok(Some(Value::String(text.into_owned()))),
            Err(why) => {
                let why = format!("{why} at field {}", self.path.go());
                Err(self.fatal(why))
            }
        }
    }

    fn null(self) -> Option<Value> {
        // Opaque values and custom resources keep their nulls.
        let keeps = self.reader.custom || matches!(self.node.map(Node::ty), None | Some(Type::Json | Type::Fields));
        keeps.then_some(Value::Null)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E: de::Error>(mut self, value: bool) -> Result<Option<Value>, E> {
        self.spend(0)?;
        match self.expected() {
            None | Some(Type::Bool | Type::PropsOrBool) => Ok(Some(Value::Bool(value))),
            Some(_) => Err(self.mismatch("bool")),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Option<Value>, E> {
        self.integer(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Option<Value>, E> {
        self.integer(value.into())
    }

    fn visit_f64<E: de::Error>(mut self, value: f64) -> Result<Option<Value>, E> {
        self.spend(0)?;
        let Some(number) = Number::from_f64(value) else {
            return Err(self.fatal(format!("{}: not a number that JSON can say", self.path)));
        };
        match self.expected() {
            None | Some(Type::Double) => Ok(Some(Value::Number(number))),
            Some(Type::Quantity) => self.quantity(&Value::Number(number)),
            Some(Type::Int32 | Type::Int64 | Type::IntOrString) => Err(self.mismatch(&format!("number {number}"))),
            Some(_) => Err(self.mismatch("number")),
        }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Option<Value>, E> {
        self.text(Cow::Borrowed(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Option<Value>, E> {
        self.text(Cow::Owned(value))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Option<Value>, E> {
        Ok(self.null())
    }

    fn visit_none<E: de::Error>(self) -> Result<Option<Value>, E> {
        Ok(self.null())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Option<Value>, A::Error> {
        let depth = self.descend()?;
        let element = match self.expected() {
            None => self.node.filter(|n| n.ty() == Type::List).and_then(Node::element),
            Some(Type::List | Type::PropsOrArray) => self.node.and_then(Node::element),
            Some(Type::PropsOrStrings) => None,
            Some(_) => return Err(self.mismatch("array")),
        };
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            let seed = Seed { reader: &mut *self.reader, node: element, path: &path, owner: self.owner, depth };
            match seed_next(&mut seq, seed)? {
                None => return Ok(Some(Value::Array(items))),
                Some(item) => items.push(item.unwrap_or_else(|| zero(element))),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Option<Value>, A::Error> {
        let depth = self.descend()?;
        let mut node = self.node;
        match self.expected() {
            None | Some(Type::Object | Type::Map) => {}
            Some(Type::Raw) => node = None,
            Some(Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings) => node = node.and_then(Node::element),
            Some(_) => return Err(self.mismatch("object")),
        }
        if matches!(node.map(Node::ty), Some(ty) if !matches!(ty, Type::Object | Type::Map)) {
            node = None;
        }
        // Metadata of a custom resource is a Go struct like any other; so is what is in it.
        let outer = self.reader.custom;
        if node.is_some_and(|n| !n.type_name().is_empty()) {
            self.reader.custom = false;
        }
        let result = self.entries(&mut map, node, depth);
        self.reader.custom = outer;
        let mut object = result?;
        if let Some(node) = node.filter(|n| self.reader.fill && n.ty() == Type::Object) {
            fill_object(node, &mut object);
        }
        Ok(Some(Value::Object(object)))
    }
}

fn seed_next<'de, A: SeqAccess<'de>>(seq: &mut A, seed: Seed<'_, '_, '_>) -> Result<Option<Option<Value>>, A::Error> {
    seq.next_element_seed(seed)
}

impl<'s> Seed<'_, 's, '_> {
    fn entries<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        node: Option<Node<'s>>,
        depth: usize,
    ) -> Result<Map<String, Value>, A::Error> {
        let mut object = Map::new();
        let owner = node.map(Node::type_name).filter(|n| !n.is_empty()).unwrap_or(self.owner);
        // What is stored is what Go would write of it.
        let leaves_out = self.reader.fill && node.is_some_and(|n| n.ty() == Type::Object && !n.type_name().is_empty());
        while let Some(key) = map.next_key_seed(KeySeed)? {
            self.spend(key.len())?;
            let child = node.and_then(|n| n.child(&key));
            let known = child.is_some() || node.is_none_or(Node::preserves_unknown);
            if !known {
                self.reader.note("unknown", self.path, &key);
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let path = Path::Key(self.path, &key);
            let seed = Seed { reader: &mut *self.reader, node: child, path: &path, owner, depth };
            let value = map.next_value_seed(seed)?;
            let value = match value {
                Some(value) => value,
                // A null entry of a map of structs or texts is the zero value; a null field is unset.
                None if node.is_some_and(|n| n.ty() == Type::Map) => zero(child),
                None => continue,
            };
            if object.contains_key(&*key) {
                self.reader.note("duplicate", self.path, &key);
            }
            if leaves_out && child.is_some_and(|c| c.leaves_out(&value)) {
                object.remove(&*key);
                continue;
            }
            object.insert(key.into_owned(), value);
        }
        Ok(object)
    }
}

/// The zero value of a type, which null elements of lists and maps become.
fn zero(node: Option<Node<'_>>) -> Value {
    match node.map(Node::ty) {
        Some(Type::String | Type::Bytes) => Value::String(String::new()),
        Some(Type::Int32 | Type::Int64 | Type::IntOrString) => Value::from(0),
        Some(Type::Bool) => Value::Bool(false),
        Some(Type::Quantity) => Value::from("0"),
        Some(Type::Object | Type::Map) => Value::Object(Map::new()),
        Some(Type::List) => Value::Array(Vec::new()),
        _ => Value::Null,
    }
}

/// Reads a key. YAML keys may be numbers and truth values, which become their text.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_string()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(value.to_string()))
    }
}

/// The JSON name of a value's type, as Go's decoder says it.
pub(super) fn json_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The Go type of a place.
fn go_type(node: Node<'_>) -> String {
    match node.ty() {
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Bool => "bool".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Double => "float64".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Duration => "v1.Duration".to_owned(),
        Type::Raw => "runtime.RawExtension".to_owned(),
        Type::Fields => "v1.FieldsV1".to_owned(),
        Type::Json => "interface {}".to_owned(),
        Type::PropsOrArray | Type::PropsOrBool | Type::PropsOrStrings => "v1.JSONSchemaProps".to_owned(),
        Type::List => format!("[]{}", node.element().map(go_type).unwrap_or_default()),
        Type::Map => format!("map[string]{}", node.element().map(go_type).unwrap_or_default()),
        // core.v1.PodSpec is Go's v1.PodSpec.
        Type::Object => node.type_name().split_once('.').map_or("object", |(_, rest)| rest).to_owned(),
    }
}
