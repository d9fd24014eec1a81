//! A whole cluster of a test's own, beside the shared one.

use crate::{Namespace, program};
use nix::fcntl::{Flock, FlockArg};
use std::path::PathBuf;
use std::process::{Command, Output};

/// `caravel up --detach` with a data directory and port of its own; purged when dropped.
pub struct OwnCluster {
    pub dir: PathBuf,
}

impl OwnCluster {
    /// Brings one up, with the image that the tests' Pods run.
    pub fn up() -> OwnCluster {
        Self::up_with(&[])
    }

    /// The same, with more words to `up`.
    pub fn up_with(more: &[&str]) -> OwnCluster {
        let cluster = OwnCluster { dir: tempfile::Builder::new().prefix("caravel-own-").tempdir().unwrap().keep() };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        cluster.ok(&[&["up", "--detach", "--port", &port], more].concat());
        cluster.ok(&["image", "build", "-t", "test/busybox:1", &busybox_context()]);
        cluster
    }

    /// Runs the program with this cluster's data directory.
    pub fn run(&self, words: &[&str]) -> Output {
        Command::new(program()).args(words).arg("--data-dir").arg(&self.dir).output().unwrap()
    }

    /// The same, which must succeed; what it printed.
    pub fn ok(&self, words: &[&str]) -> String {
        let out = self.run(words);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let log = || std::fs::read_to_string(self.dir.join("logs/caravel.log")).unwrap_or_default();
        assert!(out.status.success(), "caravel {}: {said}\n{}", words.join(" "), log());
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// A fresh namespace in it.
    pub fn namespace(&self, prefix: &str) -> Namespace {
        Namespace::in_cluster(prefix, self.dir.join("kubeconfig"))
    }

    /// The program's process.
    pub fn pid(&self) -> i32 {
        std::fs::read_to_string(self.dir.join("run/caravel.pid")).unwrap().trim().parse().unwrap()
    }

    /// Kills the program as a crash would, and waits until it is gone.
    pub fn kill(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        // Its threads may still be ending when its first one is gone: the lock that they hold tells when the last one is.
        let lock = || std::fs::File::options().append(true).open(self.dir.join("run/lock")).unwrap();
        while Flock::lock(lock(), FlockArg::LockExclusiveNonblock).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        let out = self.run(&["down", "--purge"]);
        if !out.status.success() && !std::thread::panicking() {
            panic!("purge: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

/// The build context of the image that the tests' Pods run.
pub(crate) fn busybox_context() -> String {
    std::env::var("CARAVEL_TEST_IMAGE").expect("CARAVEL_TEST_IMAGE: run the tests with `cargo xtask test`")
}
