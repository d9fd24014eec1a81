//! Where a pod may and should run: affinity, tolerations, spreading.

use super::super::check::{Out, Path, child, has, int, invalid_all, items, one_of, required, text, texts};
use super::super::selectors;
use crate::field::FieldError;
use crate::names;
use serde_json::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `spec.affinity`.
pub(super) fn affinity(out: &mut Out, at: Path, affinity: &Value) {
    let node = child(affinity, "nodeAffinity");
    if !node.is_null() {
        let at = at.child("nodeAffinity");
        if has(node, REQUIRED) {
            selectors::node_selector(out, &at.child(REQUIRED), child(node, REQUIRED));
        }
        let list = at.child(PREFERRED);
        for (i, term) in items(node, PREFERRED).iter().enumerate() {
            weight(out, &list.index(i), term);
            selectors::node_selector_term(out, &list.index(i).child("preference"), child(term, "preference"));
        }
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = child(affinity, kind);
        let at = at.child(kind);
        let list = at.child(REQUIRED);
        for (i, term) in items(pods, REQUIRED).iter().enumerate() {
            pod_term(out, &list.index(i), term);
        }
        let list = at.child(PREFERRED);
        for (i, term) in items(pods, PREFERRED).iter().enumerate() {
            weight(out, &list.index(i), term);
            pod_term(out, &list.index(i).child("podAffinityTerm"), child(term, "podAffinityTerm"));
        }
    }
}

/// The required terms of a node affinity outside pods (of a volume).
pub(in super::super) fn node_affinity_terms(out: &mut Out, at: Path, affinity: &Value) {
    if has(affinity, "required") {
        selectors::node_selector(out, &at.child("required"), child(affinity, "required"));
    } else {
        out.push(FieldError::required(&at.child("required"), "must specify required node constraints"));
    }
}

fn weight(out: &mut Out, at: Path, term: &Value) {
    let weight = int(term, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        out.push(FieldError::invalid(&at.child("weight"), weight, "must be in the range 1-100"));
    }
}

fn pod_term(out: &mut Out, at: Path, term: &Value) {
    if has(term, "labelSelector") {
        selectors::label_selector(out, &at.child("labelSelector"), child(term, "labelSelector"));
    }
    if has(term, "namespaceSelector") {
        selectors::label_selector(out, &at.child("namespaceSelector"), child(term, "namespaceSelector"));
    }
    for namespace in texts(term, "namespaces") {
        invalid_all(out, &at.child("namespace"), namespace, names::dns1123_label(namespace));
    }
    let key = text(term, "topologyKey");
    if key.is_empty() {
        out.push(FieldError::required(&at.child("topologyKey"), "can not be empty"));
    }
    invalid_all(out, &at.child("topologyKey"), key, names::qualified_name(key));
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        label_keys(out, at, term, field);
    }
}

fn label_keys(out: &mut Out, at: Path, term: &Value, field: &str) {
    let list = at.child(field);
    if !items(term, field).is_empty() && !has(term, "labelSelector") {
        out.push(FieldError::forbidden(&list, "must not be specified when labelSelector is not set"));
    }
    for (i, key) in texts(term, field).enumerate() {
        invalid_all(out, &list.index(i), key, names::qualified_name(key));
        if field == "matchLabelKeys" && texts(term, "mismatchLabelKeys").any(|other| other == key) {
            out.push(FieldError::invalid(&list.index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"));
        }
    }
}

/// `spec.topologySpreadConstraints`.
pub(super) fn spread(out: &mut Out, list: Path, spec: &Value) {
    let all = items(spec, "topologySpreadConstraints");
    let pair = |one| (text(one, "topologyKey"), text(one, "whenUnsatisfiable"));
    for (i, one) in all.iter().enumerate() {
        let at = list.index(i);
        let skew = int(one, "maxSkew").unwrap_or(0);
        if skew <= 0 {
            out.push(FieldError::invalid(&at.child("maxSkew"), skew, "must be greater than 0"));
        }
        let key = text(one, "topologyKey");
        if key.is_empty() {
            out.push(FieldError::required(&at.child("topologyKey"), "can not be empty"));
        } else {
            invalid_all(out, &at.child("topologyKey"), key, names::qualified_name(key));
        }
        let when = text(one, "whenUnsatisfiable");
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            let words = ["DoNotSchedule", "ScheduleAnyway"];
            out.push(FieldError::not_supported(&at.child("whenUnsatisfiable"), when, &words));
        }
        if all[i + 1..].iter().any(|other| pair(other) == (key, when)) {
            out.push(FieldError::duplicate(
                &at.child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{key}, {when}}}"),
            ));
        }
        if let Some(domains) = int(one, "minDomains") {
            if domains <= 0 {
                out.push(FieldError::invalid(&at.child("minDomains"), domains, "must be greater than 0"));
            }
            if when != "DoNotSchedule" {
                out.push(FieldError::invalid(
                    &at.child("minDomains"),
                    domains,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"),
                ));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if has(one, field) {
                one_of(out, &at.child(field), text(one, field), &["Honor", "Ignore"]);
            }
        }
        label_keys(out, &at, one, "matchLabelKeys");
        if has(one, "labelSelector") {
            selectors::label_selector(out, &at.child("labelSelector"), child(one, "labelSelector"));
        }
    }
}

/// `NoSchedule`, `PreferNoSchedule`, `NoExecute`.
pub(in super::super) fn taint_effect(out: &mut Out, at: Path, effect: &str, may_be_empty: bool) {
    if effect.is_empty() {
        if !may_be_empty {
            required(out, at, effect);
        }
    } else if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        out.push(FieldError::not_supported(at, effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]));
    }
}

/// `spec.tolerations`.
pub(in super::super) fn tolerations(out: &mut Out, list: Path, spec: &Value) {
    for (i, one) in items(spec, "tolerations").iter().enumerate() {
        let at = list.index(i);
        let (key, operator, effect, value) =
            (text(one, "key"), text(one, "operator"), text(one, "effect"), text(one, "value"));
        if !key.is_empty() {
            invalid_all(out, &at.child("key"), key, names::qualified_name(key));
        }
        if key.is_empty() && operator != "Exists" {
            out.push(FieldError::invalid(
                &at.child("operator"),
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if has(one, "tolerationSeconds") && effect != "NoExecute" {
            out.push(FieldError::invalid(
                &at.child("effect"),
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
            ));
        }
        match operator {
            "" | "Equal" => {
                let complaints = names::label_value(value);
                if !complaints.is_empty() {
                    out.push(FieldError::invalid(&at.child("operator"), value, complaints.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    out.push(FieldError::invalid(
                        &at.child("operator"),
                        one,
                        "value must be empty when `operator` is 'Exists'",
                    ));
                }
            }
            other => out.push(FieldError::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        taint_effect(out, &at.child("effect"), effect, true);
    }
}
