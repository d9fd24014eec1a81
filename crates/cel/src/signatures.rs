//! Which functions there are, and between which types: one table, read once.
//!
//! A line is `[receiver.]name(arguments) result`; types are short names, `A` and `B` stand for any type.

use crate::types::Ty;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// One overload.
#[derive(Clone, Debug)]
pub struct Signature {
    /// Whether the first argument is a receiver.
    pub member: bool,
    /// Types of the arguments, the receiver first.
    pub arguments: Vec<Ty>,
    /// Type of the result.
    pub result: Ty,
}

const TABLE: &str = "
size(string) int | size(bytes) int | size(list<A>) int | size(map<A,B>) int
string.size() int | bytes.size() int | list<A>.size() int | map<A,B>.size() int
type(A) type | dyn(A) dyn
bool(bool) bool | bool(string) bool
int(int) int | int(uint) int | int(double) int | int(string) int | int(timestamp) int | int(duration) int
uint(uint) uint | uint(int) uint | uint(double) uint | uint(string) uint
double(double) double | double(int) double | double(uint) double | double(string) double
string(string) string | string(bool) string | string(int) string | string(uint) string | string(double) string
string(bytes) string | string(timestamp) string | string(duration) string | string(ip) string | string(cidr) string
bytes(bytes) bytes | bytes(string) bytes
timestamp(string) timestamp | timestamp(timestamp) timestamp | timestamp(int) timestamp
duration(string) duration | duration(duration) duration | duration(int) duration
string.contains(string) bool | string.startsWith(string) bool | string.endsWith(string) bool
string.matches(string) bool | matches(string,string) bool
timestamp.getFullYear() int | timestamp.getFullYear(string) int | timestamp.getMonth() int | timestamp.getMonth(string) int
timestamp.getDayOfYear() int | timestamp.getDayOfYear(string) int | timestamp.getDayOfMonth() int | timestamp.getDayOfMonth(string) int
timestamp.getDate() int | timestamp.getDate(string) int | timestamp.getDayOfWeek() int | timestamp.getDayOfWeek(string) int
timestamp.getHours() int | timestamp.getHours(string) int | duration.getHours() int
timestamp.getMinutes() int | timestamp.getMinutes(string) int | duration.getMinutes() int
timestamp.getSeconds() int | timestamp.getSeconds(string) int | duration.getSeconds() int
timestamp.getMilliseconds() int | timestamp.getMilliseconds(string) int | duration.getMilliseconds() int
string.charAt(int) string | string.indexOf(string) int | string.indexOf(string,int) int
string.lastIndexOf(string) int | string.lastIndexOf(string,int) int | string.lowerAscii() string | string.upperAscii() string
string.replace(string,string) string | string.replace(string,string,int) string
string.split(string) list<string> | string.split(string,int) list<string>
string.substring(int) string | string.substring(int,int) string | string.trim() string | string.reverse() string
list<string>.join() string | list<string>.join(string) string | strings.quote(string) string
string.format(list<dyn>) string
string.find(string) string | string.findAll(string) list<string> | string.findAll(string,int) list<string>
list<A>.isSorted() bool | list<A>.sum() A | list<A>.min() A | list<A>.max() A | list<A>.indexOf(A) int | list<A>.lastIndexOf(A) int
list<A>.slice(int,int) list<A> | list<A>.sort() list<A> | list<A>.flatten() list<dyn> | list<A>.flatten(int) list<dyn>
list<A>.reverse() list<A> | list<A>.distinct() list<A> | list<A>.first() optional<A> | list<A>.last() optional<A>
lists.range(int) list<int>
sets.contains(list<A>,list<A>) bool | sets.equivalent(list<A>,list<A>) bool | sets.intersects(list<A>,list<A>) bool
isURL(string) bool | url(string) url | url.getScheme() string | url.getHost() string | url.getHostname() string | url.getPort() string
url.getEscapedPath() string | url.getQuery() map<string,list<string>>
isIP(string) bool | ip(string) ip | ip.isCanonical(string) bool | ip.family() int | ip.isUnspecified() bool | ip.isLoopback() bool
ip.isLinkLocalMulticast() bool | ip.isLinkLocalUnicast() bool | ip.isGlobalUnicast() bool
isCIDR(string) bool | cidr(string) cidr | cidr.containsIP(string) bool | cidr.containsIP(ip) bool
cidr.containsCIDR(string) bool | cidr.containsCIDR(cidr) bool | cidr.ip() ip | cidr.masked() cidr | cidr.prefixLength() int
isQuantity(string) bool | quantity(string) quantity | quantity.sign() int | quantity.isInteger() bool | quantity.asInteger() int
quantity.asApproximateFloat() double | quantity.add(quantity) quantity | quantity.add(int) quantity | quantity.sub(quantity) quantity
quantity.sub(int) quantity | quantity.isLessThan(quantity) bool | quantity.isGreaterThan(quantity) bool | quantity.compareTo(quantity) int
isSemver(string) bool | isSemver(string,bool) bool | semver(string) semver | semver(string,bool) semver | semver.major() int
semver.minor() int | semver.patch() int | semver.isLessThan(semver) bool | semver.isGreaterThan(semver) bool | semver.compareTo(semver) int
format.named(string) optional<format> | format.validate(string) optional<list<string>>
format.dns1123Label() format | format.dns1123Subdomain() format | format.dns1035Label() format | format.qualifiedName() format
format.dns1123LabelPrefix() format | format.dns1123SubdomainPrefix() format | format.dns1035LabelPrefix() format
format.labelValue() format | format.uri() format | format.uuid() format | format.byte() format | format.date() format | format.datetime() format
jsonpatch.escapeKey(string) string
base64.encode(bytes) string | base64.decode(string) bytes
math.ceil(double) double | math.floor(double) double | math.round(double) double | math.trunc(double) double
math.isInf(double) bool | math.isNaN(double) bool | math.isFinite(double) bool | math.sqrt(dyn) double
math.abs(int) int | math.abs(uint) uint | math.abs(double) double | math.sign(int) int | math.sign(uint) uint | math.sign(double) double
math.bitAnd(int,int) int | math.bitAnd(uint,uint) uint | math.bitOr(int,int) int | math.bitOr(uint,uint) uint
math.bitXor(int,int) int | math.bitXor(uint,uint) uint | math.bitNot(int) int | math.bitNot(uint) uint
math.bitShiftLeft(int,int) int | math.bitShiftLeft(uint,int) uint | math.bitShiftRight(int,int) int | math.bitShiftRight(uint,int) uint
optional.of(A) optional<A> | optional.none() optional<dyn> | optional.ofNonZeroValue(A) optional<A>
optional<A>.hasValue() bool | optional<A>.value() A | optional<A>.or(optional<A>) optional<A> | optional<A>.orValue(A) A
optional.unwrap(list<dyn>) list<dyn> | list<optional<A>>.unwrapOpt() list<A>
authorizer.path(string) pathcheck | authorizer.group(string) groupcheck | authorizer.serviceAccount(string,string) authorizer
groupcheck.resource(string) resourcecheck | resourcecheck.subresource(string) resourcecheck | resourcecheck.namespace(string) resourcecheck
resourcecheck.name(string) resourcecheck | resourcecheck.fieldSelector(string) resourcecheck | resourcecheck.labelSelector(string) resourcecheck
pathcheck.check(string) decision | resourcecheck.check(string) decision
decision.allowed() bool | decision.errored() bool | decision.error() string | decision.reason() string
";

