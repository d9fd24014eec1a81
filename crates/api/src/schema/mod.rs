//! Schemas: what fields a kind has, of what type, and how writers share them.
//!
//! One table ([`builtin`], `types.tbl`) states the structural facts of every built-in type: fields,
//! types, list types and keys, patch strategies, defaults of the Go types, protobuf field numbers. A
//! CustomResourceDefinition's schema becomes the same [`Schema`] ([`Schema::from_definition`]). Decoding, the
//! patches, server-side apply and the protobuf codec are all driven by it; none knows any kind.
//!
//! Descriptions are not held here: documents that show them are built on demand (`openapi`).

mod arena;
mod builtin;
mod constraints;
mod crd;
mod defaulting;
mod formats;
pub mod names;
#[cfg(test)]
mod tests;
mod validate;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::kinds::Gvk;

use arena::{Arena, Extra, NodeData, NodeId, Object, flags};
pub use arena::{ListType, PatchStrategy, Type};
pub use builtin::type_names;
pub use constraints::{Constraints, Rule};
pub use crd::SchemaError;
pub(crate) use defaulting::fill_object;
pub use defaulting::{apply_defaults, fill_zero_values};
pub use validate::validate;

/// A schema: a root in an arena. Cloning shares the arena.
#[derive(Clone)]
pub struct Schema {
    arena: Holder,
    root: NodeId,
}

#[derive(Clone)]
enum Holder {
    Static(&'static Arena),
    Shared(Arc<Arena>),
}

impl Schema {
    /// The schema of a built-in type by its short name (`core.v1.Pod`, `meta.v1.Status`) or by its
    /// full OpenAPI name (`io.k8s.api.core.v1.Pod`).
    pub fn builtin(name: &str) -> Option<Schema> {
        let arena = builtin::arena();
        let root = match arena.roots.get(name) {
            Some(root) => *root,
            None => *arena.roots.get(names::short(name).as_ref())?,
        };
        Some(Schema { arena: Holder::Static(arena), root })
    }

    /// The schema of a custom resource's version from the `openAPIV3Schema` of its definition.
    /// `apiVersion`, `kind` and `metadata` are added as every object has them.
    ///
    /// # Errors
    /// [`SchemaError`] names the field that is not a structural schema.
    pub fn from_definition(open_api_v3: &Value, preserve_unknown: bool) -> Result<Schema, SchemaError> {
        let (arena, root) = crd::build(open_api_v3, preserve_unknown)?;
        Ok(Schema { arena: Holder::Shared(Arc::new(arena)), root })
    }

    /// The schema that accepts any object with metadata.
    pub fn open() -> Schema {
        let (arena, root) = crd::open();
        Schema { arena: Holder::Shared(Arc::new(arena)), root }
    }

    /// The schema of a built-in kind, be it a resource or the body of a subresource (`Scale`, `Eviction`).
    /// `DeleteOptions` and its like are found under every group version.
    pub fn of_kind(gvk: &Gvk) -> Option<Schema> {
        let package = crate::kinds::package(&gvk.group);
        Self::builtin(&format!("{package}.{}.{}", gvk.version, gvk.kind))
            .or_else(|| Self::builtin(&format!("meta.v1.{}", gvk.kind)))
    }

    /// Whether this is the schema of a custom resource.
    pub fn is_custom(&self) -> bool {
        matches!(self.arena, Holder::Shared(_))
    }

    /// The node of the whole object.
    pub fn root(&self) -> Node<'_> {
        let arena = match &self.arena {
            Holder::Static(arena) => arena,
            Holder::Shared(arena) => arena.as_ref(),
        };
        Node { arena, id: self.root }
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({:?})", self.root())
    }
}

/// One node of a schema: the type of the value at one place, with what is said about that place.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    arena: &'a Arena,
    id: NodeId,
}

