//! Where schemas live: flat vectors and small indices, so that all built-in types together take a
//! few hundred kilobytes and a custom resource's schema a few.

use std::collections::HashMap;

use serde_json::Value;

use super::constraints::Constraints;
use crate::kinds::Str;

/// Index of a [`NodeData`] in its arena.
pub(super) type NodeId = u32;

/// What a value may be. The scalar types are those of the API's Go types, not of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A struct: known fields.
    Object,
    /// String keys to values of one schema.
    Map,
    /// A list of values of one schema.
    List,
    /// Text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A truth value.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// `resource.Quantity`: a string, or a number that is read as its decimal text.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`: RFC 3339 with seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339 with microseconds.
    MicroTime,
    /// `metav1.Duration`: text as Go writes it.
    Duration,
    /// `runtime.RawExtension`: any object, opaque.
    Raw,
    /// `metav1.FieldsV1`: a field set, opaque here.
    Fields,
    /// Any JSON value, opaque.
    Json,
    /// `JSONSchemaPropsOrArray`: a schema or a list of them.
    PropsOrArray,
    /// `JSONSchemaPropsOrBool`: a schema or a truth value.
    PropsOrBool,
    /// `JSONSchemaPropsOrStringArray`: a schema or a list of strings.
    PropsOrStrings,
}

/// How the elements of a list belong together (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ListType {
    /// One value, replaced as a whole.
    #[default]
    Atomic,
    /// Scalars, each present once.
    Set,
    /// Objects identified by the values of their key fields.
    Map,
}

/// How a strategic merge patch treats a field (`x-kubernetes-patch-strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// Lists merge by [`super::Node::merge_key`] (or as sets of scalars), not replaced.
    pub merge: bool,
    /// The patch may name the keys to retain with `$retainKeys`.
    pub retain_keys: bool,
    /// A map is replaced as a whole.
    pub replace: bool,
}

/// One use of a type: a field's value, a list's element, a map's value.
#[derive(Clone, Debug)]
pub(super) struct NodeData {
    pub ty: Type,
    pub list_type: ListType,
    pub strategy: PatchStrategy,
    /// Every bit of [`flags`].
    pub flags: u16,
    /// Element of a list, value of a map, `JSONSchemaProps` of the `PropsOr…` types.
    pub element: Option<NodeId>,
    /// The struct of an object.
    pub object: Option<u32>,
    /// What few nodes have.
    pub extra: Option<u32>,
}

impl NodeData {
    pub fn new(ty: Type) -> Self {
        Self {
            ty,
            list_type: ListType::Atomic,
            strategy: PatchStrategy::default(),
            flags: 0,
            element: None,
            object: None,
            extra: None,
        }
    }
}

/// Bits of [`NodeData::flags`].
pub(super) mod flags {
    pub const REQUIRED: u16 = 1;
    /// A struct that is held by value in Go and so always written, `{}` when empty.
    pub const VALUE: u16 = 1 << 1;
    pub const ATOMIC: u16 = 1 << 2;
    pub const NULLABLE: u16 = 1 << 3;
    pub const PRESERVE_UNKNOWN: u16 = 1 << 4;
    pub const EMBEDDED: u16 = 1 << 5;
    /// `x-kubernetes-list-type` was said, even if it said atomic.
    pub const LIST_TYPE_SET: u16 = 1 << 6;
    /// `x-kubernetes-map-type: granular` was said, which is what maps are anyway.
    pub const GRANULAR: u16 = 1 << 7;
    /// A scalar that Go holds by value and leaves out of JSON when it is zero.
    pub const PLAIN: u16 = 1 << 8;
}

/// Seldom used attributes of a node.
#[derive(Clone, Debug, Default)]
pub(super) struct Extra {
    pub map_keys: Vec<Str>,
    pub merge_key: Option<Str>,
    pub default: Option<Value>,
    /// The default with the defaults of what is inside it: what Go writes for the unset field.
    pub zero: Option<Value>,
    pub constraints: Option<Box<Constraints>>,
}

/// A struct type.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    /// Short name, such as `apps.v1.DeploymentSpec`; empty for a custom resource's schema.
    pub name: Str,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Which fields have a [`Extra::zero`].
    pub zeros: Vec<u32>,
    pub atomic: bool,
    /// Text of `x-kubernetes-unions` in the type table's form.
    pub union: Option<Str>,
}

/// A field of a struct.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: Str,
    pub node: NodeId,
    /// Field numbers of the protobuf form from the outside in (embedded structs nest there and not
    /// in JSON, and so do lists that are a message of their own); zeros fill up. All zero: no such field in the protobuf form.
    pub proto: [u8; 3],
}

/// The store of nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Arena {
    pub nodes: Vec<NodeData>,
    pub objects: Vec<Object>,
    pub extras: Vec<Extra>,
    /// Named types to their nodes.
    pub roots: HashMap<Str, NodeId>,
}

impl Arena {
    pub fn add(&mut self, node: NodeData) -> NodeId {
        let id = self.nodes.len() as NodeId;
        self.nodes.push(node);
        id
    }

    pub fn add_object(&mut self, mut object: Object) -> u32 {
        object.fields.sort_by(|a, b| a.name.cmp(&b.name));
        let id = self.objects.len() as u32;
        self.objects.push(object);
        id
    }

    pub fn add_extra(&mut self, extra: Extra) -> u32 {
        let id = self.extras.len() as u32;
        self.extras.push(extra);
        id
    }
}
