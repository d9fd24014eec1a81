//! Object metadata: reading and writing it on values, and reading it from stored bytes.
//!
//! Lists and watches are filtered by [`Filter`], which scans the stored JSON once, without building
//! a tree, and reads only what the selectors ask for.

use crate::selector::{FieldDef, FieldSelector, FieldTerm, LabelSelector, Labels, SelectorError};
use serde_json::{Map, Value};
use std::borrow::Cow;

mod scan;

pub use scan::{Scan, ScanError};

/// A text field of `metadata`; `""` when it is absent.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata.name`, or `""`.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// `metadata.namespace`, or `""`.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// `metadata.uid`, or `""`.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// `metadata.resourceVersion`, or `""`.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// `metadata.generation`, or 0.
pub fn generation(object: &Value) -> i64 {
    object.get("metadata").and_then(|meta| meta.get("generation")).and_then(Value::as_i64).unwrap_or(0)
}

/// The label `key` of the object.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// The annotation `key` of the object.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// `metadata.labels`, if there are any.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

/// `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Whether deletion has been asked for (`metadata.deletionTimestamp` is set).
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// The controller's entry of `metadata.ownerReferences`.
pub fn controller(object: &Value) -> Option<&Value> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// The object as a map; anything else becomes an empty one first.
pub fn fields_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Made an object just above.
        _ => unreachable!("value was made an object"),
    }
}

/// The map under `field`, made if it is absent or no map.
pub fn map_mut<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    if !map.contains_key(field) {
        map.insert(field.to_owned(), Value::Object(Map::new()));
    }
    match map.get_mut(field) {
        Some(value) => fields_mut(value),
        None => unreachable!("field was inserted"),
    }
}

/// `metadata`, made if absent.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(fields_mut(object), "metadata")
}

/// Sets a text field of `metadata`.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    metadata_mut(object).insert(field.to_owned(), value.into());
}

/// Leaves out lists and maps of `metadata` that became empty: they are stored as absent.
pub fn tidy(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["labels", "annotations", "ownerReferences", "finalizers", "managedFields"] {
        let empty = match metadata.get(field) {
            Some(Value::Array(list)) => list.is_empty(),
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}

/// Sets a label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    map_mut(metadata_mut(object), "labels").insert(key.to_owned(), value.into());
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    map_mut(metadata_mut(object), "annotations").insert(key.to_owned(), value.into());
}

/// What a scan of stored bytes found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extract<'a> {
    pub name: Cow<'a, str>,
    pub namespace: Cow<'a, str>,
    labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// In the order of the fields asked for; `None` when the object lacks it.
    pub values: Vec<Option<Cow<'a, str>>>,
}

impl Extract<'_> {
    /// All labels, in stored order.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

impl Labels for Extract<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(one, _)| one == key).map(|(_, value)| value.as_ref())
    }
}

/// Reads name, namespace, labels and the values at `paths` from the JSON of a stored object.
///
/// Errors when the bytes are no JSON object; bytes that follow the part which was needed are not looked at.
pub fn extract<'a>(json: &'a [u8], paths: &[&[Cow<'_, str>]]) -> Result<Extract<'a>, ScanError> {
    let mut out = Extract { values: vec![None; paths.len()], ..Extract::default() };
    let mut scan = Scan::new(json);
    // Top-level fields still to come: `metadata`, and where the paths begin.
    let begins = |i: usize| paths[i].first().map(AsRef::as_ref).unwrap_or_default();
    let outside = |i: &usize| begins(*i) != "metadata" && !(0..*i).any(|before| begins(before) == begins(*i));
    let mut pending = 1 + (0..paths.len()).filter(outside).count();
    scan.object_until(|scan, key| {
        let inside: Vec<usize> = (0..paths.len()).filter(|i| first_is(paths[*i], &key)).collect();
        if key == "metadata" {
            metadata(scan, paths, &inside, &mut out)?;
            pending = pending.saturating_sub(1);
        } else {
            descend(scan, paths, &inside, 1, &mut out.values)?;
            pending = pending.saturating_sub(usize::from(!inside.is_empty()));
        }
        Ok(pending > 0)
    })?;
    Ok(out)
}

/// The bytes of one field at the top of the JSON of a stored object; `None` when it is not there (or the bytes are no object).
pub fn member<'a>(json: &'a [u8], field: &str) -> Option<&'a [u8]> {
    let mut found = None;
    let mut scan = Scan::new(json);
    scan.object_until(|scan, key| {
        let begin = scan.position();
        scan.skip()?;
        if key == field {
            found = json.get(begin..scan.position()).map(<[u8]>::trim_ascii);
        }
        Ok(found.is_none())
    })
    .ok()?;
    found
}

