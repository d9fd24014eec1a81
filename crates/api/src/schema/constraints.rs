//! Value validations of custom resource schemas: what structural types cannot say.

use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;

/// The validations stated at one place of a schema.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    /// `enum`: the allowed values.
    pub allowed: Vec<Value>,
    /// `format`, such as `date-time` or `int32`.
    pub format: Option<String>,
    /// `pattern`: an unanchored regular expression.
    pub pattern: Option<Pattern>,
    /// `minimum` with whether it is exclusive.
    pub minimum: Option<(f64, bool)>,
    /// `maximum` with whether it is exclusive.
    pub maximum: Option<(f64, bool)>,
    /// `multipleOf`.
    pub multiple_of: Option<f64>,
    /// `minLength` and `maxLength` in characters.
    pub length: (Option<u64>, Option<u64>),
    /// `minItems` and `maxItems`.
    pub items: (Option<u64>, Option<u64>),
    /// `minProperties` and `maxProperties`.
    pub properties: (Option<u64>, Option<u64>),
    /// `uniqueItems`.
    pub unique: bool,
    /// `allOf`, `anyOf`, `oneOf` and `not` as they stand in the definition.
    pub junctors: Vec<(Junctor, Vec<Value>)>,
    /// `x-kubernetes-validations`: CEL rules, evaluated by whoever has an evaluator.
    pub rules: Vec<Rule>,
}

/// How several schemas apply to one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Junctor {
    /// All must hold.
    All,
    /// At least one must hold.
    Any,
    /// Exactly one must hold.
    One,
    /// The one must not hold.
    Not,
}

/// A regular expression that is compiled at its first use.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The expression as written.
    pub text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// A pattern that is not compiled yet.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// Whether the text matches; an expression that does not compile matches nothing.
    pub fn matches(&self, text: &str) -> bool {
        self.compiled.get_or_init(|| Regex::new(&self.text).ok()).as_ref().is_some_and(|r| r.is_match(text))
    }
}

/// One rule of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The CEL expression.
    pub rule: String,
    /// What to say when it is false.
    pub message: String,
    /// A CEL expression that yields what to say.
    pub message_expression: String,
    /// `FieldValueInvalid` and its like.
    pub reason: String,
    /// Path below the rule's place to blame, such as `.spec.x`.
    pub field_path: String,
    /// Whether a rule that speaks of `oldSelf` also runs on creation.
    pub optional_old_self: bool,
}

impl Rule {
    /// The rules of a schema, in order.
    pub fn of(schema: &Value) -> Vec<Rule> {
        let text = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        let rules = schema["x-kubernetes-validations"].as_array().map(Vec::as_slice).unwrap_or_default();
        rules
            .iter()
            .map(|rule| Rule {
                rule: text(rule, "rule"),
                message: text(rule, "message"),
                message_expression: text(rule, "messageExpression"),
                reason: text(rule, "reason"),
                field_path: text(rule, "fieldPath"),
                optional_old_self: rule["optionalOldSelf"].as_bool().unwrap_or_default(),
            })
            .collect()
    }
}

impl Constraints {
    /// The validations stated in a schema, `None` if there is none.
    pub fn of(schema: &Value) -> Option<Box<Constraints>> {
        let number = |key: &str| schema[key].as_u64();
        let flag = |key: &str| schema[key].as_bool().unwrap_or_default();
        let limit = |key: &str, exclusive: &str| schema[key].as_f64().map(|n| (n, flag(exclusive)));
        let mut junctors = Vec::new();
        for (key, junctor) in [("allOf", Junctor::All), ("anyOf", Junctor::Any), ("oneOf", Junctor::One)] {
            if let Some(schemas) = schema[key].as_array().filter(|s| !s.is_empty()) {
                junctors.push((junctor, schemas.clone()));
            }
        }
        if schema["not"].is_object() {
            junctors.push((Junctor::Not, vec![schema["not"].clone()]));
        }
        let found = Constraints {
            allowed: schema["enum"].as_array().cloned().unwrap_or_default(),
            format: schema["format"].as_str().filter(|f| !f.is_empty()).map(str::to_owned),
            pattern: schema["pattern"].as_str().filter(|p| !p.is_empty()).map(Pattern::new),
            minimum: limit("minimum", "exclusiveMinimum"),
            maximum: limit("maximum", "exclusiveMaximum"),
            multiple_of: schema["multipleOf"].as_f64(),
            length: (number("minLength"), number("maxLength")),
            items: (number("minItems"), number("maxItems")),
            properties: (number("minProperties"), number("maxProperties")),
            unique: flag("uniqueItems"),
            junctors,
            rules: Rule::of(schema),
        };
        (!found.is_empty()).then(|| Box::new(found))
    }

    fn is_empty(&self) -> bool {
        self.allowed.is_empty()
            && self.format.is_none()
            && self.pattern.is_none()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.length == (None, None)
            && self.items == (None, None)
            && self.properties == (None, None)
            && !self.unique
            && self.junctors.is_empty()
            && self.rules.is_empty()
    }
}
