//! Selectors of devices (`resource.k8s.io`, KEP-4381): expressions over one variable, `device`.
//!
//! `device.driver` is a string; `device.attributes` and `device.capacity` are maps of maps, by domain and identifier, where a domain
//! that is not there is an empty map. A name without a domain belongs to the driver's. `device.allowMultipleAllocations` is a
//! truth value (KEP-5075).

use crate::cost::Estimate;
use crate::eval::{Activation, Budget};
use crate::library::semver::Semver;
use crate::program::{CompileError, Environment, Program};
use crate::types::{Field, Fields, Shape, ShapeKind, Ty};
use crate::value::{Key, Library, Text, Val};
use caravel_api::quantity::Quantity;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Most bytes of one expression (`CELSelectorExpressionMaxLength`).
pub const MAX_LENGTH: usize = 10 * 1024;
/// Most that one expression may cost for one device (`CELSelectorExpressionMaxCost`).
pub const MAX_COST: u64 = 1_000_000;

/// Most attributes and capacities of a device together.
const ENTRIES: u64 = 32;
/// Most characters of a domain.
const DOMAIN: u64 = 63;
/// Most characters of an attribute's text.
const TEXT: u64 = 64;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attribute {
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `string`
    String(Arc<str>),
    /// `version`: a semantic version, as written.
    Version(Arc<str>),
}

/// A device, as selectors see it.
#[derive(Clone, Copy, Debug)]
pub struct Device<'a> {
    /// Who drives it: the domain of names that have none.
    pub driver: &'a str,
    /// By `domain/name` or `name`.
    pub attributes: &'a BTreeMap<String, Attribute>,
    /// By `domain/name` or `name`.
    pub capacity: &'a BTreeMap<String, Quantity>,
    /// Whether several claims may share it.
    pub shared: bool,
}

/// A compiled selector.
#[derive(Clone, Debug)]
pub struct Selector(Program);

fn map(of: Shape, max: u64) -> Shape {
    Shape { max: Some(max), ..Shape::of(ShapeKind::Map(Arc::new(of))) }
}

fn shape() -> &'static Arc<Shape> {
    static SHAPE: OnceLock<Arc<Shape>> = OnceLock::new();
    SHAPE.get_or_init(|| {
        let text = |max| Shape { max: Some(max), ..Shape::of(ShapeKind::String) };
        let value = Shape { max: Some(TEXT), ..Shape::default() };
        let fields = [
            ("driver", text(DOMAIN)),
            ("attributes", map(map(value.clone(), ENTRIES), ENTRIES)),
            ("capacity", map(map(value, ENTRIES), ENTRIES)),
            ("allowMultipleAllocations", Shape::of(ShapeKind::Bool)),
        ];
        let fields = fields.map(|(name, shape)| {
            (name.to_owned(), Field { name: name.to_owned(), shape: Arc::new(shape), required: true })
        });
        let fields = Fields { name: "kubernetes.DRADevice".into(), fields: fields.into() };
        Arc::new(Shape::of(ShapeKind::Object(fields)))
    })
}

