//! Claims for storage.

use super::finding::Finding;
use super::world::{World, name, text};
use caravel_api::quantity::Quantity;
use serde_json::Value;

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// The Pods that use a claim.
pub fn users<'a>(world: &'a World, claim: &Value) -> Vec<&'a Value> {
    let of = text(&claim["metadata"]["name"]);
    let uses = |pod: &&Value| claims_of(pod).any(|c| c == of);
    world.pods.iter().filter(uses).collect()
}

/// The names of the claims that a Pod mounts.
pub fn claims_of(pod: &Value) -> impl Iterator<Item = String> {
    let own = text(&pod["metadata"]["name"]).to_owned();
    pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(move |volume| {
        match volume["persistentVolumeClaim"]["claimName"].as_str() {
            Some(claim) => Some(claim.to_owned()),
            None => volume.get("ephemeral").map(|_| format!("{own}-{}", text(&volume["name"]))),
        }
    })
}

/// Why a claim is not bound.
pub fn claim(world: &World, claim: &Value) -> Finding {
    let about = format!("PersistentVolumeClaim {}", name(claim));
    match text(&claim["status"]["phase"]) {
        "Bound" => return Finding::fine(about, format!("it is bound to {}", text(&claim["spec"]["volumeName"]))),
        "Lost" => {
            let volume = text(&claim["spec"]["volumeName"]);
            return Finding::wrong(about, format!("its volume {volume} is gone, and its data with it"))
                .mend("delete the claim and make it anew; restore the data from elsewhere");
        }
        _ => {}
    }
    let wanted = claim["spec"]["storageClassName"].as_str();
    if wanted == Some("") {
        return by_hand(world, claim, &about, "it asks for no class, so a volume made by hand must fit");
    }
    let is_default = |c: &&Value| c["metadata"]["annotations"][DEFAULT_CLASS] == "true";
    let class = match wanted {
        Some(wanted) => world.classes.iter().find(|c| c["metadata"]["name"] == wanted),
        None => world.classes.iter().find(is_default),
    };
    let Some(class) = class else {
        return match wanted {
            Some(wanted) => by_hand(
                world,
                claim,
                &about,
                &format!("there is no StorageClass {wanted:?}, and no volume of it that fits"),
            )
            .mend(format!("use one of the classes there are ({}), or make that one", classes(world))),
            None => by_hand(world, claim, &about, "it names no class, and none is the default")
                .mend(format!("name a class in spec.storageClassName ({}), or make one the default", classes(world))),
        };
    };
    let class_name = text(&class["metadata"]["name"]);
    let provisioner = text(&class["provisioner"]);
    if class["volumeBindingMode"] == "WaitForFirstConsumer" && users(world, claim).is_empty() {
        return Finding::fine(
            about,
            format!("its class {class_name} waits for the first Pod that uses it, and there is none"),
        );
    }
    if provisioner == "kubernetes.io/no-provisioner" {
        return by_hand(world, claim, &about, &format!("its class {class_name} makes no volumes"));
    }
    if let Some((reason, message)) = world.warning(claim, &[]) {
        return Finding::wrong(about, format!("{reason}: {message}"))
            .mend(format!("the provisioner {provisioner} says what it lacks"));
    }
    Finding::wrong(about, format!("it waits for the provisioner {provisioner} of its class {class_name}"))
        .mend(format!("see that the provisioner runs; without it use another class ({})", classes(world)))
}

fn classes(world: &World) -> String {
    let names: Vec<&str> = world.classes.iter().map(|c| text(&c["metadata"]["name"])).collect();
    if names.is_empty() { "there is none".into() } else { names.join(", ") }
}

/// No volume is made for it: what keeps each free one from being used.
fn by_hand(world: &World, claim: &Value, about: &str, says: &str) -> Finding {
    let misfits = world.volumes.iter().filter(|v| text(&v["status"]["phase"]) != "Bound").map(|volume| {
        let about = format!("PersistentVolume {}", name(volume));
        Finding::wrong(about, misfit(claim, volume).unwrap_or_else(|| "it fits: it is about to be bound".into()))
    });
    let causes: Vec<Finding> = misfits.take(5).collect();
    let size = text(&claim["spec"]["resources"]["requests"]["storage"]);
    Finding::wrong(about, says)
        .because(causes)
        .mend(format!("make a PersistentVolume of {size} or more with the claim's class and access modes"))
}

/// Why a volume does not fit a claim.
fn misfit(claim: &Value, volume: &Value) -> Option<String> {
    let amount = |value: &Value| Quantity::parse(text(value)).map_or(0, Quantity::value);
    let (asked, has) = (&claim["spec"]["resources"]["requests"]["storage"], &volume["spec"]["capacity"]["storage"]);
    if text(&volume["status"]["phase"]) == "Released" {
        return Some("it was another claim's, whose data is still on it: remove spec.claimRef to use it again".into());
    }
    let class = |object: &Value| text(&object["spec"]["storageClassName"]).to_owned();
    if class(claim) != class(volume) {
        return Some(format!("its class is {:?}, the claim's {:?}", class(volume), class(claim)));
    }
    if amount(has) < amount(asked) {
        return Some(format!("it has {}, the claim asks for {}", text(has), text(asked)));
    }
    let modes = |object: &Value| object["spec"]["accessModes"].as_array().cloned().unwrap_or_default();
    let offered = modes(volume);
    let lacking: Vec<String> =
        modes(claim).iter().filter(|m| !offered.contains(m)).map(|m| text(m).to_owned()).collect();
    (!lacking.is_empty()).then(|| format!("it cannot be used as {}", lacking.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims() {
        let world = World {
            classes: vec![
                json!({"metadata": {"name": "fast"}, "provisioner": "example.com/p"}),
                json!({"metadata": {"name": "lazy"}, "provisioner": "example.com/p", "volumeBindingMode": "WaitForFirstConsumer"}),
                json!({"metadata": {"name": "hand"}, "provisioner": "kubernetes.io/no-provisioner"}),
            ],
            volumes: vec![
                json!({"metadata": {"name": "small"}, "spec": {"storageClassName": "hand", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
                json!({"metadata": {"name": "old"}, "spec": {}, "status": {"phase": "Released"}}),
            ],
            ..World::default()
        };
        let with = |class: Value, phase: &str| {
            json!({"metadata": {"name": "c", "namespace": "a", "uid": "u"}, "status": {"phase": phase},
            "spec": {"storageClassName": class, "volumeName": "v", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}}})
        };
        for (object, says, fine) in [
            (with(json!("fast"), "Bound"), "bound to v", true),
            (with(json!("fast"), "Lost"), "is gone", false),
            (with(json!("none"), "Pending"), "no StorageClass \"none\"", false),
            (with(Value::Null, "Pending"), "none is the default", false),
            (with(json!("lazy"), "Pending"), "waits for the first Pod", true),
            (with(json!("fast"), "Pending"), "waits for the provisioner example.com/p", false),
            (with(json!("hand"), "Pending"), "makes no volumes", false),
        ] {
            let got = claim(&world, &object);
            assert!(got.says.contains(says) && got.fine == fine, "{says}: {got:?}");
        }
        let by_hand = claim(&world, &with(json!("hand"), "Pending"));
        let told: Vec<&str> = by_hand.because.iter().map(|f| f.says.as_str()).collect();
        assert_eq!(told[0], "it has 1Gi, the claim asks for 5Gi");
        assert!(told[1].contains("claimRef"));
    }
}
