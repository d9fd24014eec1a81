//! `x-kubernetes-validations`: the rules of custom resources, compiled once per schema and run over every write.

use caravel_api::field::{FieldError, FieldPath};
use caravel_api::kinds::Kind;
use caravel_api::schema::Rule;
use caravel_cel::shapes::of_schema;
use caravel_cel::types::ListKind;
use caravel_cel::{Activation, Budget, Environment, EvalError, Program, REQUEST_BUDGET, Shape, ShapeKind, Ty, Val};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

/// Most schemas whose compiled rules are kept.
const MAX_KEPT: usize = 256;
/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 << 10;

/// A place of a schema at or below which there are rules.
#[derive(Debug)]
pub struct Place {
    /// What is there.
    pub shape: Arc<Shape>,
    /// The type that messages name: `object`, `string` and so on.
    pub ty: String,
    /// The rules here.
    pub rules: Vec<Compiled>,
    /// Fields with rules at or below them.
    pub fields: Vec<(String, Place)>,
    /// Elements of a list or values of a map.
    pub element: Option<Box<Place>>,
}

/// One compiled rule.
#[derive(Debug)]
pub struct Compiled {
    /// As written.
    pub rule: Rule,
    /// The rule.
    pub program: Program,
    /// Yields what to say.
    pub message: Option<Program>,
    /// Whether it speaks of the former state.
    pub transition: bool,
}

/// The environment of a rule over values of this shape.
pub fn environment(shape: &Arc<Shape>, optional_old_self: bool) -> Environment {
    let ty = shape.ty();
    let old = if optional_old_self { Ty::Optional(Arc::new(ty.clone())) } else { ty.clone() };
    Environment::new([("self", ty), ("oldSelf", old)])
}

fn place(schema: &Value, root: bool) -> Option<Place> {
    let shape = of_schema(schema, root)?;
    let mut rules = vec![];
    for rule in Rule::of(schema) {
        let environment = environment(&shape, rule.optional_old_self);
        // A stored rule that does not compile any more is not held against the objects.
        let Ok(program) = environment.compile(&rule.rule) else { continue };
        let message = (!rule.message_expression.is_empty()).then(|| environment.compile(&rule.message_expression).ok());
        rules.push(Compiled { transition: program.mentions("oldSelf"), program, message: message.flatten(), rule });
    }
    let mut fields = vec![];
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        fields.extend(place(child, false).map(|p| (name.clone(), p)));
    }
    let element = schema.get("items").or_else(|| schema.get("additionalProperties")).filter(|e| e.is_object());
    let element = element.and_then(|e| place(e, false)).map(Box::new);
    if rules.is_empty() && fields.is_empty() && element.is_none() {
        return None;
    }
    let ty = schema.get("type").and_then(Value::as_str).unwrap_or("object").to_owned();
    Some(Place { shape, ty, rules, fields, element })
}

type Kept = HashMap<String, Option<Arc<Place>>>;

/// The compiled rules of a custom kind, or none if it has none.
fn rules_of(kind: &Kind) -> Option<Arc<Place>> {
    static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);
    let custom = kind.custom.as_ref()?;
    let schema = custom.ruled_schema.as_ref()?;
    let key = format!("{}/{}/{}", custom.definition, kind.version, custom.schema_hash);
    let mut kept = KEPT.lock();
    if let Some(known) = kept.get(&key) {
        return known.clone();
    }
    let compiled = place(schema, true).map(Arc::new);
    if kept.len() >= MAX_KEPT {
        kept.clear();
    }
    kept.insert(key, compiled.clone());
    compiled
}

/// What the rules of a custom resource say about a write. `found` is what its schema said before: where the object is so
/// wrong that rules cannot look at it, they do not.
pub fn validate(kind: &Kind, object: &Value, old: Option<&Value>, found: &[FieldError]) -> Vec<FieldError> {
    use caravel_api::field::FieldErrorKind as K;
    let Some(place) = rules_of(kind) else { return vec![] };
    if found.iter().any(|e| matches!(e.kind, K::Required | K::TypeInvalid | K::TooLong | K::TooMany)) {
        let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        return vec![FieldError::invalid(&FieldPath::root("<nil>"), Value::Null, why)];
    }
    let mut walk = Walk { out: vec![], budget: Budget::new(REQUEST_BUDGET), spent: false };
    // The root has no name of its own.
    walk.rules(&place, None, object, old);
    if let Value::Object(fields) = object {
        for (name, child) in &place.fields {
            if let Some(value) = fields.get(name) {
                walk.at(child, &FieldPath::root(name), value, old.and_then(|o| o.get(name)));
            }
        }
    }
    walk.out
}

struct Walk {
    out: Vec<FieldError>,
    budget: Budget,
    spent: bool,
}

