//! Volumes, claims, classes, drivers, attachments.

use super::check::{
    Out, Path, child, has, immutable, int, invalid_all, items, members, one_of, quantity, required, required_name,
    same, text, texts,
};
use super::pod::{node_affinity_terms, resources, volumes};
use super::selectors;
use crate::field::{FieldError, FieldPath};
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Fields of a volume's spec that are no source.
const VOLUME_FIELDS: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

fn access_modes(out: &mut Out, at: Path, spec: &Value) {
    for mode in texts(spec, "accessModes") {
        if !ACCESS_MODES.contains(&mode) {
            out.push(FieldError::not_supported(at, mode, &ACCESS_MODES));
        }
    }
    let mut modes: Vec<&str> = texts(spec, "accessModes").collect();
    modes.sort_unstable();
    modes.dedup();
    if modes.len() > 1 && modes.contains(&"ReadWriteOncePod") {
        out.push(FieldError::forbidden(at, "may not use ReadWriteOncePod with other access modes"));
    }
}

pub(super) fn volume(out: &mut Out, object: &Value) {
    volume_spec(out, &FieldPath::root("spec"), child(object, "spec"));
}

fn volume_spec(out: &mut Out, at: Path, spec: &Value) {
    if items(spec, "accessModes").is_empty() {
        out.push(FieldError::required(&at.child("accessModes"), ""));
    }
    access_modes(out, &at.child("accessModes"), spec);
    let capacity_at = at.child("capacity");
    let capacity: Vec<(&String, &Value)> = members(spec, "capacity").collect();
    if capacity.is_empty() {
        out.push(FieldError::required(&capacity_at, ""));
    }
    if !capacity.iter().any(|(name, _)| *name == "storage") || capacity.len() > 1 {
        out.push(FieldError::not_supported(&capacity_at, child(spec, "capacity").clone(), &["storage"]));
    }
    for (name, value) in capacity {
        positive_quantity(out, &capacity_at.key(name), value);
    }
    if has(spec, "persistentVolumeReclaimPolicy") {
        one_of(
            out,
            &at.child("persistentVolumeReclaimPolicy"),
            text(spec, "persistentVolumeReclaimPolicy"),
            &["Delete", "Recycle", "Retain"],
        );
    }
    let affinity = child(spec, "nodeAffinity");
    if !affinity.is_null() {
        node_affinity_terms(out, &at.child("nodeAffinity"), affinity);
    }
    let mut sources = 0;
    for (kind, source) in spec.as_object().into_iter().flatten() {
        if VOLUME_FIELDS.contains(&kind.as_str()) || source.is_null() {
            continue;
        }
        sources += 1;
        let here = at.child(kind);
        if sources > 1 {
            out.push(FieldError::forbidden(&here, "may not specify more than 1 volume type"));
            continue;
        }
        volume_source(out, &here, kind, source);
        if kind == "local" && affinity.is_null() {
            out.push(FieldError::required(&at.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if sources == 0 {
        out.push(FieldError::required(at, "must specify a volume type"));
    }
    let root = text(child(spec, "hostPath"), "path").trim_matches('/').is_empty() && has(spec, "hostPath");
    if root && text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        out.push(FieldError::forbidden(
            &at.child("persistentVolumeReclaimPolicy"),
            "may not be 'recycle' for a hostPath mount of '/'",
        ));
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        invalid_all(out, &at.child("storageClassName"), class, names::dns1123_subdomain(class));
    }
    if has(spec, "volumeMode") {
        one_of(out, &at.child("volumeMode"), text(spec, "volumeMode"), &["Block", "Filesystem"]);
    }
}

fn positive_quantity(out: &mut Out, at: Path, value: &Value) {
    if let Some(amount) = quantity(out, at, value)
        && amount <= Quantity::ZERO
    {
        out.push(FieldError::invalid(at, value, "must be greater than zero"));
    }
}

fn volume_source(out: &mut Out, at: Path, kind: &str, source: &Value) {
    match kind {
        "hostPath" => volumes::host_path(out, at, source),
        "nfs" => volumes::nfs(out, at, source),
        "local" => {
            let path = text(source, "path");
            if path.is_empty() {
                out.push(FieldError::required(&at.child("path"), ""));
            } else if path.split('/').any(|step| step == "..") {
                out.push(FieldError::invalid(&at.child("path"), path, "must not contain '..'"));
            }
        }
        "csi" => {
            required_name(out, &at.child("driver"), text(source, "driver"), volumes::driver_name);
            required(out, &at.child("volumeHandle"), text(source, "volumeHandle"));
            for secret in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeStageSecretRef",
                "nodeExpandSecretRef",
            ] {
                if has(source, secret) {
                    let at = at.child(secret);
                    required(out, &at.child("name"), text(child(source, secret), "name"));
                    required(out, &at.child("namespace"), text(child(source, secret), "namespace"));
                }
            }
        }
        "iscsi" => {
            required(out, &at.child("targetPortal"), text(source, "targetPortal"));
            required(out, &at.child("iqn"), text(source, "iqn"));
        }
        _ => {}
    }
}

pub(super) fn volume_update(out: &mut Out, new_volume: &Value, old_volume: &Value) {
    volume(out, new_volume);
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_volume, "spec"), child(old_volume, "spec"));
    let source = |spec: &Value| -> Value {
        let fields = spec.as_object().into_iter().flatten();
        let fields = fields.filter(|(field, _)| !VOLUME_FIELDS.contains(&field.as_str()));
        fields.map(|(field, value)| (field.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into()
    };
    let (mut now, before) = (source(new), source(old));
    // Secrets of a CSI volume may be set later.
    for secret in ["controllerExpandSecretRef", "nodeExpandSecretRef"] {
        if child(child(&before, "csi"), secret).is_null()
            && let Some(csi) = now.get_mut("csi").and_then(Value::as_object_mut)
        {
            csi.remove(secret);
        }
    }
    if !same(&now, &before) {
        out.push(FieldError::forbidden(
            &at.child("persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    immutable(out, &FieldPath::root("volumeMode"), child(new, "volumeMode"), child(old, "volumeMode"));
    if has(old, "nodeAffinity") && !same(child(new, "nodeAffinity"), child(old, "nodeAffinity")) {
        out.push(FieldError::invalid(
            &FieldPath::root("spec.nodeAffinity"),
            child(new, "nodeAffinity"),
            "field is immutable, except for updating from beta label to GA",
        ));
    }
}

/// The spec of a claim or of a template for one.
pub(super) fn claim_spec(out: &mut Out, at: Path, spec: &Value) {
    if items(spec, "accessModes").is_empty() {
        out.push(FieldError::required(&at.child("accessModes"), "at least 1 access mode is required"));
    }
    if has(spec, "selector") {
        selectors::label_selector(out, &at.child("selector"), child(spec, "selector"));
    }
    access_modes(out, &at.child("accessModes"), spec);
    let requests = child(child(spec, "resources"), "requests");
    let here = at.child("resources");
    match requests.get("storage") {
        None => out.push(FieldError::required(&here.key("storage"), "")),
        Some(storage) => {
            let requests = here.child("requests");
            positive_quantity(out, &requests.key("storage"), storage);
        }
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        invalid_all(out, &at.child("storageClassName"), class, names::dns1123_subdomain(class));
    }
    if has(spec, "volumeMode") {
        one_of(out, &at.child("volumeMode"), text(spec, "volumeMode"), &["Block", "Filesystem"]);
    }
    for field in ["dataSource", "dataSourceRef"] {
        let source = child(spec, field);
        if source.is_null() {
            continue;
        }
        let at = at.child(field);
        required(out, &at.child("name"), text(source, "name"));
        required(out, &at.child("kind"), text(source, "kind"));
        if text(source, "apiGroup").is_empty() && text(source, "kind") != "PersistentVolumeClaim" {
            out.push(FieldError::invalid(
                &at,
                source,
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            ));
        }
    }
}

pub(super) fn claim(out: &mut Out, object: &Value) {
    claim_spec(out, &FieldPath::root("spec"), child(object, "spec"));
}

pub(super) fn claim_update(out: &mut Out, new_claim: &Value, old_claim: &Value) {
    claim(out, new_claim);
    let at = FieldPath::root("spec");
    let (new, old) = (child(new_claim, "spec"), child(old_claim, "spec"));
    let storage = |spec: &Value| {
        let value = child(child(spec, "resources"), "requests").get("storage").cloned()?;
        Quantity::from_value(&value).ok()
    };
    let bound = text(child(old_claim, "status"), "phase") == "Bound";
    let mut now = new.clone();
    if let Some(map) = now.as_object_mut() {
        // Binding fills in the volume, an admission plug-in the class of an old claim without one.
        if text(old, "volumeName").is_empty() {
            match old.get("volumeName") {
                Some(name) => map.insert("volumeName".into(), name.clone()),
                None => map.remove("volumeName"),
            };
        }
        if !has(old, "storageClassName") && !bound {
            map.remove("storageClassName");
        }
        map.remove("volumeAttributesClassName");
    }
    let mut before = old.clone();
    if let Some(map) = before.as_object_mut() {
        map.remove("volumeAttributesClassName");
    }
    let (grown, was) = (storage(new), storage(old));
    let requests = |spec: &mut Value| {
        if let Some(requests) = spec.pointer_mut("/resources/requests").and_then(Value::as_object_mut) {
            requests.remove("storage");
        }
    };
    if grown != was && bound {
        requests(&mut now);
        requests(&mut before);
    }
    if !same(&now, &before) {
        out.push(FieldError::forbidden(
            &at,
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    } else if let (Some(grown), Some(was)) = (grown, was)
        && grown < was
    {
        let capacity = child(child(old_claim, "status"), "capacity").get("storage").cloned();
        let actual = capacity.and_then(|value| Quantity::from_value(&value).ok());
        if actual.is_none_or(|actual| grown <= actual) {
            out.push(FieldError::forbidden(
                &at.child("resources").child("requests.storage"),
                "field can not be less than status.capacity",
            ));
        }
    }
    immutable(out, &FieldPath::root("volumeMode"), child(new, "volumeMode"), child(old, "volumeMode"));
}

pub(super) fn class(out: &mut Out, object: &Value) {
    let provisioner = text(object, "provisioner");
    required_name(out, &FieldPath::root("provisioner"), provisioner, |name| {
        names::qualified_name(&name.to_lowercase())
    });
    let at = FieldPath::root("parameters");
    let total: usize = members(object, "parameters").map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum();
    if members(object, "parameters").count() > 512 {
        out.push(FieldError::too_long(&at, 512));
    }
    for (key, _) in members(object, "parameters") {
        if key.is_empty() {
            out.push(FieldError::invalid(&at, key.as_str(), "field can not be empty."));
        }
    }
    if total > 256 << 10 {
        out.push(FieldError::too_long(&at, 256 << 10));
    }
    one_of(out, &FieldPath::root("reclaimPolicy"), text(object, "reclaimPolicy"), &["Delete", "Retain"]);
    one_of(
        out,
        &FieldPath::root("volumeBindingMode"),
        text(object, "volumeBindingMode"),
        &["Immediate", "WaitForFirstConsumer"],
    );
}

pub(super) fn class_update(out: &mut Out, new: &Value, old: &Value) {
    class(out, new);
    if !same(child(new, "parameters"), child(old, "parameters")) {
        out.push(FieldError::forbidden(&FieldPath::root("parameters"), "updates to parameters are forbidden."));
    }
    if text(new, "provisioner") != text(old, "provisioner") {
        out.push(FieldError::forbidden(&FieldPath::root("provisioner"), "updates to provisioner are forbidden."));
    }
    if text(new, "reclaimPolicy") != text(old, "reclaimPolicy") {
        out.push(FieldError::forbidden(&FieldPath::root("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
    }
    immutable(
        out,
        &FieldPath::root("volumeBindingMode"),
        child(new, "volumeBindingMode"),
        child(old, "volumeBindingMode"),
    );
}

pub(super) fn attachment(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    required_name(out, &at.child("attacher"), text(spec, "attacher"), volumes::driver_name);
    let source = child(spec, "source");
    let here = at.child("source");
    match (has(source, "persistentVolumeName"), has(source, "inlineVolumeSpec")) {
        (false, false) => out
            .push(FieldError::required(&here, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")),
        (true, true) => out.push(FieldError::forbidden(
            &here,
            "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        )),
        (true, false) => {
            let name = text(source, "persistentVolumeName");
            required_name(out, &here.child("persistentVolumeName"), name, names::dns1123_subdomain);
        }
        (false, true) => volume_spec(out, &here.child("inlineVolumeSpec"), child(source, "inlineVolumeSpec")),
    }
    required_name(out, &at.child("nodeName"), text(spec, "nodeName"), names::dns1123_subdomain);
}

pub(super) fn driver(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let spec = child(object, "spec");
    let name = text(child(object, "metadata"), "name");
    if name.len() > 63 {
        out.push(FieldError::too_long(&FieldPath::root("metadata.name"), 63));
    }
    for field in ["attachRequired", "podInfoOnMount"] {
        if !has(spec, field) {
            out.push(FieldError::required(&at.child(field), ""));
        }
    }
    if has(spec, "fsGroupPolicy") {
        one_of(
            out,
            &at.child("fsGroupPolicy"),
            text(spec, "fsGroupPolicy"),
            &["File", "None", "ReadWriteOnceWithFSType"],
        );
    }
    let list = at.child("volumeLifecycleModes");
    for mode in texts(spec, "volumeLifecycleModes") {
        one_of(out, &list, mode, &["Ephemeral", "Persistent"]);
    }
    let mut seen = Vec::new();
    let list = at.child("tokenRequests");
    for (i, one) in items(spec, "tokenRequests").iter().enumerate() {
        let audience = text(one, "audience");
        if seen.contains(&audience) {
            out.push(FieldError::duplicate(&list.index(i).child("audience"), audience));
        }
        seen.push(audience);
        if let Some(seconds) = int(one, "expirationSeconds") {
            let at = list.index(i);
            if seconds < 600 {
                out.push(FieldError::invalid(
                    &at.child("expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            }
        }
    }
}

pub(super) fn driver_update(out: &mut Out, new: &Value, old: &Value) {
    driver(out, new);
    let at = FieldPath::root("spec");
    for field in ["attachRequired", "volumeLifecycleModes"] {
        immutable(out, &at.child(field), child(child(new, "spec"), field), child(child(old, "spec"), field));
    }
}

pub(super) fn csi_node(out: &mut Out, object: &Value) {
    let at = FieldPath::root("spec");
    let list = at.child("drivers");
    let drivers = items(child(object, "spec"), "drivers");
    resources::unique_names(out, &list, drivers);
    for (i, one) in drivers.iter().enumerate() {
        let at = list.index(i);
        required_name(out, &at.child("name"), text(one, "name"), volumes::driver_name);
        let id = text(one, "nodeID");
        required(out, &at.child("nodeID"), id);
        if id.len() > 256 {
            out.push(FieldError::invalid(&at.child("nodeID"), id, "must be 256 characters or less"));
        }
        if let Some(count) = int(child(one, "allocatable"), "count") {
            super::check::non_negative(out, &at.child("allocatable").child("count"), Some(count));
        }
        for key in texts(one, "topologyKeys") {
            invalid_all(out, &at.child("topologyKeys"), key, names::qualified_name(key));
        }
    }
}

pub(super) fn capacity(out: &mut Out, object: &Value) {
    required_name(
        out,
        &FieldPath::root("storageClassName"),
        text(object, "storageClassName"),
        names::dns1123_subdomain,
    );
    if has(object, "nodeTopology") {
        selectors::label_selector(out, &FieldPath::root("nodeTopology"), child(object, "nodeTopology"));
    }
    for field in ["capacity", "maximumVolumeSize"] {
        if has(object, field) {
            super::check::non_negative_quantity(out, &FieldPath::root(field), child(object, field));
        }
    }
}

pub(super) fn capacity_update(out: &mut Out, new: &Value, old: &Value) {
    capacity(out, new);
    for field in ["nodeTopology", "storageClassName"] {
        immutable(out, &FieldPath::root(field), child(new, field), child(old, field));
    }
}
