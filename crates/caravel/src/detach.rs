//! Running the cluster in a process of its own, and hearing from it when it is Ready.

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the descriptor on which a detached process tells how far it is.
const NOTIFY: &str = "CARAVEL_NOTIFY_FD";

/// Starts this program again with `words`, in a session of its own, logging to `log`. Returns when it says it is Ready;
/// calls `step` with every line it says before.
pub fn start(words: &[String], log: &Path, step: impl FnMut(&str)) -> Result<()> {
    start_with(words, &[], log, step)
}

/// The same, with more variables in its environment.
pub fn start_with(words: &[String], more: &[(&str, &str)], log: &Path, mut step: impl FnMut(&str)) -> Result<()> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let out = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(words).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).current_dir("/");
    let fd = writer.as_raw_fd();
    command.env(NOTIFY, fd.to_string()).envs(more.iter().copied());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            let writer = std::os::fd::BorrowedFd::borrow_raw(fd);
            nix::fcntl::fcntl(writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
            Ok(())
        });
    }
    let mut child = command.spawn().context("could not start")?;
    drop(writer);
    for line in BufReader::new(std::fs::File::from(reader)).lines() {
        match line?.split_once(' ') {
            Some(("ready", _)) => return Ok(()),
            Some(("step", what)) => step(what),
            Some(("failed", why)) => {
                let _ = child.wait();
                bail!("{why}");
            }
            _ => {}
        }
    }
    let status = child.wait()?;
    bail!("it ended ({status}) before it was Ready; its log is {}", log.display())
}

/// The other end: tells the process that waits for us, if one does.
pub struct Notify {
    to: Option<OwnedFd>,
}

impl Notify {
    pub fn from_environment() -> Notify {
        let fd = std::env::var(NOTIFY).ok().and_then(|v| v.parse::<i32>().ok());
        // Children of ours must not hold it open.
        let close_on_exec = FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC);
        // SAFETY: our parent made this descriptor for us and nobody else in this process knows it.
        let to = fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Notify { to: to.filter(|fd| nix::fcntl::fcntl(fd, close_on_exec).is_ok()) }
    }

    /// Whether a process waits for us.
    pub fn is_detached(&self) -> bool {
        self.to.is_some()
    }

    fn say(&self, word: &str, text: &str) {
        if let Some(to) = &self.to {
            let line = format!("{word} {}\n", text.replace('\n', "; "));
            // The one who waits may have gone.
            let _ = nix::unistd::write(to, line.as_bytes());
        }
    }

    pub fn step(&self, what: &str) {
        self.say("step", what);
    }

    pub fn failed(&self, why: &str) {
        self.say("failed", why);
    }

    pub fn ready(&mut self) {
        self.say("ready", "now");
        self.to = None;
    }
}
