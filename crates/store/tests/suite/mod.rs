//! What every backend must do: run over each of them.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use caravel_store::{At, Error, EventKind, Expect, Store, Watch, Write};

pub const TEMPLATE: &str = r#"{"metadata":{"resourceVersion":""},"n":0}"#;
pub const OFFSET: usize = 32;

fn stamped(revision: u64) -> String {
    format!(r#"{{"metadata":{{"resourceVersion":"{revision}"}},"n":0}}"#)
}

/// Every check; each uses buckets of its own.
pub async fn all(store: Arc<dyn Store>) {
    revision_is_spliced(&store).await;
    expectations(&store).await;
    transactions_are_atomic(&store).await;
    lists_page_consistently(&store).await;
    watches_see_everything_in_order(&store).await;
    watches_see_only_their_prefix(&store).await;
    deletions_carry_the_last_state(&store).await;
    reads_wait_for_a_revision(&store).await;
    malformed_commits_are_refused(&store).await;
    concurrent_increments_lose_nothing(&store).await;
    compaction_ends_old_watches(&store).await;
    compaction_spares_watches_that_missed_nothing(&store).await;
}

async fn next(watch: &mut Watch) -> caravel_store::Batch {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event in time").unwrap()
}

async fn value(store: &Arc<dyn Store>, key: &str) -> Option<String> {
    let found = store.get(key, At::Latest).await.unwrap();
    found.entry.map(|e| String::from_utf8(e.value.to_vec()).unwrap())
}

async fn revision_is_spliced(store: &Arc<dyn Store>) {
    let made = store.commit(vec![Write::create("t/splice/a", TEMPLATE, Some(OFFSET))]).await.unwrap();
    assert!(made.revision > 1, "revisions 0 and 1 are never given to a commit");
    let entry = made.entries[0].clone().unwrap();
    assert_eq!(entry.value, stamped(made.revision));
    assert_eq!(entry.revision, made.revision);
    assert_eq!(value(store, "t/splice/a").await, Some(stamped(made.revision)));
    let next = store.commit(vec![Write::update("t/splice/a", made.revision, TEMPLATE, Some(OFFSET))]).await.unwrap();
    assert!(next.revision > made.revision);
    assert_eq!(value(store, "t/splice/a").await, Some(stamped(next.revision)));
}

async fn expectations(store: &Arc<dyn Store>) {
    let made = store.commit(vec![Write::create("t/expect/a", "1", None)]).await.unwrap();
    match store.commit(vec![Write::create("t/expect/a", "2", None)]).await {
        Err(Error::Conflict { key, present: Some(present) }) => {
            assert_eq!(key, "t/expect/a");
            assert_eq!(present.value, "1");
            assert_eq!(present.revision, made.revision);
        }
        other => panic!("a second creation must conflict: {other:?}"),
    }
    let stale = Write::update("t/expect/a", made.revision + 1000, "2", None);
    assert!(matches!(store.commit(vec![stale]).await, Err(Error::Conflict { .. })));
    let missing = Write::update("t/expect/none", 5, "2", None);
    assert!(matches!(store.commit(vec![missing]).await, Err(Error::Conflict { present: None, .. })));
    let wrong = Write::delete("t/expect/a", Expect::Revision(made.revision + 1000));
    assert!(matches!(store.commit(vec![wrong]).await, Err(Error::Conflict { .. })));
    let done = store.commit(vec![Write::delete("t/expect/a", Expect::Revision(made.revision))]).await.unwrap();
    assert!(done.revision > made.revision);
    assert_eq!(value(store, "t/expect/a").await, None);
    let nothing = store.commit(vec![Write::delete("t/expect/a", Expect::Any)]).await.unwrap();
    assert!(nothing.entries[0].is_none(), "deleting nothing is no error");
    let again = store.commit(vec![Write::create("t/expect/a", "3", None)]).await.unwrap();
    assert!(again.revision > done.revision);
}

async fn transactions_are_atomic(store: &Arc<dyn Store>) {
    let made = store
        .commit(vec![Write::create("t/atomic/a", "a", None), Write::create("t/atomic2/b", "b", None)])
        .await
        .unwrap();
    assert_eq!(made.entries[0].as_ref().unwrap().revision, made.entries[1].as_ref().unwrap().revision);
    let failed = store
        .commit(vec![
            Write::put("t/atomic/a", "changed"),
            Write::create("t/atomic/new", "new", None),
            Write::create("t/atomic2/b", "conflict", None),
        ])
        .await;
    assert!(matches!(failed, Err(Error::Conflict { ref key, .. }) if key == "t/atomic2/b"), "{failed:?}");
    assert_eq!(value(store, "t/atomic/a").await.as_deref(), Some("a"));
    assert_eq!(value(store, "t/atomic/new").await, None);
}

async fn lists_page_consistently(store: &Arc<dyn Store>) {
    for i in 0..25 {
        store.commit(vec![Write::create(format!("t/pages/ns/{i:02}"), format!("{i}"), None)]).await.unwrap();
    }
    store.commit(vec![Write::create("t/pages/other/00", "x", None)]).await.unwrap();
    let first = store.list("t/pages/ns/", At::Latest, None, 10).await.unwrap();
    assert_eq!(first.entries.len(), 10);
    assert!(first.more);
    assert_eq!(first.remaining_count, 15);
    // Changes meanwhile do not show in further pages.
    store.commit(vec![Write::put("t/pages/ns/15", "changed")]).await.unwrap();
    store.commit(vec![Write::delete("t/pages/ns/16", Expect::Any)]).await.unwrap();
    store.commit(vec![Write::create("t/pages/ns/155", "new", None)]).await.unwrap();
    store.commit(vec![Write::delete("t/pages/ns/24", Expect::Any)]).await.unwrap();
    let mut seen: Vec<_> = first.entries.clone();
    let mut more = first.more;
    while more {
        let after = seen.last().unwrap().key.to_string();
        let page = store.list("t/pages/ns/", At::Exact(first.revision), Some(&after), 10).await.unwrap();
        assert_eq!(page.revision, first.revision);
        assert_eq!(page.remaining_count, 25 - seen.len() as u64 - page.entries.len() as u64);
        more = page.more;
        seen.extend(page.entries);
    }
    let values: Vec<_> = seen.iter().map(|e| String::from_utf8(e.value.to_vec()).unwrap()).collect();
    assert_eq!(values, (0..25).map(|i| i.to_string()).collect::<Vec<_>>());
    let old = store.get("t/pages/ns/15", At::Exact(first.revision)).await.unwrap();
    assert_eq!(old.entry.unwrap().value, "15");
    let now = store.list("t/pages/", At::Latest, None, 0).await.unwrap();
    assert_eq!(now.entries.len(), 25);
    assert!(!now.more);
    assert!(store.list("t/nothing/", At::Latest, None, 0).await.unwrap().entries.is_empty());
}

async fn watches_see_everything_in_order(store: &Arc<dyn Store>) {
    let start = store.commit(vec![Write::create("t/order/first", "x", None)]).await.unwrap().revision;
    let mut early = store.watch("t/order/", start).unwrap();
    let mut writers = Vec::new();
    for w in 0..8 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for i in 0..25 {
                store.commit(vec![Write::create(format!("t/order/{w}-{i}"), format!("{i}"), None)]).await.unwrap();
            }
        }));
    }
    let mut seen = BTreeMap::new();
    let mut last = start;
    while seen.len() < 200 {
        for event in next(&mut early).await.events {
            assert!(event.revision > last, "events come once and in order");
            last = event.revision;
            assert_eq!(event.kind, EventKind::Created);
            seen.insert(event.key().to_string(), event.revision);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // A watch from the past sees the same.
    let mut late = store.watch("t/order/", start).unwrap();
    let mut again = BTreeMap::new();
    while again.len() < 200 {
        again.extend(next(&mut late).await.events.iter().map(|e| (e.key().to_string(), e.revision)));
    }
    assert_eq!(seen, again);
    assert!(late.try_next().unwrap().is_none());
    assert!(late.progress().unwrap() >= last);
}

async fn watches_see_only_their_prefix(store: &Arc<dyn Store>) {
    let from = store.revision();
    let mut one = store.watch("t/prefix/a/", from).unwrap();
    let idle = tokio::spawn({
        let mut other = store.watch("t/prefix/b/", from).unwrap();
        async move { tokio::time::timeout(Duration::from_millis(300), other.next()).await.map(|_| ()) }
    });
    store.commit(vec![Write::create("t/prefix/ab/x", "no", None)]).await.unwrap();
    store.commit(vec![Write::create("t/prefix/a/x", "yes", None)]).await.unwrap();
    let batch = next(&mut one).await;
    assert_eq!(batch.events.len(), 1);
    assert_eq!(&**batch.events[0].key(), "t/prefix/a/x");
    assert!(idle.await.unwrap().is_err(), "nothing for the other");
    assert!(matches!(store.watch("t/", 0), Err(Error::Prefix { .. })));
    assert!(matches!(store.watch("", 0), Err(Error::Prefix { .. })));
}

async fn deletions_carry_the_last_state(store: &Arc<dyn Store>) {
    let made = store.commit(vec![Write::create("t/del/a", TEMPLATE, Some(OFFSET))]).await.unwrap();
    let mut watch = store.watch("t/del/", made.revision).unwrap();
    let gone = store.commit(vec![Write::delete("t/del/a", Expect::Any)]).await.unwrap();
    assert_eq!(gone.entries[0].as_ref().unwrap().value, stamped(gone.revision));
    let batch = next(&mut watch).await;
    let event = &batch.events[0];
    assert_eq!(event.kind, EventKind::Deleted);
    assert_eq!(event.revision, gone.revision);
    assert_eq!(event.entry.value, stamped(gone.revision), "the last state, with the revision of the deletion");
    assert_eq!(event.prev.as_ref().unwrap().value, stamped(made.revision));
    let cached = event.slot.get_or_init(|| 7_u32);
    assert_eq!(*cached, 7);
    assert_eq!(*event.slot.get_or_init(|| 8_u32), 7, "made once");
}

async fn reads_wait_for_a_revision(store: &Arc<dyn Store>) {
    let made = store.commit(vec![Write::create("t/wait/a", "1", None)]).await.unwrap();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { store.get("t/wait/a", At::NotOlder(made.revision + 1)).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.commit(vec![Write::put("t/wait/a", "2")]).await.unwrap();
    assert_eq!(reader.await.unwrap().unwrap().entry.unwrap().value, "2");
    let future = store.revision() + 1000;
    assert!(matches!(store.get("t/wait/a", At::Exact(future)).await, Err(Error::FutureRevision { .. })));
    assert!(matches!(store.list("t/wait/", At::NotOlder(future), None, 0).await, Err(Error::FutureRevision { .. })));
}

async fn malformed_commits_are_refused(store: &Arc<dyn Store>) {
    for key in ["", "a", "a/b", "a/b/", "//x", "a//x"] {
        let answer = store.commit(vec![Write::put(key, "x")]).await;
        assert!(matches!(answer, Err(Error::Key { .. })), "{key:?}: {answer:?}");
    }
    let twice = vec![Write::put("t/twice/a", "1"), Write::put("t/twice/a", "2")];
    assert!(matches!(store.commit(twice).await, Err(Error::Duplicate { .. })));
    let large = Write::put("t/large/a", vec![0_u8; caravel_store::MAX_VALUE + 1]);
    assert!(matches!(store.commit(vec![large]).await, Err(Error::TooLarge { .. })));
    let long = Write::put(format!("t/long/{}", "x".repeat(3000)), "x");
    assert!(matches!(store.commit(vec![long]).await, Err(Error::TooLarge { .. })));
}

async fn concurrent_increments_lose_nothing(store: &Arc<dyn Store>) {
    store.commit(vec![Write::create("t/count/n", "0", None)]).await.unwrap();
    let workers: Vec<_> = (0..6)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    loop {
                        let entry = store.get("t/count/n", At::Latest).await.unwrap().entry.unwrap();
                        let n: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                        let write = Write::update("t/count/n", entry.revision, (n + 1).to_string(), None);
                        match store.commit(vec![write]).await {
                            Ok(_) => break,
                            Err(Error::Conflict { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(value(store, "t/count/n").await.as_deref(), Some("120"));
}

async fn compaction_ends_old_watches(store: &Arc<dyn Store>) {
    let first = store.commit(vec![Write::create("t/compact/a", "1", None)]).await.unwrap().revision;
    let mut behind = store.watch("t/compact/", first).unwrap();
    let second = store.commit(vec![Write::put("t/compact/a", "2")]).await.unwrap().revision;
    let third = store.commit(vec![Write::put("t/compact/a", "3")]).await.unwrap().revision;
    store.compact(second).await.unwrap();
    assert!(matches!(behind.next().await, Err(Error::Compacted { oldest }) if oldest == second));
    assert!(matches!(store.watch("t/compact/", first), Err(Error::Compacted { .. })));
    assert!(matches!(
        store.list("t/compact/", At::Exact(first), None, 0).await,
        Err(Error::Compacted { oldest }) if oldest == second
    ));
    let mut from_second = store.watch("t/compact/", second).unwrap();
    assert_eq!(next(&mut from_second).await.revision, third);
    assert_eq!(store.list("t/compact/", At::Exact(second), None, 0).await.unwrap().entries[0].value, "2");
}

async fn compaction_spares_watches_that_missed_nothing(store: &Arc<dyn Store>) {
    let start = store.commit(vec![Write::create("t/quiet/a", "1", None)]).await.unwrap().revision;
    let mut unpolled = store.watch("t/quiet/", start).unwrap();
    let mut waiting = store.watch("t/quiet/", start).unwrap();
    let waiting = tokio::spawn(async move { next(&mut waiting).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut newest = start;
    for i in 0..5 {
        newest = store.commit(vec![Write::put("t/busy/a", format!("{i}"))]).await.unwrap().revision;
    }
    store.compact(newest).await.unwrap();
    assert!(matches!(store.watch("t/quiet/", start), Err(Error::Compacted { .. })), "a new one begins too early");
    let last = store.commit(vec![Write::put("t/quiet/a", "2")]).await.unwrap().revision;
    assert_eq!(waiting.await.unwrap().revision, last);
    assert_eq!(next(&mut unpolled).await.revision, last);
}

/// Entries with a time to live go by themselves. `wait` is how long that may take.
pub async fn expiry(store: Arc<dyn Store>, ttl: Duration, wait: Duration) {
    let made = store.commit(vec![Write::create("t/ttl/a", "x", None).with_ttl(ttl)]).await.unwrap();
    store.commit(vec![Write::create("t/ttl/kept", "x", None)]).await.unwrap();
    let mut watch = store.watch("t/ttl/a", made.revision).unwrap();
    let batch = tokio::time::timeout(wait, watch.next()).await.expect("it expires in time").unwrap();
    assert_eq!(batch.events[0].kind, EventKind::Deleted);
    assert_eq!(value(&store, "t/ttl/a").await, None);
    assert!(value(&store, "t/ttl/kept").await.is_some());
}
