//! Reading a node's `/metrics/resource`: what its containers and itself have used so far.

use std::collections::BTreeMap;

/// What one container has used.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// CPU time since its start, in core-seconds.
    pub cpu: f64,
    /// Working set, in bytes.
    pub memory: f64,
    /// When this was measured, in milliseconds since 1970.
    pub at: i64,
}

/// One reading of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// When it was read, in milliseconds since 1970.
    pub at: i64,
    /// The node's CPU time in core-seconds and its working set in bytes.
    pub node: Option<(f64, f64)>,
    /// Containers by namespace and name of their Pod; only those of which both figures are told.
    pub pods: BTreeMap<(String, String), Vec<Container>>,
}

/// One line: name, labels, value, and the time in milliseconds if there is one.
type Sample<'a> = (&'a str, BTreeMap<String, String>, f64, Option<i64>);

/// CPU seconds with their time, and bytes of memory, as far as they were read.
type Half = (Option<(f64, i64)>, Option<f64>);

/// Reads the text format. Lines that make no sense are left out: a node may run another version.
pub fn parse(text: &str, read_at: i64) -> Page {
    let mut page = Page { at: read_at, ..Page::default() };
    let (mut node_cpu, mut node_memory) = (None, None);
    let mut half: BTreeMap<(String, String, String), Half> = BTreeMap::new();
    for (name, mut labels, value, at) in text.lines().filter_map(sample) {
        let at = at.unwrap_or(read_at);
        let mut container = || {
            let mut take = |key: &str| labels.remove(key).filter(|v| !v.is_empty());
            Some((take("namespace")?, take("pod")?, take("container")?))
        };
        match name {
            "node_cpu_usage_seconds_total" => node_cpu = Some(value),
            "node_memory_working_set_bytes" => node_memory = Some(value),
            "container_cpu_usage_seconds_total" => {
                if let Some(key) = container() {
                    half.entry(key).or_default().0 = Some((value, at));
                }
            }
            "container_memory_working_set_bytes" => {
                if let Some(key) = container() {
                    half.entry(key).or_default().1 = Some(value);
                }
            }
            _ => {}
        }
    }
    page.node = node_cpu.zip(node_memory);
    for ((namespace, pod, name), figures) in half {
        if let (Some((cpu, at)), Some(memory)) = figures {
            page.pods.entry((namespace, pod)).or_default().push(Container { name, cpu, memory, at });
        }
    }
    page
}

fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') || line.trim().is_empty() {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => read_labels(inside)?,
        None => (BTreeMap::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value: f64 = words.next()?.parse().ok()?;
    let at = words.next().and_then(|t| t.parse().ok());
    value.is_finite().then_some((name, labels, value, at))
}

/// Labels up to the closing brace, and what follows it.
fn read_labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (i, '"') => break i,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, c) => value.push(c),
            }
        };
        labels.insert(key.trim().to_owned(), value);
        text = &rest[end + 1..];
    }
}

/// Use over a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    /// CPU in billionths of a core.
    pub cpu: u64,
    /// Working set in bytes.
    pub memory: u64,
    /// Over how long the CPU was measured, in milliseconds.
    pub window: i64,
    /// When it was measured last, in milliseconds since 1970.
    pub at: i64,
}

/// CPU use between two readings of one counter. `None` when time stood still or the counter began anew.
fn rate(before: (f64, i64), after: (f64, i64), memory: f64) -> Option<Usage> {
    let window = after.1 - before.1;
    let used = after.0 - before.0;
    if window <= 0 || used < 0.0 {
        return None;
    }
    let cpu = used * 1e9 / (window as f64 / 1e3);
    Some(Usage { cpu: cpu.round() as u64, memory: memory.max(0.0) as u64, window, at: after.1 })
}

/// What the node used between two readings.
pub fn of_node(before: &Page, after: &Page) -> Option<Usage> {
    let ((was, _), (is, memory)) = (before.node?, after.node?);
    rate((was, before.at), (is, after.at), memory)
}

/// What the containers of a Pod used between two readings: all of them, or it is not known.
pub fn of_pod(before: &Page, after: &Page, key: &(String, String)) -> Option<Vec<(String, Usage)>> {
    let (was, is) = (before.pods.get(key)?, after.pods.get(key)?);
    let of = |c: &Container| {
        let old = was.iter().find(|o| o.name == c.name)?;
        Some((c.name.clone(), rate((old.cpu, old.at), (c.cpu, c.at), c.memory)?))
    };
    is.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIRST: &str = r#"
# HELP node_cpu_usage_seconds_total what
node_cpu_usage_seconds_total 100.5
node_memory_working_set_bytes 1.048576e+06
container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 10 1000
container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 1000
container_cpu_usage_seconds_total{container="odd \"{}\" name",namespace="n",pod="q"} 1 1000
container_memory_working_set_bytes{container="only memory",namespace="n",pod="q"} 1
nonsense{
"#;

    fn key(pod: &str) -> (String, String) {
        ("n".into(), pod.into())
    }

    #[test]
    fn pages_are_read() {
        let page = parse(FIRST, 5000);
        assert_eq!(page.node, Some((100.5, 1_048_576.0)));
        assert_eq!(page.pods[&key("p")], [Container { name: "c".into(), cpu: 10.0, memory: 4096.0, at: 1000 }]);
        assert!(!page.pods.contains_key(&key("q")), "half a container is none");
    }

    #[test]
    fn use_is_the_difference_over_time() {
        let before = parse(FIRST, 5000);
        let later = |cpu: &str, at: i64| {
            parse(
                &format!(
                    "node_cpu_usage_seconds_total 101\nnode_memory_working_set_bytes 5\n\
                     container_cpu_usage_seconds_total{{container=\"c\",namespace=\"n\",pod=\"p\"}} {cpu} {at}\n\
                     container_memory_working_set_bytes{{container=\"c\",namespace=\"n\",pod=\"p\"}} 8192 {at}\n"
                ),
                15_000,
            )
        };
        let after = later("10.5", 3000);
        let got = of_pod(&before, &after, &key("p")).unwrap();
        assert_eq!(got, [("c".to_owned(), Usage { cpu: 250_000_000, memory: 8192, window: 2000, at: 3000 })]);
        assert_eq!(of_node(&before, &after).unwrap(), Usage { cpu: 50_000_000, memory: 5, window: 10_000, at: 15_000 });
        assert_eq!(of_pod(&before, &later("3", 3000), &key("p")), None, "it was restarted");
        assert_eq!(of_pod(&before, &later("11", 1000), &key("p")), None, "no time has passed");
        assert_eq!(of_pod(&before, &after, &key("x")), None);
    }
}
