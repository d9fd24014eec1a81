//! A cluster of the freshly built program, for the other commands.

use crate::sh;
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which build of the program to use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Debug,
    Release,
}

/// Builds the program and returns its path.
pub fn build(profile: Profile) -> Result<PathBuf> {
    println!("==> building caravel ({})", if profile == Profile::Release { "release" } else { "debug" });
    // The same packages as the tests' build, and one test, so that features unify as theirs do (with those of
    // dev-dependencies) and nothing is built twice.
    let mut command = sh::cmd(&["cargo", "build", "--workspace", "--bins", "--test", "up"]);
    let dir = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            command = sh::cmd(&["cargo", "build", "--release", "-p", "caravel"]);
            "release"
        }
    };
    sh::run(&mut command)?;
    Ok(sh::target().join(dir).join("caravel"))
}

/// A port on loopback that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A running cluster of one; taken down and purged when dropped.
pub struct Cluster {
    program: PathBuf,
    pub dir: PathBuf,
    down: bool,
}

impl Cluster {
    /// `caravel up --detach` in `dir`; returns once it is Ready.
    pub fn up(program: &Path, dir: &Path) -> Result<Cluster> {
        let cluster = Cluster { program: program.to_owned(), dir: dir.to_owned(), down: false };
        let port = free_port()?.to_string();
        let up = cluster.caravel(&["up", "--detach", "--port", &port]).status().context("caravel up")?;
        anyhow::ensure!(up.success(), "`caravel up` ended with {up}; its log is {}", cluster.log().display());
        Ok(cluster)
    }

    /// The program with this cluster's data directory.
    pub fn caravel(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--data-dir").arg(&self.dir).current_dir(sh::root());
        command
    }

    /// Where the admin kubeconfig is.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Where the program logs.
    pub fn log(&self) -> PathBuf {
        self.dir.join("logs/caravel.log")
    }

    /// Stock kubectl against this cluster.
    pub fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(words).current_dir(sh::root());
        // Its discovery cache would outlive the cluster.
        command.arg("--cache-dir").arg(self.dir.join("kubectl-cache"));
        command
    }

    /// Takes it down and removes everything of it.
    pub fn purge(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.down, true) {
            return Ok(());
        }
        sh::run(&mut self.caravel(&["down", "--purge"]))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.purge() {
            eprintln!("could not take the cluster in {} down: {error:#}", self.dir.display());
        }
    }
}
