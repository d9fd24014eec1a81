//! The grammars of names: DNS labels, label keys and values, ports, addresses and their like.
//!
//! Each check returns the complaints as upstream words them; an empty list means the text is fine.
//! They are hand-written scanners, since they run for every name in every write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is wrong with a text; empty when nothing is.
pub type Complaints = Vec<String>;

/// RFC 1123: the longest DNS label.
pub const LABEL_MAX: usize = 63;
/// RFC 1123: the longest DNS name.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or \
                                 '.', and must start and end with an alphanumeric character";

/// The complaint about a text over `max` bytes.
pub fn max_len(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// A complaint that cites the pattern which would be right, with examples.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let shown: Vec<String> = examples.iter().map(|one| format!("'{one}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", shown.join(" or "))
}

/// The complaint about a number outside `low..=high`.
pub fn range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Whether `text` is made of `inner` bytes and starts and ends with `edge` bytes.
fn framed(text: &[u8], edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match (text.first(), text.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && text.iter().all(|b| inner(*b)),
        _ => false,
    }
}

fn label_shape(text: &str) -> bool {
    framed(text.as_bytes(), lower_alnum, |b| lower_alnum(b) || b == b'-')
}

fn subdomain_shape(text: &str) -> bool {
    text.split('.').all(label_shape)
}

/// Whether `text` is a DNS-1123 label of legal length.
pub fn is_label(text: &str) -> bool {
    text.len() <= LABEL_MAX && label_shape(text)
}

/// Whether `text` is a DNS-1123 subdomain of legal length.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= SUBDOMAIN_MAX && subdomain_shape(text)
}

/// A DNS label after RFC 1123: `my-name`.
pub fn dns1123_label(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > LABEL_MAX {
        out.push(max_len(LABEL_MAX));
    }
    if !label_shape(text) {
        out.push(if subdomain_shape(text) {
            "must not contain dots".into()
        } else {
            regex_error(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_RE,
                &["my-name", "123-abc"],
            )
        });
    }
    out
}

/// A DNS name after RFC 1123: `example.com`.
pub fn dns1123_subdomain(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(max_len(SUBDOMAIN_MAX));
    }
    if !subdomain_shape(text) {
        out.push(regex_error(SUBDOMAIN_MESSAGE, SUBDOMAIN_RE, &["example.com"]));
    }
    out
}

/// A DNS name whose labels may hold underscores (search domains of a pod's resolver).
pub fn dns1123_subdomain_with_underscore(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(max_len(SUBDOMAIN_MAX));
    }
    let label = |text: &str| {
        let body = text.strip_prefix('_').unwrap_or(text);
        framed(body.as_bytes(), lower_alnum, |b| lower_alnum(b) || b == b'-' || b == b'_')
    };
    if !text.split('.').all(label) {
        let one = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        out.push(regex_error(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and \
             must start and end with an alphanumeric character",
            &format!("{one}(\\.{one})*"),
            &["example.com"],
        ));
    }
    out
}

/// A DNS label after RFC 1035, which starts with a letter: names of Services.
pub fn dns1035_label(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > LABEL_MAX {
        out.push(max_len(LABEL_MAX));
    }
    if !label_shape(text) || !text.as_bytes()[0].is_ascii_lowercase() {
        out.push(regex_error(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    out
}

/// `*.example.com`: a wildcard host of an Ingress.
pub fn wildcard_dns1123_subdomain(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(max_len(SUBDOMAIN_MAX));
    }
    if !text.strip_prefix("*.").is_some_and(subdomain_shape) {
        out.push(regex_error(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{SUBDOMAIN_RE}"),
            &["*.example.com"],
        ));
    }
    out
}

fn qualified_part_shape(text: &str) -> bool {
    framed(
        text.as_bytes(),
        |b| b.is_ascii_alphanumeric(),
        |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
    )
}

/// Whether `text` is a qualified name (the form of label keys), without saying why not.
pub fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(is_subdomain) && name.len() <= LABEL_MAX && qualified_part_shape(name)
}

/// A qualified name: `app`, `example.com/app`. The form of label and annotation keys, finalizers, resource names.
pub fn qualified_name(text: &str) -> Complaints {
    const PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";
    const EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];
    let mut out = Complaints::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".into());
            } else {
                out.extend(dns1123_subdomain(prefix).into_iter().map(|why| format!("prefix part {why}")));
            }
            name
        }
        _ => {
            let start = "a qualified name ";
            out.push(format!(
                "{start}{} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                regex_error(MESSAGE, PATTERN, &EXAMPLES)
            ));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".into());
    } else if name.len() > LABEL_MAX {
        out.push(format!("name part {}", max_len(LABEL_MAX)));
    }
    if !qualified_part_shape(name) {
        out.push(format!("name part {}", regex_error(MESSAGE, PATTERN, &EXAMPLES)));
    }
    out
}

