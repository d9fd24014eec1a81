//! Commits as etcd transactions.

use std::sync::Arc;

use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use super::codec;
use crate::{Change, Committed, Entry, Error, Expect, Revision, Write};

/// The transaction of `writes`; `leases` are theirs (0 for none).
pub(super) fn build(prefix: &str, writes: &[Write], leases: &[i64]) -> Txn {
    let name = |write: &Write| format!("{prefix}{}", write.key);
    let compares: Vec<_> = writes
        .iter()
        .filter_map(|write| match write.expect {
            Expect::Any => None,
            Expect::Absent => Some(Compare::mod_revision(name(write), CompareOp::Equal, 0)),
            Expect::Revision(revision) => {
                Some(Compare::mod_revision(name(write), CompareOp::Equal, i64::try_from(revision).unwrap_or(i64::MAX)))
            }
        })
        .collect();
    let then: Vec<_> = writes
        .iter()
        .zip(leases)
        .map(|(write, lease)| match &write.change {
            Change::Put { value, revision_at, .. } => {
                let options = (*lease != 0).then(|| PutOptions::new().with_lease(*lease));
                TxnOp::put(name(write), codec::encode(value, *revision_at), options)
            }
            Change::Delete => TxnOp::delete(name(write), Some(DeleteOptions::new().with_prev_key())),
        })
        .collect();
    let otherwise: Vec<_> = writes.iter().map(|write| TxnOp::get(name(write), None)).collect();
    Txn::new().when(compares).and_then(then).or_else(otherwise)
}

/// What came of it.
pub(super) fn outcome(prefix: &str, writes: &[Write], response: &TxnResponse) -> Result<Committed, Error> {
    let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision).max(0) as Revision;
    let parts = response.op_responses();
    if !response.succeeded() {
        return Err(conflict(prefix, writes, &parts));
    }
    let entries = writes
        .iter()
        .zip(&parts)
        .map(|(write, part)| match (&write.change, part) {
            (Change::Put { value, revision_at, .. }, _) => {
                codec::entry(write.key.as_str().into(), &codec::encode(value, *revision_at), revision)
            }
            (Change::Delete, TxnOpResponse::Delete(gone)) => {
                let old = gone.prev_kvs().first().and_then(|pair| codec::decode(prefix, pair));
                old.map(|old| Arc::new(old.stamped(revision)))
            }
            _ => None,
        })
        .collect();
    Ok(Committed { revision, entries })
}

fn conflict(prefix: &str, writes: &[Write], parts: &[TxnOpResponse]) -> Error {
    for (write, part) in writes.iter().zip(parts) {
        let present: Option<Arc<Entry>> = match part {
            TxnOpResponse::Get(found) => found.kvs().first().and_then(|pair| codec::decode(prefix, pair)),
            _ => None,
        };
        let met = match (write.expect, &present) {
            (Expect::Any, _) | (Expect::Absent, None) => true,
            (Expect::Revision(want), Some(entry)) => entry.revision == want,
            (Expect::Absent, Some(_)) | (Expect::Revision(_), None) => false,
        };
        if !met {
            return Error::Conflict { key: write.key.clone(), present };
        }
    }
    Error::Unavailable { detail: "etcd refused a transaction without a reason".into() }
}
