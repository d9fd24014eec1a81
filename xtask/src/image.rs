//! The demo's image: nginx unpacked from Debian's packages, with the libraries it needs.

use crate::sh;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Unpacks nginx into a build context with a Containerfile, and returns its directory.
pub fn nginx_context(version: &str) -> Result<PathBuf> {
    let work = sh::target().join("demo-image");
    let root = work.join("root");
    if !root.join("usr/sbin/nginx").is_file() {
        unpack(&work, &root)?;
    }
    for dir in ["var/log/nginx", "var/lib/nginx", "run", "tmp", "etc/nginx", "usr/share/nginx/html"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::write(root.join("etc/nginx/nginx.conf"), NGINX_CONF)?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/false\nwww-data:x:33:33::/:/bin/false\n")?;
    std::fs::write(root.join("etc/group"), "root:x:0:\nwww-data:x:33:\n")?;
    std::fs::write(root.join("etc/demo-version"), version)?;
    let file = "FROM scratch\nCOPY root /\nEXPOSE 8080\nSTOPSIGNAL SIGQUIT\nCMD [\"/usr/sbin/nginx\", \"-g\", \"daemon off;\"]\n";
    std::fs::write(work.join("Containerfile"), file)?;
    Ok(work)
}

/// Fetches nginx by name and copies its libraries from this machine, whose packages it was built for.
fn unpack(work: &Path, root: &Path) -> Result<()> {
    println!("==> unpacking nginx from Debian's packages");
    let debs = work.join("debs");
    std::fs::create_dir_all(&debs)?;
    std::fs::create_dir_all(root)?;
    // apt drops privileges to _apt for downloads and warns when it may not write here; harmless as root.
    let mut download = sh::cmd(&[
        "apt-get",
        "-q",
        "download",
        "nginx",
        "nginx-common",
        "libpcre2-8-0",
        "libssl3",
        "zlib1g",
        "libcrypt1",
    ]);
    download.current_dir(&debs);
    if sh::read(&mut download).is_err() {
        sh::run(&mut sh::cmd(&["apt-get", "-q", "update"]))?;
        sh::read(&mut download).context("nginx's packages could not be fetched")?;
    }
    for entry in std::fs::read_dir(&debs)? {
        let deb = entry?.path().display().to_string();
        sh::run(&mut sh::cmd(&["dpkg", "-x", &deb, &root.display().to_string()]))?;
    }
    let nginx = root.join("usr/sbin/nginx");
    if !nginx.is_file() {
        bail!("Debian's nginx package has no /usr/sbin/nginx");
    }
    for library in libraries(&nginx)? {
        copy_into(root, Path::new(&library))?;
    }
    Ok(())
}

fn libraries(program: &Path) -> Result<BTreeSet<String>> {
    let said = sh::read(&mut sh::cmd(&["ldd", &program.display().to_string()]))?;
    if let Some(line) = said.lines().find(|l| l.contains("not found")) {
        bail!("nginx needs a library that is not on this machine: {}", line.trim());
    }
    Ok(said.split_whitespace().filter(|w| w.starts_with('/')).map(str::to_owned).collect())
}

fn copy_into(root: &Path, file: &Path) -> Result<()> {
    let to = root.join(file.strip_prefix("/")?);
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::copy(file, &to).with_context(|| format!("{} → {}", file.display(), to.display()))?;
    Ok(())
}

const NGINX_CONF: &str = "\
user www-data;
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    access_log off;
    default_type text/html;
    server {
        listen 8080;
        root /usr/share/nginx/html;
        location = /healthz { return 200 'ok'; }
    }
}
";
