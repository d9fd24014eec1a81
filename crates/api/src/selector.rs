//! Label and field selectors: parsing, checking, matching.
//!
//! Both forms of label selectors end up as one [`LabelSelector`]: the query string's
//! (`a=b,c in (d,e),!f`) and the object's (`matchLabels`, `matchExpressions`). Matching borrows
//! everything and allocates nothing.

use crate::field::{FieldError, FieldPath, quote};
use crate::names;
use serde_json::{Map, Value};
use std::fmt;

mod fields;
mod parse;

pub use fields::{FieldDef, FieldForm, FieldSelector, FieldTerm, field_defs, supported_fields};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// `=` and `==`
    Equals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    /// `>`: both sides are integers.
    GreaterThan,
    /// `<`: both sides are integers.
    LessThan,
}

/// One requirement on the value of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelRequirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted and without repetition.
    pub values: Vec<String>,
}

/// A text that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

/// Something that looks up a label by its key.
pub trait Labels {
    /// The value of the label `key`, if there is one.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Labels for Map<String, Value> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for Value {
    /// The value is the map of labels itself, not the object.
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }
}

impl Labels for std::collections::BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

impl<L: Labels> Labels for Option<L> {
    fn label(&self, key: &str) -> Option<&str> {
        self.as_ref().and_then(|labels| labels.label(key))
    }
}

impl<L: Labels + ?Sized> Labels for &L {
    fn label(&self, key: &str) -> Option<&str> {
        (**self).label(key)
    }
}

impl LabelRequirement {
    /// Checks key, operator and values against each other, as upstream's `NewRequirement` does.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<LabelRequirement, SelectorError> {
        let at = FieldPath::root("key");
        let mut errors = Vec::new();
        for why in names::qualified_name(key) {
            errors.push(FieldError::invalid(&at, key, why));
        }
        let values_at = FieldPath::root("values");
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => errors.push(FieldError::invalid(
                &values_at,
                Value::Array(Vec::new()),
                "for 'in', 'notin' operators, values set can't be empty",
            )),
            Operator::Equals | Operator::NotEquals if values.len() != 1 => errors.push(FieldError::invalid(
                &values_at,
                values.iter().map(|v| Value::from(v.as_str())).collect::<Value>(),
                "exact-match compatibility requires one single value",
            )),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => errors.push(FieldError::invalid(
                &values_at,
                values.iter().map(|v| Value::from(v.as_str())).collect::<Value>(),
                "values set must be empty for exists and does not exist",
            )),
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    errors.push(FieldError::invalid(
                        &values_at,
                        values.iter().map(|v| Value::from(v.as_str())).collect::<Value>(),
                        "for 'Gt', 'Lt' operators, exactly one value is required",
                    ));
                }
                for (i, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        errors.push(FieldError::invalid(
                            &values_at.index(i),
                            value.as_str(),
                            "for 'Gt', 'Lt' operators, the value must be an integer",
                        ));
                    }
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            let complaints = names::label_value(value);
            if !complaints.is_empty() {
                errors.push(FieldError::invalid(&values_at.index(i).key(key), value.as_str(), complaints.join("; ")));
            }
        }
        if errors.is_empty() {
            return Ok(LabelRequirement::unchecked(key, operator, values));
        }
        Err(SelectorError(crate::field::aggregate(&errors)))
    }

    fn unchecked(key: &str, operator: Operator, mut values: Vec<String>) -> LabelRequirement {
        values.sort_unstable();
        values.dedup();
        LabelRequirement { key: key.to_owned(), operator, values }
    }

    fn has(&self, value: &str) -> bool {
        self.values.iter().any(|one| one == value)
    }

    /// Whether an object with these labels meets the requirement.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        let found = labels.label(&self.key);
        match self.operator {
            Operator::Equals | Operator::In => found.is_some_and(|value| self.has(value)),
            Operator::NotEquals | Operator::NotIn => found.is_none_or(|value| !self.has(value)),
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let left = found.and_then(|value| value.parse::<i64>().ok());
                let right = self.values.first().and_then(|value| value.parse::<i64>().ok());
                match (left, right) {
                    (Some(left), Some(right)) if self.operator == Operator::GreaterThan => left > right,
                    (Some(left), Some(right)) => left < right,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.join(",");
        match self.operator {
            Operator::Equals => write!(f, "{}={values}", self.key),
            Operator::NotEquals => write!(f, "{}!={values}", self.key),
            Operator::In => write!(f, "{} in ({values})", self.key),
            Operator::NotIn => write!(f, "{} notin ({values})", self.key),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::GreaterThan => write!(f, "{}>{values}", self.key),
            Operator::LessThan => write!(f, "{}<{values}", self.key),
        }
    }
}

