//! Cluster addresses and node ports of Services.
//!
//! An address is an `IPAddress` object and a node port is a key of its own; both are written in the commit that stores the
//! Service, each on condition that it is not there yet. So no two Services can have the same one, a crash cannot leak one,
//! and nothing has to be restored at a start.

use super::{Registry, codec, keys, store_error};
use crate::clock::rfc3339_seconds;
use caravel_api::field::{FieldError, FieldPath};
use caravel_api::kinds::Kind;
use caravel_api::meta;
use caravel_api::names;
use caravel_api::status::ApiError;
use caravel_store::{At, Expect, Write};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The reason of the internal error that says that a claimed key is taken; its message is the key.
pub const TAKEN: &str = "ClaimTaken";
/// Where node ports are claimed.
const PORTS: &str = "caravel/nodeports/";

/// An address range of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// Reads `10.96.0.0/16`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = names::parse_cidr(text)?;
        Some(Self { network: names::network_address(address, length), length })
    }

    fn family(&self) -> &'static str {
        family(self.network)
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4() && names::cidr_contains((self.network, self.length), address)
    }

    /// How many addresses may be handed out: all but the network's and, for IPv4, the broadcast address. IPv6 ranges are
    /// cut at 2^16 as upstream's allocator does.
    fn size(&self) -> u128 {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        let all = 1u128 << (bits - u32::from(self.length)).min(if bits == 32 { 32 } else { 64 });
        all.saturating_sub(if bits == 32 { 2 } else { 1 })
    }

    /// The `n`th address to hand out, from 0.
    pub fn nth(&self, n: u128) -> IpAddr {
        match self.network {
            IpAddr::V4(network) => IpAddr::from(
                (u32::from(network) as u128 + 1 + n).to_be_bytes()[12..].try_into().map_or([0; 4], |b: [u8; 4]| b),
            ),
            IpAddr::V6(network) => IpAddr::from((u128::from(network) + 1 + n).to_be_bytes()),
        }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// What a Service takes and gives back, to be written with it.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The writes.
    pub writes: Vec<Write>,
    /// Claims that the user asked for by value, with the refusal to give when they are taken.
    explicit: Vec<(String, ApiError)>,
}

