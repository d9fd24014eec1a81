//! What a fresh machine needs beyond Rust, from Debian's packages by name.

use crate::sh;
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// A program (or file, by absolute path) and the package that brings it.
pub type Need = (&'static str, &'static str);

/// To build: the etcd client's protocol is compiled at build time.
pub const BUILD: &[Need] = &[
    ("cc", "gcc"),
    ("protoc", "protobuf-compiler"),
    ("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev"),
];

/// To run a node.
pub const NODE: &[Need] =
    &[("containerd", "containerd"), ("runc", "runc"), ("nft", "nftables"), ("ip", "iproute2"), ("mount", "util-linux")];

/// To run the tests and the demo.
pub const TEST: &[Need] = &[
    ("etcd", "etcd-server"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("busybox", "busybox-static"),
    ("kubectl", "kubernetes-client"),
    ("curl", "curl"),
    ("/usr/bin/python3", "python3"),
    ("/usr/lib/python3/dist-packages/kubernetes", "python3-kubernetes"),
];

/// All of it.
pub const ALL: &[Need] = &[];

fn present(what: &str) -> bool {
    if what.starts_with('/') { std::path::Path::new(what).exists() } else { sh::has(what) }
}

/// Installs whatever of `needs` is missing; [`ALL`] stands for everything.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let all = [BUILD, NODE, TEST].concat();
    let needs = if needs.is_empty() { &all } else { needs };
    let missing: Vec<&str> = needs.iter().filter(|(what, _)| !present(what)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("==> installing from Debian's packages: {}", missing.join(" "));
    if !sh::has("apt-get") {
        bail!("this machine has no apt-get; install the equivalents of these yourself: {}", missing.join(" "));
    }
    let apt = |words: &[&str]| {
        let mut command = sh::cmd(&[&["apt-get", "-q", "-o", "Dpkg::Use-Pty=0"], words].concat());
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // Packages with a service would start it; the programs are all we want.
        command.env("RUNLEVEL", "1");
        command
    };
    sh::run(&mut apt(&["update"])).context("apt-get needs root and a reachable package mirror")?;
    sh::run(&mut apt(&[&["install", "-y", "--no-install-recommends"], &missing[..]].concat()))
}

/// The test runner, from crates.io where it is missing.
pub fn ensure_nextest() -> Result<()> {
    let at_home = std::env::var_os("HOME").is_some_and(|h| PathBuf::from(h).join(".cargo/bin/cargo-nextest").is_file());
    if sh::has("cargo-nextest") || at_home {
        return Ok(());
    }
    println!("==> building the test runner, once: cargo install cargo-nextest");
    sh::run(&mut sh::cmd(&["cargo", "install", "--locked", "cargo-nextest"]))
}