/// Names of library types, short and as messages show them.
const OPAQUE: [(&str, &str); 11] = [
    ("url", "kubernetes.URL"),
    ("ip", "net.IP"),
    ("cidr", "net.CIDR"),
    ("quantity", "kubernetes.Quantity"),
    ("semver", "kubernetes.Semver"),
    ("format", "kubernetes.NamedFormat"),
    ("authorizer", "kubernetes.authorization.Authorizer"),
    ("pathcheck", "kubernetes.authorization.PathCheck"),
    ("groupcheck", "kubernetes.authorization.GroupCheck"),
    ("resourcecheck", "kubernetes.authorization.ResourceCheck"),
    ("decision", "kubernetes.authorization.Decision"),
];

/// The type of `authorizer`.
pub const AUTHORIZER: &str = OPAQUE[6].1;
/// The type of `authorizer.requestResource`.
pub const RESOURCE_CHECK: &str = OPAQUE[9].1;

type Table = HashMap<&'static str, Vec<Signature>>;

fn table() -> &'static Table {
    static ONCE: OnceLock<Table> = OnceLock::new();
    ONCE.get_or_init(|| {
        let mut table = Table::new();
        for entry in TABLE.split(['\n', '|']).map(str::trim).filter(|e| !e.is_empty()) {
            if let Some((name, signature)) = read(entry) {
                table.entry(name).or_default().push(signature);
            }
        }
        table
    })
}

