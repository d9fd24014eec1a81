//! Rows for custom resources, from a CustomResourceDefinition (`apiextensions.k8s.io/v1`).

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Gvk, Kind, SchemaSource, Str, Subresource, Verbs};
use crate::schema::{Schema, SchemaError};

/// What only custom resources have.
#[derive(Clone, Debug, Default)]
pub struct Custom {
    /// Name of the definition, `plural.group`.
    pub definition: String,
    /// UID of the definition.
    pub definition_uid: String,
    /// Columns of printer tables beside the name (`additionalPrinterColumns`).
    pub columns: Vec<Column>,
    /// Paths that field selectors may name, such as `.spec.color`.
    pub selectable_fields: Vec<String>,
    /// Whether status has its own door, so that the main one ignores it.
    pub status: bool,
    /// Where `scale` reads and writes.
    pub scale: Option<ScalePaths>,
    /// `spec.conversion.webhook`, when the strategy is `Webhook`.
    pub conversion: Option<Arc<Value>>,
    /// The definition was changed since it was made: what was stored before may lack defaults of today, or have fields
    /// that are gone, so it is brought into shape when it is read.
    pub reshape: bool,
    /// A hash of the version's schema as written: documents made from it change when it does.
    pub schema_hash: String,
    /// The schema as written, kept only where it states CEL rules.
    pub ruled_schema: Option<Arc<Value>>,
}

/// A column of a custom resource's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: String,
    /// OpenAPI format; may be empty.
    pub format: String,
    /// Description; may be empty.
    pub description: String,
    /// 0 is always shown, higher with `-o wide` alone.
    pub priority: i64,
    /// A simple JSON path such as `.spec.replicas`.
    pub json_path: String,
}

/// JSON paths of the `scale` subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Path of the desired number, below `.spec`.
    pub spec_replicas: String,
    /// Path of the observed number, below `.status`.
    pub status_replicas: String,
    /// Path of the serialized label selector; may be absent.
    pub label_selector: Option<String>,
}

/// The rows of a definition: one for each version that is served.
///
/// # Errors
/// [`SchemaError`] if a version's schema is not structural.
pub fn from_definition(definition: &Value) -> Result<Vec<Kind>, SchemaError> {
    let spec = &definition["spec"];
    let versions = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let storage = versions.iter().find(|v| v["storage"] == true).map(|v| text(v, "name")).unwrap_or_default();
    versions.iter().filter(|v| v["served"] == true).map(|v| row(definition, v, &storage)).collect()
}

fn row(definition: &Value, version: &Value, storage: &str) -> Result<Kind, SchemaError> {
    let spec = &definition["spec"];
    // Accepted names are in status once the names controller has looked; until then the asked ones count.
    let accepted = &definition["status"]["acceptedNames"];
    let names = if text(accepted, "plural").is_empty() { &spec["names"] } else { accepted };
    let group = text(spec, "group");
    let name = text(version, "name");
    let kind = text(names, "kind");
    let custom = custom(definition, version);
    let schema = Schema::from_definition(
        &version["schema"]["openAPIV3Schema"],
        spec["preserveUnknownFields"].as_bool().unwrap_or_default(),
    )?;
    let plural = text(names, "plural");
    let or = |value: String, other: String| if value.is_empty() { other } else { value };
    Ok(Kind {
        list_kind: or(text(names, "listKind"), format!("{kind}List")).into(),
        singular: or(text(names, "singular"), kind.to_ascii_lowercase()).into(),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] != "Cluster",
        verbs: Verbs::ALL,
        subresources: subresources(&custom, &group, &name, &kind),
        storage_group: group.clone().into(),
        storage_version: storage.to_owned().into(),
        deprecation: deprecation(version, &group, &name, &kind),
        default_served: true,
        schema_source: SchemaSource::Custom(schema),
        custom: Some(Arc::new(custom)),
        group: group.into(),
        version: name.into(),
        kind: kind.into(),
        plural: plural.into(),
    })
}

fn custom(definition: &Value, version: &Value) -> Custom {
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    let scale = &version["subresources"]["scale"];
    Custom {
        definition: text(&definition["metadata"], "name"),
        definition_uid: text(&definition["metadata"], "uid"),
        columns: columns.map(column).collect(),
        selectable_fields: version["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|f| text(f, "jsonPath"))
            .collect(),
        status: version["subresources"]["status"].is_object(),
        scale: scale.is_object().then(|| ScalePaths {
            spec_replicas: text(scale, "specReplicasPath"),
            status_replicas: text(scale, "statusReplicasPath"),
            label_selector: Some(text(scale, "labelSelectorPath")).filter(|p| !p.is_empty()),
        }),
        conversion: (definition["spec"]["conversion"]["strategy"] == "Webhook")
            .then(|| Arc::new(definition["spec"]["conversion"]["webhook"].clone())),
        reshape: crate::meta::generation(definition) > 1,
        schema_hash: hash(&version["schema"]),
        ruled_schema: Some(&version["schema"]["openAPIV3Schema"])
            .filter(|schema| states_rules(schema))
            .map(|schema| Arc::new(schema.clone())),
    }
}

/// Whether `x-kubernetes-validations` stands anywhere in a schema.
pub fn states_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => object.iter().any(|(key, value)| {
            (key == "x-kubernetes-validations" && value.as_array().is_some_and(|all| !all.is_empty()))
                || states_rules(value)
        }),
        Value::Array(all) => all.iter().any(states_rules),
        _ => false,
    }
}

fn column(column: &Value) -> Column {
    Column {
        name: text(column, "name"),
        type_: text(column, "type"),
        format: text(column, "format"),
        description: text(column, "description"),
        priority: column["priority"].as_i64().unwrap_or_default(),
        json_path: text(column, "jsonPath"),
    }
}

fn subresources(custom: &Custom, group: &str, version: &str, kind: &str) -> Vec<Subresource> {
    let mut found = Vec::new();
    if custom.scale.is_some() {
        let gvk = Gvk::new("autoscaling", "v1", "Scale");
        found.push(Subresource { name: "scale".into(), kind: gvk, verbs: Verbs::GET_PATCH_UPDATE });
    }
    if custom.status {
        let gvk = Gvk::new(group.to_owned(), version.to_owned(), kind.to_owned());
        found.push(Subresource { name: "status".into(), kind: gvk, verbs: Verbs::GET_PATCH_UPDATE });
    }
    found
}

fn deprecation(version: &Value, group: &str, name: &str, kind: &str) -> Option<Str> {
    if version["deprecated"] != true {
        return None;
    }
    Some(match version["deprecationWarning"].as_str() {
        Some(warning) => warning.to_owned().into(),
        None => format!("{group}/{name} {kind} is deprecated").into(),
    })
}

fn hash(schema: &Value) -> String {
    let digest = Sha256::digest(schema.to_string());
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<Str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(|s| s.to_owned().into()).collect()
}
