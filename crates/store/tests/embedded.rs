//! The embedded backend: the common suite, and what only a disk can do to it.
#![allow(clippy::unwrap_used)]

mod suite;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use caravel_store::embedded::faults::{Faults, Faulty};
use caravel_store::embedded::{Embedded, Options};
use caravel_store::{At, Error, EventKind, Expect, HistoryLimits, Store, Write};

fn open(dir: &Path) -> Embedded {
    Embedded::open(Options::new(dir)).unwrap()
}

fn faulty(dir: &Path) -> (Embedded, Arc<Faults>) {
    let media = Faulty::default();
    let faults = media.0.clone();
    (Embedded::open(Options { media: Arc::new(media), ..Options::new(dir) }).unwrap(), faults)
}

async fn put(store: &Embedded, key: &str, value: impl Into<bytes::Bytes>) -> Result<u64, Error> {
    store.commit(vec![Write::put(key, value)]).await.map(|c| c.revision)
}

async fn count(store: &Embedded) -> usize {
    store.list("", At::Latest, None, 0).await.unwrap().entries.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn common_suite() {
    let dir = tempfile::tempdir().unwrap();
    suite::all(Arc::new(open(dir.path()))).await;
}

#[tokio::test]
async fn entries_expire() {
    let dir = tempfile::tempdir().unwrap();
    suite::expiry(Arc::new(open(dir.path())), Duration::from_secs(1), Duration::from_secs(5)).await;
}

#[tokio::test]
async fn survives_reopening_with_revision_expiry_and_splice_offset() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let a = store.commit(vec![Write::create("t/k/a", suite::TEMPLATE, Some(suite::OFFSET))]).await.unwrap();
    put(&store, "t/k/b", "b").await.unwrap();
    let gone = store.commit(vec![Write::delete("t/k/b", Expect::Any)]).await.unwrap();
    store.commit(vec![Write::create("t/k/mortal", "x", None).with_ttl(Duration::from_secs(2))]).await.unwrap();
    let last = store.revision();
    assert!(last > gone.revision);
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.revision(), last);
    assert_eq!(store.get("t/k/b", At::Latest).await.unwrap().entry.map(|e| e.revision), None);
    let entry = store.get("t/k/a", At::Latest).await.unwrap().entry.unwrap();
    assert_eq!(entry.value, a.entries[0].as_ref().unwrap().value);
    let mut watch = store.watch("t/k/", last).unwrap();
    let mut earlier = store.watch("t/k/", gone.revision - 1).unwrap();
    let batch = tokio::time::timeout(Duration::from_secs(5), earlier.next()).await.unwrap().unwrap();
    let seen: Vec<_> = batch.events.iter().map(|e| (e.kind, e.revision)).collect();
    assert_eq!(
        seen[..2],
        [(EventKind::Deleted, gone.revision), (EventKind::Created, last)],
        "history outlives the process"
    );
    let batch = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.unwrap().unwrap();
    assert_eq!(&**batch.events[0].key(), "t/k/mortal", "it still dies after a restart");
    let removed = store.commit(vec![Write::delete("t/k/a", Expect::Any)]).await.unwrap();
    let value = removed.entries[0].as_ref().unwrap().value.clone();
    assert!(
        value.windows(4).any(|w| w == b"sion")
            && std::str::from_utf8(&value).unwrap().contains(&removed.revision.to_string())
    );
}

#[tokio::test]
async fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let second = Embedded::open(Options::new(dir.path())).err().unwrap();
    assert!(matches!(&second, Error::Locked { holder, .. } if *holder == std::process::id().to_string()), "{second}");
    drop(first);
    open(dir.path());
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    std::fs::write(dir.path().join("format"), "2\n").unwrap();
    let error = Embedded::open(Options::new(dir.path())).err().unwrap();
    assert!(matches!(&error, Error::Format { found, .. } if found == "2"), "{error}");
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|x| x == "log"))
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..5 {
        put(&store, &format!("t/k/{i}"), format!("value {i}")).await.unwrap();
    }
    drop(store);
    let segment = segments(dir.path()).pop().unwrap();
    let whole = std::fs::read(&segment).unwrap();
    let frame = 8 + 27 + "t/k/4".len() + "value 4".len();
    for cut in 1..=frame {
        std::fs::write(&segment, &whole[..whole.len() - cut]).unwrap();
        let store = open(dir.path());
        assert_eq!(count(&store).await, 4, "cut by {cut}");
        put(&store, "t/k/new", "x").await.unwrap();
        drop(store);
        assert_eq!(count(&open(dir.path())).await, 5);
    }
    // Blocks that were allocated but never written read as zeros.
    let mut zeros = whole.clone();
    zeros.extend([0; 4096]);
    std::fs::write(&segment, &zeros).unwrap();
    assert_eq!(count(&open(dir.path())).await, 5);
}

