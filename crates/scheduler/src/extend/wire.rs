//! What is said to extenders and what they answer: `extender/v1` of kube-scheduler. Its Go types have no JSON tags, so names are as in Go,
//! and answers are read without regard to upper and lower case.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The most that an extender's score may be (upstream's `MaxExtenderPriority`).
pub const MAX_SCORE: i64 = 10;

/// A field of an object, by its name in any case.
fn field<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    let all: &Map<String, Value> = of.as_object()?;
    let found = all.get(name).or_else(|| all.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
    found.filter(|v| !v.is_null())
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    field(of, name).and_then(Value::as_str).unwrap_or_default()
}

/// The question of `filter` and `prioritize`. `nodes` are whole objects for an extender that does not know nodes by name.
pub fn args(pod: &Value, names: &[&str], nodes: Option<Vec<Value>>) -> Value {
    match nodes {
        Some(items) => json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null}),
        None => json!({"Pod": pod, "Nodes": null, "NodeNames": names}),
    }
}

/// The answer of `filter`.
#[derive(Debug, Default, PartialEq)]
pub struct Filtered {
    /// The nodes that will do.
    pub nodes: Vec<String>,
    /// Nodes that will not, with the reason; taking pods away might help.
    pub failed: BTreeMap<String, String>,
    /// Nodes that will not whatever is taken away.
    pub hopeless: BTreeMap<String, String>,
}

/// Reads the answer of `filter`.
///
/// # Errors
/// What the extender says, or what is wrong with it.
pub fn filtered(answer: &Value, knows_nodes: bool) -> Result<Filtered, String> {
    let error = text(answer, "Error");
    if !error.is_empty() {
        return Err(error.to_owned());
    }
    if !answer.is_object() {
        return Err("its answer is no ExtenderFilterResult".to_owned());
    }
    let name = |v: &Value| v.as_str().map(str::to_owned);
    let by_name = field(answer, "NodeNames").and_then(Value::as_array).filter(|_| knows_nodes);
    let nodes = match by_name {
        Some(list) => list.iter().filter_map(name).collect(),
        None => {
            let items = field(answer, "Nodes").and_then(|n| field(n, "items")).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(|n| name(&n["metadata"]["name"])).collect()
        }
    };
    let reasons = |of: &str| {
        let map = field(answer, of).and_then(Value::as_object);
        map.into_iter().flatten().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect()
    };
    Ok(Filtered { nodes, failed: reasons("FailedNodes"), hopeless: reasons("FailedAndUnresolvableNodes") })
}

/// Reads the answer of `prioritize`: nodes and scores.
///
/// # Errors
/// What is wrong with it.
pub fn scores(answer: &Value) -> Result<Vec<(String, i64)>, String> {
    let list = answer.as_array().ok_or("its answer is no HostPriorityList")?;
    let one = |v: &Value| Some((text(v, "Host").to_owned(), field(v, "Score")?.as_i64()?));
    Ok(list.iter().filter_map(one).collect())
}

/// The victims on one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Victims {
    /// Their uids.
    pub uids: Vec<String>,
    /// How many of them a disruption budget would keep.
    pub violations: usize,
}

/// Finds a pod's object by its uid.
pub type Find<'a> = dyn Fn(&str) -> Option<Value> + 'a;

/// The question of `preempt`; `pods` finds the whole object of a victim, for an extender that does not know nodes by name.
pub fn preemption(pod: &Value, nodes: &BTreeMap<String, Victims>, pods: Option<&Find<'_>>) -> Value {
    let each = |of: &dyn Fn(&Victims) -> Vec<Value>| -> Value {
        let one = |(n, v): (&String, &Victims)| (n.clone(), json!({"Pods": of(v), "NumPDBViolations": v.violations}));
        nodes.iter().map(one).collect::<Map<String, Value>>().into()
    };
    match pods {
        Some(find) => {
            let whole = each(&|v| v.uids.iter().filter_map(|u| find(u)).collect());
            json!({"Pod": pod, "NodeNameToVictims": whole, "NodeNameToMetaVictims": null})
        }
        None => {
            let meta = each(&|v| v.uids.iter().map(|u| json!({"UID": u})).collect());
            json!({"Pod": pod, "NodeNameToVictims": null, "NodeNameToMetaVictims": meta})
        }
    }
}

