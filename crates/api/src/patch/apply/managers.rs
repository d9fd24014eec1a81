//! `metadata.managedFields`: who manages which fields, read and written.

use serde_json::{Map, Value, json};

use super::fieldset::FieldSet;

/// Most managers of operation `Update` that an object keeps; the oldest beyond it are merged into one
/// ([`ANCIENT`]) for each version. (Upstream's limit.)
const MAX_UPDATE_MANAGERS: usize = 10;

/// Name of the manager that stands for many old ones.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub manager: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339; empty if never set.
    pub time: String,
    pub set: FieldSet,
}

impl Entry {
    /// Whether both are the same manager: appliers keep their entry across versions.
    pub fn is(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflict messages name the manager.
    pub fn show(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn read(value: &Value) -> Option<Entry> {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        if value["fieldsType"] != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            operation: match value["operation"].as_str()? {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: FieldSet::from_value(&value["fieldsV1"])?,
        })
    }

    fn write(self) -> Value {
        let mut out = Map::new();
        out.insert("manager".to_owned(), self.manager.into());
        let operation = match self.operation {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        };
        out.insert("operation".to_owned(), operation.into());
        out.insert("apiVersion".to_owned(), self.api_version.into());
        if !self.time.is_empty() {
            out.insert("time".to_owned(), self.time.into());
        }
        out.insert("fieldsType".to_owned(), "FieldsV1".into());
        out.insert("fieldsV1".to_owned(), self.set.to_value());
        if !self.subresource.is_empty() {
            out.insert("subresource".to_owned(), self.subresource.into());
        }
        out.into()
    }
}

/// The entries of an object; `None` if one cannot be read.
pub(super) fn read(object: &Value) -> Option<Vec<Entry>> {
    match &object["metadata"]["managedFields"] {
        Value::Array(entries) => entries.iter().map(Entry::read).collect(),
        _ => Some(Vec::new()),
    }
}

/// Whether an object asks for its entries to be forgotten: `[]` or `[{}]`.
pub(super) fn is_reset(object: &Value) -> bool {
    match object["metadata"]["managedFields"].as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => *one == json!({}),
        _ => false,
    }
}

/// Writes the entries into an object. Appliers come first, then updaters, each by time and name.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    cap(&mut entries);
    entries.sort_by(|a, b| {
        (a.operation == Operation::Update, &a.time, &a.manager, &a.subresource, &a.api_version).cmp(&(
            b.operation == Operation::Update,
            &b.time,
            &b.manager,
            &b.subresource,
            &b.api_version,
        ))
    });
    let metadata = crate::meta::metadata_mut(object);
    match entries.is_empty() {
        true => {
            metadata.remove("managedFields");
        }
        false => {
            let entries: Vec<Value> = entries.into_iter().map(Entry::write).collect();
            metadata.insert("managedFields".to_owned(), entries.into());
        }
    }
}

/// Merges the oldest updaters of a version while there are too many.
fn cap(entries: &mut Vec<Entry>) {
    let updaters = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
    if updaters(entries) <= MAX_UPDATE_MANAGERS {
        return;
    }
    entries.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    // The number falls with every round but the first of each version.
    let mut rounds = entries.len() * 2;
    while updaters(entries) > MAX_UPDATE_MANAGERS && rounds > 0 {
        rounds -= 1;
        let Some(at) = entries.iter().position(|e| e.operation == Operation::Update && e.manager != ANCIENT) else {
            return;
        };
        let mut oldest = entries.remove(at);
        ANCIENT.clone_into(&mut oldest.manager);
        oldest.subresource.clear();
        match entries.iter_mut().find(|e| e.is(&oldest)) {
            Some(bucket) => {
                bucket.set = std::mem::take(&mut bucket.set).union(oldest.set);
                bucket.time = oldest.time;
            }
            None => entries.insert(0, oldest),
        }
    }
}
