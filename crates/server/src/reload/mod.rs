//! Configuration files that are read again when they change. What cannot be used changes nothing: the old stays, and the log
//! and a metric say so.

mod metrics;
mod watch;

pub use metrics::Reloads;
pub use watch::Watch;

use futures::future::BoxFuture;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

/// What became of a file's new text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It holds from now on.
    Over,
    /// It says the same in other words.
    Same,
}

/// Takes over a file's new text, or says why it does not.
pub type Take = Box<dyn FnMut(String) -> BoxFuture<'static, Result<Taken, String>> + Send>;

/// Follows a file from the text that was read last, until `stop`.
pub fn follow(mut watch: Watch, mut known: String, reloads: Reloads, stop: CancellationToken, mut take: Take) {
    let path: PathBuf = watch.path().to_path_buf();
    reloads.uses(&known);
    let work = async move {
        loop {
            // Once before the first change, too: it may have come before the watch did.
            match std::fs::read_to_string(&path) {
                Ok(text) if text == known => {}
                Ok(text) => {
                    known.clone_from(&text);
                    match take(text).await {
                        Ok(Taken::Same) => {}
                        Ok(Taken::Over) => {
                            reloads.count(true);
                            reloads.uses(&known);
                            tracing::info!(file = %path.display(), "a changed configuration was taken over");
                        }
                        Err(error) => {
                            reloads.count(false);
                            tracing::error!(file = %path.display(), %error, "a changed configuration cannot be used; the old one stays");
                        }
                    }
                }
                // It may be about to be replaced.
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "a configuration cannot be read; the old one stays")
                }
            }
            if let Err(error) = watch.changed().await {
                return tracing::error!(file = %path.display(), %error, "changes of a configuration are no longer seen");
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    });
}
