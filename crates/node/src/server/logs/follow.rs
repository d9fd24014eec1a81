//! Reads a log to its end and, when asked, on as it grows, across rotations, until the container ends.
//!
//! Nothing is polled: inotify tells of growth and of a new file in the old one's place, the runtime of the end.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caravel_runtime::{ContainerState, Event, EventStream};
use futures::StreamExt;
use http::StatusCode;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::sync::mpsc;

use super::super::Context;
use super::super::reply::{self, Reply};
use super::format::Formatter;
use super::{Options, tail};

/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// A line longer than this is not one that a runtime wrote (containerd's limit is 16 KiB).
const MAX_LINE: usize = 1 << 20;
/// How long a file that is not there is waited for, in looks.
const ROTATION_LOOKS: usize = 25;
const ROTATION_LOOK: Duration = Duration::from_millis(20);
/// Parts that wait for the client.
const AHEAD: usize = 4;

type Parts = mpsc::Sender<Result<Bytes, io::Error>>;

/// Opens a log file. While it is rotated there is none for a moment: it was set aside, and the runtime opens the next.
async fn opened(path: &Path) -> io::Result<File> {
    for _ in 0..ROTATION_LOOKS {
        match File::open(path).await {
            Err(e) if e.kind() == io::ErrorKind::NotFound => tokio::time::sleep(ROTATION_LOOK).await,
            other => return other,
        }
    }
    File::open(path).await
}

/// Opens the log, so that an error can still be told, and reads it into parts.
pub(super) async fn start(
    context: Arc<Context>,
    id: String,
    path: PathBuf,
    options: Options,
) -> Result<mpsc::Receiver<Result<Bytes, io::Error>>, Reply> {
    let log = match Log::open(path.clone(), &options).await {
        Ok(log) => log,
        Err(error) => {
            return Err(reply::text(
                StatusCode::BAD_REQUEST,
                format!("failed to open log file {:?}: {error}", path.display()),
            ));
        }
    };
    let (sender, parts) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let gone = sender.clone();
        let reading = run(context, id, log, options, sender);
        tokio::select! {
            result = reading => if let Err(error) = result {
                let _ = gone.send(Err(error)).await;
            },
            // A client that went away while the log was silent.
            () = gone.closed() => {}
        }
    });
    Ok(parts)
}

async fn run(context: Arc<Context>, id: String, mut log: Log, options: Options, parts: Parts) -> io::Result<()> {
    if !options.follow {
        log.drain(&parts).await?;
        return Ok(());
    }
    let mut changes = context.changes.watch(log.path.parent().unwrap_or(Path::new("/")))?;
    // One future for all turns: an event that it took must not be lost when a change of the file comes first.
    let ending = end(&context, &id, context.runtime.events());
    tokio::pin!(ending);
    let mut ended = has_ended(&context, &id).await;
    loop {
        if !log.drain(&parts).await? {
            return Ok(());
        }
        if log.rotated().await {
            log.reopen().await?;
            continue;
        }
        if ended {
            return Ok(());
        }
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            there = changes.next() => if !there {
                return Ok(());
            },
            () = &mut ending => ended = true,
        }
    }
}

/// Returns when the container has ended.
async fn end(context: &Context, id: &str, mut events: EventStream) {
    while let Some(event) = events.next().await {
        let hint = match event {
            Event::Exited { id: other, .. } => other == id,
            Event::Resync => true,
            _ => false,
        };
        if hint && has_ended(context, id).await {
            return;
        }
    }
    std::future::pending().await
}

async fn has_ended(context: &Context, id: &str) -> bool {
    match context.runtime.container_status(id).await {
        Ok(status) => status.state == ContainerState::Exited,
        Err(error) => error.is_not_found(),
    }
}

/// One log file and how far it was read.
struct Log {
    path: PathBuf,
    file: File,
    inode: u64,
    /// An unfinished line.
    pending: Vec<u8>,
    formatter: Formatter,
}

impl Log {
    async fn open(path: PathBuf, options: &Options) -> io::Result<Self> {
        let mut file = opened(&path).await?;
        let meta = file.metadata().await?;
        if let Some(lines) = options.tail {
            let mut blocking = file.try_clone().await?.into_std().await;
            let found = tokio::task::spawn_blocking(move || tail::offset(&mut blocking, meta.len(), lines));
            let start = found.await.map_err(io::Error::other)??;
            file.seek(SeekFrom::Start(start)).await?;
        }
        let inode = file.metadata().await?.ino();
        Ok(Log { path, file, inode, pending: Vec::new(), formatter: Formatter::new(options) })
    }

    /// Sends everything up to the present end; `false` when nothing more is wanted.
    async fn drain(&mut self, parts: &Parts) -> io::Result<bool> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = self.file.read(&mut buffer).await?;
            if n == 0 {
                return Ok(true);
            }
            let mut out = Vec::with_capacity(n);
            let more = self.lines(&buffer[..n], &mut out);
            if !out.is_empty() && parts.send(Ok(out.into())).await.is_err() {
                return Ok(false);
            }
            if !more {
                return Ok(false);
            }
        }
    }

    fn lines(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> bool {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let more = if self.pending.is_empty() {
                self.formatter.line(&bytes[..end], out)
            } else {
                self.pending.extend_from_slice(&bytes[..end]);
                let line = std::mem::take(&mut self.pending);
                self.formatter.line(&line, out)
            };
            if !more {
                return false;
            }
            bytes = &bytes[end + 1..];
        }
        if self.pending.len() + bytes.len() > MAX_LINE {
            self.pending.clear();
        } else {
            self.pending.extend_from_slice(bytes);
        }
        true
    }

    /// Whether another file is at the log's path now. One that is just missing is on its way.
    async fn rotated(&self) -> bool {
        tokio::fs::metadata(&self.path).await.is_ok_and(|meta| meta.ino() != self.inode)
    }

    async fn reopen(&mut self) -> io::Result<()> {
        self.file = opened(&self.path).await?;
        self.inode = self.file.metadata().await?.ino();
        self.pending.clear();
        Ok(())
    }
}