impl Walk {
    fn at(&mut self, place: &Place, path: &FieldPath<'_>, value: &Value, old: Option<&Value>) {
        if value.is_null() || self.spent {
            return;
        }
        self.rules(place, Some(path), value, old);
        match value {
            Value::Object(fields) => {
                for (name, child) in &place.fields {
                    if let Some(value) = fields.get(name) {
                        self.at(child, &path.child(name), value, old.and_then(|o| o.get(name)));
                    }
                }
                if let Some(element) = &place.element {
                    for (key, value) in fields {
                        self.at(element, &path.key(key), value, old.and_then(|o| o.get(key)));
                    }
                }
            }
            Value::Array(items) => {
                let Some(element) = &place.element else { return };
                for (index, item) in items.iter().enumerate() {
                    let before = old.and_then(|o| correlated(place, item, o));
                    self.at(element, &path.index(index), item, before);
                }
            }
            _ => {}
        }
    }

    fn rules(&mut self, place: &Place, path: Option<&FieldPath<'_>>, value: &Value, old: Option<&Value>) {
        let unchanged = old == Some(value);
        for compiled in &place.rules {
            let optional = compiled.rule.optional_old_self;
            if self.spent || (compiled.transition && old.is_none() && !optional) {
                continue;
            }
            // What was stored before a rule came may stay as it is (KEP-4008).
            if unchanged && !compiled.transition {
                continue;
            }
            self.rule(place, compiled, path, value, old);
        }
    }

    fn rule(
        &mut self,
        place: &Place,
        compiled: &Compiled,
        path: Option<&FieldPath<'_>>,
        value: &Value,
        old: Option<&Value>,
    ) {
        let mut activation = Activation::new();
        activation.set("self", Val::shaped(value, &place.shape));
        if compiled.transition || compiled.message.is_some() {
            let before = old.map(|o| Val::shaped(o, &place.shape));
            let before = match (compiled.rule.optional_old_self, before) {
                (true, before) => Val::Optional(before.map(Rc::new)),
                (false, before) => before.unwrap_or(Val::Null),
            };
            activation.set("oldSelf", before);
        }
        let said = &compiled.rule.message;
        let default =
            if said.is_empty() { format!("failed rule: {}", compiled.rule.rule.trim()) } else { said.clone() };
        // As upstream names the whole object.
        let root = FieldPath::root("<nil>");
        let path = path.unwrap_or(&root);
        match compiled.program.evaluate(&activation, &self.budget) {
            Ok(Val::Bool(true)) => {}
            Ok(Val::Bool(false)) => {
                let message = compiled.message.as_ref().and_then(|program| {
                    let made = program.evaluate(&activation, &self.budget).ok()?;
                    let text = made.as_str()?.trim().to_owned();
                    (!text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n')).then_some(text)
                });
                self.out.push(refusal(compiled, path, &place.ty, message.unwrap_or(default)));
            }
            Ok(_) => self.out.push(FieldError::invalid(path, &*place.ty, "rule did not yield a bool")),
            Err(EvalError::Budget) => {
                self.spent = true;
                let why =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                self.out.push(FieldError::invalid(path, &*place.ty, why));
            }
            Err(EvalError::CallCost) => {
                let why = "call cost exceeds limit for rule: ".to_owned() + &compiled.rule.rule;
                self.out.push(FieldError::invalid(path, &*place.ty, why));
            }
            Err(error) => {
                self.out.push(FieldError::invalid(path, &*place.ty, format!("{error} evaluating rule: {default}")));
            }
        }
    }
}

fn refusal(compiled: &Compiled, path: &FieldPath<'_>, ty: &str, message: String) -> FieldError {
    let error = match compiled.rule.reason.as_str() {
        "FieldValueForbidden" => FieldError::forbidden(path, message),
        "FieldValueRequired" => FieldError::required(path, message),
        "FieldValueDuplicate" => FieldError { detail: message, ..FieldError::duplicate(path, ty) },
        _ => FieldError::invalid(path, ty, message),
    };
    if compiled.rule.field_path.is_empty() {
        return error;
    }
    let whole = format!("{path}{}", compiled.rule.field_path);
    error.with_field(whole.strip_prefix("<nil>").unwrap_or(&whole).trim_start_matches('.'))
}

/// The former state of a list's element: only lists with keys know it.
fn correlated<'a>(place: &Place, item: &Value, old: &'a Value) -> Option<&'a Value> {
    let ListKind::Map(keys) = &place.shape.list else { return None };
    let ShapeKind::List(element) = &place.shape.kind else { return None };
    let ShapeKind::Object(fields) = &element.kind else { return None };
    let names: Vec<&str> = keys.iter().filter_map(|k| fields.fields.get(k)).map(|f| f.name.as_str()).collect();
    old.as_array()?.iter().find(|before| names.iter().all(|name| before.get(*name) == item.get(*name)))
}