impl<'a> Node<'a> {
    fn data(self) -> &'a NodeData {
        &self.arena.nodes[self.id as usize]
    }

    fn object(self) -> Option<&'a Object> {
        self.data().object.map(|o| &self.arena.objects[o as usize])
    }

    fn extra(self) -> Option<&'a Extra> {
        self.data().extra.map(|e| &self.arena.extras[e as usize])
    }

    fn at(self, id: NodeId) -> Node<'a> {
        Node { arena: self.arena, id }
    }

    /// A number that is equal for equal places of one schema; recursive schemas make it finite.
    pub fn id(self) -> u32 {
        self.id
    }

    /// The type of the value.
    pub fn ty(self) -> Type {
        self.data().ty
    }

    /// Short name of an object's type, such as `core.v1.PodSpec`; empty for custom resources.
    pub fn type_name(self) -> &'a str {
        self.object().map_or("", |o| &o.name)
    }

    /// The schema of the named field of an object.
    pub fn field(self, name: &str) -> Option<Node<'a>> {
        let fields = &self.object()?.fields;
        let at = fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some(self.at(fields[at].node))
    }

    /// The fields of an object in alphabetical order.
    pub fn fields(self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        self.object().into_iter().flat_map(move |o| o.fields.iter().map(move |f| (&*f.name, self.at(f.node))))
    }

    /// The schema of the named field of an object with its protobuf field numbers.
    pub fn proto_field(self, name: &str) -> Option<(Node<'a>, [u8; 3])> {
        let fields = &self.object()?.fields;
        let at = fields.binary_search_by(|f| (*f.name).cmp(name)).ok()?;
        Some((self.at(fields[at].node), fields[at].proto))
    }

    /// The fields of an object with their protobuf field numbers from the outside in; zeros fill up.
    pub fn proto_fields(self) -> impl Iterator<Item = (&'a str, Node<'a>, [u8; 3])> {
        self.object().into_iter().flat_map(move |o| o.fields.iter().map(move |f| (&*f.name, self.at(f.node), f.proto)))
    }

    /// The schema of a list's elements or a map's values; of the `PropsOr…` types the `JSONSchemaProps`.
    pub fn element(self) -> Option<Node<'a>> {
        self.data().element.map(|e| self.at(e))
    }

    /// The schema of the value under `key` of an object or a map.
    pub fn child(self, key: &str) -> Option<Node<'a>> {
        match self.ty() {
            Type::Object => self.field(key).or_else(|| self.element()),
            Type::Map => self.element(),
            _ => None,
        }
    }

    /// How a list's elements belong together.
    pub fn list_type(self) -> ListType {
        self.data().list_type
    }

    /// Whether the list type was stated rather than assumed.
    pub fn list_type_is_set(self) -> bool {
        self.flag(flags::LIST_TYPE_SET)
    }

    /// Fields that identify an element of a [`ListType::Map`] list.
    pub fn map_keys(self) -> &'a [crate::kinds::Str] {
        self.extra().map_or(&[], |e| &e.map_keys)
    }

    /// Whether an object or map is one value, replaced as a whole.
    pub fn is_atomic(self) -> bool {
        match self.ty() {
            Type::Object | Type::Map => self.flag(flags::ATOMIC) || self.object().is_some_and(|o| o.atomic),
            Type::List => self.list_type() == ListType::Atomic,
            _ => true,
        }
    }

    /// Whether it was said that a map's entries stand for themselves, which goes without saying.
    pub fn is_said_granular(self) -> bool {
        self.flag(flags::GRANULAR)
    }

    /// How a strategic merge patch treats this place.
    pub fn patch_strategy(self) -> PatchStrategy {
        self.data().strategy
    }

    /// Field by which a strategic merge patch matches the elements of a list.
    pub fn merge_key(self) -> Option<&'a str> {
        self.extra().and_then(|e| e.merge_key.as_deref())
    }

    /// The default of this place. For built-in types that is what Go writes for an unset field or what
    /// a declarative default says.
    pub fn default(self) -> Option<&'a Value> {
        self.extra().and_then(|e| e.default.as_ref())
    }

    /// The fields of an object that Go writes even when unset, with what it writes.
    pub fn zeros(self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.object().into_iter().flat_map(move |o| {
            o.zeros.iter().filter_map(move |index| {
                let field = &o.fields[*index as usize];
                Some((&*field.name, self.at(field.node).extra()?.zero.as_ref()?))
            })
        })
    }

    /// Whether the field must be present.
    pub fn is_required(self) -> bool {
        self.flag(flags::REQUIRED)
    }

    /// Whether the struct is always written, `{}` when empty.
    pub fn is_value(self) -> bool {
        self.flag(flags::VALUE)
    }

    /// Whether zero and unset are the same here: Go holds the scalar by value and leaves zero out of JSON.
    pub fn is_plain(self) -> bool {
        self.flag(flags::PLAIN)
    }

    /// Whether Go leaves this value out when it writes the field: a list, map, byte string or scalar held by value that is
    /// empty, where the field is optional (`omitempty`).
    pub fn leaves_out(self, value: &Value) -> bool {
        let empty = match value {
            Value::Array(items) => items.is_empty() && self.ty() == Type::List,
            Value::Object(entries) => entries.is_empty() && self.ty() == Type::Map,
            Value::String(text) => text.is_empty() && (self.is_plain() || self.ty() == Type::Bytes),
            Value::Bool(flag) => !flag && self.is_plain(),
            Value::Number(number) => self.is_plain() && number.as_f64() == Some(0.0),
            Value::Null => false,
        };
        empty && !self.is_required() && self.extra().is_none_or(|e| e.zero.is_none() && e.default.is_none())
    }

    /// Whether null is a value here (custom resources).
    pub fn is_nullable(self) -> bool {
        self.flag(flags::NULLABLE)
    }

    /// Whether fields that the schema does not know are kept.
    pub fn preserves_unknown(self) -> bool {
        self.flag(flags::PRESERVE_UNKNOWN)
    }

    /// Whether the value is an object with `apiVersion`, `kind` and `metadata` of its own.
    pub fn is_embedded_resource(self) -> bool {
        self.flag(flags::EMBEDDED)
    }

    /// The value validations of a custom resource's schema.
    pub fn constraints(self) -> Option<&'a Constraints> {
        self.extra().and_then(|e| e.constraints.as_deref())
    }

    /// What `x-kubernetes-unions` says of the object, as `discriminator:field>Value,…`.
    pub fn union(self) -> Option<&'a str> {
        self.object().and_then(|o| o.union.as_deref())
    }

    fn flag(self, flag: u16) -> bool {
        self.data().flags & flag != 0
    }
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.ty(), self.type_name())
    }
}
