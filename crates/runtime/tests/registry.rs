//! Pulls from a real registry (Debian's docker-registry, filled by skopeo) on this machine. Without them the test says
//! so and passes.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use caravel_runtime::{Auth, PullRequest, Runtime};
use common::Node;

struct Registry {
    process: std::process::Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Registry {
    /// A registry with `app:1` in it, which wants the credentials `user:secret` when `locked`.
    fn start(locked: bool) -> Option<Registry> {
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // bcrypt of "secret".
        let line = "user:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
        std::fs::write(dir.path().join("htpasswd"), line).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n", dir.path().display());
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n{}",
            dir.path().join("data").display(),
            if locked { auth.as_str() } else { "" }
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let registry = Registry { process, port, dir };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let archive = registry.dir.path().join("image.tar");
        common::docker_archive(&archive, "app:1");
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--quiet"]);
        if locked {
            copy.args(["--dest-creds", "user:secret"]);
        }
        let output = copy
            .arg(format!("docker-archive:{}", archive.display()))
            .arg(format!("docker://127.0.0.1:{port}/app:1"))
            .output()
            .ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pull(image: String) -> PullRequest {
    PullRequest { image, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_pulled_from_local_and_mirrored_registries() {
    let Some(registry) = Registry::start(false) else {
        eprintln!("skipped: needs docker-registry and skopeo");
        return;
    };
    let Some(node) = Node::start("pull").await else { return };
    let cri = node.daemon.runtime();
    let name = format!("127.0.0.1:{}/app:1", registry.port);
    let reference = cri.pull_image(&pull(name.clone())).await.unwrap();
    let image = cri.image_status(&name).await.unwrap().unwrap();
    assert!(reference == image.id || image.repo_digests.contains(&reference), "{reference} {image:?}");
    assert!(!cri.list_images().await.unwrap().iter().any(|i| i.id == image.id && i.pinned));

    let error = cri.pull_image(&pull(format!("127.0.0.1:{}/absent:1", registry.port))).await.unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
    assert!(error.to_string().contains("absent:1"), "{error}");

    // What has no directory of its own goes to the mirror of `_default`, at once.
    let default = node.config.registries().join("_default");
    std::fs::create_dir(&default).unwrap();
    let hosts = format!("[host.\"http://127.0.0.1:{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry.port);
    std::fs::write(default.join("hosts.toml"), hosts).unwrap();
    cri.pull_image(&pull("mirrored.invalid/app:1".into())).await.unwrap();
    assert!(cri.image_status("mirrored.invalid/app:1").await.unwrap().is_some());
    node.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_open_a_locked_registry() {
    let Some(registry) = Registry::start(true) else {
        eprintln!("skipped: needs docker-registry and skopeo");
        return;
    };
    let Some(node) = Node::start("auth").await else { return };
    let cri = node.daemon.runtime();
    let name = format!("127.0.0.1:{}/app:1", registry.port);
    assert!(cri.pull_image(&pull(name.clone())).await.is_err());
    let auth = |password: &str| PullRequest {
        auth: Some(Auth { username: "user".into(), password: password.into(), ..Default::default() }),
        ..pull(name.clone())
    };
    assert!(cri.pull_image(&auth("wrong")).await.is_err());
    cri.pull_image(&auth("secret")).await.unwrap();
    node.finish().await;
}
