//! Types that the checker speaks of, and shapes: what a schema says of the JSON values that an expression sees.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type.
#[derive(Clone, Debug)]
pub enum Ty {
    /// Anything; nothing is checked before run time.
    Dyn,
    /// `null_type`
    Null,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `uint`
    Uint,
    /// `double`
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `google.protobuf.Duration`
    Duration,
    /// `type`
    Type,
    /// `list(T)`
    List(Arc<Ty>),
    /// `map(K, V)`
    Map(Arc<Ty>, Arc<Ty>),
    /// `optional_type(T)`
    Optional(Arc<Ty>),
    /// An object whose fields a schema states.
    Object(Arc<Shape>),
    /// A type of a function library, such as `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A message that is written with braces (`Object.spec`, `JSONPatch`).
    Message(String),
    /// A type parameter of a signature.
    Parameter(u8),
}

impl PartialEq for Ty {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(a), Self::List(b)) | (Self::Optional(a), Self::Optional(b)) => a == b,
            (Self::Map(a, b), Self::Map(c, d)) => a == c && b == d,
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name() == b.name(),
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Message(a), Self::Message(b)) => a == b,
            (Self::Parameter(a), Self::Parameter(b)) => a == b,
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        }
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Type => f.write_str("type"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(k, v) => write!(f, "map({k}, {v})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Object(shape) => f.write_str(shape.name()),
            Self::Opaque(name) => f.write_str(name),
            Self::Message(name) => f.write_str(name),
            Self::Parameter(n) => write!(f, "{}", char::from(b'A' + n)),
        }
    }
}

/// What a schema says of a JSON value.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Its type.
    pub kind: ShapeKind,
    /// Most characters, elements or entries, as stated (`maxLength`, `maxItems`, `maxProperties`).
    pub max: Option<u64>,
    /// How a list compares and merges.
    pub list: ListKind,
}

/// How a list compares and merges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// In order, element by element.
    #[default]
    Atomic,
    /// Without order.
    Set,
    /// Without order, by the values of these fields.
    Map(Vec<String>),
}

/// The types of JSON values as expressions see them.
#[derive(Clone, Debug, Default)]
pub enum ShapeKind {
    /// Whatever is there.
    #[default]
    Any,
    /// `boolean`
    Bool,
    /// `integer`
    Int,
    /// `number`
    Double,
    /// `string`
    String,
    /// `string` of format `byte`
    Bytes,
    /// `string` of format `date` or `date-time`
    Timestamp,
    /// `string` of format `duration`
    Duration,
    /// An integer or a string.
    IntOrString,
    /// `array`
    List(Arc<Shape>),
    /// `object` with `additionalProperties`
    Map(Arc<Shape>),
    /// `object` with `properties`
    Object(Fields),
}

/// The fields of an object.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// What messages call the type.
    pub name: String,
    /// By the name that expressions use.
    pub fields: BTreeMap<String, Field>,
}

/// A field of an object.
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in the JSON object.
    pub name: String,
    /// What is in it.
    pub shape: Arc<Shape>,
    /// Whether it must be there.
    pub required: bool,
}

/// The shape of values that nothing is said about.
pub static ANY: Shape = Shape { kind: ShapeKind::Any, max: None, list: ListKind::Atomic };

impl Shape {
    /// A shape without further statements.
    pub fn of(kind: ShapeKind) -> Self {
        Self { kind, ..Self::default() }
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        match &self.kind {
            ShapeKind::Object(fields) => &fields.name,
            _ => "object",
        }
    }

    /// The type of a value of this shape.
    pub fn ty(self: &Arc<Self>) -> Ty {
        match &self.kind {
            ShapeKind::Any | ShapeKind::IntOrString => Ty::Dyn,
            ShapeKind::Bool => Ty::Bool,
            ShapeKind::Int => Ty::Int,
            ShapeKind::Double => Ty::Double,
            ShapeKind::String => Ty::String,
            ShapeKind::Bytes => Ty::Bytes,
            ShapeKind::Timestamp => Ty::Timestamp,
            ShapeKind::Duration => Ty::Duration,
            ShapeKind::List(of) => Ty::List(Arc::new(of.ty())),
            ShapeKind::Map(of) => Ty::Map(Arc::new(Ty::String), Arc::new(of.ty())),
            ShapeKind::Object(_) => Ty::Object(self.clone()),
        }
    }

    /// The shape of a list's elements or a map's values.
    pub fn element(&self) -> &Shape {
        match &self.kind {
            ShapeKind::List(of) | ShapeKind::Map(of) => of,
            _ => &ANY,
        }
    }
}

/// The name under which expressions reach a JSON field, or none when they cannot.
pub fn escape(name: &str) -> Option<String> {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    let mut chars = name.chars();
    let first = chars.next()?;
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if first.is_ascii_digit() || !good(first) || !chars.all(good) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    Some(
        name.replace("__", "__underscores__")
            .replace('.', "__dot__")
            .replace('-', "__dash__")
            .replace('/', "__slash__"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields() {
        for (name, escaped) in [
            ("plain", Some("plain")),
            ("with-dash", Some("with__dash__dash")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("namespace", Some("__namespace__")),
            ("a__b", Some("a__underscores__b")),
            ("9a", None),
            ("a b", None),
        ] {
            assert_eq!(escape(name).as_deref(), escaped);
        }
    }
}
