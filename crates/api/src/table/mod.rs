//! Printer tables: `meta.k8s.io/v1, Kind=Table`, what `kubectl get` shows.
//!
//! Each kind has a list of columns and a function that makes an object's cells. Kinds without one of
//! their own show name and age; custom resources show what their definition asks for.

use crate::kinds::Kind;
use crate::meta;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

mod admin;
mod cells;
mod custom;
mod duration;
mod jsonpath;
mod network;
mod pods;
mod storage;
mod workloads;

pub use duration::human_duration;
pub use jsonpath::{JsonPath, JsonPathError};

/// One column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    pub name: &'a str,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub type_: &'a str,
    /// OpenAPI format; `name` marks the primary identifier.
    pub format: &'a str,
    pub description: &'a str,
    /// 0 is always shown, higher only with `-o wide`.
    pub priority: i64,
}

/// What each row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    /// A `PartialObjectMetadata`; the default.
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// From the query parameter `includeObject`; `None` for a value that is not known.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// How a table is rendered.
#[derive(Clone, Debug)]
pub struct Options {
    /// What ages count back from.
    pub now: Timestamp,
    pub include: IncludeObject,
    /// Whether to say the columns. A watch says them in its first event only.
    pub headers: bool,
}

/// The table of `objects`. `list_metadata` is the `metadata` of the list (or null for a single object, whose
/// resource version then is the table's).
pub fn render(kind: &Kind, objects: &[&Value], list_metadata: Option<&Value>, options: &Options) -> Value {
    let printer = printer(kind);
    let rows: Vec<Value> = objects.iter().map(|object| row(&printer, object, options)).collect();
    let columns: Vec<Value> = if options.headers { printer.columns().iter().map(column).collect() } else { Vec::new() };
    let metadata = match (list_metadata, objects) {
        (Some(metadata), _) => metadata.clone(),
        (None, [one]) => json!({"resourceVersion": meta::resource_version(one)}),
        _ => json!({}),
    };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// The columns of the kind, name first.
pub fn columns(kind: &Kind) -> Vec<Value> {
    printer(kind).columns().iter().map(column).collect()
}

fn column(column: &Column<'_>) -> Value {
    json!({"name": column.name, "type": column.type_, "format": column.format,
           "description": column.description, "priority": column.priority})
}

fn row(printer: &Printer<'_>, object: &Value, options: &Options) -> Value {
    let mut row = Map::new();
    row.insert("cells".into(), printer.cells(object, options.now).into());
    if let Printer::Static(StaticPrinter { conditions: Some(conditions), .. }) = printer
        && let Some(found) = conditions(object)
    {
        row.insert("conditions".into(), found);
    }
    row.insert(
        "object".into(),
        match options.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Object => object.clone(),
            IncludeObject::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata").cloned().unwrap_or_default(),
            }),
        },
    );
    Value::Object(row)
}

/// Makes the cells of one object.
type Cells = fn(&Value, Timestamp) -> Vec<Value>;

/// The columns and cells of a built-in kind.
#[derive(Clone, Copy)]
struct StaticPrinter {
    columns: &'static [Column<'static>],
    cells: Cells,
    conditions: Option<fn(&Value) -> Option<Value>>,
}

enum Printer<'a> {
    Static(StaticPrinter),
    Custom(custom::CustomPrinter<'a>),
}

impl<'a> Printer<'a> {
    fn columns(&self) -> &[Column<'a>] {
        match self {
            Printer::Static(printer) => printer.columns,
            Printer::Custom(printer) => printer.columns(),
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        match self {
            Printer::Static(printer) => (printer.cells)(object, now),
            Printer::Custom(printer) => printer.cells(object, now),
        }
    }
}

fn printer(kind: &Kind) -> Printer<'_> {
    if let Some(custom) = &kind.custom {
        return Printer::Custom(custom::CustomPrinter::new(&custom.columns));
    }
    let found = pods::printer(&kind.group, &kind.kind)
        .or_else(|| workloads::printer(&kind.group, &kind.kind))
        .or_else(|| network::printer(&kind.group, &kind.kind))
        .or_else(|| storage::printer(&kind.group, &kind.kind))
        .or_else(|| admin::printer(&kind.group, &kind.kind));
    Printer::Static(found.unwrap_or(DEFAULT))
}

const fn of(columns: &'static [Column<'static>], cells: Cells) -> StaticPrinter {
    StaticPrinter { columns, cells, conditions: None }
}

/// The name column, which every table starts with.
const NAME: Column<'static> = Column {
    name: "Name",
    type_: "string",
    format: "name",
    description: "Name of the object, unique in its scope.",
    priority: 0,
};
/// Time since creation.
const AGE: Column<'static> = shown("Age", "string", "Time since the object was created.");
/// A column that is always shown.
const fn shown(name: &'static str, type_: &'static str, description: &'static str) -> Column<'static> {
    Column { name, type_, format: "", description, priority: 0 }
}
/// A column that only `-o wide` shows.
const fn wide(name: &'static str, description: &'static str) -> Column<'static> {
    Column { name, type_: "string", format: "", description, priority: 1 }
}

const DEFAULT: StaticPrinter = of(&[NAME, AGE], |object, now| vec![cells::name(object), cells::age(object, now)]);
/// What kinds show that upstream has no printer for: the moment of creation.
const CREATED_AT: StaticPrinter =
    of(&[NAME, shown("Created At", "date", "When the object was created.")], |object, _| {
        vec![cells::name(object), meta::text(object, "creationTimestamp").into()]
    });

#[cfg(test)]
mod tests;
