//! Values at run time. JSON is wrapped, not copied: `'a` is the life of the objects that an evaluation looks at.

use crate::authorizer::{Check, Decision};
use crate::types::{ANY, ListKind, Shape, ShapeKind};
use caravel_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

/// A value.
#[derive(Clone, Debug)]
pub enum Val<'a> {
    /// `null`
    Null,
    /// `true`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `"a"`
    String(Text<'a>),
    /// `b"a"`
    Bytes(Rc<[u8]>),
    /// An instant.
    Timestamp(Timestamp),
    /// Nanoseconds.
    Duration(i64),
    /// The name of a type.
    Type(Rc<str>),
    /// `[a, b]`
    List(List<'a>),
    /// `{k: v}`
    Map(Dict<'a>),
    /// `optional.of(x)`
    Optional(Option<Rc<Val<'a>>>),
    /// `T{a: b}`
    Message(Rc<str>, Rc<BTreeMap<String, Val<'a>>>),
    /// A value of a function library.
    Library(Rc<Library>),
}

/// A string, borrowed or made.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Of an object or a literal.
    Borrowed(&'a str),
    /// Made by a function.
    Owned(Rc<str>),
}

impl Text<'_> {
    /// The characters.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

/// A list, of JSON or made.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// A JSON array and the shape of the whole.
    Json(&'a [Value], &'a Shape),
    /// Made by the expression; with the way it compares.
    Made(Rc<Vec<Val<'a>>>, Option<&'a ListKind>),
}

/// A map or object, of JSON or made.
#[derive(Clone, Debug)]
pub enum Dict<'a> {
    /// A JSON object and its shape.
    Json(&'a Map<String, Value>, &'a Shape),
    /// Made by the expression.
    Made(Rc<BTreeMap<Key, Val<'a>>>),
    /// As made, but a key that is not there has an empty map: attributes and capacities of devices, by domain (KEP-4381).
    Domains(Rc<BTreeMap<Key, Val<'a>>>),
}

/// A key of a made map. Numbers of both kinds are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A truth value.
    Bool(bool),
    /// A number.
    Number(i128),
    /// A string.
    String(Rc<str>),
}

/// Values of the function libraries.
#[derive(Clone, Debug)]
pub enum Library {
    /// `url()`
    Url(crate::library::url::Url),
    /// `ip()`
    Ip(IpAddr),
    /// `cidr()`
    Cidr(IpAddr, u8),
    /// `quantity()`
    Quantity(Quantity),
    /// `semver()`
    Semver(crate::library::semver::Semver),
    /// `format.x()`
    Format(&'static str),
    /// `authorizer` and what is asked of it.
    Check(Check),
    /// What it said.
    Decision(Decision),
}

impl<'a> Val<'a> {
    /// A made string.
    pub fn text(text: impl Into<Rc<str>>) -> Self {
        Self::String(Text::Owned(text.into()))
    }

    /// A made list.
    pub fn list(all: Vec<Val<'a>>) -> Self {
        Self::List(List::Made(Rc::new(all), None))
    }

    /// A made map.
    pub fn dict(all: BTreeMap<Key, Val<'a>>) -> Self {
        Self::Map(Dict::Made(Rc::new(all)))
    }

    /// A made map in which a key that is not there has an empty map.
    pub fn domains(all: BTreeMap<Key, Val<'a>>) -> Self {
        Self::Map(Dict::Domains(Rc::new(all)))
    }

    /// A value of a library.
    pub fn library(value: Library) -> Self {
        Self::Library(Rc::new(value))
    }

    /// A JSON value that nothing is said about.
    pub fn json(value: &'a Value) -> Self {
        Self::shaped(value, &ANY)
    }

    /// A JSON value of a shape.
    pub fn shaped(value: &'a Value, shape: &'a Shape) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => {
                if matches!(shape.kind, ShapeKind::Double) {
                    return Self::Double(n.as_f64().unwrap_or_default());
                }
                match (n.as_i64(), n.as_u64()) {
                    (Some(i), _) => Self::Int(i),
                    (None, Some(u)) => Self::Uint(u),
                    _ => {
                        let double = n.as_f64().unwrap_or_default();
                        let whole = matches!(shape.kind, ShapeKind::Int | ShapeKind::IntOrString);
                        if whole { Self::Int(double as i64) } else { Self::Double(double) }
                    }
                }
            }
            Value::String(text) => Self::shaped_text(text, shape),
            Value::Array(all) => Self::List(List::Json(all, shape)),
            Value::Object(all) => Self::Map(Dict::Json(all, shape)),
        }
    }

    fn shaped_text(text: &'a str, shape: &'a Shape) -> Self {
        use base64::Engine as _;
        match &shape.kind {
            ShapeKind::Bytes => match base64::engine::general_purpose::STANDARD.decode(text) {
                Ok(bytes) => Self::Bytes(bytes.into()),
                Err(_) => Self::Null,
            },
            ShapeKind::Timestamp => match crate::library::time::parse_instant(text) {
                Some(at) => Self::Timestamp(at),
                None => Self::Null,
            },
            ShapeKind::Duration => match caravel_api::duration::parse(text) {
                Some(nanos) => Self::Duration(nanos),
                None => Self::Null,
            },
            _ => Self::String(Text::Borrowed(text)),
        }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> String {
        let name = match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Type(_) => "type",
            Self::List(_) => "list",
            Self::Map(Dict::Json(_, Shape { kind: ShapeKind::Object(fields), .. })) => &fields.name,
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Message(name, _) => name,
            Self::Library(library) => match &**library {
                Library::Url(_) => "kubernetes.URL",
                Library::Ip(_) => "net.IP",
                Library::Cidr(..) => "net.CIDR",
                Library::Quantity(_) => "kubernetes.Quantity",
                Library::Semver(_) => "kubernetes.Semver",
                Library::Format(_) => "kubernetes.NamedFormat",
                Library::Check(_) => "kubernetes.authorization.Check",
                Library::Decision(_) => "kubernetes.authorization.Decision",
            },
        };
        name.to_owned()
    }

    /// As JSON, for what an expression yields to be written somewhere.
    pub fn to_json(&self) -> Option<Value> {
        use base64::Engine as _;
        Some(match self {
            Self::Null => Value::Null,
            Self::Bool(b) => json!(b),
            Self::Int(i) => json!(i),
            Self::Uint(u) => json!(u),
            Self::Double(d) => json!(d),
            Self::String(text) => json!(text.as_str()),
            Self::Bytes(bytes) => json!(base64::engine::general_purpose::STANDARD.encode(bytes)),
            Self::Timestamp(at) => json!(at.to_string()),
            Self::Duration(nanos) => json!(crate::library::time::show_duration(*nanos)),
            Self::List(list) => list.iter().map(|v| v.to_json()).collect::<Option<Vec<_>>>()?.into(),
            Self::Map(Dict::Json(map, _)) => Value::Object((*map).clone()),
            Self::Map(Dict::Made(map) | Dict::Domains(map)) => {
                let mut out = Map::new();
                for (key, value) in map.iter() {
                    out.insert(key.show(), value.to_json()?);
                }
                Value::Object(out)
            }
            Self::Message(_, fields) => {
                let mut out = Map::new();
                for (key, value) in fields.iter() {
                    out.insert(key.clone(), value.to_json()?);
                }
                Value::Object(out)
            }
            Self::Optional(Some(value)) => value.to_json()?,
            Self::Library(library) => match &**library {
                Library::Quantity(quantity) => json!(quantity.to_string()),
                _ => return None,
            },
            Self::Optional(None) | Self::Type(_) => return None,
        })
    }
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(all, _) => all.len(),
            Self::Made(all, _) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    pub fn get(&self, at: usize) -> Option<Val<'a>> {
        match self {
            Self::Json(all, shape) => all.get(at).map(|v| Val::shaped(v, shape.element())),
            Self::Made(all, _) => all.get(at).cloned(),
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Val<'a>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// How it compares.
    pub fn kind(&self) -> &'a ListKind {
        match self {
            Self::Json(_, shape) => &shape.list,
            Self::Made(_, kind) => kind.unwrap_or(&ListKind::Atomic),
        }
    }
}

impl<'a> Dict<'a> {
    /// How many entries an expression can see.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(map, Shape { kind: ShapeKind::Object(fields), .. }) => {
                fields.fields.values().filter(|f| map.contains_key(&f.name)).count()
            }
            Self::Json(map, _) => map.len(),
            Self::Made(map) | Self::Domains(map) => map.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    pub fn get(&self, key: &Key) -> Option<Val<'a>> {
        match (self, key) {
            (Self::Made(map), key) => map.get(key).cloned(),
            (Self::Domains(map), key) => Some(map.get(key).cloned().unwrap_or_else(|| Val::dict(BTreeMap::new()))),
            (Self::Json(..), Key::String(name)) => self.field(name),
            (Self::Json(..), _) => None,
        }
    }

    /// The value of a field, by the name that expressions use.
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Self::Json(map, shape) => match &shape.kind {
                ShapeKind::Object(fields) => {
                    let field = fields.fields.get(name)?;
                    map.get(&field.name).map(|v| Val::shaped(v, &field.shape))
                }
                _ => map.get(name).map(|v| Val::shaped(v, shape.element())),
            },
            Self::Made(_) | Self::Domains(_) => self.get(&Key::String(name.into())),
        }
    }

    /// All keys and values.
    pub fn entries(&self) -> Vec<(Val<'a>, Val<'a>)> {
        match self {
            Self::Json(map, shape) => match &shape.kind {
                ShapeKind::Object(fields) => fields
                    .fields
                    .iter()
                    .filter_map(|(name, f)| Some((name, map.get(&f.name)?, f)))
                    .map(|(name, v, f)| (Val::String(Text::Borrowed(name)), Val::shaped(v, &f.shape)))
                    .collect(),
                _ => {
                    map.iter().map(|(k, v)| (Val::String(Text::Borrowed(k)), Val::shaped(v, shape.element()))).collect()
                }
            },
            Self::Made(map) | Self::Domains(map) => map.iter().map(|(k, v)| (k.to_val(), v.clone())).collect(),
        }
    }
}

impl Key {
    /// A value as a key, if it can be one.
    pub fn of(value: &Val<'_>) -> Option<Key> {
        Some(match value {
            Val::Bool(b) => Key::Bool(*b),
            Val::Int(i) => Key::Number((*i).into()),
            Val::Uint(u) => Key::Number((*u).into()),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 1e18 => Key::Number(*d as i128),
            Val::String(text) => Key::String(text.as_str().into()),
            _ => return None,
        })
    }

    /// The value again.
    pub fn to_val<'a>(&self) -> Val<'a> {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Number(n) => match i64::try_from(*n) {
                Ok(i) => Val::Int(i),
                Err(_) => Val::Uint(u64::try_from(*n).unwrap_or_default()),
            },
            Key::String(text) => Val::text(text.clone()),
        }
    }

    /// As text.
    pub fn show(&self) -> String {
        match self {
            Key::Bool(b) => b.to_string(),
            Key::Number(n) => n.to_string(),
            Key::String(text) => text.to_string(),
        }
    }
}
