//! The table of kinds: what the API serves, one row a resource.
//!
//! A kind is data: its names, scope, verbs, subresources and schema. Built-in rows are static
//! ([`KindTable::builtin`]); custom resources are rows added at run time
//! ([`custom::from_definition`]) and take the same road through the server.
//!
//! Lookups are binary searches over sorted rows: a table of a hundred rows costs about seven string
//! comparisons, needs no hashing and clones cheaply (rows are `Arc<Kind>`), so the server can publish
//! a changed table by swapping one pointer.

mod builtin;
pub mod convert;
pub mod custom;
mod subresources;
mod table;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub(crate) use builtin::package;
pub use table::{KindTable, compare_versions};

use crate::schema::Schema;

/// A name that is static for built-in rows and owned for rows added at run time.
pub type Str = Cow<'static, str>;

/// Group, version and kind: what `apiVersion` and `kind` of an object say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: Str,
    /// Version, such as `v1` or `v1beta1`.
    pub version: Str,
    /// Kind in CamelCase, such as `Deployment`.
    pub kind: Str,
}

impl Gvk {
    /// A triple from its three parts.
    pub fn new(group: impl Into<Str>, version: impl Into<Str>, kind: impl Into<Str>) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// Splits an object's `apiVersion` and joins it with its `kind`. `v1` is the core group.
    pub fn from_object(api_version: &str, kind: &str) -> Self {
        let (group, version) = split_api_version(api_version);
        Self::new(group.to_owned(), version.to_owned(), kind.to_owned())
    }

    /// The `apiVersion` form: `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    /// As upstream's errors name a kind: `apps/v1, Kind=Deployment`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

/// Group and plural resource name, as error messages show it: `pods`, `deployments.apps`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    /// API group; empty for the core group.
    pub group: Str,
    /// Plural resource name.
    pub resource: Str,
}

impl GroupResource {
    /// A pair from its two parts.
    pub fn new(group: impl Into<Str>, resource: impl Into<Str>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.is_empty() {
            true => f.write_str(&self.resource),
            false => write!(f, "{}.{}", self.resource, self.group),
        }
    }
}

/// Splits `apps/v1` into `("apps", "v1")` and `v1` into `("", "v1")`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Joins group and version into the `apiVersion` form.
pub fn join_api_version(group: &str, version: &str) -> String {
    match group.is_empty() {
        true => version.to_owned(),
        false => format!("{group}/{version}"),
    }
}

/// The verbs that a resource or subresource supports, as a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Verbs(u16);

impl Verbs {
    /// POST of one object.
    pub const CREATE: Verbs = Verbs(1);
    /// DELETE of one object.
    pub const DELETE: Verbs = Verbs(1 << 1);
    /// DELETE of a collection.
    pub const DELETE_COLLECTION: Verbs = Verbs(1 << 2);
    /// GET of one object.
    pub const GET: Verbs = Verbs(1 << 3);
    /// GET of a collection.
    pub const LIST: Verbs = Verbs(1 << 4);
    /// PATCH of one object.
    pub const PATCH: Verbs = Verbs(1 << 5);
    /// PUT of one object.
    pub const UPDATE: Verbs = Verbs(1 << 6);
    /// GET with `watch=true`.
    pub const WATCH: Verbs = Verbs(1 << 7);
    /// All eight.
    pub const ALL: Verbs = Verbs(0xff);
    /// What `status`, `scale` and their like support.
    pub const GET_PATCH_UPDATE: Verbs = Verbs(1 << 3 | 1 << 5 | 1 << 6);

    /// Both sets together.
    pub const fn with(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// This set less the other.
    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// Whether every verb of `other` is in this set.
    pub const fn contains(self, other: Verbs) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names in alphabetical order, as discovery lists them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        NAMES.into_iter().enumerate().filter(move |(bit, _)| self.0 & (1 << bit) != 0).map(|(_, name)| name)
    }

