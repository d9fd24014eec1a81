//! Leases for entries with a time to live. One lease serves many entries, as in upstream's API server: etcd's leases are dear.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::sync::Mutex;

use super::{Error, call};

/// A lease takes new entries this long, at most.
const REUSE: Duration = Duration::from_secs(60);
/// A lease takes this many entries, at most.
const ENTRIES: u32 = 1000;

struct Lease {
    id: i64,
    until: Instant,
    entries: u32,
}

#[derive(Default)]
pub(super) struct Leases {
    /// By time to live, in seconds.
    open: Mutex<HashMap<u64, Lease>>,
}

impl Leases {
    /// A lease that lives at least `ttl`, and at most a twentieth or a minute longer.
    pub(super) async fn get(&self, client: &Client, ttl: Duration) -> Result<i64, Error> {
        let seconds = ttl.as_secs().max(1);
        let reuse = REUSE.min(Duration::from_secs(seconds / 20));
        let now = Instant::now();
        let mut open = self.open.lock().await;
        open.retain(|_, lease| lease.until >= now && lease.entries < ENTRIES);
        if let Some(lease) = open.get_mut(&seconds) {
            lease.entries += 1;
            return Ok(lease.id);
        }
        let granted = call(client.lease_client().grant((seconds + reuse.as_secs()) as i64, None)).await?;
        open.insert(seconds, Lease { id: granted.id(), until: now + reuse, entries: 1 });
        Ok(granted.id())
    }
}
