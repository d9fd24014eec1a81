use super::*;
use k8s_openapi::api::storagemigration::v1beta1::{StorageVersionMigrationSpec, StorageVersionMigrationStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{GroupResource, ObjectMeta, Time};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn migration(name: &str, born: i64, revision: &str, conditions: &[(&str, bool)]) -> StorageVersionMigration {
    let mut all = vec![];
    for (kind, value) in conditions {
        set(&mut all, kind, *value, "R", "", at(0));
    }
    StorageVersionMigration {
        metadata: ObjectMeta {
            name: Some(name.into()),
            creation_timestamp: Some(Time(at(born))),
            ..Default::default()
        },
        spec: Some(StorageVersionMigrationSpec {
            resource: GroupResource { group: "example.com".into(), resource: "widgets".into() },
        }),
        status: Some(StorageVersionMigrationStatus {
            conditions: Some(all),
            resource_version: (!revision.is_empty()).then(|| revision.into()),
        }),
    }
}

#[test]
fn one_at_a_time_and_the_oldest_first() {
    let new = |name, born| migration(name, born, "", &[]);
    let running = |name, born| migration(name, born, "7", &[(RUNNING, true)]);
    let done = |name, born| migration(name, born, "7", &[(RUNNING, false), (SUCCEEDED, true)]);
    let failed = |name, born| migration(name, born, "", &[(FAILED, true)]);
    let mut bare = new("a", 1);
    bare.status = None;
    let table: Vec<(Vec<StorageVersionMigration>, Step)> = vec![
        (vec![], Step::Rest),
        (vec![bare], Step::Start(0)),
        (vec![new("a", 1)], Step::Start(0)),
        (vec![new("b", 2), new("a", 1)], Step::Start(1)),
        (vec![new("b", 1), new("a", 1)], Step::Start(1)),
        (vec![new("a", 1), running("b", 2)], Step::Move(1)),
        (vec![done("a", 1), failed("b", 2)], Step::Rest),
        (vec![done("a", 1), new("c", 3), failed("b", 2)], Step::Start(1)),
        // Somebody said that it runs, but not from where.
        (vec![migration("a", 1, "", &[(RUNNING, true)])], Step::Start(0)),
        // Whoever ended it did not say that it does not run any more.
        (vec![migration("a", 1, "7", &[(RUNNING, true), (SUCCEEDED, true)]), new("b", 2)], Step::Start(1)),
    ];
    for (i, (all, want)) in table.iter().enumerate() {
        assert_eq!(plan(all), *want, "{i}");
    }
}

#[test]
fn a_life() {
    let conditions = |one: &StorageVersionMigration| -> Vec<(String, String, String, String, i64)> {
        let all = one.status.as_ref().unwrap().conditions.clone().unwrap();
        all.into_iter()
            .map(|c| (c.type_, c.status, c.reason, c.message, c.last_transition_time.0.as_second()))
            .collect()
    };
    let row = |kind: &str, status: &str, reason: &str, message: &str, at: i64| {
        (kind.to_owned(), status.to_owned(), reason.to_owned(), message.to_owned(), at)
    };
    let mut new = migration("a", 1, "", &[]);
    new.status = None;
    let runs = started(&new, "42", at(10));
    assert_eq!(revision(&runs), "42");
    assert_eq!(conditions(&runs), [row("Running", "True", "MigrationRunning", "The migration is running", 10)]);
    // Said again after a lost answer: the revision and the time stay.
    assert_eq!(started(&runs, "50", at(20)), runs);
    let stopped = row("Running", "False", "MigrationCompleted", "Migration completed", 30);
    let done = ended(&runs, None, at(30));
    assert_eq!(
        conditions(&done),
        [stopped.clone(), row("Succeeded", "True", "StorageVersionMigrationSucceeded", "", 30)]
    );
    assert_eq!(plan(std::slice::from_ref(&done)), Step::Rest);
    let why = "migration encountered unhandled error: no";
    let failure = row("Failed", "True", "StorageVersionMigrationFailed", why, 30);
    assert_eq!(conditions(&ended(&runs, Some("no"), at(30))), [stopped, failure.clone()]);
    assert_eq!(conditions(&ended(&new, Some("no"), at(30))), [failure]);
    let long = ended(&new, Some(&"ä".repeat(40_000)), at(30));
    assert!(conditions(&long)[0].3.len() <= 32 * 1024);
}

#[test]
fn only_what_is_not_newer_is_due() {
    let table = [
        ("5", "10", Ok(true)),
        ("10", "10", Ok(true)),
        ("11", "10", Ok(false)),
        ("9", "10", Ok(true)),
        ("100000000000000000000000000000", "99999999999999999999", Ok(false)),
        ("x", "10", Err("resource version is not well formed: x".to_owned())),
        ("010", "10", Err("resource version is not well formed: 010".to_owned())),
        ("1", "", Err("resource version is not well formed: ".to_owned())),
    ];
    for (its, reach, want) in table {
        assert_eq!(is_due(its, reach), want, "{its} {reach}");
    }
}

#[test]
fn answers() {
    let table = [
        (Some(200), Verdict::Done),
        (Some(409), Verdict::Done),
        (Some(404), Verdict::Done),
        (Some(429), Verdict::Later),
        (Some(500), Verdict::Later),
        (Some(503), Verdict::Later),
        (Some(504), Verdict::Later),
        (None, Verdict::Later),
        (Some(422), Verdict::Refused),
        (Some(403), Verdict::Refused),
        (Some(413), Verdict::Refused),
    ];
    for (code, want) in table {
        assert_eq!(judge(code), want, "{code:?}");
    }
}
