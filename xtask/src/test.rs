//! `cargo xtask test`: lint, the rooms' own tests, then whole-cluster tests, and nothing left behind.

use crate::cluster::{self, Cluster, Profile};
use crate::{ledger, lint, residue, setup, sh};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::process::Command;

#[derive(clap::Args)]
pub struct Args {
    /// A room (`node`), a file of whole-cluster tests (`workloads`), or part of a test's name; all without it
    name: Option<String>,
    /// Leave formatting and clippy out
    #[arg(long)]
    no_lint: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(setup::ALL)?;
    setup::ensure_nextest()?;
    let before = residue::snapshot();
    match &args.name {
        None => all(args)?,
        Some(name) => part(name)?,
    }
    before.compare().context("a test leaves the machine as it was")?;
    println!("==> all passed, and nothing was left behind");
    Ok(())
}

/// Whole-cluster tests wait far more than they work.
const AT_ONCE: &str = "6";

fn all(args: &Args) -> Result<()> {
    if !args.no_lint {
        lint::run()?;
    }
    println!("==> building everything");
    sh::run(&mut sh::cmd(&["cargo", "build", "--workspace", "--bins", "--tests"]))?;
    let program = cluster::build(Profile::Debug)?;
    println!("==> the rooms' own tests");
    // Whatever fails, the rest still runs: one run shall tell all that is wrong.
    let rooms = sh::run(&mut tests(&program, "not package(caravel-tests)"));
    println!("==> the ledger");
    let ledger = ledger::run();
    println!("==> whole-cluster tests");
    let cluster = whole_cluster(&program, "package(caravel-tests)");
    rooms.and(ledger).and(cluster)
}

fn part(name: &str) -> Result<()> {
    let program = cluster::build(Profile::Debug)?;
    let is_room = sh::root().join("crates").join(name).is_dir();
    let is_file = sh::root().join(format!("tests/tests/{name}.rs")).is_file();
    if is_room {
        let package = if name == "caravel" { name.into() } else { format!("caravel-{name}") };
        sh::run(&mut tests(&program, &format!("package({package})")))?;
    }
    if is_file {
        return whole_cluster(&program, &format!("package(caravel-tests) & binary({name})"));
    }
    if is_room {
        return Ok(());
    }
    let of_rooms = format!("not package(caravel-tests) & test({name})");
    let of_clusters = format!("package(caravel-tests) & test({name})");
    let (in_rooms, in_clusters) = (any(&of_rooms)?, any(&of_clusters)?);
    if in_rooms {
        sh::run(&mut tests(&program, &of_rooms))?;
    }
    if in_clusters {
        whole_cluster(&program, &of_clusters)?;
    }
    anyhow::ensure!(
        in_rooms || in_clusters,
        "{name:?} is no room (a directory under crates), no file under tests/tests, and in no test's name"
    );
    Ok(())
}

/// Whether a nextest filter selects any test.
fn any(select: &str) -> Result<bool> {
    let list = ["cargo", "nextest", "list", "--workspace", "--message-format", "oneline", "-E", select];
    Ok(!sh::read(&mut sh::cmd(&list))?.trim().is_empty())
}

/// One cluster serves all tests that do not need one of their own.
fn whole_cluster(program: &PathBuf, select: &str) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("caravel-test-{}", std::process::id()));
    let mut cluster = Cluster::up(program, &dir)?;
    // The image that the tests' Pods run.
    let context = busybox_context()?;
    sh::read(&mut cluster.caravel(&["image", "build", "-t", "test/busybox:1", &context]))?;
    let mut tests = tests(program, select);
    tests.args(["--test-threads", AT_ONCE]).env("CARAVEL_TEST_DIR", &cluster.dir).env("CARAVEL_TEST_IMAGE", &context);
    let result = sh::run(&mut tests);
    if result.is_err() {
        let log = std::fs::read_to_string(cluster.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(60).collect();
        eprintln!("--- the end of the cluster's log\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    let purged = cluster.purge();
    result?;
    purged
}

/// The tests that a nextest filter selects. Always of the whole workspace: another selection of packages would unify
/// features otherwise and build everything once more.
fn tests(program: &PathBuf, select: &str) -> Command {
    let mut command = sh::cmd(&["cargo", "nextest", "run", "--workspace", "--no-fail-fast", "--no-tests=pass"]);
    command.args(["-E", select]).env("CARAVEL_BIN", program);
    command
}

/// busybox with all its names, as a build context.
pub fn busybox_context() -> Result<String> {
    let dir = sh::target().join("test-image");
    let bin = dir.join("root/bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::create_dir_all(dir.join("root/tmp"))?;
    std::fs::copy("/bin/busybox", bin.join("busybox")).context("busybox-static")?;
    for applet in sh::read(&mut sh::cmd(&["/bin/busybox", "--list"]))?.lines().filter(|a| *a != "busybox") {
        if let Err(e) = std::os::unix::fs::symlink("busybox", bin.join(applet))
            && e.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(e.into());
        }
    }
    std::fs::write(dir.join("Containerfile"), "FROM scratch\nCOPY root /\nCMD [\"sh\"]\n")?;
    Ok(dir.display().to_string())
}
