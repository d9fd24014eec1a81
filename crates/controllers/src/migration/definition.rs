//! What a migration says on the definition of a custom resource: that it runs, and in the end that nothing is stored in older
//! versions any more. Pure.

use serde_json::{Value, json};

const MIGRATING: &str = "StorageMigrating";

/// The definition while the migration `by` runs; `None` when it says so already.
pub fn running(definition: &Value, by: &str, now: &str) -> Option<Value> {
    let message = format!("Migration {by} is running");
    changed(definition, |next| set(next, true, "MigrationRunning", &message, now))
}

/// The definition after a migration. When it is as it was at the beginning, all objects are in its storage version, which then is the
/// only stored one: earlier ones may be taken out of the spec. `None` when it says so already.
pub fn finished(definition: &Value, success: bool, now: &str) -> Option<Value> {
    let generation = &definition["metadata"]["generation"];
    let same = condition(definition).is_some_and(|c| &c["observedGeneration"] == generation);
    let (reason, message) = match (success, same) {
        (false, _) => ("MigrationFailed", "The migration has failed"),
        (true, true) => ("MigrationSucceeded", "The migration has succeeded and the stored versions have been updated"),
        (true, false) => (
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
        ),
    };
    changed(definition, |next| {
        set(next, false, reason, message, now);
        if success
            && same
            && let Some(name) = storage_version(definition)
        {
            next["status"]["storedVersions"] = json!([name]);
        }
    })
}

fn storage_version(definition: &Value) -> Option<&Value> {
    let versions = definition["spec"]["versions"].as_array()?;
    versions.iter().find(|v| v["storage"] == true).map(|v| &v["name"])
}

fn condition(definition: &Value) -> Option<&Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|c| c["type"] == MIGRATING)
}

fn changed(definition: &Value, change: impl FnOnce(&mut Value)) -> Option<Value> {
    let mut next = definition.clone();
    change(&mut next);
    (next != *definition).then_some(next)
}

/// Sets the condition, of today's generation.
fn set(definition: &mut Value, value: bool, reason: &str, message: &str, now: &str) {
    let status = if value { "True" } else { "False" };
    let since = condition(definition).filter(|c| c["status"] == status).map(|c| c["lastTransitionTime"].clone());
    let generation = definition["metadata"]["generation"].clone();
    let next = json!({
        "type": MIGRATING, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since.unwrap_or_else(|| json!(now)), "observedGeneration": generation,
    });
    let all = &mut definition["status"]["conditions"];
    if !all.is_array() {
        *all = json!([]);
    }
    let Some(list) = all.as_array_mut() else { return };
    match list.iter_mut().find(|c| c["type"] == MIGRATING) {
        Some(place) => *place = next,
        None => list.push(next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(generation: i64, condition: Option<(i64, &str)>) -> Value {
        let conditions: Vec<Value> = condition
            .map(|(generation, status)| {
                json!({"type": MIGRATING, "status": status, "reason": "MigrationRunning", "message": "Migration m is running",
                    "lastTransitionTime": "t0", "observedGeneration": generation})
            })
            .into_iter()
            .collect();
        json!({"metadata": {"generation": generation},
            "spec": {"versions": [{"name": "v1", "storage": false}, {"name": "v2", "storage": true}]},
            "status": {"storedVersions": ["v1", "v2"], "conditions": conditions}})
    }

    #[test]
    fn it_says_that_it_runs() {
        let next = running(&definition(3, None), "m", "t1").unwrap();
        assert_eq!(
            next["status"]["conditions"],
            json!([{"type": MIGRATING, "status": "True", "reason": "MigrationRunning", "message": "Migration m is running",
                "lastTransitionTime": "t1", "observedGeneration": 3}])
        );
        assert_eq!(next["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(running(&next, "m", "t2"), None);
        // Somebody changed it before this one ran: what counts is how it is now.
        let next = running(&definition(4, Some((3, "True"))), "m", "t2").unwrap();
        assert_eq!(next["status"]["conditions"][0]["observedGeneration"], 4);
        assert_eq!(next["status"]["conditions"][0]["lastTransitionTime"], "t0");
        assert!(running(&json!({"metadata": {"generation": 1}}), "m", "t").is_some());
    }

    #[test]
    fn stored_versions_go_when_nothing_changed_meanwhile() {
        let table = [
            (Some((3, "True")), true, json!(["v2"]), "MigrationSucceeded", "have been updated"),
            (Some((2, "True")), true, json!(["v1", "v2"]), "MigrationSucceeded", "generation mismatch"),
            (None, true, json!(["v1", "v2"]), "MigrationSucceeded", "generation mismatch"),
            (Some((3, "True")), false, json!(["v1", "v2"]), "MigrationFailed", "has failed"),
        ];
        for (i, (before, success, stored, reason, message)) in table.into_iter().enumerate() {
            let next = finished(&definition(3, before), success, "t1").unwrap();
            let condition = &next["status"]["conditions"][0];
            assert_eq!((&next["status"]["storedVersions"], &condition["status"]), (&stored, &json!("False")), "{i}");
            assert_eq!((&condition["reason"], &condition["observedGeneration"]), (&json!(reason), &json!(3)), "{i}");
            assert!(condition["message"].as_str().unwrap().contains(message), "{i}: {condition}");
            assert_eq!(condition["lastTransitionTime"], "t1", "{i}");
        }
        // Done before, and the answer was lost: nothing is to be written again.
        let next = finished(&definition(3, Some((3, "True"))), true, "t1").unwrap();
        assert_eq!(finished(&next, true, "t2"), None);
    }
}
