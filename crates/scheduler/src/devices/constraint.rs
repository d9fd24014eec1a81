//! What the devices of a claim must have in common (`matchAttribute`), or must differ in (`distinctAttribute`).

use caravel_cel::device::Attribute;
use k8s_openapi::api::resource::v1 as resource;

use super::slice::Device;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Match,
    Distinct,
}

/// A constraint of a claim.
#[derive(Clone, Debug)]
pub struct Constraint {
    kind: Kind,
    /// The full name of the attribute.
    attribute: String,
    /// The requests that it is about (`request` or `request/alternative`); all when empty.
    requests: Vec<String>,
}

impl Constraint {
    /// Reads one; `None` when it is of a kind not known here.
    pub fn new(constraint: &resource::DeviceConstraint) -> Option<Self> {
        let (kind, attribute) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(name), _) => (Kind::Match, name),
            (None, Some(name)) => (Kind::Distinct, name),
            (None, None) => return None,
        };
        Some(Self { kind, attribute: attribute.clone(), requests: constraint.requests.clone().unwrap_or_default() })
    }

    /// Whether it is about a request (`request` or `request/alternative`).
    fn is_about(&self, request: &str) -> bool {
        let main = request.split('/').next().unwrap_or_default();
        self.requests.is_empty() || self.requests.iter().any(|r| r == request || r == main)
    }

    /// Whether a device may join those that were picked for the claim before. A device without the attribute never may.
    pub fn admits<'a>(
        &self,
        picked: impl Iterator<Item = (&'a str, &'a Device)>,
        request: &str,
        device: &Device,
    ) -> bool {
        if !self.is_about(request) {
            return true;
        }
        let Some(value) = device.attribute(&self.attribute) else { return false };
        let mut others = picked
            .filter(|(request, _)| self.is_about(request))
            .filter_map(|(_, device)| device.attribute(&self.attribute));
        let same = |other: &Attribute| other == value;
        match self.kind {
            Kind::Match => others.all(same),
            Kind::Distinct => !others.any(same),
        }
    }
}
