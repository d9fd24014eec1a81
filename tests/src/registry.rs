//! A registry on this machine (Debian's docker-registry, filled by skopeo), for tests of pulls.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// bcrypt of `secret`, the only password there is.
const SECRET: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// A registry; it ends when dropped.
pub struct Registry {
    process: Child,
    port: u16,
    credentials: Option<(String, String)>,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Starts one, which wants these credentials if any (the password must be `secret`). `None`, said aloud, where the
    /// programs are not installed.
    pub fn start(credentials: Option<(&str, &str)>) -> Option<Registry> {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {at}/data\nhttp:\n  addr: 127.0.0.1:{port}\n"
        );
        if let Some((user, password)) = credentials {
            assert_eq!(password, "secret", "the registry knows one password");
            std::fs::write(dir.path().join("htpasswd"), format!("{user}:{SECRET}\n")).unwrap();
            config.push_str(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {at}/htpasswd\n"));
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut serve = Command::new("docker-registry");
        serve.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(process) = serve.spawn() else {
            eprintln!("skipped: docker-registry is not installed");
            return None;
        };
        let credentials = credentials.map(|(u, p)| (u.to_owned(), p.to_owned()));
        let registry = Registry { process, port, credentials, dir };
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// `address:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an image of these files (path, content) as `name`; its full name.
    pub fn push(&self, name: &str, files: &[(&str, &str)]) -> String {
        let archive = self.archive(files);
        let image = format!("{}/{name}", self.host());
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--quiet"]);
        if let Some((user, password)) = &self.credentials {
            copy.arg(format!("--dest-creds={user}:{password}"));
        }
        run(copy.arg(format!("docker-archive:{}", archive.display())).arg(format!("docker://{image}")));
        image
    }

    /// What `docker save` would write.
    fn archive(&self, files: &[(&str, &str)]) -> std::path::PathBuf {
        let root = tempfile::tempdir_in(self.dir.path()).unwrap();
        let tree = root.path().join("tree");
        for (path, content) in files {
            let path = tree.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        tar(&root.path().join("layer.tar"), &tree, &["."]);
        let sum = run(Command::new("sha256sum").arg(root.path().join("layer.tar")));
        let digest = sum.split_whitespace().next().unwrap();
        let config = serde_json::json!({"architecture":"amd64","os":"linux","config":{},
            "rootfs":{"type":"layers","diff_ids":[format!("sha256:{digest}")]}});
        std::fs::write(root.path().join("c.json"), config.to_string()).unwrap();
        let manifest = serde_json::json!([{"Config":"c.json","RepoTags":[],"Layers":["layer.tar"]}]);
        std::fs::write(root.path().join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.dir.path().join("image.tar");
        tar(&archive, root.path(), &["c.json", "layer.tar", "manifest.json"]);
        archive
    }
}

fn tar(to: &Path, from: &Path, names: &[&str]) {
    run(Command::new("tar").arg("-cf").arg(to).arg("-C").arg(from).args(names));
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