impl Selector {
    /// Parses and checks.
    ///
    /// # Errors
    /// What is wrong with the text, or that its result is no truth value.
    pub fn compile(source: &str) -> Result<Self, CompileError> {
        static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| Environment::new([("device", Ty::Object(shape().clone()))]));
        let program = environment.compile(source).map_err(|e| CompileError(format!("compilation failed: {e}")))?;
        if !program.may_be(&Ty::Bool) {
            return Err(CompileError(format!("must evaluate to bool or the unknown type, not {}", program.ty())));
        }
        Ok(Self(program))
    }

    /// The most that one evaluation can cost.
    pub fn most_cost(&self) -> u64 {
        Estimate::new(&[("device", shape().clone())]).of(&self.0)
    }

    /// Whether a device is meant.
    ///
    /// # Errors
    /// What the expression did wrong on this device: an attribute that is not there, values of different types.
    pub fn matches(&self, device: &Device<'_>) -> Result<bool, String> {
        let mut activation = Activation::new();
        activation.set("device", value(device));
        match self.0.evaluate(&activation, &Budget::new(MAX_COST)) {
            Ok(Val::Bool(yes)) => Ok(yes),
            Ok(other) => Err(format!("CEL result of type {} could not be converted to bool", other.type_name())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// By domain and identifier.
fn by_domain<'a>(driver: &str, all: impl Iterator<Item = (&'a str, Val<'a>)>) -> Val<'a> {
    let mut domains: BTreeMap<Key, BTreeMap<Key, Val<'a>>> = BTreeMap::new();
    for (name, value) in all {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        domains.entry(Key::String(domain.into())).or_default().insert(Key::String(id.into()), value);
    }
    Val::domains(domains.into_iter().map(|(domain, ids)| (domain, Val::dict(ids))).collect())
}

fn value<'a>(device: &Device<'a>) -> Val<'a> {
    let attributes = device.attributes.iter().filter_map(|(name, attribute)| {
        let value = match attribute {
            Attribute::Bool(b) => Val::Bool(*b),
            Attribute::Int(i) => Val::Int(*i),
            Attribute::String(text) => Val::String(Text::Borrowed(text)),
            // The server lets only good ones in; one that is not is as if it were not there.
            Attribute::Version(text) => Val::library(Library::Semver(Semver::parse(text, false)?)),
        };
        Some((name.as_str(), value))
    });
    let capacity = device.capacity.iter().map(|(name, q)| (name.as_str(), Val::library(Library::Quantity(*q))));
    let key = |name: &str| Key::String(name.into());
    Val::dict(BTreeMap::from([
        (key("driver"), Val::String(Text::Borrowed(device.driver))),
        (key("attributes"), by_domain(device.driver, attributes)),
        (key("capacity"), by_domain(device.driver, capacity)),
        (key("allowMultipleAllocations"), Val::Bool(device.shared)),
    ]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn ask(source: &str) -> Result<bool, String> {
        let attributes = BTreeMap::from([
            ("model".to_owned(), Attribute::String("A100".into())),
            ("cores".to_owned(), Attribute::Int(8)),
            ("ecc".to_owned(), Attribute::Bool(true)),
            ("example.org/firmware".to_owned(), Attribute::Version("1.2.3".into())),
        ]);
        let capacity = BTreeMap::from([("memory".to_owned(), Quantity::parse("40Gi").unwrap())]);
        let device = Device { driver: "gpu.example.com", attributes: &attributes, capacity: &capacity, shared: false };
        Selector::compile(source).map_err(|e| e.to_string())?.matches(&device)
    }

    #[test]
    fn what_selectors_see() {
        for (source, want) in [
            ("device.driver == 'gpu.example.com'", true),
            ("device.attributes['gpu.example.com'].model == 'A100'", true),
            ("device.attributes['gpu.example.com'].cores >= 16", false),
            ("device.attributes['gpu.example.com'].ecc", true),
            ("device.attributes['example.org'].firmware.isGreaterThan(semver('1.2.0'))", true),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) == 0", true),
            ("device.capacity['gpu.example.com'].memory.isLessThan(quantity('1Gi'))", false),
            ("has(device.attributes['other.example.com'].model)", false),
            ("'cores' in device.attributes['gpu.example.com']", true),
            ("'x' in device.attributes['other.example.com']", false),
            ("device.attributes['other.example.com'].?model.orValue('none') == 'none'", true),
            ("cel.bind(gpu, device.attributes['gpu.example.com'], gpu.ecc && gpu.cores == 8)", true),
            ("device.allowMultipleAllocations", false),
        ] {
            assert_eq!(ask(source), Ok(want), "{source}");
        }
    }

    #[test]
    fn what_is_wrong() {
        for (source, want) in [
            ("device.attributes['other.example.com'].model == 'x'", "no such key: model"),
            ("device.name == 'x'", "undefined field 'name'"),
            ("device.driver", "must evaluate to bool"),
            ("device.attributes['gpu.example.com'].model", "could not be converted to bool"),
            ("device.driver ==", "compilation failed"),
        ] {
            let error = ask(source).unwrap_err();
            assert!(error.contains(want), "{source}: {error}");
        }
    }

    #[test]
    fn loops_over_loops_cost_too_much() {
        let cheap = Selector::compile("device.driver == 'x'").unwrap();
        assert!(cheap.most_cost() < 1000, "{}", cheap.most_cost());
        let inner = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, device.attributes.all(d, d != a))))";
        assert!(Selector::compile(inner).unwrap().most_cost() > MAX_COST);
    }
}