/// Whether `text` may be the value of a label.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || (text.len() <= LABEL_MAX && qualified_part_shape(text))
}

/// The value of a label: empty, or up to 63 bytes of letters, digits, `-`, `_`, `.`.
pub fn label_value(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > LABEL_MAX {
        out.push(max_len(LABEL_MAX));
    }
    if !text.is_empty() && !qualified_part_shape(text) {
        out.push(regex_error(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    out
}

/// `example.com/thing`: a qualified name that must have its prefix.
pub fn domain_prefixed_key(text: &str) -> Complaints {
    let out = qualified_name(text);
    if out.is_empty() && !text.contains('/') {
        return vec!["must be a domain-prefixed key (such as \"acme.io/foo\")".into()];
    }
    out
}

/// `example.com/some/path`: a DNS name, a slash and an RFC 3986 path (controller and signer names).
pub fn domain_prefixed_path(text: &str) -> Complaints {
    let (host, path) = match text.split_once('/') {
        Some((host, path)) if !host.is_empty() && !path.is_empty() => (host, path),
        _ => return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".into()],
    };
    let mut out = dns1123_subdomain(host);
    if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        out.push(regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[]));
    }
    out
}

/// A domain with at least `segments` labels.
pub fn fully_qualified(text: &str, segments: usize) -> Complaints {
    let out = dns1123_subdomain(text);
    if !out.is_empty() {
        return vec![out.join(",")];
    }
    if text.split('.').count() < segments {
        let words = if segments == 2 { "two" } else { "three" };
        return vec![format!("should be a domain with at least {words} segments separated by dots")];
    }
    out
}

/// A port number, 1 to 65535.
pub fn port_number(port: i64) -> Complaints {
    if (1..=65535).contains(&port) { Complaints::new() } else { vec![range_error(1, 65535)] }
}

/// The name of a port (RFC 6335, lower case): `http`, `web-80`.
pub fn port_name(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > 15 {
        out.push(max_len(15));
    }
    if text.is_empty() || !text.bytes().all(|b| lower_alnum(b) || b == b'-') {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".into());
    }
    out
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_name(text: &str) -> Complaints {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".into()];
    }
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        return Complaints::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".into()]
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_key(text: &str) -> Complaints {
    let mut out = Complaints::new();
    if text.len() > SUBDOMAIN_MAX {
        out.push(max_len(SUBDOMAIN_MAX));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        out.push(regex_error(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match text {
        "." => out.push("must not be '.'".into()),
        ".." => out.push("must not be '..'".into()),
        _ if text.starts_with("..") => out.push("must not start with '..'".into()),
        _ => {}
    }
    out
}

/// A percentage: `25%`.
pub fn percent(text: &str) -> Complaints {
    let digits = text.strip_suffix('%');
    if digits.is_some_and(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit())) {
        return Complaints::new();
    }
    vec![regex_error(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header.
pub fn http_header_name(text: &str) -> Complaints {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Complaints::new();
    }
    vec![regex_error(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A name as a segment of a path: not `.` or `..`, without `/` and `%` (names of RBAC objects).
pub fn path_segment(text: &str) -> Complaints {
    match text {
        "." => return vec!["may not be '.'".into()],
        ".." => return vec!["may not be '..'".into()],
        _ => {}
    }
    ['/', '%'].iter().filter(|c| text.contains(**c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// An IP address in the usual form. IPv4 with leading zeros is refused (its meaning is ambiguous).
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
}

const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
const MAPPED_NETWORK: &str = "must not have an IPv4-mapped IPv6 address";
const BEYOND: &str = "must not have bits set beyond the prefix length";
const ZEROS: &str = "must not have leading 0s in IP or prefix length";

/// Whether a complaint is about a form that was accepted before Kubernetes 1.36 (KEP-4858): what is stored in it may stay.
pub fn is_strictness(complaint: &str) -> bool {
    [MAPPED, MAPPED_NETWORK, BEYOND, ZEROS].contains(&complaint)
}

fn is_mapped(address: IpAddr) -> bool {
    address != address.to_canonical()
}

/// The text without zeros in front of its decimal numbers.
fn without_zeros(text: &str) -> String {
    let number = |n: &str| match n.trim_start_matches('0') {
        "" if !n.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    text.split('.').map(number).collect::<Vec<_>>().join(".")
}

/// An IP address.
pub fn ip(text: &str) -> Complaints {
    let complaint = match parse_ip(text) {
        Some(address) if is_mapped(address) => MAPPED,
        Some(_) => return Complaints::new(),
        None if parse_ip(&without_zeros(text)).is_some() => "must not have leading 0s",
        None => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
    };
    vec![complaint.into()]
}

/// A network: its address and the length of its prefix.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = parse_ip(address)?;
    if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    (length <= max).then_some((address, length))
}

/// The address with its host bits cleared.
pub fn network_address(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// Whether `address` lies in the network.
pub fn cidr_contains(network: (IpAddr, u8), address: IpAddr) -> bool {
    network.0.is_ipv4() == address.is_ipv4()
        && network_address(network.0, network.1) == network_address(address, network.1)
}

/// A network in CIDR form: its address has no bits beyond the prefix.
pub fn cidr(text: &str) -> Complaints {
    let (address, length) = text.split_once('/').unwrap_or((text, ""));
    let complaint = match parse_cidr(text) {
        Some(_) if length.len() > 1 && length.starts_with('0') => ZEROS,
        Some((address, _)) if is_mapped(address) => MAPPED_NETWORK,
        Some((address, length)) if network_address(address, length) != address => BEYOND,
        Some(_) => return Complaints::new(),
        None if parse_cidr(&format!("{}/{length}", without_zeros(address))).is_some() => ZEROS,
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
    };
    vec![complaint.into()]
}

/// A user or group id.
pub fn unix_id(id: i64) -> Complaints {
    if (0..=0xffff_ffff).contains(&id) { Complaints::new() } else { vec![range_error(0, 0xffff_ffff)] }
}

/// A C identifier.
pub fn is_c_identifier(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The name that a prefix allows: how `generateName` is checked, as if five characters followed it.
pub fn mask_trailing_dash(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => format!("{stem}a"),
        _ => text.to_owned(),
    }
}

/// The longest prefix that a generated name keeps: `maxGeneratedNameLength`, 63 − 5.
pub const GENERATE_PREFIX_MAX: usize = LABEL_MAX - 5;

/// The name made of a `generateName` prefix and a random suffix.
pub fn generated(prefix: &str, suffix: &str) -> String {
    let mut end = prefix.len().min(GENERATE_PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &prefix[..end])
}

/// The letters of random name suffixes: no vowels, and nothing that looks like another.
pub const SUFFIX_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A random suffix of five letters, made from 64 random bits.
pub fn suffix_of(mut random: u64) -> String {
    let mut out = String::with_capacity(5);
    for _ in 0..5 {
        out.push(SUFFIX_LETTERS[(random % 27) as usize] as char);
        random /= 27;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels() {
        for good in ["a", "my-name", "123-abc", &"a".repeat(63)] {
            assert!(dns1123_label(good).is_empty(), "{good}");
        }
        assert_eq!(
            dns1123_label("-a"),
            ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
              and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
        );
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
        assert!(!dns1035_label("1a").is_empty());
        assert!(!dns1035_label("").is_empty());
        assert!(dns1035_label("a1").is_empty());
    }

    #[test]
    fn subdomains() {
        for good in ["a", "a.b", "example.com", "1.2-3"] {
            assert!(dns1123_subdomain(good).is_empty(), "{good}");
        }
        assert_eq!(
            dns1123_subdomain("A_b"),
            ["a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and \
              must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"]
        );
        for bad in ["", "a..b", ".a", "a.", "a-.b"] {
            assert!(!dns1123_subdomain(bad).is_empty(), "{bad}");
        }
        assert!(wildcard_dns1123_subdomain("*.a.b").is_empty());
        assert!(!wildcard_dns1123_subdomain("*a.b").is_empty());
        assert!(dns1123_subdomain_with_underscore("_sip._tcp.a_b.c").is_empty());
    }

    #[test]
    fn qualified_names() {
        for good in ["a", "example.com/A_b.c-d", "MyName"] {
            assert!(qualified_name(good).is_empty() && is_qualified_name(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "-a", "A.b/c", "a b"] {
            assert!(!qualified_name(bad).is_empty() && !is_qualified_name(bad), "{bad}");
        }
        assert_eq!(qualified_name("/a"), ["prefix part must be non-empty"]);
        assert_eq!(
            qualified_name("a b"),
            ["name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
              alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
              '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"]
        );
        assert!(label_value("").is_empty() && label_value("a_B.1").is_empty() && !label_value("a/").is_empty());
    }

    #[test]
    fn ports_addresses_and_others() {
        assert!(port_name("http").is_empty() && port_name("web-80").is_empty());
        for bad in ["", "80", "a--b", "-a", "a-", "HTTP", "abcdefghijklmnop"] {
            assert!(!port_name(bad).is_empty(), "{bad}");
        }
        assert!(ip("10.0.0.1").is_empty() && ip("::1").is_empty());
        for (bad, why) in [
            ("10.0.0.01", "leading 0s"),
            ("10.0.0", "valid IP"),
            ("", "valid IP"),
            ("10..0.1", "valid IP"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
        ] {
            assert!(ip(bad).first().is_some_and(|c| c.contains(why)), "{bad}: {:?}", ip(bad));
        }
        assert!(cidr("10.0.0.0/8").is_empty() && cidr("0.0.0.0/0").is_empty() && cidr("2001:db8::/32").is_empty());
        for (bad, why) in [
            ("10.0.0.1/8", "beyond"),
            ("2001:db8::1/32", "beyond"),
            ("10.0.0.0/08", "leading 0s"),
            ("010.0.0.0/8", "leading 0s"),
            ("::ffff:10.0.0.0/104", "IPv4-mapped"),
            ("10.0.0.0", "valid CIDR"),
            ("10.0.0.0/33", "valid CIDR"),
        ] {
            assert!(cidr(bad).first().is_some_and(|c| c.contains(why)), "{bad}: {:?}", cidr(bad));
        }
        assert_eq!(parse_cidr("10.0.0.1/8"), Some(("10.0.0.1".parse().unwrap(), 8)));
        assert_eq!(parse_cidr("10.0.0.1/33"), None);
        let net = parse_cidr("10.1.0.0/16").unwrap();
        assert!(cidr_contains(net, "10.1.255.1".parse().unwrap()) && !cidr_contains(net, "10.2.0.1".parse().unwrap()));
        assert_eq!(network_address("ff::1".parse().unwrap(), 0), "::".parse::<IpAddr>().unwrap());
        assert!(percent("25%").is_empty() && !percent("25").is_empty() && !percent("%").is_empty());
        assert!(env_name("a b.c-1").is_empty() && !env_name("a=b").is_empty() && !env_name("").is_empty());
        assert!(config_key("a.txt").is_empty() && !config_key("..a").is_empty() && !config_key("a/b").is_empty());
        assert_eq!(path_segment("a/b"), ["may not contain '/'"]);
    }

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generated("web-", "abcde"), "web-abcde");
        assert_eq!(generated(&"x".repeat(80), "abcde").len(), 63);
        assert_eq!(suffix_of(0), "bbbbb");
        assert_eq!(suffix_of(u64::MAX).len(), 5);
    }
}
