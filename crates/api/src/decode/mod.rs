//! Request bodies to values: JSON or YAML text, checked and normalised against a schema in one pass.
//!
//! What decoding into Go structs does upstream is done here by the schema:
//! - fields that a built-in kind does not have are dropped, and reported as the request's
//!   `fieldValidation` asks ([`Unknown`]); a custom resource keeps what its schema preserves;
//! - the same key twice in one object is reported the same way, and the last one counts;
//! - null means unset;
//! - a value of the wrong type is an error that names field and types;
//! - quantities and times take their canonical form;
//! - what Go writes for unset fields ([`crate::schema::fill_zero_values`]) is filled in on request.
//!
//! Values of a custom resource outside its metadata are not type-checked here: that is validation
//! (422, all errors at once), not decoding (400).
//!
//! Size, depth and the expansion of YAML aliases are limited.

mod reader;
mod scalar;
#[cfg(test)]
mod tests;

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::kinds::{Kind, split_api_version};
use crate::schema::{Node, Schema};
use crate::status::ApiError;
use reader::{Path, Reader, Seed};

/// Deepest nesting of a body: serde_json's own limit, held for every format.
pub const MAX_DEPTH: usize = 128;

/// What is done about unknown and duplicate fields: the `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They are an error.
    Strict,
    /// They earn a warning each. The default for every request.
    #[default]
    Warn,
    /// They are dropped silently.
    Ignore,
}

impl Unknown {
    /// Reads the `fieldValidation` parameter; empty is the default. Unknown values are `None`.
    pub fn from_parameter(value: &str) -> Option<Unknown> {
        match value {
            "" | "Warn" => Some(Unknown::Warn),
            "Strict" => Some(Unknown::Strict),
            "Ignore" => Some(Unknown::Ignore),
            _ => None,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// What is asked of decoding.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Unknown and duplicate fields.
    pub unknown: Unknown,
    /// Most bytes of a body. Upstream's limit is 3 MiB.
    pub max_bytes: usize,
    /// Whether unset fields that Go always writes are filled in: yes for objects that will be
    /// stored, no for partial ones (apply configurations).
    pub fill: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { unknown: Unknown::Warn, max_bytes: 3 << 20, fill: true }
    }
}

/// What a body should hold.
#[derive(Clone, Debug)]
pub struct Target {
    /// Schema of the kind.
    pub schema: Schema,
    /// Expected group.
    pub group: String,
    /// Expected version.
    pub version: String,
    /// Expected kind.
    pub kind: String,
}

impl Target {
    /// The kind of a row of the table.
    pub fn of(kind: &Kind) -> Target {
        Target {
            schema: kind.schema(),
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            kind: kind.kind.to_string(),
        }
    }

    /// A built-in kind by its group, version and kind, be it a resource or not (`Scale`, `Eviction`,
    /// `TokenRequest`, `Binding`, `DeleteOptions`).
    pub fn of_gvk(gvk: &crate::kinds::Gvk) -> Option<Target> {
        Some(Target {
            schema: Schema::of_kind(gvk)?,
            group: gvk.group.to_string(),
            version: gvk.version.to_string(),
            kind: gvk.kind.to_string(),
        })
    }

