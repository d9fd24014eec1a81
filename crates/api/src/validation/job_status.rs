//! The status of a Job: what a controller, ours or another's (`spec.managedBy`), may say (KEP-4368). Only what a write changes is
//! held against the rules, so that a Job that broke one before can still be written to.

use serde_json::Value;

use super::Out;
use super::check::child;
use crate::field::{FieldError, FieldPath};

fn is(job: &Value, condition: &str) -> bool {
    let all = child(child(job, "status"), "conditions").as_array();
    all.into_iter().flatten().any(|c| child(c, "type") == condition && child(c, "status") == "True")
}

/// Pairs of conditions that exclude each other.
const EXCLUSIVE: [(&str, &str); 4] = [
    ("Complete", "Failed"),
    ("Complete", "FailureTarget"),
    ("SuccessCriteriaMet", "Failed"),
    ("SuccessCriteriaMet", "FailureTarget"),
];

/// A final condition comes only after its interim one.
const AFTER: [(&str, &str); 2] = [("Complete", "SuccessCriteriaMet"), ("Failed", "FailureTarget")];

pub(super) fn update(out: &mut Out, new: &Value, old: &Value) {
    let at = FieldPath::root("status");
    let conditions = at.child("conditions");
    let mut bad = |message: String| {
        out.push(FieldError::invalid(&conditions, child(child(new, "status"), "conditions").clone(), message))
    };
    let changed = |condition: &str| is(new, condition) != is(old, condition);
    for (a, b) in EXCLUSIVE {
        if is(new, a) && is(new, b) && (changed(a) || changed(b)) {
            bad(format!("cannot set {a}=True and {b}=True conditions"));
        }
    }
    for (last, interim) in AFTER {
        if is(new, last) && !is(new, interim) && changed(last) {
            bad(format!("cannot set {last}=True condition without the {interim}=True condition"));
        }
    }
    for condition in ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"] {
        if is(old, condition) && !is(new, condition) {
            bad(format!("cannot disable the {condition}=True condition"));
        }
    }
    let (status, before) = (child(new, "status"), child(old, "status"));
    let finished = |job: &Value| is(job, "Complete") || is(job, "Failed");
    if finished(new) && !finished(old) {
        for field in ["active", "ready", "terminating"] {
            if let Some(count) = child(status, field).as_i64().filter(|n| *n > 0) {
                out.push(FieldError::invalid(
                    &at.child(field),
                    count,
                    format!("{field}>0 is invalid for finished job"),
                ));
            }
        }
        if child(status, "startTime").is_null() {
            out.push(FieldError::required(&at.child("startTime"), "startTime is required for finished job"));
        }
    }
    let time = at.child("completionTime");
    if is(new, "Complete") && changed("Complete") && child(status, "completionTime").is_null() {
        out.push(FieldError::required(&time, "completionTime is required for Complete jobs"));
    }
    if !is(new, "Complete") && !child(status, "completionTime").is_null() && child(before, "completionTime").is_null() {
        let value = child(status, "completionTime").clone();
        out.push(FieldError::invalid(
            &time,
            value,
            "cannot set completionTime when there is no Complete=True condition",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(new: Value, old: Value) -> Vec<String> {
        let mut out = vec![];
        update(&mut out, &json!({"status": new}), &json!({"status": old}));
        out.iter().map(ToString::to_string).collect()
    }

    fn of(types: &[&str]) -> Value {
        let all: Vec<Value> = types.iter().map(|t| json!({"type": t, "status": "True"})).collect();
        json!({"conditions": all, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z"})
    }

    #[test]
    fn conditions_follow_each_other() {
        assert!(found(of(&["SuccessCriteriaMet", "Complete"]), json!({})).is_empty());
        assert!(found(json!({"conditions": [{"type": "Custom", "status": "True"}]}), json!({})).is_empty());
        assert!(found(of(&["Complete"]), json!({})).iter().any(|e| e.contains("without the SuccessCriteriaMet")));
        assert!(
            found(of(&["Complete", "Failed"]), json!({})).iter().any(|e| e.contains("Complete=True and Failed=True"))
        );
        assert!(found(json!({}), of(&["Complete"])).iter().any(|e| e.contains("cannot disable the Complete")));
        assert!(found(of(&["Complete"]), of(&["Complete"])).is_empty(), "what was so before is tolerated");
        let mut active = of(&["SuccessCriteriaMet", "Complete"]);
        active["active"] = json!(1);
        assert!(found(active, json!({})).iter().any(|e| e.contains("active>0")));
        let mut open = of(&["SuccessCriteriaMet", "Complete"]);
        open["completionTime"] = Value::Null;
        assert!(found(open, json!({})).iter().any(|e| e.contains("completionTime")));
    }
}
