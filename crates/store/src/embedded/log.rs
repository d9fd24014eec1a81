//! The segment log: appends with fsync, replays at start, and cleans itself.
//!
//! Segments are files with growing numbers. Only the last is written. Cleaning always takes the oldest: what is still live in it is
//! written again at the end of the log, then the file is removed. So the order of the records of one key never changes,
//! the last one counts, and a deletion may be dropped together with its segment because no older record of its key exists.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::awake::Awake;
use super::frame::{FORMAT, FRAME_HEADER, Frame, HEADER, Header, MAX_FRAME, Record, checksum, records};
use super::media::{Media, MediaFile};
use crate::{Error, Index, Revision};

/// Revisions begin after this one: "0" has a meaning of its own to API clients.
const FIRST: Revision = 1;
const MIN_SEGMENT: u64 = 1 << 20;
const MAX_SEGMENT: u64 = 16 << 20;
/// How much free room the log may have beside its share of the live data.
const SLACK: u64 = 2 << 20;

struct Sealed {
    id: u64,
    len: u64,
}

/// The oldest segment while it is being cleaned.
struct Cleaner {
    segment: u64,
    file: Box<dyn MediaFile>,
    offset: u64,
}

/// A piece of cleaning whose moved records are in a frame not yet durable.
pub(super) struct Step {
    offset: u64,
    finished: bool,
}

pub(super) struct Log {
    dir: PathBuf,
    media: Arc<dyn Media>,
    sealed: VecDeque<Sealed>,
    id: u64,
    file: Box<dyn MediaFile>,
    /// How much of the current segment is durable and counts.
    len: u64,
    /// The current segment may hold bytes that never became durable: it must be left before the next append.
    broken: bool,
    cleaner: Option<Cleaner>,
    awake: Awake,
}

/// Tells a full disk from every other failure.
pub(super) fn failure(path: &Path, error: &io::Error) -> Error {
    const ENOSPC: i32 = 28;
    const EDQUOT: i32 = 122;
    match error.raw_os_error() {
        Some(ENOSPC | EDQUOT) => Error::Full { path: path.to_owned() },
        _ => Error::Io { path: path.to_owned(), detail: error.to_string() },
    }
}

fn segment_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:016x}.log"))
}