    /// The set that holds the one named verb; empty for an unknown name.
    pub fn named(name: &str) -> Verbs {
        match name {
            "create" => Self::CREATE,
            "delete" => Self::DELETE,
            "deletecollection" => Self::DELETE_COLLECTION,
            "get" => Self::GET,
            "list" => Self::LIST,
            "patch" => Self::PATCH,
            "update" => Self::UPDATE,
            "watch" => Self::WATCH,
            _ => Verbs(0),
        }
    }
}

impl fmt::Debug for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// One subresource of a resource, such as `pods/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Path segment after the object's name.
    pub name: Str,
    /// The kind that is read and written there: `autoscaling/v1, Kind=Scale` for `scale`.
    pub kind: Gvk,
    /// Supported verbs.
    pub verbs: Verbs,
}

/// One row of the table of kinds.
#[derive(Clone, Debug)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Str,
    /// Version under which this row is served.
    pub version: Str,
    /// Kind in CamelCase.
    pub kind: Str,
    /// Kind of its list.
    pub list_kind: Str,
    /// Plural resource name: the path segment.
    pub plural: Str,
    /// Singular resource name.
    pub singular: Str,
    /// Short names that `kubectl` accepts.
    pub short_names: Vec<Str>,
    /// Categories such as `all`.
    pub categories: Vec<Str>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Supported verbs of the resource itself.
    pub verbs: Verbs,
    /// Subresources in alphabetical order.
    pub subresources: Vec<Subresource>,
    /// Group of the stored form. It differs from `group` for `events.k8s.io` alone.
    pub storage_group: Str,
    /// Version of the stored form. Objects served under another version are converted
    /// ([`convert::convert`]).
    pub storage_version: Str,
    /// Text of the `Warning` header that every request to this row earns; for instance Endpoints.
    pub deprecation: Option<Str>,
    /// Whether an API server of default configuration serves this row (upstream: stable versions).
    pub default_served: bool,
    /// Where the schema of the kind is found.
    pub schema_source: SchemaSource,
    /// What only custom resources have.
    pub custom: Option<Arc<custom::Custom>>,
}

/// Where a row's schema comes from.
#[derive(Clone, Debug)]
pub enum SchemaSource {
    /// The named type of the built-in type table (short form, such as `core.v1.Pod`).
    Builtin(Str),
    /// The schema of a CustomResourceDefinition's version.
    Custom(Schema),
}

impl Kind {
    /// Group, version and kind of the row.
    pub fn gvk(&self) -> Gvk {
        Gvk { group: self.group.clone(), version: self.version.clone(), kind: self.kind.clone() }
    }

    /// Group and plural name of the row.
    pub fn group_resource(&self) -> GroupResource {
        GroupResource { group: self.group.clone(), resource: self.plural.clone() }
    }

    /// The `apiVersion` of objects of this row.
    pub fn api_version(&self) -> String {
        join_api_version(&self.group, &self.version)
    }

    /// The `apiVersion` of the stored form.
    pub fn storage_api_version(&self) -> String {
        join_api_version(&self.storage_group, &self.storage_version)
    }

    /// Whether the stored form is the served form, so bytes are passed through unchanged.
    pub fn is_stored_form(&self) -> bool {
        self.group == self.storage_group && self.version == self.storage_version
    }

    /// The named subresource.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// The schema of the kind. Built-in schemas share one arena that is laid out at the first use.
    /// A built-in row whose type is not in the table (none is, and a test says so) answers the
    /// open schema that accepts any object.
    pub fn schema(&self) -> Schema {
        match &self.schema_source {
            SchemaSource::Builtin(name) => Schema::builtin(name).unwrap_or_else(Schema::open),
            SchemaSource::Custom(schema) => schema.clone(),
        }
    }

    /// Whether a deletion answers the deleted object rather than a `Status`.
    pub fn deletes_to_object(&self) -> bool {
        match &*self.group {
            "" => matches!(
                &*self.kind,
                "PersistentVolume"
                    | "PersistentVolumeClaim"
                    | "Pod"
                    | "PodTemplate"
                    | "ResourceQuota"
                    | "Service"
                    | "ServiceAccount"
            ),
            "resource.k8s.io" => true,
            "storage.k8s.io" => self.kind != "CSIStorageCapacity",
            _ => false,
        }
    }

    /// Whether the row is a custom resource.
    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }
}
