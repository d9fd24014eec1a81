//! `kill -9` at any instant loses nothing acknowledged. The test starts itself as a child that acknowledges over a pipe.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use caravel_store::embedded::{Embedded, Options};
use caravel_store::{At, Expect, Store, Write};

const DIR: &str = "STORE_CRASH_DIR";
const KEYS: u64 = 300;

/// Not a test of its own: what the child does until it is killed. Each worker writes its own keys and then says so.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let store = Arc::new(Embedded::open(Options::new(dir)).unwrap());
    runtime.block_on(async {
        let base = store.revision();
        let workers: Vec<_> = (0..16_u64)
            .map(|w| {
                let store = store.clone();
                tokio::spawn(async move {
                    for i in 0.. {
                        let n = w + 16 * (rand::random::<u64>() % (KEYS / 16));
                        let key = format!("t/k/{n}");
                        let gone = rand::random::<u8>() < 40;
                        let size = rand::random::<u64>() % 6000;
                        let write = if gone {
                            Write::delete(&*key, Expect::Any)
                        } else {
                            Write::put(&*key, format!("{base}-{w}-{i}:{}", "x".repeat(size as usize)))
                        };
                        if gone {
                            std::io::stdout().write_all(format!("{} {n} ?\n", store.revision()).as_bytes()).unwrap();
                        }
                        let done = store.commit(vec![write]).await.unwrap();
                        let value = if gone { "-".into() } else { format!("{base}-{w}-{i}") };
                        let line = format!("{} {n} {value}\n", done.revision);
                        std::io::stdout().write_all(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
}

/// Lets a child write for a while, kills it, gives what it acknowledged.
fn run_and_kill(dir: &Path, life: Duration) -> Vec<(u64, u64, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        out.read_to_end(&mut all).unwrap();
        all
    });
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    let all = String::from_utf8(reader.join().unwrap()).unwrap();
    // A line that was cut off says nothing; the last whole one counts, above all when it announces a deletion.
    let whole = all.rfind('\n').map_or("", |end| &all[..end]);
    let parse = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.to_owned()))
    };
    whole.lines().filter_map(parse).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    let mut truth: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    for round in 0..20 {
        let life = Duration::from_millis(60 + u64::from(rand::random::<u8>()) * 2);
        let seen = run_and_kill(dir.path(), life);
        acknowledged += seen.len();
        let announced: BTreeSet<u64> = seen.iter().filter(|(_, _, v)| v == "?").map(|(_, n, _)| *n).collect();
        for (revision, n, value) in seen.into_iter().filter(|(_, _, v)| v != "?") {
            let known = truth.entry(n).or_default();
            if revision >= known.0 {
                *known = (revision, value);
            }
        }
        let store = Embedded::open(Options::new(dir.path())).unwrap();
        for (n, (revision, value)) in &truth {
            let entry = store.get(&format!("t/k/{n}"), At::Latest).await.unwrap().entry;
            match entry {
                // Something newer was written that the child could not tell us of any more.
                Some(entry) if entry.revision > *revision => {}
                Some(entry) => {
                    assert_eq!(entry.revision, *revision, "round {round}, key {n}");
                    assert!(entry.value.starts_with(format!("{value}:").as_bytes()), "round {round}, key {n}");
                }
                // Deleted: acknowledged, or announced in this round and then not reported any more.
                None => assert!(
                    value == "-" || announced.contains(n),
                    "round {round}: key {n} of revision {revision} is lost"
                ),
            }
        }
        let newest = truth.values().map(|(revision, _)| *revision).max().unwrap_or(0);
        assert!(store.revision() >= newest, "the revision went back");
        // What is there now is the truth for the next round.
        for (n, known) in &mut truth {
            let entry = store.get(&format!("t/k/{n}"), At::Latest).await.unwrap().entry;
            *known = match entry {
                Some(entry) => {
                    let text = String::from_utf8_lossy(&entry.value).into_owned();
                    (entry.revision, text.split(':').next().unwrap().to_owned())
                }
                None => (store.revision(), "-".into()),
            };
        }
    }
    println!("{acknowledged} acknowledged writes over 20 kills");
    assert!(acknowledged > 1000, "the children hardly got to write: {acknowledged}");
}