impl Log {
    /// Opens the log in `dir`, handing every record to `load` in the order in which they count. Gives the newest revision.
    pub(super) fn open(
        dir: &Path,
        media: Arc<dyn Media>,
        mut load: impl FnMut(Record<'_>, Revision),
    ) -> Result<(Self, Revision), Error> {
        let fail = |e: io::Error| failure(dir, &e);
        let mut ids: Vec<u64> = media.files(dir).map_err(fail)?.iter().filter_map(|p| segment_id(p)).collect();
        ids.sort_unstable();
        drop_strays(dir, &*media, &mut ids)?;
        let mut headers = read_headers(dir, &*media, &ids)?;
        let Some((last, _)) = headers.last().copied() else {
            let file =
                begin(dir, &*media, Header { format: FORMAT, segment: 1, start_revision: FIRST, previous_length: 0 })
                    .map_err(fail)?;
            let log = Self::at(dir, media, VecDeque::new(), 1, file, HEADER as u64);
            return Ok((log, FIRST));
        };
        let mut newest = FIRST;
        // Every commit after this one is in the segments that are left, whole.
        let floor = headers.first().map_or(FIRST, |(_, header)| header.start_revision);
        let mut load = |record: Record<'_>| load(record, floor);
        let mut sealed = VecDeque::new();
        let mut buffer = Vec::new();
        let last_header = headers.pop();
        for (i, (id, header)) in headers.iter().enumerate() {
            let next = headers.get(i + 1).copied().or(last_header);
            let declared = next.map_or(0, |(_, h)| h.previous_length);
            newest = newest.max(header.start_revision);
            let path = segment_path(dir, *id);
            let mut file = media.open(&path).map_err(fail)?;
            let valid = replay(&path, &mut *file, *id, Some(declared), &mut buffer, &mut newest, &mut load)?;
            sealed.push_back(Sealed { id: *id, len: valid });
        }
        if let Some((_, header)) = last_header {
            newest = newest.max(header.start_revision);
        }
        let path = segment_path(dir, last);
        let mut file = media.open(&path).map_err(fail)?;
        let valid = replay(&path, &mut *file, last, None, &mut buffer, &mut newest, &mut load)?;
        if file.len().map_err(fail)? > valid {
            tracing::info!(path = %path.display(), offset = valid, "cut off a write that a crash interrupted");
            file.truncate(valid).map_err(fail)?;
            file.sync().map_err(fail)?;
        }
        Ok((Self::at(dir, media, sealed, last, file, valid), newest))
    }

    fn at(
        dir: &Path,
        media: Arc<dyn Media>,
        sealed: VecDeque<Sealed>,
        id: u64,
        file: Box<dyn MediaFile>,
        len: u64,
    ) -> Self {
        Self { dir: dir.to_owned(), media, sealed, id, file, len, broken: false, cleaner: None, awake: Awake::start() }
    }

    /// The bytes of all segments.
    pub(super) fn total(&self) -> u64 {
        self.len + self.sealed.iter().map(|s| s.len).sum::<u64>()
    }

    /// Appends a frame and waits until it is durable. `newest` is the revision before it, `live` the size of the live data.
    pub(super) fn append(&mut self, frame: &mut Frame, newest: Revision, live: u64) -> Result<(), Error> {
        let full_segment = (live / 16).clamp(MIN_SEGMENT, MAX_SEGMENT);
        if self.broken {
            self.rotate(newest)?;
        } else if self.len >= full_segment
            && let Err(error) = self.rotate(newest)
        {
            // The present segment still takes writes; a real obstacle shows at once below.
            tracing::warn!(%error, "cannot begin a new segment");
        }
        let bytes = frame.seal(self.id);
        if let Err(error) = self.file.append(bytes) {
            self.broken = self.file.truncate(self.len).is_err();
            return Err(failure(&self.dir, &error));
        }
        let file = &mut self.file;
        if let Err(error) = self.awake.during(|| file.sync()) {
            // After a failed fsync the kernel may count the lost pages as clean: never trust this tail again.
            self.broken = true;
            let _ = self.file.truncate(self.len);
            return Err(failure(&self.dir, &error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn rotate(&mut self, newest: Revision) -> Result<(), Error> {
        let id = self.id + 1;
        let _ = self.media.remove(&segment_path(&self.dir, id));
        let header = Header { format: FORMAT, segment: id, start_revision: newest, previous_length: self.len };
        let file = begin(&self.dir, &*self.media, header).map_err(|e| failure(&self.dir, &e))?;
        self.sealed.push_back(Sealed { id: self.id, len: self.len });
        self.id = id;
        self.file = file;
        self.len = HEADER as u64;
        self.broken = false;
        Ok(())
    }

    /// Whether the log is larger than it should be for `live` bytes of data. `eager` (on a full disk) wants it tighter.
    pub(super) fn wants_cleaning(&self, live: u64, eager: bool) -> bool {
        let allowed = if eager { live + live / 5 + MIN_SEGMENT } else { live + live / 2 + SLACK };
        !self.sealed.is_empty() && self.total() > allowed
    }

    /// Reads on in the oldest segment for about `budget` bytes and puts what is live of it into `frame`, which must be
    /// empty of newer commits. The step counts once [`Log::cleaned`] is told that the frame is durable.
    pub(super) fn clean(&mut self, frame: &mut Frame, index: &Index, budget: u64) -> io::Result<Option<Step>> {
        let Some(oldest) = self.sealed.front() else { return Ok(None) };
        let (id, end) = (oldest.id, oldest.len);
        if self.cleaner.as_ref().is_none_or(|c| c.segment != id) {
            let file = self.media.open(&segment_path(&self.dir, id))?;
            self.cleaner = Some(Cleaner { segment: id, file, offset: HEADER as u64 });
        }
        let Some(cleaner) = self.cleaner.as_mut() else { return Ok(None) };
        let stop = (cleaner.offset + budget).min(end);
        let mut offset = cleaner.offset;
        let mut window = vec![0; (stop - offset) as usize];
        let read = cleaner.file.read_at(offset, &mut window)?;
        window.truncate(read);
        let mut rest = &window[..];
        let mut long = Vec::new();
        while offset < stop {
            let (crc, payload) = match whole_frame(rest) {
                Some((payload, after)) => {
                    let crc = [rest[4], rest[5], rest[6], rest[7]];
                    rest = after;
                    (crc, payload)
                }
                None => {
                    rest = &[];
                    let crc;
                    (crc, long) = read_frame(&mut *cleaner.file, offset, end)?;
                    (crc, &long[..])
                }
            };
            if crc != checksum(id, payload).to_le_bytes() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a frame has been damaged since it was written",
                ));
            }
            for record in records(payload) {
                if let Some(Record::Put { key, revision, .. }) = record
                    && let Some(entry) = index.current(key)
                    && entry.revision == revision
                {
                    frame.put(&entry);
                }
            }
            offset += (FRAME_HEADER + payload.len()) as u64;
            if rest.is_empty() && !long.is_empty() {
                break;
            }
        }
        Ok(Some(Step { offset, finished: offset >= end }))
    }

    /// The moved records of a step are durable.
    pub(super) fn cleaned(&mut self, step: &Step) {
        if let Some(cleaner) = &mut self.cleaner {
            cleaner.offset = step.offset;
        }
        if !step.finished {
            return;
        }
        self.cleaner = None;
        let Some(oldest) = self.sealed.pop_front() else { return };
        let path = segment_path(&self.dir, oldest.id);
        // The removal must be durable before that of the next segment: a deletion there may cover a record here.
        let removed = self.media.remove(&path).and_then(|()| self.media.sync_dir(&self.dir));
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove a cleaned segment");
        }
    }
}

fn segment_id(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()
}

/// Keeps the last unbroken run of numbers. What lies before a gap are cleaned segments whose removal a crash undid.
fn drop_strays(dir: &Path, media: &dyn Media, ids: &mut Vec<u64>) -> Result<(), Error> {
    let Some(gap) = ids.windows(2).rposition(|pair| pair[1] != pair[0] + 1) else { return Ok(()) };
    for id in ids.drain(..=gap) {
        let path = segment_path(dir, id);
        tracing::warn!(path = %path.display(), "removing a segment that had been cleaned before a crash");
        media.remove(&path).map_err(|e| failure(dir, &e))?;
    }
    Ok(())
}

fn read_headers(dir: &Path, media: &dyn Media, ids: &[u64]) -> Result<Vec<(u64, Header)>, Error> {
    let mut headers = Vec::new();
    let count = ids.len();
    for (i, id) in ids.iter().enumerate() {
        let path = segment_path(dir, *id);
        let mut bytes = [0; HEADER];
        let (read, len) = media
            .open(&path)
            .and_then(|mut file| Ok((file.read_at(0, &mut bytes)?, file.len()?)))
            .map_err(|e| failure(&path, &e))?;
        match Header::decode(&bytes[..read]) {
            Some(header) if header.format != FORMAT => {
                return Err(Error::Format {
                    path: dir.to_owned(),
                    found: header.format.to_string(),
                    supported: super::SUPPORTED,
                });
            }
            Some(header) if header.segment == *id => headers.push((*id, header)),
            // The very last segment may have been cut off at its birth; nothing was in it.
            _ if i + 1 == count && len <= HEADER as u64 => {
                media.remove(&path).map_err(|e| failure(&path, &e))?;
            }
            _ => {
                return Err(Error::Corrupt { path, offset: 0, detail: "the header is not one of this store".into() });
            }
        }
    }
    Ok(headers)
}

fn begin(dir: &Path, media: &dyn Media, header: Header) -> io::Result<Box<dyn MediaFile>> {
    let path = segment_path(dir, header.segment);
    let mut file = media.create(&path)?;
    let made = file.append(&header.encode()).and_then(|()| file.sync()).and_then(|()| media.sync_dir(dir));
    if let Err(error) = made {
        let _ = media.remove(&path);
        return Err(error);
    }
    Ok(file)
}

/// Splits a whole frame off, without checking it.
fn whole_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let payload = bytes.get(FRAME_HEADER..FRAME_HEADER.checked_add(len)?)?;
    Some((payload, &bytes[FRAME_HEADER + len..]))
}

