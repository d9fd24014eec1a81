//! Keeps the index up with etcd: loads everything once, then follows etcd's watch, and again after every interruption.
//!
//! The watch covers the whole key space of the etcd, not only our prefix: then every revision shows up in it, and "the index has
//! reached revision n" needs no progress notifications (which etcd before 3.4.25 could send too early).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, WatchOptions, WatchResponse};

use super::codec;
use super::{Error, call, unavailable};
use crate::{Applied, Entry, Index, Revision};

/// How many pairs are fetched at a time.
const PAGE: i64 = 200;
pub(super) const MAX_MESSAGE: usize = 256 << 20;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Reads every pair under `prefix` as of one revision.
pub(super) async fn fetch_all(
    client: &Client,
    prefix: &str,
    mut each: impl FnMut(Arc<Entry>),
) -> Result<Revision, Error> {
    let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
    let end = range_end(prefix);
    let mut from = prefix.as_bytes().to_vec();
    let mut revision = 0;
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
        let page = call(kv.get(from.clone(), Some(options))).await?;
        if revision == 0 {
            revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
        }
        for pair in page.kvs() {
            match codec::decode(prefix, pair) {
                Some(entry) => each(entry),
                None => tracing::warn!(key = %String::from_utf8_lossy(pair.key()), "not an entry of ours: passed over"),
            }
        }
        match page.kvs().last() {
            Some(last) if page.more() => {
                from = last.key().to_vec();
                from.push(0);
            }
            _ => return Revision::try_from(revision).map_err(|_| unavailable("etcd answered a negative revision")),
        }
    }
}

/// The first key after all that start with `prefix`.
pub(super) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// Why a watch ended.
enum End {
    /// The connection broke: go on where it was.
    Broken(String),
    /// What comes next has been compacted away: start anew.
    Compacted,
}

/// Follows etcd for ever.
pub(super) async fn follow(client: Client, prefix: String, index: Arc<Index>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let before = index.revision();
        match watch(&client, &prefix, &index).await {
            End::Broken(detail) => {
                tracing::warn!(%detail, revision = index.revision(), "lost etcd's watch; trying again");
            }
            End::Compacted => {
                tracing::warn!("fell behind etcd's compaction; reading everything again");
                if let Err(error) = reload(&client, &prefix, &index).await {
                    tracing::warn!(%error, "cannot read everything again");
                }
            }
        }
        pause = if index.revision() > before { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
    }
}

async fn watch(client: &Client, prefix: &str, index: &Index) -> End {
    let start = index.revision() as i64 + 1;
    let options = WatchOptions::new().with_all_keys().with_start_revision(start);
    let mut watcher = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let mut stream = match call(watcher.watch(Vec::new(), Some(options))).await {
        Ok(stream) => stream,
        Err(error) => return End::Broken(error.to_string()),
    };
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return End::Broken("etcd closed the stream".into()),
            Err(error) => return End::Broken(error.to_string()),
        };
        if response.compact_revision() > 0 {
            return End::Compacted;
        }
        if response.canceled() {
            return End::Broken(format!("etcd cancelled the watch: {}", response.cancel_reason()));
        }
        let commits = commits(prefix, &response, index.revision());
        index.apply(&commits);
    }
}

/// The commits of a response, one for each revision, also those with nothing of ours.
fn commits(prefix: &str, response: &WatchResponse, reached: Revision) -> Vec<(Revision, Vec<Applied>)> {
    let mut commits: Vec<(Revision, Vec<Applied>)> = Vec::new();
    for event in response.events() {
        let Some(pair) = event.kv() else { continue };
        let Ok(revision) = Revision::try_from(pair.mod_revision()) else { continue };
        if revision <= reached {
            continue;
        }
        if commits.last().is_none_or(|(last, _)| *last < revision) {
            commits.push((revision, Vec::new()));
        }
        let change = match event.event_type() {
            EventType::Put => {
                codec::decode(prefix, pair).map(|entry| Applied { key: entry.key.clone(), entry: Some(entry) })
            }
            EventType::Delete => codec::own_key(prefix, pair.key()).map(|key| Applied { key: key.into(), entry: None }),
        };
        if let (Some((_, changes)), Some(change)) = (commits.last_mut(), change) {
            changes.push(change);
        }
    }
    commits
}

/// Makes the index what etcd is now. What happened in between is lost, so all history goes, and with it every watch that
/// would have needed it.
async fn reload(client: &Client, prefix: &str, index: &Index) -> Result<(), Error> {
    let mut changes = Vec::new();
    let mut seen = HashSet::new();
    let revision = fetch_all(client, prefix, |entry| {
        seen.insert(entry.key.clone());
        if index.current(&entry.key).is_none_or(|old| old.revision != entry.revision) {
            changes.push(Applied { key: entry.key.clone(), entry: Some(entry) });
        }
    })
    .await?;
    index.for_each(|old| {
        if !seen.contains(&old.key) {
            changes.push(Applied { key: old.key.clone(), entry: None });
        }
    });
    index.replace(revision, changes);
    Ok(())
}
