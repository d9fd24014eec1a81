//! Paths to fields and errors about them, in the forms that API clients parse.
//!
//! A [`FieldPath`] is a chain on the stack that is rendered only when an error is written, so a
//! validation pass that finds nothing wrong allocates nothing for paths.

use serde_json::Value;
use std::fmt;

/// One step of a [`FieldPath`].
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Name(&'a str),
    Index(usize),
    Key(&'a str),
}

/// Where in an object a value sits, such as `spec.containers[0].image` or `metadata.labels[app]`.
#[derive(Clone, Copy, Debug)]
pub struct FieldPath<'a> {
    parent: Option<&'a FieldPath<'a>>,
    step: Step<'a>,
}

impl<'a> FieldPath<'a> {
    /// The path of a top-level field. `""` is the object itself.
    pub const fn root(name: &'a str) -> FieldPath<'a> {
        FieldPath { parent: None, step: Step::Name(name) }
    }

    /// The field `name` below this one. A dotted name (`"a.b"`) goes down several levels at once.
    pub const fn child<'b>(&'b self, name: &'b str) -> FieldPath<'b> {
        FieldPath { parent: Some(self), step: Step::Name(name) }
    }

    /// The list element `index` below this field.
    pub const fn index<'b>(&'b self, index: usize) -> FieldPath<'b> {
        FieldPath { parent: Some(self), step: Step::Index(index) }
    }

    /// The map entry `key` below this field.
    pub const fn key<'b>(&'b self, key: &'b str) -> FieldPath<'b> {
        FieldPath { parent: Some(self), step: Step::Key(key) }
    }

    fn is_empty(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Name(""))
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rooted = false;
        if let Some(parent) = self.parent
            && !parent.is_empty()
        {
            parent.fmt(f)?;
            rooted = true;
        }
        match self.step {
            Step::Name(name) if rooted => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong with a field. The names on the wire are those of `field.ErrorType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl FieldErrorKind {
    /// The `reason` of a `StatusCause`.
    pub const fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::Internal => "InternalError",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The words that open the message.
    pub const fn text(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::Internal => "Internal error",
        }
    }
}

/// One field and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    /// The path of the field.
    pub field: String,
    /// The offending value as it is shown, for the kinds that show it.
    pub value: Option<String>,
    /// What would be right; may be empty.
    pub detail: String,
}

/// A value as an error shows it: strings quoted, numbers and booleans bare, the rest as JSON.
pub trait ShowValue {
    fn show(&self) -> String;
}

impl ShowValue for str {
    fn show(&self) -> String {
        quote(self)
    }
}
impl<T: ShowValue + ?Sized> ShowValue for &T {
    fn show(&self) -> String {
        (**self).show()
    }
}
impl ShowValue for String {
    fn show(&self) -> String {
        quote(self)
    }
}
impl ShowValue for Value {
    fn show(&self) -> String {
        match self {
            Value::String(text) => quote(text),
            other => other.to_string(),
        }
    }
}
impl<T: ShowValue + ?Sized> ShowValue for Option<&T> {
    fn show(&self) -> String {
        self.map_or_else(|| "null".to_owned(), ShowValue::show)
    }
}
macro_rules! show_as_text {
    ($($t:ty),*) => { $(impl ShowValue for $t { fn show(&self) -> String { self.to_string() } })* };
}
show_as_text!(i32, i64, u32, u64, usize, f64, bool);

impl FieldError {
    fn new(kind: FieldErrorKind, path: &FieldPath<'_>, value: Option<String>, detail: impl Into<String>) -> FieldError {
        FieldError { kind, field: path.to_string(), value, detail: detail.into() }
    }

    /// The field must be there and is not.
    pub fn required(path: &FieldPath<'_>, detail: impl Into<String>) -> FieldError {
        FieldError::new(FieldErrorKind::Required, path, None, detail)
    }

    /// The value breaks a rule that `detail` states.
    pub fn invalid(path: &FieldPath<'_>, value: impl ShowValue, detail: impl Into<String>) -> FieldError {
        FieldError::new(FieldErrorKind::Invalid, path, Some(value.show()), detail)
    }

    /// The value has the wrong JSON type.
    pub fn type_invalid(path: &FieldPath<'_>, value: impl ShowValue, detail: impl Into<String>) -> FieldError {
        FieldError::new(FieldErrorKind::TypeInvalid, path, Some(value.show()), detail)
    }

    /// The value is not one of `supported`, which is shown in the order given.
    pub fn not_supported(path: &FieldPath<'_>, value: impl ShowValue, supported: &[&str]) -> FieldError {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|one| quote(one)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        FieldError::new(FieldErrorKind::NotSupported, path, Some(value.show()), detail)
    }

    /// The field may not be set (or changed) here.
    pub fn forbidden(path: &FieldPath<'_>, detail: impl Into<String>) -> FieldError {
        FieldError::new(FieldErrorKind::Forbidden, path, None, detail)
    }

    /// The value occurs more than once where it must be unique.
    pub fn duplicate(path: &FieldPath<'_>, value: impl ShowValue) -> FieldError {
        FieldError::new(FieldErrorKind::Duplicate, path, Some(value.show()), "")
    }

    /// The value refers to something that is not there.
    pub fn not_found(path: &FieldPath<'_>, value: impl ShowValue) -> FieldError {
        FieldError::new(FieldErrorKind::NotFound, path, Some(value.show()), "")
    }

    /// The text is longer than `max` bytes.
    pub fn too_long(path: &FieldPath<'_>, max: usize) -> FieldError {
        FieldError::new(FieldErrorKind::TooLong, path, None, format!("may not be more than {max} bytes"))
    }

    /// The list has `actual` items and may have `max`.
    pub fn too_many(path: &FieldPath<'_>, actual: usize, max: usize) -> FieldError {
        let items = if max == 1 { "item" } else { "items" };
        FieldError::new(
            FieldErrorKind::TooMany,
            path,
            Some(actual.to_string()),
            format!("must have at most {max} {items}"),
        )
    }

    /// Something went wrong that is not the caller's fault.
    pub fn internal(path: &FieldPath<'_>, detail: impl Into<String>) -> FieldError {
        FieldError::new(FieldErrorKind::Internal, path, None, detail)
    }

    /// The message without the path: the `message` of a `StatusCause`.
    pub fn body(&self) -> String {
        let mut out = String::from(self.kind.text());
        if let Some(value) = &self.value {
            out.push_str(": ");
            out.push_str(value);
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }

    /// The same error with another path (for a check that was written for a sub-object).
    pub fn with_field(mut self, field: impl Into<String>) -> FieldError {
        self.field = field.into();
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// All errors as one text: a single one bare, several as `[a, b]`, equal ones once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    match seen.len() {
        1 => seen.swap_remove(0),
        _ => format!("[{}]", seen.join(", ")),
    }
}

/// Quotes a string as Go's `%q` does: printable characters stay, controls and quotes are escaped.
pub fn quote(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x80 && c.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_render_like_upstream() {
        let spec = FieldPath::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        assert_eq!(first.child("image").to_string(), "spec.containers[0].image");
        let meta = FieldPath::root("metadata");
        let labels = meta.child("labels");
        assert_eq!(labels.key("a/b").to_string(), "metadata.labels[a/b]");
        let object = FieldPath::root("");
        assert_eq!(object.child("rules").to_string(), "rules");
    }

    #[test]
    fn messages_are_upstreams() {
        let path = FieldPath::root("spec");
        let at = path.child("x");
        let cases = [
            (FieldError::required(&at, ""), "spec.x: Required value"),
            (FieldError::required(&at, "must be set"), "spec.x: Required value: must be set"),
            (FieldError::invalid(&at, "a\"b", "no"), "spec.x: Invalid value: \"a\\\"b\": no"),
            (FieldError::invalid(&at, -1_i64, "must be positive"), "spec.x: Invalid value: -1: must be positive"),
            (
                FieldError::not_supported(&at, "z", &["A", "B"]),
                "spec.x: Unsupported value: \"z\": supported values: \"A\", \"B\"",
            ),
            (FieldError::forbidden(&at, "may not change"), "spec.x: Forbidden: may not change"),
            (FieldError::duplicate(&at, "n"), "spec.x: Duplicate value: \"n\""),
            (FieldError::not_found(&at, "v"), "spec.x: Not found: \"v\""),
            (FieldError::too_long(&at, 63), "spec.x: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&at, 3, 2), "spec.x: Too many: 3: must have at most 2 items"),
        ];
        for (error, want) in cases {
            assert_eq!(error.to_string(), want);
        }
    }

    #[test]
    fn aggregates_bracket_many_and_merge_equal() {
        let at = FieldPath::root("a");
        let bt = FieldPath::root("b");
        let one = FieldError::required(&at, "");
        let two = FieldError::required(&bt, "");
        assert_eq!(aggregate(std::slice::from_ref(&one)), "a: Required value");
        assert_eq!(aggregate(&[one.clone(), two.clone()]), "[a: Required value, b: Required value]");
        assert_eq!(aggregate(&[one.clone(), one]), "a: Required value");
    }
}
