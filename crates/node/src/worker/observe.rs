//! Reading what the runtime holds of one Pod, and containers' last words.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use caravel_runtime as rt;

use crate::names;
use crate::pod::observed::{self, ContainerState, Observed, Record};
use crate::shared::Shared;

/// A termination message at most, bytes.
const MAX_MESSAGE: usize = 4096;
/// What of the log stands in for it: so many bytes and lines at most.
const MAX_LOG_TAIL: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// Reads a Pod. What cannot change any more is read once.
#[derive(Default)]
pub struct Observer {
    ended: HashMap<String, Record>,
    running: HashMap<String, Record>,
    sandboxes: HashMap<String, observed::Sandbox>,
}

impl Observer {
    /// What the runtime holds of the Pod now.
    pub async fn read(&mut self, shared: &Shared, uid: &str) -> rt::Result<Observed> {
        let labels = rt::StringMap::from([(names::POD_UID.to_owned(), uid.to_owned())]);
        let sandbox_filter = rt::SandboxFilter { labels: labels.clone(), ..Default::default() };
        let container_filter = rt::ContainerFilter { labels, ..Default::default() };
        let (sandboxes, containers) = tokio::try_join!(
            shared.runtime.list_sandboxes(&sandbox_filter),
            shared.runtime.list_containers(&container_filter)
        )?;
        let mut out = Observed::default();
        for s in &sandboxes {
            if let Some(s) = self.sandbox(shared, s).await? {
                out.sandboxes.push(s);
            }
        }
        for c in &containers {
            if let Some(r) = self.container(shared, c).await? {
                out.records.push(r);
            }
        }
        self.ended.retain(|id, _| containers.iter().any(|c| &c.id == id));
        self.running.retain(|id, _| containers.iter().any(|c| &c.id == id));
        self.sandboxes.retain(|id, _| sandboxes.iter().any(|s| &s.id == id));
        out.sort();
        let mut owners = shared.owners.lock();
        for id in out.sandboxes.iter().map(|s| &s.id).chain(out.records.iter().map(|r| &r.id)) {
            owners.entry(id.clone()).or_insert_with(|| uid.to_owned());
        }
        Ok(out)
    }

    async fn sandbox(&mut self, shared: &Shared, s: &rt::Sandbox) -> rt::Result<Option<observed::Sandbox>> {
        let ready = s.state == rt::SandboxState::Ready;
        if let Some(known) =
            self.sandboxes.get(&s.id).filter(|k| k.ready == ready && (!ready || !k.ips.is_empty() || k.host_network))
        {
            return Ok(Some(known.clone()));
        }
        let status = match shared.runtime.sandbox_status(&s.id).await {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        let seen = observed::sandbox(&status);
        self.sandboxes.insert(s.id.clone(), seen.clone());
        Ok(Some(seen))
    }

    async fn container(&mut self, shared: &Shared, c: &rt::Container) -> rt::Result<Option<Record>> {
        let known = match c.state {
            ContainerState::Exited => self.ended.get(&c.id),
            ContainerState::Running => self.running.get(&c.id),
            _ => None,
        };
        if let Some(r) = known {
            return Ok(Some(r.clone()));
        }
        let status = match shared.runtime.container_status(&c.id).await {
            Err(e) if e.is_not_found() => return Ok(None),
            other => other?,
        };
        let mut r = observed::record(&c.sandbox_id, &status);
        match r.state {
            ContainerState::Exited => {
                let words = last_words(&status);
                if !words.is_empty() {
                    r.message = if r.message.is_empty() { words } else { format!("{}: {words}", r.message) };
                }
                self.running.remove(&c.id);
                self.ended.insert(c.id.clone(), r.clone());
            }
            ContainerState::Running => {
                self.running.insert(c.id.clone(), r.clone());
            }
            _ => {}
        }
        Ok(Some(r))
    }
}

/// The termination message: the file's content or, if the policy says so and the container failed, the end of its log.
fn last_words(s: &rt::ContainerStatus) -> String {
    let path = s.annotations.get(names::TERMINATION_PATH).map(String::as_str).unwrap_or_default();
    let mount = s.mounts.iter().find(|m| !path.is_empty() && m.container_path == path);
    let text = mount.map(|m| head(Path::new(&m.host_path))).unwrap_or_default();
    let fallback = s.annotations.get(names::TERMINATION_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if text.is_empty() && fallback && s.exit_code != 0 {
        return log_tail(Path::new(&s.log_path));
    }
    text
}

fn head(path: &Path) -> String {
    let mut buf = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(MAX_MESSAGE as u64).read_to_end(&mut buf));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&buf).into_owned()
}

/// The last lines of a container's log without their prefix.
fn log_tail(path: &Path) -> String {
    // Each line carries some 40 bytes of prefix; short lines need more of the file.
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let len = file.metadata().map_or(0, |m| m.len());
    let from = len.saturating_sub(MAX_LOG_TAIL * 16);
    let mut buf = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.take(MAX_LOG_TAIL * 16).read_to_end(&mut buf).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&buf);
    let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
    if from > 0 && !lines.is_empty() {
        lines.remove(0);
    }
    let skip = lines.len().saturating_sub(MAX_LOG_LINES);
    let all: String = lines[skip..].iter().map(|l| content(l)).collect();
    let mut start = all.len().saturating_sub(MAX_LOG_TAIL as usize);
    while !all.is_char_boundary(start) {
        start += 1;
    }
    all[start..].to_owned()
}

/// `<time> <stream> <F|P> <content>` as its content; a partial line has no end.
fn content(line: &str) -> String {
    let mut parts = line.splitn(4, ' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(_), Some("P"), Some(c)) => c.trim_end_matches('\n').to_owned(),
        (Some(_), Some(_), Some(_), Some(c)) => c.to_owned(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_log_s_end_is_read() {
        let path = std::env::temp_dir().join(format!("logtail-{}", std::process::id()));
        let lines: String = (0..200).map(|i| format!("2026-01-01T00:00:00Z stdout F line {i}\n")).collect();
        std::fs::write(&path, lines + "2026-01-01T00:00:00Z stderr P a\n2026-01-01T00:00:00Z stderr F b\n").unwrap();
        let tail = log_tail(&path);
        assert!(tail.ends_with("line 199\nab\n"), "{tail}");
        assert!(tail.lines().count() <= MAX_LOG_LINES);
        std::fs::remove_file(path).unwrap();
    }
}