    fn api_version(&self) -> String {
        crate::kinds::join_api_version(&self.group, &self.version)
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind` set.
    pub value: Value,
    /// Texts for `Warning` headers: unknown and duplicate fields.
    pub warnings: Vec<String>,
}

/// Why a body was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The body is longer than allowed. 413.
    #[error("limit is {limit}")]
    TooLarge {
        /// Allowed bytes.
        limit: usize,
    },
    /// The text is not JSON or YAML. 400.
    #[error(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; {format} parse error: {why}"
    )]
    Syntax {
        /// Expected kind.
        kind: String,
        /// `json` or `yaml`.
        format: &'static str,
        /// What the parser said, with line and column.
        why: String,
    },
    /// The body is of another version than the path. 400.
    #[error("the API version in the data ({found}) does not match the expected API version ({expected})")]
    Version {
        /// `apiVersion` of the body.
        found: String,
        /// `apiVersion` of the path.
        expected: String,
    },
    /// The body is of another kind than the path, of the wrong types, or has unknown fields. 400.
    #[error("{kind} in version {version:?} cannot be handled as a {expected}: {why}")]
    Unfit {
        /// Kind of the body.
        kind: String,
        /// Version of the body.
        version: String,
        /// Kind of the path.
        expected: String,
        /// What is wrong.
        why: String,
    },
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> ApiError {
        match error {
            DecodeError::TooLarge { .. } => ApiError::too_large(error),
            _ => ApiError::bad_request(error.to_string()),
        }
    }
}

/// Decodes a body that should hold an object of `target`.
///
/// # Errors
/// [`DecodeError`], in the words of upstream.
pub fn body(target: &Target, bytes: &[u8], format: Format, options: &Options) -> Result<Decoded, DecodeError> {
    if bytes.len() > options.max_bytes {
        return Err(DecodeError::TooLarge { limit: options.max_bytes });
    }
    let mut reader = Reader::new(options, target.schema.is_custom(), bytes.len());
    let parsed = match format {
        Format::Json => read_json(&mut reader, target.schema.root(), bytes),
        Format::Yaml => read_yaml(&mut reader, target.schema.root(), bytes),
    };
    match parsed {
        Ok(value) => finish(target, value, reader, options),
        Err(why) => Err(explain(target, bytes, format, reader, why)),
    }
}

/// Decodes a value that was put together (by a patch, by a webhook) as if it had been the body.
///
/// # Errors
/// [`DecodeError`], in the words of upstream.
pub fn value(target: &Target, value: Value, options: &Options) -> Result<Decoded, DecodeError> {
    let mut reader = Reader::new(options, target.schema.is_custom(), usize::MAX / 64);
    let seed = Seed { reader: &mut reader, node: Some(target.schema.root()), path: Path::ROOT, owner: "", depth: 0 };
    match seed.deserialize(value) {
        Ok(value) => finish(target, value.unwrap_or_default(), reader, options),
        Err(why) => Err(unfit(target, None, reader.fatal.unwrap_or_else(|| why.to_string()))),
    }
}

/// Parses text without a schema: depth, size and alias limits, the last of equal keys.
///
/// # Errors
/// [`DecodeError::TooLarge`] and [`DecodeError::Syntax`].
pub fn untyped(bytes: &[u8], format: Format, max_bytes: usize) -> Result<Value, DecodeError> {
    untyped_noted(bytes, format, max_bytes).map(|(value, _)| value)
}

/// The same, and which fields are there twice (`duplicate field "spec.x"`).
///
/// # Errors
/// [`DecodeError::TooLarge`] and [`DecodeError::Syntax`].
pub fn untyped_noted(bytes: &[u8], format: Format, max_bytes: usize) -> Result<(Value, Vec<String>), DecodeError> {
    if bytes.len() > max_bytes {
        return Err(DecodeError::TooLarge { limit: max_bytes });
    }
    let options = Options { unknown: Unknown::Warn, max_bytes, fill: false };
    let mut reader = Reader::new(&options, true, bytes.len());
    let read = match format {
        Format::Json => json_seed(&mut reader, None, bytes),
        Format::Yaml => yaml_seed(&mut reader, None, bytes),
    };
    match read {
        Ok(value) => Ok((value, reader.notes)),
        Err(why) => Err(DecodeError::Syntax {
            kind: "object".to_owned(),
            format: name(format),
            why: reader.fatal.unwrap_or(why),
        }),
    }
}

/// Where block YAML has a key twice in one map, as YAML parsers say it: `line 11: key "foo" already set in map`.
/// Lines are those of the text; flow style (and so JSON) is not looked into.
pub fn yaml_duplicates(text: &str) -> Vec<String> {
    // Open maps: their indentation and keys.
    let mut open: Vec<(usize, Vec<String>)> = vec![];
    let mut block: Option<usize> = None;
    let mut found = vec![];
    for (number, line) in text.lines().enumerate() {
        let mut rest = line.trim_start_matches(' ');
        let mut indent = line.len() - rest.len();
        if rest.is_empty() || rest.starts_with('#') || block.is_some_and(|outer| indent > outer) {
            continue;
        }
        block = None;
        if rest.starts_with("---") {
            open.clear();
            continue;
        }
        while let Some(item) = rest.strip_prefix("- ") {
            // A new element: whatever was open at its depth is another one's.
            open.retain(|(at, _)| *at <= indent);
            let inner = item.trim_start_matches(' ');
            indent += rest.len() - inner.len();
            rest = inner;
        }
        let Some((key, value)) = rest.split_once(": ").or_else(|| rest.strip_suffix(':').map(|key| (key, ""))) else {
            continue;
        };
        if key.starts_with(['{', '[', '&', '*', '|', '>']) {
            continue;
        }
        let key = key.trim_end().trim_matches(['"', '\'']).to_owned();
        open.retain(|(at, _)| *at <= indent);
        match open.last_mut() {
            Some((at, keys)) if *at == indent => {
                if keys.contains(&key) {
                    found.push(format!("line {}: key {key:?} already set in map", number + 1));
                } else {
                    keys.push(key);
                }
            }
            _ => open.push((indent, vec![key])),
        }
        if value.trim_start().starts_with(['|', '>']) {
            block = Some(indent);
        }
    }
    found
}

fn read_json(reader: &mut Reader, root: Node<'_>, bytes: &[u8]) -> Result<Value, String> {
    json_seed(reader, Some(root), bytes)
}

fn json_seed(reader: &mut Reader, node: Option<Node<'_>>, bytes: &[u8]) -> Result<Value, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { reader, node, path: Path::ROOT, owner: "", depth: 0 };
    let value = seed.deserialize(&mut json).map_err(|e| e.to_string())?;
    json.end().map_err(|e| e.to_string())?;
    Ok(value.unwrap_or_default())
}

fn read_yaml(reader: &mut Reader, root: Node<'_>, bytes: &[u8]) -> Result<Value, String> {
    yaml_seed(reader, Some(root), bytes)
}

fn yaml_seed(reader: &mut Reader, node: Option<Node<'_>>, bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let seed = Seed { reader, node, path: Path::ROOT, owner: "", depth: 0 };
    // Merge keys need the whole tree; nobody else pays for it.
    if text.contains("<<:") {
        let mut tree: serde_yaml::Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        tree.apply_merge().map_err(|e| e.to_string())?;
        return seed.deserialize(tree).map(Option::unwrap_or_default).map_err(|e| e.to_string());
    }
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let first = documents.next().ok_or_else(|| "the document is empty".to_owned())?;
    let value = seed.deserialize(first).map_err(|e| e.to_string())?;
    Ok(value.unwrap_or_default())
}

/// Checks kind and version and turns what the reader noted into warnings or an error.
fn finish(target: &Target, mut value: Value, reader: Reader, options: &Options) -> Result<Decoded, DecodeError> {
    let Value::Object(object) = &mut value else {
        let why = format!("json: cannot unmarshal {} into Go value of type {}", reader::json_name(&value), target.kind);
        return Err(unfit(target, None, why));
    };
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    check_kind(target, &api_version, &kind)?;
    if api_version.is_empty() {
        object.insert("apiVersion".to_owned(), target.api_version().into());
    }
    if kind.is_empty() {
        object.insert("kind".to_owned(), target.kind.clone().into());
    }
    if options.unknown == Unknown::Strict && !reader.notes.is_empty() {
        let why = format!("strict decoding error: {}", reader.notes.join(", "));
        return Err(unfit(target, None, why));
    }
    Ok(Decoded { value, warnings: reader.notes })
}

fn check_kind(target: &Target, api_version: &str, kind: &str) -> Result<(), DecodeError> {
    // Options are common to all group versions.
    if target.kind == "DeleteOptions" {
        return Ok(());
    }
    if !api_version.is_empty() && split_api_version(api_version) != (&*target.group, &*target.version) {
        return Err(DecodeError::Version { found: api_version.to_owned(), expected: target.api_version() });
    }
    if !kind.is_empty() && kind != target.kind {
        let why = format!(
            "converting ({}.{kind}) to ({}.{}): unknown conversion",
            target.version, target.version, target.kind
        );
        return Err(unfit(target, Some((kind, &target.version)), why));
    }
    Ok(())
}

fn unfit(target: &Target, found: Option<(&str, &str)>, why: String) -> DecodeError {
    let (kind, version) = found.unwrap_or((&target.kind, &target.version));
    DecodeError::Unfit { kind: kind.to_owned(), version: version.to_owned(), expected: target.kind.clone(), why }
}

/// Why reading stopped: a body of another kind says so rather than complain about a field.
fn explain(target: &Target, bytes: &[u8], format: Format, reader: Reader, why: String) -> DecodeError {
    let Some(fatal) = reader.fatal else {
        return DecodeError::Syntax { kind: target.kind.clone(), format: name(format), why };
    };
    if let Ok(value) = untyped(bytes, format, usize::MAX) {
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        if let Err(error) = check_kind(target, text("apiVersion"), text("kind")) {
            return error;
        }
    }
    unfit(target, None, fatal)
}

fn name(format: Format) -> &'static str {
    match format {
        Format::Json => "json",
        Format::Yaml => "yaml",
    }
}