/// Reads the answer of `preempt`.
///
/// # Errors
/// What is wrong with it.
pub fn preempted(answer: &Value) -> Result<BTreeMap<String, Victims>, String> {
    if !answer.is_object() {
        return Err("its answer is no ExtenderPreemptionResult".to_owned());
    }
    let map = field(answer, "NodeNameToMetaVictims").and_then(Value::as_object);
    let one = |(node, v): (&String, &Value)| {
        let pods = field(v, "Pods").and_then(Value::as_array);
        let uids = pods.into_iter().flatten().map(|p| text(p, "UID").to_owned()).collect();
        let violations = field(v, "NumPDBViolations").and_then(Value::as_u64).unwrap_or(0);
        (node.clone(), Victims { uids, violations: usize::try_from(violations).unwrap_or(usize::MAX) })
    };
    Ok(map.into_iter().flatten().map(one).collect())
}

/// The question of `bind`.
pub fn binding(name: &str, namespace: &str, uid: &str, node: &str) -> Value {
    json!({"PodName": name, "PodNamespace": namespace, "PodUID": uid, "Node": node})
}

/// Reads the answer of `bind`.
///
/// # Errors
/// What the extender says.
pub fn bound(answer: &Value) -> Result<(), String> {
    match text(answer, "Error") {
        "" => Ok(()),
        error => Err(error.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions() {
        let pod = json!({"metadata": {"name": "p"}});
        assert_eq!(args(&pod, &["a"], None), json!({"Pod": pod, "Nodes": null, "NodeNames": ["a"]}));
        let node = json!({"metadata": {"name": "a"}});
        let whole = args(&pod, &["a"], Some(vec![node.clone()]));
        assert_eq!(whole, json!({"Pod": pod, "Nodes": {"metadata": {}, "items": [node]}, "NodeNames": null}));
        let nodes = [("a".to_owned(), Victims { uids: vec!["u".into()], violations: 1 })].into();
        let meta = preemption(&pod, &nodes, None);
        assert_eq!(meta["NodeNameToMetaVictims"], json!({"a": {"Pods": [{"UID": "u"}], "NumPDBViolations": 1}}));
        let find = |uid: &str| Some(json!({"metadata": {"uid": uid}}));
        let whole = preemption(&pod, &nodes, Some(&find));
        assert_eq!(whole["NodeNameToVictims"]["a"]["Pods"], json!([{"metadata": {"uid": "u"}}]));
        assert!(whole["NodeNameToMetaVictims"].is_null());
    }

    #[test]
    fn answers() {
        for names in [
            json!({"NodeNames": ["a", "b"], "FailedNodes": {"c": "full"}, "FailedAndUnresolvableNodes": {"d": "broken"}}),
            json!({"nodenames": ["a", "b"], "failedNodes": {"c": "full"}, "failedandunresolvablenodes": {"d": "broken"}, "error": ""}),
        ] {
            let f = filtered(&names, true).unwrap_or_default();
            assert_eq!(f.nodes, ["a", "b"]);
            assert_eq!((f.failed["c"].as_str(), f.hopeless["d"].as_str()), ("full", "broken"));
        }
        let whole = json!({"nodes": {"items": [{"metadata": {"name": "a"}}]}, "nodenames": null});
        assert_eq!(filtered(&whole, false).map(|f| f.nodes), Ok(vec!["a".to_owned()]));
        assert_eq!(filtered(&json!({"Error": "no"}), true), Err("no".to_owned()));
        assert!(filtered(&json!([]), true).is_err() && scores(&json!({})).is_err() && preempted(&json!(1)).is_err());
        assert_eq!(
            scores(&json!([{"Host": "a", "Score": 3}, {"host": "b", "score": 4}])),
            Ok(vec![("a".into(), 3), ("b".into(), 4)])
        );
        let left = preempted(&json!({"nodeNameToMetaVictims": {"a": {"pods": [{"uid": "u"}], "numPDBViolations": 2}}}));
        assert_eq!(left, Ok([("a".to_owned(), Victims { uids: vec!["u".into()], violations: 2 })].into()));
        assert_eq!((bound(&json!({"Error": ""})), bound(&json!({"error": "no"}))), (Ok(()), Err("no".to_owned())));
    }
}