fn read_frame(file: &mut dyn MediaFile, offset: u64, end: u64) -> io::Result<([u8; 4], Vec<u8>)> {
    let mut head = [0; FRAME_HEADER];
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the segment became shorter");
    if file.read_at(offset, &mut head)? < FRAME_HEADER {
        return Err(short());
    }
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    if len > MAX_FRAME || offset + (FRAME_HEADER + len) as u64 > end {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame reaches past its segment"));
    }
    let mut payload = vec![0; len];
    if file.read_at(offset + FRAME_HEADER as u64, &mut payload)? < len {
        return Err(short());
    }
    Ok(([head[4], head[5], head[6], head[7]], payload))
}

/// Replays one segment. With `declared` it must be whole up to there; without, it is the last, and may end in a torn frame.
/// Gives the length that counts.
fn replay(
    path: &Path,
    file: &mut dyn MediaFile,
    id: u64,
    declared: Option<u64>,
    buffer: &mut Vec<u8>,
    newest: &mut Revision,
    load: &mut impl FnMut(Record<'_>),
) -> Result<u64, Error> {
    let fail = |e: io::Error| failure(path, &e);
    let len = file.len().map_err(fail)?;
    buffer.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
    let read = file.read_at(0, buffer).map_err(fail)?;
    let end = declared.map_or(read, |d| read.min(d as usize));
    let corrupt = |offset: usize, detail: &str| Error::Corrupt {
        path: path.to_owned(),
        offset: offset as u64,
        detail: detail.to_owned(),
    };
    let mut offset = HEADER;
    while offset < end {
        let rest = &buffer[offset..end];
        let good = whole_frame(rest)
            .filter(|(payload, _)| !payload.is_empty() && rest[4..8] == checksum(id, payload).to_le_bytes());
        let Some((payload, _)) = good else {
            // Each frame was durable before the next was begun: only the last can be torn.
            let torn = declared.is_none()
                && whole_frame(rest).is_none_or(|(payload, after)| payload.is_empty() || after.is_empty());
            if torn {
                break;
            }
            return Err(corrupt(offset, "the checksum does not match"));
        };
        for record in records(payload) {
            let record = record.ok_or_else(|| corrupt(offset, "a record makes no sense"))?;
            let (Record::Put { revision, .. } | Record::Delete { revision, .. }) = record;
            *newest = (*newest).max(revision);
            load(record);
        }
        offset += FRAME_HEADER + payload.len();
    }
    match declared {
        Some(declared) if declared != offset as u64 => {
            Err(corrupt(offset, "the segment is shorter than its successor says"))
        }
        _ => Ok(offset as u64),
    }
}