impl Claims {
    /// A taken claim: an error when it was asked for by value, else it is drawn again.
    pub fn explain(&self, taken: &ApiError) -> Result<(), ApiError> {
        match self.explicit.iter().find(|(key, _)| *key == taken.message) {
            Some((_, error)) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

/// Whether `kind` takes addresses.
pub fn concerns(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// The older `clusterIP` given alone speaks for the list, too.
pub fn normalize(service: &mut Value) {
    let spec = &mut service["spec"];
    let one = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let none = spec.get("clusterIPs").and_then(Value::as_array).is_none_or(Vec::is_empty);
    if !one.is_empty() && none {
        spec["clusterIPs"] = json!([one]);
    }
}

/// Hands out addresses and node ports.
pub struct Allocator {
    ranges: Vec<Cidr>,
    ports: std::ops::RangeInclusive<u16>,
}

impl Allocator {
    /// Hands out addresses of `ranges` (one of each family, the primary first) and node ports of `ports`.
    pub fn new(ranges: Vec<Cidr>, ports: std::ops::RangeInclusive<u16>) -> Self {
        Self { ranges, ports }
    }

    /// The ranges, the primary first.
    pub fn ranges(&self) -> &[Cidr] {
        &self.ranges
    }

    /// What a Service that is deleted gives back.
    pub fn release(&self, service: &Value) -> Claims {
        let mut claims = Claims::default();
        for address in addresses(service) {
            claims.writes.push(Write::delete(address_key(&address), Expect::Any));
        }
        for port in node_ports(service) {
            claims.writes.push(Write::delete(port_key(port), Expect::Any));
        }
        claims
    }

    /// Fills in what a new or changed Service lacks, and says what it takes and gives back.
    pub async fn allocate(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Claims, ApiError> {
        if let Some(old) = old {
            carry_over(service, old);
        }
        let mut claims = Claims::default();
        self.families(service)?;
        self.take_addresses(registry, service, old, &mut claims).await?;
        self.take_ports(registry, service, old, &mut claims).await?;
        if let Some(old) = old {
            let (now, ports) = (addresses(service), node_ports(service));
            for address in addresses(old).into_iter().filter(|a| !now.contains(a)) {
                claims.writes.push(Write::delete(address_key(&address), Expect::Any));
            }
            for port in node_ports(old).into_iter().filter(|p| !ports.contains(p)) {
                claims.writes.push(Write::delete(port_key(port), Expect::Any));
            }
        }
        Ok(claims)
    }

    /// Settles `ipFamilyPolicy` and `ipFamilies`.
    fn families(&self, service: &mut Value) -> Result<(), ApiError> {
        let name = meta::name(service).to_owned();
        let spec = &mut service["spec"];
        if service_type(spec) == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                remove(spec, field);
            }
            return Ok(());
        }
        let root = FieldPath::root("spec");
        let headless = is_headless(spec);
        let no_selector = spec.get("selector").and_then(Value::as_object).is_none_or(|s| s.is_empty());
        let mut policy = spec.get("ipFamilyPolicy").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut families: Vec<String> = spec
            .get("ipFamilies")
            .and_then(Value::as_array)
            .map(|all| all.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let configured: Vec<&str> = self.ranges.iter().map(Cidr::family).collect();
        let mut errors = vec![];
        let free = headless && no_selector;
        for (i, one) in families.iter().enumerate() {
            if !free && !configured.contains(&one.as_str()) {
                let list = root.child("ipFamilies");
                errors.push(FieldError::invalid(&list.index(i), one.as_str(), "not configured on this cluster"));
            }
        }
        if policy == "RequireDualStack" && configured.len() < 2 && !free {
            let at = root.child("ipFamilyPolicy");
            errors.push(FieldError::invalid(
                &at,
                policy.as_str(),
                "this cluster is not configured for dual-stack services",
            ));
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Service", &name, &errors));
        }
        // Addresses that the user names say which families there are.
        if families.is_empty() {
            families = addresses_of(spec)
                .iter()
                .filter_map(|a| a.parse::<IpAddr>().ok())
                .map(|a| family(a).to_owned())
                .collect();
        }
        if policy.is_empty() {
            let both = free || families.len() > 1;
            policy = if both { "RequireDualStack" } else { "SingleStack" }.to_owned();
        }
        if families.is_empty() {
            families.push(configured.first().copied().unwrap_or("IPv4").to_owned());
        }
        let want = if policy == "SingleStack" { 1 } else { 2 };
        if families.len() < want {
            let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
            if free || configured.contains(&other) {
                families.push(other.to_owned());
            }
        }
        families.truncate(want);
        spec["ipFamilies"] = json!(families);
        spec["ipFamilyPolicy"] = json!(policy);
        if headless {
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
        }
        Ok(())
    }

    async fn take_addresses(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
        claims: &mut Claims,
    ) -> Result<(), ApiError> {
        if matches!(service_type(&service["spec"]), "ExternalName") || is_headless(&service["spec"]) {
            return Ok(());
        }
        let held = old.map(addresses).unwrap_or_default();
        let wanted = addresses_of(&service["spec"]);
        let families: Vec<String> = service["spec"]["ipFamilies"]
            .as_array()
            .map(|all| all.iter().filter_map(|f| f.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let mut result = vec![];
        let all = self.ranges_now(registry).await?;
        for (i, family) in families.iter().enumerate() {
            let ranges: Vec<Cidr> = all.iter().filter(|r| r.family() == family).copied().collect();
            if ranges.is_empty() {
                continue;
            }
            let address = match wanted.get(i) {
                // What it has it keeps, even if its range is about to go.
                Some(given) if held.contains(given) => match given.parse() {
                    Ok(address) => address,
                    Err(_) => self.check_address(service, i, given, &ranges)?,
                },
                Some(given) => {
                    let address = self.check_address(service, i, given, &ranges)?;
                    if !held.contains(given) {
                        let root = FieldPath::root("spec");
                        let why = format!("failed to allocate IP {given}: provided IP is already allocated");
                        let list = root.child("clusterIPs");
                        let error = FieldError::invalid(&list.index(i), given.as_str(), why);
                        claims.explicit.push((
                            address_key(given),
                            ApiError::invalid("", "Service", meta::name(service), &[error]),
                        ));
                    }
                    address
                }
                None => self.draw_address(registry, &ranges).await?,
            };
            let text = address.to_string();
            if !held.contains(&text) {
                claims.writes.push(self.address_write(registry, service, address)?);
            }
            result.push(text);
        }
        if let Some(first) = result.first() {
            service["spec"]["clusterIP"] = json!(first);
            service["spec"]["clusterIPs"] = json!(result);
        }
        Ok(())
    }

    /// The ranges of today: those of the configuration, and those of ServiceCIDR objects that are ready and not about to go.
    async fn ranges_now(&self, registry: &Registry) -> Result<Vec<Cidr>, ApiError> {
        let mut all = self.ranges.clone();
        for object in registry.objects("networking.k8s.io", "servicecidrs", "").await? {
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if !ready || object.pointer("/metadata/deletionTimestamp").is_some() {
                continue;
            }
            let cidrs = object.pointer("/spec/cidrs").and_then(Value::as_array);
            for cidr in cidrs.into_iter().flatten().filter_map(|c| Cidr::parse(c.as_str()?)) {
                if !all.contains(&cidr) {
                    all.push(cidr);
                }
            }
        }
        Ok(all)
    }

    fn check_address(&self, service: &Value, i: usize, given: &str, ranges: &[Cidr]) -> Result<IpAddr, ApiError> {
        let why = match given.parse::<IpAddr>() {
            Ok(address) if ranges.iter().any(|r| r.contains(address)) => return Ok(address),
            Ok(_) => {
                let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                format!(
                    "failed to allocate IP {given}: the provided IP ({given}) is not in the valid range. The range of valid IPs is {}",
                    ranges.join(", ")
                )
            }
            Err(_) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned(),
        };
        let root = FieldPath::root("spec");
        let list = root.child("clusterIPs");
        let error = FieldError::invalid(&list.index(i), given, why);
        Err(ApiError::invalid("", "Service", meta::name(service), &[error]))
    }

    /// A free address: at random from the upper part of the range, then from the lower part, which is kept for addresses that
    /// users choose (KEP-3070).
    async fn draw_address(&self, registry: &Registry, ranges: &[Cidr]) -> Result<IpAddr, ApiError> {
        for range in ranges {
            if let Some(address) = self.draw_from(registry, range).await? {
                return Ok(address);
            }
        }
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        Err(ApiError::internal(format!("failed to allocate a serviceIP: range is full ({})", ranges.join(", "))))
    }

    async fn draw_from(&self, registry: &Registry, range: &Cidr) -> Result<Option<IpAddr>, ApiError> {
        let size = range.size().min(1 << 20);
        let band = (size / 16).clamp(16, 256).min(size);
        let band = if size <= 16 { 0 } else { band };
        for (from, count) in [(band, size - band), (0, band)] {
            let count = u64::try_from(count).unwrap_or(0);
            if count == 0 {
                continue;
            }
            let start = rand::random::<u64>() % count;
            for i in 0..count {
                let address = range.nth(from + u128::from((start + i) % count));
                if self.is_free(registry, &address_key(&address.to_string())).await? {
                    return Ok(Some(address));
                }
            }
        }
        Ok(None)
    }

    async fn is_free(&self, registry: &Registry, key: &str) -> Result<bool, ApiError> {
        Ok(registry.store.get(key, At::Cached).await.map_err(store_error)?.entry.is_none())
    }

    fn address_write(&self, registry: &Registry, service: &Value, address: IpAddr) -> Result<Write, ApiError> {
        let object = json!({
            "kind": "IPAddress", "apiVersion": "networking.k8s.io/v1",
            "metadata": {
                "name": address.to_string(),
                "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": rfc3339_seconds(registry.clock.now()),
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": family(address),
                    "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
                },
            },
            "spec": {"parentRef": {
                "resource": "services", "namespace": meta::namespace(service), "name": meta::name(service),
            }},
        });
        let encoded = codec::encode(&object).map_err(ApiError::internal)?;
        Ok(Write::create(address_key(&address.to_string()), encoded.bytes, Some(encoded.revision_at)))
    }

    async fn take_ports(
        &self,
        registry: &Registry,
        service: &mut Value,
        old: Option<&Value>,
        claims: &mut Claims,
    ) -> Result<(), ApiError> {
        let held = old.map(node_ports).unwrap_or_default();
        let owner = format!("{}/{}", meta::namespace(service), meta::name(service));
        let name = meta::name(service).to_owned();
        let kind = service_type(&service["spec"]).to_owned();
        let wants = kind == "NodePort"
            || (kind == "LoadBalancer"
                && service["spec"].get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false));
        let keeps = wants || kind == "LoadBalancer";
        let mut mine: BTreeSet<u16> = BTreeSet::new();
        let mut by_port: Vec<(u64, u16)> = vec![];
        let count = service["spec"]["ports"].as_array().map_or(0, Vec::len);
        for i in 0..count {
            let port = &mut service["spec"]["ports"][i];
            if !keeps {
                remove(port, "nodePort");
                continue;
            }
            let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
            let given = port.get("nodePort").and_then(Value::as_u64).filter(|p| *p != 0);
            let chosen = match given {
                Some(given) => {
                    let root = FieldPath::root("spec");
                    let (ports, at);
                    ports = root.child("ports");
                    at = ports.index(i);
                    let invalid = |why: String| {
                        ApiError::invalid(
                            "",
                            "Service",
                            &name,
                            &[FieldError::invalid(&at.child("nodePort"), given, why)],
                        )
                    };
                    let chosen = u16::try_from(given).ok().filter(|p| self.ports.contains(p)).ok_or_else(|| {
                        invalid(format!(
                            "provided port is not in the valid range. The range of valid ports is {}-{}",
                            self.ports.start(),
                            self.ports.end()
                        ))
                    })?;
                    if !held.contains(&chosen) && !mine.contains(&chosen) {
                        claims.explicit.push((port_key(chosen), invalid("provided port is already allocated".into())));
                    }
                    chosen
                }
                None if !wants => continue,
                // The same port over TCP and UDP gets the same node port.
                None => match by_port.iter().find(|(p, _)| *p == number) {
                    Some((_, chosen)) => *chosen,
                    None => self.draw_port(registry, &mine, &held).await?,
                },
            };
            by_port.push((number, chosen));
            port["nodePort"] = json!(chosen);
            if mine.insert(chosen) && !held.contains(&chosen) {
                claims.writes.push(Write::create(port_key(chosen), owner.clone(), None));
            }
        }
        self.health_port(registry, service, &mine, &held, &owner, claims).await
    }

    /// `healthCheckNodePort` of load balancers that route to local endpoints only.
    async fn health_port(
        &self,
        registry: &Registry,
        service: &mut Value,
        mine: &BTreeSet<u16>,
        held: &BTreeSet<u16>,
        owner: &str,
        claims: &mut Claims,
    ) -> Result<(), ApiError> {
        let spec = &mut service["spec"];
        let wants = service_type(spec) == "LoadBalancer"
            && spec.get("externalTrafficPolicy").and_then(Value::as_str) == Some("Local");
        if !wants {
            remove(spec, "healthCheckNodePort");
            return Ok(());
        }
        let given = spec.get("healthCheckNodePort").and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok());
        let chosen = match given.filter(|p| *p != 0) {
            Some(chosen) => chosen,
            None => self.draw_port(registry, mine, held).await?,
        };
        spec["healthCheckNodePort"] = json!(chosen);
        if !held.contains(&chosen) && !mine.contains(&chosen) {
            claims.writes.push(Write::create(port_key(chosen), owner.to_owned(), None));
        }
        Ok(())
    }

    async fn draw_port(
        &self,
        registry: &Registry,
        mine: &BTreeSet<u16>,
        held: &BTreeSet<u16>,
    ) -> Result<u16, ApiError> {
        let size = u32::from(self.ports.end() - self.ports.start()) + 1;
        let band = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
        for (from, count) in [(band, size - band), (0, band)] {
            if count == 0 {
                continue;
            }
            let start = rand::random::<u32>() % count;
            for i in 0..count {
                let offset = from + (start + i) % count;
                let port = self.ports.start() + u16::try_from(offset).unwrap_or(0);
                if !mine.contains(&port) && !held.contains(&port) && self.is_free(registry, &port_key(port)).await? {
                    return Ok(port);
                }
            }
        }
        Err(ApiError::internal("failed to allocate a nodePort: range is full"))
    }
}

/// Writes that give the addresses and ports of `service` a claim when they have none (a restored or imported store).
pub async fn repair(registry: &Arc<Registry>) -> Result<(), ApiError> {
    for service in registry.objects("", "services", "").await? {
        let mut writes = vec![];
        for address in addresses(&service) {
            let Ok(parsed) = address.parse::<IpAddr>() else { continue };
            if registry.services.is_free(registry, &address_key(&address)).await? {
                writes.push(registry.services.address_write(registry, &service, parsed)?);
            }
        }
        let owner = format!("{}/{}", meta::namespace(&service), meta::name(&service));
        for port in node_ports(&service) {
            if registry.services.is_free(registry, &port_key(port)).await? {
                writes.push(Write::create(port_key(port), owner.clone(), None));
            }
        }
        if !writes.is_empty() {
            registry.store.commit(writes).await.map_err(store_error)?;
        }
    }
    Ok(())
}

fn address_key(address: &str) -> String {
    keys::of("networking.k8s.io", "ipaddresses", "", address)
}

fn port_key(port: u16) -> String {
    format!("{PORTS}{port}")
}

fn service_type(spec: &Value) -> &str {
    spec.get("type").and_then(Value::as_str).unwrap_or("ClusterIP")
}

fn is_headless(spec: &Value) -> bool {
    spec.get("clusterIP").and_then(Value::as_str) == Some("None")
        || spec.pointer("/clusterIPs/0").and_then(Value::as_str) == Some("None")
}

/// The cluster addresses that a spec names: `clusterIPs`, or the older `clusterIP`.
fn addresses_of(spec: &Value) -> Vec<String> {
    let mut all: Vec<String> = spec
        .get("clusterIPs")
        .and_then(Value::as_array)
        .map(|all| all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    let one = spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default();
    if all.is_empty() && !one.is_empty() {
        all.push(one.to_owned());
    }
    all.retain(|a| !a.is_empty() && a != "None");
    all
}

fn addresses(service: &Value) -> Vec<String> {
    addresses_of(service.get("spec").unwrap_or(&Value::Null))
}

fn node_ports(service: &Value) -> BTreeSet<u16> {
    let spec = service.get("spec").unwrap_or(&Value::Null);
    let ports = spec.get("ports").and_then(Value::as_array);
    ports
        .into_iter()
        .flatten()
        .filter_map(|p| p.get("nodePort"))
        .chain(spec.get("healthCheckNodePort"))
        .filter_map(Value::as_u64)
        .filter_map(|p| u16::try_from(p).ok())
        .filter(|p| *p != 0)
        .collect()
}

/// An update that leaves out what was handed out keeps it, as long as its type needs it.
fn carry_over(service: &mut Value, old: &Value) {
    let was = old.get("spec").cloned().unwrap_or_default();
    let spec = &mut service["spec"];
    let both = |a: &[&str]| a.contains(&service_type(spec)) && a.contains(&service_type(&was));
    let cluster = both(&["ClusterIP", "NodePort", "LoadBalancer"]);
    let nodes = both(&["NodePort", "LoadBalancer"]);
    if cluster {
        let empty = |v: Option<&Value>| {
            v.is_none_or(|v| v.is_null() || v.as_str() == Some("") || v.as_array().is_some_and(Vec::is_empty))
        };
        // `clusterIP` alone was given: it speaks for the list.
        if empty(spec.get("clusterIP")) && empty(spec.get("clusterIPs")) {
            for field in ["clusterIP", "clusterIPs"] {
                if let Some(value) = was.get(field) {
                    spec[field] = value.clone();
                }
            }
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if empty(spec.get(field))
                && let Some(value) = was.get(field)
            {
                spec[field] = value.clone();
            }
        }
    }
    if nodes {
        let before = was.get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let key = |p: &Value| (p.get("port").cloned(), p.get("protocol").cloned());
        let mut used = node_ports(service);
        if let Some(ports) = service["spec"]["ports"].as_array_mut() {
            for port in ports.iter_mut().filter(|p| p.get("nodePort").and_then(Value::as_u64).unwrap_or(0) == 0) {
                let same = before.iter().find(|b| key(b) == key(port)).and_then(|b| b.get("nodePort"));
                if let Some(number) = same.and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok())
                    && used.insert(number)
                {
                    port["nodePort"] = json!(number);
                }
            }
        }
        let spec = &mut service["spec"];
        if spec.get("healthCheckNodePort").and_then(Value::as_u64).unwrap_or(0) == 0
            && let Some(port) = was.get("healthCheckNodePort")
        {
            spec["healthCheckNodePort"] = port.clone();
        }
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cidr = Cidr::parse("10.96.0.0/16").unwrap();
        assert_eq!(cidr.nth(0).to_string(), "10.96.0.1");
        assert_eq!(cidr.nth(9).to_string(), "10.96.0.10");
        assert_eq!(cidr.size(), 65534);
        assert!(cidr.contains("10.96.255.1".parse().unwrap()));
        assert!(!cidr.contains("10.97.0.1".parse().unwrap()));
        assert!(!cidr.contains("fd00::1".parse().unwrap()));
        assert_eq!(Cidr::parse("fd00::/108").unwrap().nth(0).to_string(), "fd00::1");
    }

    #[test]
    fn an_update_keeps_what_it_leaves_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        carry_over(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.5");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
        let mut external = json!({"spec": {"type": "ExternalName", "externalName": "x"}});
        carry_over(&mut external, &old);
        assert!(external["spec"].get("clusterIP").is_none());
    }
}
