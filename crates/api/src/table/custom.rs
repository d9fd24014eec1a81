//! Tables of custom resources: the columns that their definition asks for.

use super::cells::{name, since};
use super::jsonpath::JsonPath;
use super::{AGE, Column, NAME};
use crate::kinds::custom;
use jiff::Timestamp;
use serde_json::Value;

pub(super) struct CustomPrinter<'a> {
    columns: Vec<Column<'a>>,
    /// One for each column after the name; `None` for a path that is none, whose cells stay empty.
    paths: Vec<Option<JsonPath>>,
}

impl<'a> CustomPrinter<'a> {
    pub(super) fn new(wanted: &'a [custom::Column]) -> CustomPrinter<'a> {
        let mut columns = vec![NAME];
        let mut paths = Vec::new();
        for one in wanted {
            columns.push(Column {
                name: &one.name,
                type_: &one.type_,
                format: &one.format,
                description: &one.description,
                priority: one.priority,
            });
            paths.push(JsonPath::parse(&one.json_path).ok());
        }
        if wanted.is_empty() {
            columns.push(Column { type_: "date", ..AGE });
            paths.push(JsonPath::parse(".metadata.creationTimestamp").ok());
        }
        CustomPrinter { columns, paths }
    }

    pub(super) fn columns(&self) -> &[Column<'a>] {
        &self.columns
    }

    pub(super) fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut out = vec![name(object)];
        for (column, path) in self.columns[1..].iter().zip(&self.paths) {
            let found = path.as_ref().and_then(|path| path.find(object).into_iter().next());
            out.push(found.map_or(Value::Null, |value| cell(column.type_, value, now)));
        }
        out
    }
}

fn cell(type_: &str, value: &Value, now: Timestamp) -> Value {
    match (type_, value) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(whole) => whole.into(),
            None => number.as_f64().map_or(Value::Null, |float| (float as i64).into()),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(time)) => since(time, now).into(),
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}
