//! A second node on this machine, in namespaces of its own, as `examples/node-in-namespace.sh` makes them.

use crate::program;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// The network between this machine and a node in namespaces, with the node's data directory; removed when dropped.
pub struct Place {
    name: String,
    number: String,
    /// The node's data directory.
    pub dir: PathBuf,
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/node-in-namespace.sh")
}

impl Place {
    /// Makes the network for a node of this name, of which no other test may have one.
    pub fn new(name: &str) -> Place {
        let number = (50 + std::process::id() % 200).to_string();
        let dir = tempfile::Builder::new().prefix("caravel-node-").tempdir().unwrap().keep();
        let place = Place { name: name.to_owned(), number, dir };
        let out = place.script("net", &[]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        place
    }

    fn script(&self, verb: &str, words: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command.arg(script()).args([verb, &self.name, &self.number]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// The address of this machine as the node reaches it.
    pub fn here(&self) -> String {
        format!("172.31.{}.1", self.number)
    }

    /// The node's address.
    pub fn there(&self) -> String {
        format!("172.31.{}.2", self.number)
    }

    /// Runs `caravel agent` there to its end, which must be soon.
    pub fn try_agent(&self, words: &[&str]) -> Output {
        self.agent_command(words).output().unwrap()
    }

    fn agent_command(&self, words: &[&str]) -> Command {
        let (program, dir) = (program(), self.dir.display().to_string());
        let mut all = vec![program.to_str().unwrap(), "agent", "--data-dir", &dir];
        all.extend(words);
        self.script("run", &all)
    }

    /// Starts `caravel agent` there.
    pub fn agent(&self, words: &[&str]) -> Node {
        let log = self.dir.join("agent.log");
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child = self.agent_command(words).stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        Node { child, log }
    }

    /// Puts the tests' image into the node.
    pub fn build_image(&self) {
        let context = crate::own::busybox_context();
        let out = Command::new(program())
            .args(["image", "build", "-t", "test/busybox:1", &context, "--data-dir"])
            .arg(&self.dir)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let out = self.script("rm", &[]).output().unwrap();
        let _ = std::fs::remove_dir_all(&self.dir);
        if !out.status.success() && !std::thread::panicking() {
            panic!("rm: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

/// A running node; lost when dropped.
pub struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Takes its power away: everything in its namespaces dies at once.
    pub fn lose(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.lose();
        if std::thread::panicking() {
            eprintln!("the node said:\n{}", self.log());
        }
    }
}
