//! Field selectors: the grammar, and which fields each resource offers.

use super::SelectorError;
use crate::field::quote;
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// How an absent field reads, which is how Go prints the zero value of its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldForm {
    Text,
    Bool,
    Int,
}

impl FieldForm {
    /// What the field reads as when the object does not carry it.
    pub const fn absent(self) -> &'static str {
        match self {
            FieldForm::Text => "",
            FieldForm::Bool => "false",
            FieldForm::Int => "0",
        }
    }
}

/// A field that selectors may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldDef {
    /// The name in selectors: `spec.nodeName`.
    pub label: Cow<'static, str>,
    /// The way to it in the stored object.
    pub path: Vec<Cow<'static, str>>,
    pub form: FieldForm,
    /// The way to the field that speaks when the first is empty; empty when there is none.
    pub fallback: Vec<Cow<'static, str>>,
}

impl FieldDef {
    /// A field whose label is its path.
    pub fn dotted(label: &'static str, form: FieldForm) -> FieldDef {
        FieldDef { label: label.into(), path: label.split('.').map(Cow::from).collect(), form, fallback: vec![] }
    }

    /// A field of a custom resource (`selectableFields`), from its simple JSON path (`.spec.color`).
    pub fn custom(json_path: &str, form: FieldForm) -> FieldDef {
        let label = json_path.trim_start_matches('.').to_owned();
        let path = label.split('.').map(|step| Cow::Owned(step.to_owned())).collect();
        FieldDef { label: label.into(), path, form, fallback: vec![] }
    }

    /// What the field of `object` reads as.
    pub fn read<'a>(&self, object: &'a Value) -> Cow<'a, str> {
        let first = self.read_at(object, &self.path);
        if first.is_empty() && !self.fallback.is_empty() { self.read_at(object, &self.fallback) } else { first }
    }

    fn read_at<'a>(&self, object: &'a Value, path: &[Cow<'static, str>]) -> Cow<'a, str> {
        let mut at = object;
        for step in path {
            match at.get(step.as_ref()) {
                Some(next) => at = next,
                None => return Cow::Borrowed(self.form.absent()),
            }
        }
        match at {
            Value::String(text) => Cow::Borrowed(text),
            Value::Null => Cow::Borrowed(self.form.absent()),
            other => Cow::Owned(other.to_string()),
        }
    }
}

/// `(label, path when it differs, form)`.
type Row = (&'static str, &'static str, FieldForm);

const NAME: Row = ("metadata.name", "", FieldForm::Text);
const NAMESPACE: Row = ("metadata.namespace", "", FieldForm::Text);
static GENERIC: [Row; 2] = [NAME, NAMESPACE];

const fn text(label: &'static str) -> Row {
    (label, "", FieldForm::Text)
}
const fn at(label: &'static str, path: &'static str) -> Row {
    (label, path, FieldForm::Text)
}

const PODS: [Row; 11] = [
    NAME,
    NAMESPACE,
    text("spec.nodeName"),
    text("spec.restartPolicy"),
    text("spec.schedulerName"),
    text("spec.serviceAccountName"),
    ("spec.hostNetwork", "", FieldForm::Bool),
    text("status.phase"),
    text("status.podIP"),
    at("status.podIPs", "status.podIP"),
    text("status.nominatedNodeName"),
];
const NODES: [Row; 2] = [NAME, ("spec.unschedulable", "", FieldForm::Bool)];
const REPLICAS: [Row; 3] = [NAME, NAMESPACE, ("status.replicas", "", FieldForm::Int)];
const NAMESPACES: [Row; 2] = [NAME, text("status.phase")];
const SECRETS: [Row; 3] = [NAME, NAMESPACE, text("type")];
const SERVICES: [Row; 4] = [NAME, NAMESPACE, text("spec.clusterIP"), text("spec.type")];
const JOBS: [Row; 3] = [NAME, NAMESPACE, ("status.successful", "status.succeeded", FieldForm::Int)];
const CSRS: [Row; 2] = [NAME, text("spec.signerName")];
const SLICES: [Row; 3] = [NAME, text("spec.nodeName"), text("spec.driver")];
const POD_CERTIFICATES: [Row; 5] =
    [NAME, NAMESPACE, text("spec.signerName"), text("spec.podName"), text("spec.nodeName")];