#[tokio::test]
async fn damage_that_no_crash_explains_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..5 {
        put(&store, &format!("t/k/{i}"), format!("value {i}")).await.unwrap();
    }
    drop(store);
    let segment = segments(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let error = Embedded::open(Options::new(dir.path())).err().unwrap();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_watches_go_on_while_fsync_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(dir.path());
    let store = Arc::new(store);
    let first = put(&store, "t/k/a", "1").await.unwrap();
    faults.sync_millis.store(1500, Ordering::Relaxed);
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&store, "t/k/a", "2").await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let begun = Instant::now();
    for _ in 0..100 {
        let found = store.get("t/k/a", At::Latest).await.unwrap();
        assert_eq!(found.entry.unwrap().value, "1", "what is not durable is not shown");
        assert_eq!(store.list("t/k/", At::Latest, None, 0).await.unwrap().entries.len(), 1);
    }
    assert!(begun.elapsed() < Duration::from_millis(500));
    let mut watch = store.watch("t/k/", first).unwrap();
    assert!(watch.try_next().unwrap().is_none());
    let second = writer.await.unwrap().unwrap();
    assert_eq!(watch.next().await.unwrap().revision, second);
}

#[tokio::test]
async fn waiting_commits_share_one_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(dir.path());
    faults.sync_millis.store(20, Ordering::Relaxed);
    let before = faults.syncs.load(Ordering::Relaxed);
    let writes: Vec<_> = (0..200).map(|i| (format!("t/k/{i}"), "x")).collect();
    let done = futures::future::join_all(writes.iter().map(|(k, v)| put(&store, k, *v))).await;
    assert!(done.iter().all(Result::is_ok));
    let syncs = faults.syncs.load(Ordering::Relaxed) - before;
    assert!(syncs <= 5, "{syncs} fsyncs for 200 commits that came together");
}

#[tokio::test]
async fn a_failing_fsync_is_an_error_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(dir.path());
    put(&store, "t/k/a", "1").await.unwrap();
    faults.sync_fails.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let error = put(&store, "t/k/a", "2").await.unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(store.check().await.is_err());
        assert_eq!(store.get("t/k/a", At::Latest).await.unwrap().entry.unwrap().value, "1");
    }
    faults.sync_fails.store(false, Ordering::Relaxed);
    put(&store, "t/k/b", "3").await.unwrap();
    store.check().await.unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(
        store.get("t/k/a", At::Latest).await.unwrap().entry.unwrap().value,
        "1",
        "what failed does not come back"
    );
    assert_eq!(count(&store).await, 2);
}