fn read(entry: &'static str) -> Option<(&'static str, Signature)> {
    let (head, rest) = entry.split_once('(')?;
    let (arguments, result) = rest.split_once(')')?;
    let mut all: Vec<Ty> = split(arguments).into_iter().map(ty).collect();
    let (receiver, name) = head.rsplit_once('.').unwrap_or(("", head));
    // Some namespaces are named like a type whose methods there are.
    let space = matches!(receiver, "sets" | "lists" | "math" | "strings" | "base64" | "optional" | "jsonpatch")
        || (receiver == "format" && name != "validate")
        || (receiver == "ip" && name == "isCanonical");
    if receiver.is_empty() || space {
        return Some((head, Signature { member: false, arguments: all, result: ty(result.trim()) }));
    }
    all.insert(0, ty(receiver));
    Some((name, Signature { member: true, arguments: all, result: ty(result.trim()) }))
}

fn split(list: &'static str) -> Vec<&'static str> {
    let (mut out, mut depth, mut from) = (vec![], 0, 0);
    for (i, c) in list.char_indices() {
        match c {
            '<' => depth += 1,
            '>' => depth -= 1,
            ',' if depth == 0 => {
                out.push(&list[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    if from < list.len() {
        out.push(&list[from..]);
    }
    out
}

fn ty(name: &'static str) -> Ty {
    if let Some((outer, inner)) = name.split_once('<') {
        let mut inner = split(inner.strip_suffix('>').unwrap_or(inner)).into_iter().map(|t| Arc::new(ty(t)));
        let mut next = || inner.next().unwrap_or_else(|| Arc::new(Ty::Dyn));
        return match outer {
            "list" => Ty::List(next()),
            "optional" => Ty::Optional(next()),
            _ => Ty::Map(next(), next()),
        };
    }
    match name {
        "A" => Ty::Parameter(0),
        "B" => Ty::Parameter(1),
        "bool" => Ty::Bool,
        "int" => Ty::Int,
        "uint" => Ty::Uint,
        "double" => Ty::Double,
        "string" => Ty::String,
        "bytes" => Ty::Bytes,
        "timestamp" => Ty::Timestamp,
        "duration" => Ty::Duration,
        "type" => Ty::Type,
        other => OPAQUE.iter().find(|(short, _)| *short == other).map_or(Ty::Dyn, |(_, long)| Ty::Opaque(long)),
    }
}

/// All overloads of a function.
pub fn overloads(name: &str) -> &'static [Signature] {
    table().get(name).map_or(&[], Vec::as_slice)
}

/// Whether this name with a dot in it is a function and not a method of something.
pub fn is_global(qualified: &str) -> bool {
    overloads(qualified).iter().any(|s| !s.member) || matches!(qualified, "math.greatest" | "math.least")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_whole() {
        let entries = TABLE.split(['\n', '|']).map(str::trim).filter(|e| !e.is_empty());
        for entry in entries {
            assert!(read(entry).is_some(), "{entry}");
        }
        assert_eq!(overloads("size").len(), 8);
        assert!(is_global("sets.contains") && is_global("ip.isCanonical") && is_global("format.named"));
        assert!(!is_global("ip.family") && !is_global("url.getHost"));
        assert!(overloads("validate").iter().all(|s| s.member));
        assert_eq!(overloads("getQuery")[0].result.to_string(), "map(string, list(string))");
    }
}