/// The labels of both API groups; the stored form is `v1`.
const EVENTS: [Row; 22] = [
    NAME,
    NAMESPACE,
    text("involvedObject.kind"),
    text("involvedObject.namespace"),
    text("involvedObject.name"),
    text("involvedObject.uid"),
    text("involvedObject.apiVersion"),
    text("involvedObject.resourceVersion"),
    text("involvedObject.fieldPath"),
    at("regarding.kind", "involvedObject.kind"),
    at("regarding.namespace", "involvedObject.namespace"),
    at("regarding.name", "involvedObject.name"),
    at("regarding.uid", "involvedObject.uid"),
    at("regarding.apiVersion", "involvedObject.apiVersion"),
    at("regarding.resourceVersion", "involvedObject.resourceVersion"),
    at("regarding.fieldPath", "involvedObject.fieldPath"),
    text("reason"),
    text("reportingComponent"),
    at("reportingController", "reportingComponent"),
    at("source", "source.component"),
    at("deprecatedSource", "source.component"),
    text("type"),
];

fn rows(group: &str, resource: &str) -> &'static [Row] {
    match (group, resource) {
        ("", "pods") => &PODS,
        ("", "nodes") => &NODES,
        ("", "replicationcontrollers") | ("apps", "replicasets") => &REPLICAS,
        ("", "namespaces") => &NAMESPACES,
        ("", "secrets") => &SECRETS,
        ("", "services") => &SERVICES,
        ("" | "events.k8s.io", "events") => &EVENTS,
        ("batch", "jobs") => &JOBS,
        ("certificates.k8s.io", "certificatesigningrequests") => &CSRS,
        ("certificates.k8s.io", "podcertificaterequests") => &POD_CERTIFICATES,
        ("resource.k8s.io", "resourceslices") => &SLICES,
        _ => &GENERIC,
    }
}

fn def(row: &Row) -> FieldDef {
    let path = if row.1.is_empty() { row.0 } else { row.1 };
    // An event of the newer API names its source only as the reporting controller.
    let fallback = if row.1 == "source.component" { vec!["reportingComponent".into()] } else { vec![] };
    FieldDef { label: row.0.into(), path: path.split('.').map(Cow::from).collect(), form: row.2, fallback }
}

/// All fields that selectors on the resource may name.
pub fn field_defs(group: &str, resource: &str) -> Vec<FieldDef> {
    rows(group, resource).iter().map(def).collect()
}

/// The names of the fields that selectors on the resource may name.
pub fn supported_fields(group: &str, resource: &str) -> impl Iterator<Item = &'static str> {
    rows(group, resource).iter().map(|row| row.0)
}

/// One comparison of a field with a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    pub field: String,
    /// False for `!=`.
    pub equal: bool,
    pub value: String,
}

