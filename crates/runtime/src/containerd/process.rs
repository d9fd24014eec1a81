//! One daemon process: started detached, found again, watched, ended.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use tokio::io::unix::AsyncFd;

use super::config::Config;
use super::host::Programs;
use crate::{Error, Result};

/// A log larger than this is set aside.
const MAX_LOG: u64 = 8 << 20;

/// A process that may or may not be our child, held by a descriptor so that its number cannot be reused under us.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    fd: AsyncFd<OwnedFd>,
}

impl Process {
    /// The process of this number; `None` when there is none. Needs a tokio runtime.
    pub fn open(pid: i32) -> Result<Option<Self>> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or −1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let error = std::io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::ESRCH) {
                return Ok(None);
            }
            return Err(Error::io(format!("opening process {pid}"), error));
        }
        // SAFETY: the kernel gave us this descriptor and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: the AsyncFd owns the descriptor, which stays open and the same as long as it lives.
        let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }
            .map_err(|e| Error::io(format!("watching process {pid}"), e.into()))?;
        Ok(Some(Process { pid, fd }))
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it runs.
    pub fn is_alive(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.fd.get_ref().as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) == 0 }
    }

    /// Returns when it has ended; takes it from the process table when it is our child.
    pub async fn ended(&self) {
        // An error means that the descriptor cannot be watched, which then is as good as an end.
        let _ = self.fd.readable().await.map(|mut ready| ready.retain_ready());
        self.reap();
    }

    fn reap(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid);
        let _ = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let fd = self.fd.get_ref().as_raw_fd();
        // SAFETY: pidfd_send_signal with a valid descriptor, no siginfo and no flags.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal as i32, std::ptr::null::<u8>(), 0) };
    }

    /// TERM, and KILL when that does not help within `grace`.
    pub async fn end(&self, grace: Duration) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        if tokio::time::timeout(grace, self.ended()).await.is_err() {
            self.signal(nix::sys::signal::Signal::SIGKILL);
            let _ = tokio::time::timeout(Duration::from_secs(10), self.ended()).await;
        }
    }
}

/// The daemon that an earlier start left running: named by the pid file, and the program it should be.
pub fn running(config: &Config) -> Result<Option<Process>> {
    let Ok(text) = std::fs::read_to_string(config.pid_file()) else { return Ok(None) };
    let Ok(pid) = text.trim().parse::<i32>() else { return Ok(None) };
    let Some(process) = Process::open(pid)? else { return Ok(None) };
    // The number may belong to another process by now; ours was started with our configuration file.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let file = config.file();
    let ours = command.split(|b| *b == 0).any(|argument| argument == file.as_os_str().as_encoded_bytes());
    Ok((ours && process.is_alive()).then_some(process))
}

/// Starts the daemon in a session of its own with nothing of ours but its log. Blocking, briefly.
pub fn start(config: &Config, programs: &Programs) -> Result<Process> {
    let log = open_log(&config.log())?;
    let copy = log.try_clone().map_err(|e| Error::io("copying the log's descriptor", e))?;
    let mut command = Command::new(&programs.containerd);
    command
        .arg("--config")
        .arg(config.file())
        .args(["--log-level", "warn"])
        .current_dir("/")
        .env_clear()
        .env("PATH", programs.path())
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(copy);
    for (key, value) in std::env::vars_os() {
        if key.to_str().is_some_and(passes) {
            command.env(key, value);
        }
    }
    // SAFETY: between fork and exec only async-signal-safe calls are made.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(std::io::Error::last_os_error());
            }
            // Whoever reads a pipe of ours to its end must not wait for containerd. Marking instead of closing leaves
            // the standard library's own pipe, which reports a failing exec.
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
            libc::umask(0o022);
            // This program's heap does without huge pages, and that would go on to containers, which may want them.
            libc::prctl(libc::PR_SET_THP_DISABLE, 0, 0, 0, 0);
            Ok(())
        });
    }
    let child = command.spawn().map_err(|e| Error::io(format!("starting {}", programs.containerd.display()), e))?;
    let pid = child.id() as i32;
    std::fs::write(config.pid_file(), format!("{pid}\n"))
        .map_err(|e| Error::io(format!("writing {}", config.pid_file().display()), e))?;
    let process = Process::open(pid)?;
    process.ok_or_else(|| Error::Host(format!("containerd ended at once; see {}", config.log().display())))
}

/// Settings of the environment that containerd is to know: proxies, for pulls.
fn passes(key: &str) -> bool {
    let key = key.to_ascii_uppercase();
    matches!(key.as_str(), "HTTP_PROXY" | "HTTPS_PROXY" | "NO_PROXY" | "ALL_PROXY" | "SSL_CERT_FILE" | "SSL_CERT_DIR")
}

fn open_log(path: &Path) -> Result<File> {
    shrink_log(path);
    let what = |e| Error::io(format!("opening {}", path.display()), e);
    OpenOptions::new().create(true).append(true).open(path).map_err(what)
}

/// Sets a log's content aside when it is large. The daemon appends to the file that it has open, so that one is emptied.
pub fn shrink_log(path: &Path) {
    if path.metadata().is_ok_and(|m| m.len() > MAX_LOG) && std::fs::copy(path, path.with_extension("log.1")).is_ok() {
        let _ = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    }
}

/// The end of a log, for an error message.
pub fn log_tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// Waits for a file to appear or for the process to end; sockets have no event before they exist, so this looks every
/// few milliseconds, for a bounded time.
pub async fn wait_for_socket(socket: &Path, process: &Process, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if tokio::net::UnixStream::connect(socket).await.is_ok() {
            return true;
        }
        if Instant::now() > deadline || !process.is_alive() {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn a_large_log_is_set_aside_under_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut writer = open_log(&path).unwrap();
        writer.write_all(&vec![b'a'; MAX_LOG as usize]).unwrap();
        shrink_log(&path);
        assert_eq!(path.metadata().unwrap().len(), MAX_LOG);
        writer.write_all(b"b").unwrap();
        shrink_log(&path);
        writer.write_all(b"after").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"after");
        assert_eq!(path.with_extension("log.1").metadata().unwrap().len(), MAX_LOG + 1);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen_and_a_pid_file_of_another_is_not_believed() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id() as i32).unwrap().unwrap();
        assert!(process.is_alive());
        let dir = tempfile::tempdir().unwrap();
        let config = Config::new(dir.path(), 0);
        std::fs::create_dir_all(config.dir()).unwrap();
        std::fs::write(config.pid_file(), process.pid().to_string()).unwrap();
        assert!(running(&config).unwrap().is_none(), "sleep is no containerd of ours");
        process.end(Duration::from_secs(5)).await;
        assert!(!process.is_alive());
        assert!(Process::open(process.pid()).unwrap().is_none());
        // It was taken from the process table already.
        assert!(child.wait().is_err());
    }
}