/// Fills a disk, then takes away, then fills again. `free` makes room.
async fn full_disk(store: Embedded, dir: &Path, free: impl Fn()) {
    let mut acknowledged = Vec::new();
    let refusal = loop {
        let key = format!("t/k/{}", acknowledged.len());
        match put(&store, &key, vec![b'x'; 20_000]).await {
            Ok(_) => acknowledged.push(key),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 5000);
    };
    assert!(matches!(refusal, Error::Full { .. }), "{refusal}");
    assert!(matches!(store.check().await, Err(Error::Full { .. })));
    assert_eq!(count(&store).await, acknowledged.len(), "reads go on");
    let mut watch = store.watch("t/k/", store.revision()).unwrap();
    assert!(matches!(put(&store, "t/k/new", "x").await, Err(Error::Full { .. })), "creations stay refused");
    put(&store, "t/k/0", vec![b'y'; 20_100]).await.expect("an update that hardly grows is taken");
    store.commit(vec![Write::delete("t/k/1", Expect::Any)]).await.expect("deletions are taken");
    let mut events = 0;
    while events < 2 {
        events += watch.next().await.unwrap().events.len();
    }
    free();
    let begun = Instant::now();
    while let Err(error) = put(&store, "t/k/new", "x").await {
        assert!(begun.elapsed() < Duration::from_secs(3), "writes resume by themselves: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.check().await.unwrap();
    drop(store);
    let store = open(dir);
    assert_eq!(count(&store).await, acknowledged.len(), "one gone, one new, nothing lost");
}

#[tokio::test]
async fn a_full_disk_refuses_growth_only_injected() {
    let dir = tempfile::tempdir().unwrap();
    let (store, faults) = faulty(dir.path());
    faults.room.store(12 << 20, Ordering::Relaxed);
    full_disk(store, dir.path(), || faults.room.store(1 << 30, Ordering::Relaxed)).await;
}

/// The same on a real file system that is really full.
#[tokio::test]
async fn a_full_disk_refuses_growth_only_tmpfs() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=16m", "tmpfs"])
        .arg(dir.path())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("skipped: no permission to mount a tmpfs");
        return;
    }
    struct Mounted<'a>(&'a Path);
    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
        }
    }
    let _mounted = Mounted(dir.path());
    let filler = dir.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    file.write_all(&vec![1; 4 << 20]).unwrap();
    drop(file);
    let data = dir.path().join("data");
    full_disk(open(&data), &data, || std::fs::remove_file(&filler).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_within_twice_the_live_data() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let value = |n: u64| vec![n as u8; 2000];
    let keys = 6000_u64;
    let mut worst: f64 = 0.0;
    let mut longest = Duration::ZERO;
    for round in 0..12_u64 {
        let tasks: Vec<_> = (0..32)
            .map(|t| {
                let store = store.clone();
                tokio::spawn(async move {
                    let mut longest = Duration::ZERO;
                    for i in 0..keys / 32 {
                        // After the first round half of the writes go to a tenth of the keys.
                        let mixed = (t * (keys / 32) + i).wrapping_mul(0x9E37_79B9_7F4A_7C15 ^ round) % keys;
                        let n = match round {
                            0 => t * (keys / 32) + i,
                            _ if i % 2 == 0 => mixed / 10,
                            _ => mixed,
                        };
                        let begun = Instant::now();
                        put(&store, &format!("t/k/{n}"), value(round)).await.unwrap();
                        longest = longest.max(begun.elapsed());
                    }
                    longest
                })
            })
            .collect();
        for task in tasks {
            longest = longest.max(task.await.unwrap());
        }
        let stats = store.stats();
        worst = worst.max(stats.disk_bytes as f64 / stats.live_bytes as f64);
        // The log goes on being cleaned meanwhile, so the two agree in the end, not at every moment.
        let begun = Instant::now();
        loop {
            let real: u64 =
                std::fs::read_dir(dir.path()).unwrap().flatten().flat_map(|e| e.metadata()).map(|m| m.len()).sum();
            let said = store.stats().disk_bytes;
            if real.abs_diff(said) < 64 << 10 {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{real} on disk, {said} reported");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    println!("at most {worst:.2} times the live data; the longest write took {longest:?}");
    assert!(worst <= 2.0, "{worst}");
    // Most of the data goes: the log follows, with nobody writing.
    for chunk in (0..keys - 100).collect::<Vec<_>>().chunks(100) {
        let writes = chunk.iter().map(|n| Write::delete(format!("t/k/{n}"), Expect::Any)).collect();
        store.commit(writes).await.unwrap();
    }
    let begun = Instant::now();
    while store.stats().disk_bytes > 6 << 20 {
        assert!(begun.elapsed() < Duration::from_secs(10), "{} bytes remain", store.stats().disk_bytes);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (left, revision) = (count(&store).await, store.revision());
    drop(store);
    let store = open(dir.path());
    assert_eq!(count(&store).await, left);
    assert_eq!(store.revision(), revision, "deletions are forgotten, their revisions are not");
}

#[tokio::test]
async fn history_is_bounded_and_slow_watches_are_cut_off_but_idle_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let history = HistoryLimits { events: 50, ..HistoryLimits::default() };
    let store = Embedded::open(Options { history, ..Options::new(dir.path()) }).unwrap();
    let from = put(&store, "t/k/a/x", "x").await.unwrap();
    let mut slow = store.watch("t/k/a/", from).unwrap();
    let mut idle = store.watch("t/k/b/", from).unwrap();
    // The idle one must be waiting, as it would be in a connection's task.
    let idle = tokio::spawn(async move { idle.next().await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    for i in 0..200 {
        put(&store, "t/k/a/x", format!("{i}")).await.unwrap();
    }
    assert_eq!(store.stats().events, 50);
    assert!(matches!(slow.next().await, Err(Error::Compacted { .. })));
    let last = put(&store, "t/k/b/y", "y").await.unwrap();
    assert_eq!(idle.await.unwrap().unwrap().revision, last, "it missed nothing, so it goes on");
}

#[tokio::test]
async fn a_thousand_idle_watches_are_cheap() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let before = resident();
    let watches: Vec<_> = (0..10_000).map(|i| store.watch(&format!("t/k/ns{i}/"), 1).unwrap()).collect();
    let each = resident().saturating_sub(before) * 1024 / 10_000;
    println!("{each} bytes a watch");
    assert!(each < 1000, "{each}");
    drop(watches);
    assert_eq!(store.stats().watches, 0);
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}