/// Comparisons that all must hold. Without any it matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// Matches every object.
    pub fn everything() -> FieldSelector {
        FieldSelector::default()
    }

    /// From a query string such as `spec.nodeName=n1,status.phase!=Failed`. `\` escapes `,`, `=` and itself.
    pub fn parse(text: &str) -> Result<FieldSelector, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let Some((field, equal, value)) = split_term(part) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            terms.push(FieldTerm { field: field.to_owned(), equal, value: unescape(value)? });
        }
        Ok(FieldSelector { terms })
    }

    /// `field=value`.
    pub fn equals(field: &str, value: &str) -> FieldSelector {
        FieldSelector { terms: vec![FieldTerm { field: field.into(), equal: true, value: value.into() }] }
    }

    /// This selector with one more term.
    #[must_use]
    pub fn and(mut self, field: &str, equal: bool, value: &str) -> FieldSelector {
        self.terms.push(FieldTerm { field: field.into(), equal, value: value.into() });
        self
    }

    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }

    /// Whether it matches every object.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The one value that the field must have, if the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|term| term.equal && term.field == field).map(|term| term.value.as_str())
    }

    /// Pairs each term with its field, or says which field the resource does not offer. `custom` are the
    /// selectable fields of a custom resource.
    pub fn resolve<'a>(
        &'a self,
        group: &str,
        resource: &str,
        custom: &[FieldDef],
    ) -> Result<Vec<(FieldDef, &'a FieldTerm)>, SelectorError> {
        let rows = rows(group, resource);
        self.terms
            .iter()
            .map(|term| {
                let builtin = rows.iter().find(|row| row.0 == term.field).map(def);
                let found = builtin.or_else(|| custom.iter().find(|one| one.label == term.field).cloned());
                match found {
                    Some(field) => Ok((field, term)),
                    None if std::ptr::eq(rows, &GENERIC[..]) && custom.is_empty() => Err(SelectorError(format!(
                        "{} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        quote(&term.field)
                    ))),
                    None => Err(SelectorError(format!("field label not supported: {}", term.field))),
                }
            })
            .collect()
    }

    /// Whether the values that `read` gives for the fields satisfy all terms.
    pub fn matches<'a>(&self, read: impl Fn(&str) -> Cow<'a, str>) -> bool {
        self.terms.iter().all(|term| (read(&term.field) == term.value) == term.equal)
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let operator = if term.equal { "=" } else { "!=" };
            write!(f, "{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        match c {
            '\\' | ',' | '=' if escaped => {
                out.push(c);
                escaped = false;
            }
            _ if escaped => {
                return Err(SelectorError(format!("invalid field selector: invalid escape sequence: \\{c}")));
            }
            '\\' => escaped = true,
            ',' | '=' => {
                return Err(SelectorError(format!("invalid field selector: unescaped character in value: {c}")));
            }
            c => out.push(c),
        }
    }
    if escaped {
        return Err(SelectorError("invalid field selector: invalid escape sequence: \\".into()));
    }
    Ok(out)
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\\' | ',' | '=') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parses_and_prints() {
        let cases = [
            ("", ""),
            ("a=b", "a=b"),
            ("a==b", "a=b"),
            ("a!=b,c=d", "a!=b,c=d"),
            ("a=", "a="),
            ("a=b\\,c\\=d", "a=b\\,c\\=d"),
            ("a=b,,c=d", "a=b,c=d"),
        ];
        for (text, want) in cases {
            assert_eq!(FieldSelector::parse(text).unwrap().to_string(), want);
        }
        assert_eq!(FieldSelector::parse("a=b,c").unwrap_err().0, "invalid selector: 'a=b,c'; can't understand 'c'");
        assert!(FieldSelector::parse("a=b=c").is_err() && FieldSelector::parse("a=\\n").is_err());
    }

    #[test]
    fn fields_are_known_per_resource() {
        let selector = FieldSelector::parse("spec.nodeName=n1").unwrap();
        let pod = json!({"spec": {"nodeName": "n1"}});
        let resolved = selector.resolve("", "pods", &[]).unwrap();
        assert_eq!(resolved[0].0.read(&pod), "n1");
        assert_eq!(
            selector.resolve("", "configmaps", &[]).unwrap_err().0,
            "\"spec.nodeName\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
        assert_eq!(selector.resolve("", "secrets", &[]).unwrap_err().0, "field label not supported: spec.nodeName");
        let color = FieldSelector::parse("spec.color=red").unwrap();
        let custom = [FieldDef::custom(".spec.color", FieldForm::Text)];
        assert!(color.resolve("x.io", "things", &custom).is_ok());
    }

    #[test]
    fn absent_fields_read_as_zero() {
        let node = json!({});
        let defs = field_defs("", "nodes");
        let unschedulable = defs.iter().find(|d| d.label == "spec.unschedulable").unwrap();
        assert_eq!(unschedulable.read(&node), "false");
        assert_eq!(unschedulable.read(&json!({"spec": {"unschedulable": true}})), "true");
        let jobs = field_defs("batch", "jobs");
        assert_eq!(jobs[2].read(&json!({"status": {"succeeded": 2}})), "2");
    }
}