/// Requirements that all must be met. Without any it matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct LabelSelector {
    requirements: Vec<LabelRequirement>,
    /// Matches no object at all (a `metav1.LabelSelector` that is absent).
    nothing: bool,
}

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Matches no object.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// From requirements; they are sorted by key.
    pub fn from_requirements(mut requirements: Vec<LabelRequirement>) -> LabelSelector {
        requirements.sort();
        LabelSelector { requirements, nothing: false }
    }

    /// From a query string such as `app=web,tier in (a,b),!canary`.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        parse::parse(text).map(LabelSelector::from_requirements)
    }

    /// From a map of labels, each of which must be equal (the selector of a Service or ReplicationController).
    pub fn from_map(labels: &Map<String, Value>) -> LabelSelector {
        let requirements = labels
            .iter()
            .filter_map(|(key, value)| Some((key, value.as_str()?)))
            .map(|(key, value)| LabelRequirement::unchecked(key, Operator::Equals, vec![value.to_owned()]))
            .collect();
        LabelSelector::from_requirements(requirements)
    }

    /// From a `metav1.LabelSelector`. Absent matches nothing, empty matches everything.
    pub fn from_value(selector: Option<&Value>) -> Result<LabelSelector, SelectorError> {
        let Some(selector) = selector.filter(|value| !value.is_null()) else {
            return Ok(LabelSelector::nothing());
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(LabelRequirement::new(key, Operator::Equals, vec![value])?);
            }
        }
        for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |at: &str| term.get(at).and_then(Value::as_str).unwrap_or_default();
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError(format!("{} is not a valid label selector operator", quote(other)))),
            };
            let values = term.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            requirements.push(LabelRequirement::new(text("key"), operator, values)?);
        }
        Ok(LabelSelector::from_requirements(requirements))
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[LabelRequirement] {
        &self.requirements
    }

    /// Whether it matches every object.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether it can match no object.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// Whether an object with these labels matches.
    pub fn matches(&self, labels: &impl Labels) -> bool {
        !self.nothing && self.requirements.iter().all(|one| one.matches(labels))
    }

    /// Whether the object (a whole one, with `metadata.labels`) matches.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.matches(&object.pointer("/metadata/labels"))
    }

    /// The one value that the label must have, if the selector says so.
    pub fn exact(&self, key: &str) -> Option<&str> {
        let one = self.requirements.iter().find(|one| one.key == key)?;
        match (one.operator, &one.values[..]) {
            (Operator::Equals | Operator::In, [value]) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            one.fmt(f)?;
        }
        Ok(())
    }
}

/// A `metav1.LabelSelector` in one line, as the printer shows it: `<none>` when empty, `<error>` when it is none.
pub fn format_label_selector(selector: Option<&Value>) -> String {
    match LabelSelector::from_value(selector) {
        Err(_) => "<error>".into(),
        Ok(selector) if selector.requirements.is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn query_strings_match() {
        let labels = json!({"app": "web", "tier": "front", "n": "5"});
        let cases = [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app = web , tier=front", true),
            ("app=db", false),
            ("app!=db", true),
            ("missing!=x", true),
            ("app in (web,db)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("missing notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!missing", true),
            ("n>4", true),
            ("n<5", false),
            ("app>1", false),
            ("in in (in)", false),
            ("app=", false),
            ("app in ()", false),
            ("app in (,web)", true),
        ];
        for (text, want) in cases {
            let selector = LabelSelector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.matches(&labels), want, "{text}");
        }
    }

    #[test]
    fn query_strings_refused() {
        let cases = [
            ("app in web", "unable to parse requirement: found 'web' expected: '('"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a=b,", "found '', expected: identifier after ','"),
            ("=b", "found '=', expected: !, identifier, or 'end of string'"),
            ("a ~ b", "unable to parse requirement: found '~', expected: in, notin, =, ==, !=, gt, lt"),
        ];
        for (text, want) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap_err().0, want, "{text}");
        }
        let bad_value = LabelSelector::parse("a=b/c").unwrap_err().0;
        assert!(
            bad_value.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"b/c\": a valid label")
        );
    }

    #[test]
    fn canonical_text() {
        let cases = [("b=c,a in (y,x)", "a in (x,y),b=c"), ("!a", "!a"), ("a==b", "a=b"), ("a>1", "a>1")];
        for (text, want) in cases {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), want);
        }
    }

    #[test]
    fn object_selectors() {
        let labels = json!({"app": "web"});
        assert!(!LabelSelector::from_value(None).unwrap().matches(&labels));
        assert!(LabelSelector::from_value(Some(&json!({}))).unwrap().matches(&labels));
        let selector = json!({"matchLabels": {"app": "web"},
                              "matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]});
        let parsed = LabelSelector::from_value(Some(&selector)).unwrap();
        assert!(parsed.matches(&labels));
        assert_eq!(parsed.to_string(), "app=web,!x");
        let bad = json!({"matchExpressions": [{"key": "x", "operator": "Is"}]});
        assert_eq!(
            LabelSelector::from_value(Some(&bad)).unwrap_err().0,
            "\"Is\" is not a valid label selector operator"
        );
        assert_eq!(format_label_selector(Some(&json!({}))), "<none>");
        assert_eq!(parsed.exact("app"), Some("web"));
    }
}