fn first_is(path: &[Cow<'_, str>], key: &str) -> bool {
    path.first().is_some_and(|step| step == key)
}

fn metadata<'a>(
    scan: &mut Scan<'a>,
    paths: &[&[Cow<'_, str>]],
    wants: &[usize],
    out: &mut Extract<'a>,
) -> Result<(), ScanError> {
    scan.object(|scan, key| {
        match key.as_ref() {
            "name" => out.name = scan.text_or_skip()?.unwrap_or_default(),
            "namespace" => out.namespace = scan.text_or_skip()?.unwrap_or_default(),
            "labels" => {
                let labels = &mut out.labels;
                scan.object(|scan, key| {
                    if let Some(value) = scan.text_or_skip()? {
                        labels.push((key, value));
                    }
                    Ok(())
                })?;
            }
            other => {
                let inside: Vec<usize> =
                    wants.iter().copied().filter(|i| paths[*i].get(1).is_some_and(|step| step == other)).collect();
                return descend(scan, paths, &inside, 2, &mut out.values);
            }
        }
        for i in wants {
            if paths[*i].len() == 2 && paths[*i][1] == key {
                out.values[*i] = match key.as_ref() {
                    "name" => Some(out.name.clone()),
                    "namespace" => Some(out.namespace.clone()),
                    _ => None,
                };
            }
        }
        Ok(())
    })
}

fn descend<'a>(
    scan: &mut Scan<'a>,
    paths: &[&[Cow<'_, str>]],
    wants: &[usize],
    depth: usize,
    values: &mut [Option<Cow<'a, str>>],
) -> Result<(), ScanError> {
    if wants.is_empty() {
        return scan.skip();
    }
    if let Some(leaf) = wants.iter().copied().find(|i| paths[*i].len() == depth) {
        let value = scan.scalar_or_skip()?;
        for i in wants.iter().copied().filter(|i| *i == leaf || paths[*i].len() == depth) {
            values[i].clone_from(&value);
        }
        return Ok(());
    }
    scan.object(|scan, key| {
        let inside: Vec<usize> = wants.iter().copied().filter(|i| paths[*i][depth] == key).collect();
        descend(scan, paths, &inside, depth + 1, values)
    })
}

/// Label and field selectors made ready for one resource.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    labels: LabelSelector,
    fields: Vec<(FieldDef, FieldTerm)>,
}

impl Filter {
    /// Lets everything pass.
    pub fn everything() -> Filter {
        Filter::default()
    }

    /// Errors when the resource does not offer a field that the selector names. `custom` are the selectable
    /// fields of a custom resource.
    pub fn new(
        group: &str,
        resource: &str,
        labels: LabelSelector,
        fields: &FieldSelector,
        custom: &[FieldDef],
    ) -> Result<Filter, SelectorError> {
        let fields = fields.resolve(group, resource, custom)?;
        let fields = fields.into_iter().map(|(def, term)| (def, term.clone())).collect();
        Ok(Filter { labels, fields })
    }

    /// Whether it lets everything pass, so that nothing need be scanned.
    pub fn is_everything(&self) -> bool {
        self.fields.is_empty() && self.labels.is_everything()
    }

    /// The one `metadata.name` that can pass, if there is only one.
    pub fn exact_name(&self) -> Option<&str> {
        let is_name = |(def, term): &&(FieldDef, FieldTerm)| term.equal && def.label == "metadata.name";
        self.fields.iter().find(is_name).map(|(_, term)| term.value.as_str())
    }

    /// Whether the object passes.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches_object(object)
            && self.fields.iter().all(|(def, term)| (def.read(object) == term.value.as_str()) == term.equal)
    }

    /// Whether the object with these stored bytes passes. Bytes that are no JSON do not.
    pub fn matches_bytes(&self, json: &[u8]) -> bool {
        if self.is_everything() {
            return true;
        }
        if self.labels.is_nothing() {
            return false;
        }
        let mut paths: Vec<&[Cow<'_, str>]> = self.fields.iter().map(|(def, _)| def.path.as_slice()).collect();
        let fallbacks = self.fields.iter().map(|(def, _)| def.fallback.as_slice()).filter(|path| !path.is_empty());
        paths.extend(fallbacks);
        let Ok(found) = extract(json, &paths) else { return false };
        let mut second = found.values.iter().skip(self.fields.len());
        self.labels.matches(&found)
            && self.fields.iter().zip(&found.values).all(|((def, term), value)| {
                let second = if def.fallback.is_empty() { None } else { second.next().and_then(Option::as_deref) };
                let value = value.as_deref().filter(|v| !v.is_empty()).or(second).unwrap_or(def.form.absent());
                (value == term.value) == term.equal
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "annotations": {"a": "\"}{\\"}, "labels": {"app": "wéb", "q\"": "x\n"},
                "managedFields": [{"fieldsV1": {"f:metadata": {}}}, null, 1.5e3, true],
                "name": "p", "namespace": "ns"
            },
            "spec": {"nodeName": "n1", "hostNetwork": true, "containers": [{"name": "c"}]},
            "status": {"phase": "Running"}
        })
    }

    fn path(text: &'static str) -> Vec<Cow<'static, str>> {
        text.split('.').map(Cow::from).collect()
    }

    #[test]
    fn a_member_is_cut_out_as_it_stands() {
        let json = br#"{"kind":"X", "metadata": {"name":"a\"}","n":[1,{"metadata":2}]} ,"value":true}"#;
        assert_eq!(member(json, "metadata"), Some(&br#"{"name":"a\"}","n":[1,{"metadata":2}]}"#[..]));
        assert_eq!(member(json, "value"), Some(&b"true"[..]));
        assert_eq!(member(json, "name"), None);
        assert_eq!(member(b"[1]", "name"), None);
        assert_eq!(member(b"{\"a\":", "a"), None);
    }

    #[test]
    fn extracts_from_bytes() {
        let bytes = serde_json::to_vec(&pod()).unwrap();
        let paths = [
            path("spec.nodeName"),
            path("status.phase"),
            path("spec.hostNetwork"),
            path("spec.missing"),
            path("metadata.name"),
            path("spec"),
            path("spec.nodeName.deeper"),
        ];
        let wanted: Vec<&[Cow<'_, str>]> = paths[..5].iter().map(Vec::as_slice).collect();
        let found = extract(&bytes, &wanted).unwrap();
        assert_eq!((found.name.as_ref(), found.namespace.as_ref()), ("p", "ns"));
        assert_eq!(found.label("app"), Some("wéb"));
        assert_eq!(found.label("q\""), Some("x\n"));
        let values: Vec<Option<&str>> = found.values.iter().map(Option::as_deref).collect();
        assert_eq!(values, [Some("n1"), Some("Running"), Some("true"), None, Some("p")]);
        let odd = extract(&bytes, &[paths[5].as_slice()]).unwrap();
        assert_eq!(odd.values, [None]);
        let pretty = serde_json::to_vec_pretty(&pod()).unwrap();
        assert_eq!(extract(&pretty, &wanted).unwrap(), found);
    }

    #[test]
    fn broken_bytes_are_refused() {
        let bytes = serde_json::to_vec(&pod()).unwrap();
        let last = path("status.phase");
        for end in [0, 1, 10, bytes.len() / 2, bytes.len() - 12] {
            assert!(extract(&bytes[..end], &[&last]).is_err(), "cut at {end}");
        }
        assert!(extract(b"[]", &[]).is_err());
        assert!(extract(&b"[".repeat(100_000), &[]).is_err());
        assert!(extract(&[b"{\"a\":".as_slice(), &b"[".repeat(100_000)].concat(), &[]).is_err());
    }

    #[test]
    fn filters_agree_on_bytes_and_values() {
        let pod = pod();
        let bytes = serde_json::to_vec(&pod).unwrap();
        let cases = [
            ("", "", true),
            ("app=wéb", "", false),
            ("app", "", true),
            ("app", "spec.nodeName=n1", true),
            ("", "spec.nodeName!=n1", false),
            ("", "spec.hostNetwork=true,status.podIP=", true),
            ("!app", "", false),
            ("", "metadata.name=p,metadata.namespace=ns", true),
        ];
        for (labels, fields, want) in cases {
            // A label value outside the grammar cannot be asked for; that case must not match.
            let Ok(labels_parsed) = LabelSelector::parse(labels) else {
                assert!(!want, "{labels}");
                continue;
            };
            let fields = FieldSelector::parse(fields).unwrap();
            let filter = Filter::new("", "pods", labels_parsed, &fields, &[]).unwrap();
            assert_eq!(filter.matches(&pod), want, "{labels} {fields}");
            assert_eq!(filter.matches_bytes(&bytes), want, "{labels} {fields} on bytes");
        }
    }

    #[test]
    fn metadata_is_written() {
        let mut object = json!({});
        set(&mut object, "name", "x");
        set_label(&mut object, "a", "b");
        set_annotation(&mut object, "c", "d");
        assert_eq!(object, json!({"metadata": {"name": "x", "labels": {"a": "b"}, "annotations": {"c": "d"}}}));
        assert_eq!((name(&object), label(&object, "a"), annotation(&object, "c")), ("x", Some("b"), Some("d")));
    }
}
