//! What whole-cluster tests share: the running cluster, kubectl, and waiting for a state by watching.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod call;
pub mod driver;
pub mod extension;
mod health;
pub mod node;
mod objects;
mod own;
mod plane;
mod podnet;
mod raw;
mod registry;
mod stand_in;
pub mod webhooks;
mod websocket;
mod wire;

pub use health::Health;
pub use objects::{
    Events, Objects, condition, condition_of, list_and_delete_collection, name_of, pod_of, rfc3339_ago,
    scale_endpoints, sleeper, status_endpoints,
};
pub use own::OwnCluster;
pub use plane::{ControlPlane, client};
pub use podnet::{Asked, Net, Said, Serving};
pub use raw::{Answer, Raw};
pub use registry::Registry;
pub use stand_in::StandIn;
pub use websocket::websocket;
pub use wire::{Watch, Wire, block_on, error_line, json_path};

use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The longest that a test waits for a state that the cluster owes it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test, as `cargo xtask test` built it.
pub fn program() -> PathBuf {
    std::env::var_os("CARAVEL_BIN").map(PathBuf::from).expect("CARAVEL_BIN: run the tests with `cargo xtask test`")
}

/// The shared cluster's data directory.
pub fn cluster_dir() -> PathBuf {
    std::env::var_os("CARAVEL_TEST_DIR")
        .map(PathBuf::from)
        .expect("CARAVEL_TEST_DIR: run the tests with `cargo xtask test`")
}

/// A namespace of its own in a cluster; deleted, without waiting, when dropped.
pub struct Namespace {
    pub name: String,
    kubeconfig: PathBuf,
    /// Another handle owns the namespace, and only the kubeconfig is ours.
    borrowed: bool,
    wire: OnceLock<Wire>,
}

impl Namespace {
    /// A fresh namespace in the shared cluster, named after `prefix`, with its default ServiceAccount there.
    pub fn new(prefix: &str) -> Namespace {
        Self::in_cluster(prefix, cluster_dir().join("kubeconfig"))
    }

    /// A fresh namespace in the cluster that `kubeconfig` names.
    pub fn in_cluster(prefix: &str, kubeconfig: PathBuf) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let ns = Namespace { name, kubeconfig, borrowed: false, wire: OnceLock::new() };
        let object = serde_json::json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":ns.name}});
        let (code, said) = ns.wire().post("/api/v1/namespaces", &object);
        assert_eq!(code, 201, "{said}");
        let account = ns.path("serviceaccounts/default");
        ns.eventually("the default ServiceAccount", || match ns.wire().get(&account) {
            (200, _) => Ok(()),
            (_, status) => Err(error_line(&status)),
        });
        ns
    }

    /// Another handle for the same namespace, for somebody else to keep.
    pub fn another_handle(&self) -> Namespace {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("caravel-handle-{}-{}-{n}", std::process::id(), self.name));
        std::fs::copy(&self.kubeconfig, &path).unwrap();
        Namespace { name: self.name.clone(), kubeconfig: path, borrowed: true, wire: OnceLock::new() }
    }

    /// A client of plain JSON with one kept connection, far cheaper than kubectl.
    pub fn wire(&self) -> &Wire {
        self.wire.get_or_init(|| Wire::new(&self.kubeconfig))
    }

    /// The path of an object here, named as kubectl does (`pod/x`, `deployments.apps/x`).
    pub fn path(&self, what: &str) -> String {
        self.wire().path(&self.name, what).unwrap_or_else(|| panic!("no such kind is served: {what}"))
    }

    /// The object, or the refusal as kubectl prints it.
    pub fn try_get(&self, what: &str) -> Result<Value, String> {
        match self.wire().get(&self.path(what)) {
            (200, object) => Ok(object),
            (_, status) => Err(error_line(&status)),
        }
    }

    /// Waits until the object is as wanted, and returns it; panics with what it was last.
    pub fn until_that(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let path = self.path(what);
        self.eventually(what, || match self.wire().get(&path) {
            (200, object) if wanted(&object) => Ok(object),
            (200, object) => Err(format!("it is {object:#}")),
            (_, status) => Err(error_line(&status)),
        })
    }

    /// What a container of a Pod has printed, or why it cannot be read.
    pub fn log(&self, pod: &str, container: &str) -> Result<String, String> {
        let path = format!("{}/log?container={container}", self.path(&format!("pod/{pod}")));
        self.wire().text(&path)
    }

    /// Waits until the object is gone.
    pub fn until_gone(&self, what: &str) {
        let path = self.path(what);
        self.eventually(&format!("{what} gone"), || match self.wire().get(&path) {
            (404, _) => Ok(()),
            (code, object) => Err(format!("{code}: {object:#}")),
        });
    }

    /// kubectl in this namespace.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["-n", &self.name]);
        let cache = std::env::temp_dir().join(format!("caravel-kubectl-cache-{}", std::process::id()));
        command.arg("--cache-dir").arg(cache).args(words).stdin(Stdio::null());
        command
    }

    /// Runs kubectl; what it printed, or what it said went wrong.
    pub fn try_kubectl(&self, words: &[&str]) -> Result<String, String> {
        answer(self.command(words).output().expect("kubectl runs"))
    }

    /// Runs kubectl, which must succeed.
    pub fn ok(&self, words: &[&str]) -> String {
        self.try_kubectl(words).unwrap_or_else(|e| panic!("kubectl {}: {e}", words.join(" ")))
    }

    /// Runs kubectl, which must fail; what it said.
    pub fn fails(&self, words: &[&str]) -> String {
        match self.try_kubectl(words) {
            Ok(out) => panic!("kubectl {} should have failed and said: {out}", words.join(" ")),
            Err(said) => said,
        }
    }

    /// Runs kubectl with a text on its standard input.
    pub fn try_with_input(&self, words: &[&str], input: &str) -> Result<String, String> {
        let mut command = self.command(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        answer(child.wait_with_output().unwrap())
    }

    /// `kubectl apply -f -`, which must succeed.
    pub fn apply(&self, manifest: &str) -> String {
        self.try_with_input(&["apply", "-f", "-"], manifest).unwrap_or_else(|e| panic!("apply: {e}\n{manifest}"))
    }

    /// Creates each object of a manifest (JSON, a `List` or YAML documents), as `kubectl create -f -` does.
    pub fn try_create(&self, manifest: &str) -> Result<String, String> {
        use serde::Deserialize;
        let mut said = String::new();
        for document in serde_yaml::Deserializer::from_str(manifest) {
            let object = Value::deserialize(document).map_err(|e| e.to_string())?;
            if !object.is_null() {
                said.push_str(&self.wire().create(&self.name, &object)?);
            }
        }
        Ok(said)
    }

    /// The same, which must succeed.
    pub fn create(&self, manifest: &str) -> String {
        self.try_create(manifest).unwrap_or_else(|e| panic!("create: {e}\n{manifest}"))
    }

    /// Creates one object, which must succeed; the object as the server made it.
    pub fn make(&self, kind: &str, object: &Value) -> Value {
        let path = self.wire().collection(&self.name, kind).unwrap_or_else(|| panic!("no such kind is served: {kind}"));
        let (code, made) = self.wire().post(&path, object);
        assert_eq!(code, 201, "{made:#}\n{object:#}");
        made
    }

    /// The object as JSON, e.g. `get("pod/x")`.
    pub fn get(&self, what: &str) -> Value {
        if what.contains('/') {
            return self.try_get(what).unwrap_or_else(|e| panic!("get {what}: {e}"));
        }
        serde_json::from_str(&self.ok(&["get", what, "-o", "json"])).expect("kubectl prints JSON")
    }

    /// One field by JSONPath, e.g. `field("pod/x", "{.status.phase}")`; empty when absent.
    pub fn field(&self, what: &str, path: &str) -> String {
        self.try_field(what, path).unwrap_or_else(|e| panic!("get {what} {path}: {e}"))
    }

    fn try_field(&self, what: &str, path: &str) -> Result<String, String> {
        // Only kubectl knows the whole of JSONPath, and lists.
        if what.contains('/') && json_path(&Value::Null, path).is_some() {
            return self.try_get(what).map(|o| json_path(&o, path).unwrap_or_default());
        }
        self.try_kubectl(&["get", what, "-o", &format!("jsonpath={path}")])
    }

    /// Waits until the field has the value.
    pub fn until(&self, what: &str, path: &str, value: &str) {
        self.eventually(&format!("{what} {path} = {value}"), || {
            let now = self.try_field(what, path)?;
            if now == value { Ok(()) } else { Err(format!("it is {now:?}")) }
        });
    }

    /// Tries until it succeeds; panics with the last error, and the namespace's events, when patience runs out.
    pub fn eventually<T>(&self, what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(value) => return value,
                Err(last) if start.elapsed() > PATIENCE => {
                    let events = self.try_kubectl(&["get", "events,pods", "-o", "wide"]).unwrap_or_default();
                    panic!("{what}: not within {} s: {last}\n{events}", PATIENCE.as_secs());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.borrowed {
            let _ = std::fs::remove_file(&self.kubeconfig);
            return;
        }
        let path = format!("/api/v1/namespaces/{}", self.name);
        // A panic here while another unwinds would end the process and hide the first.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wire().delete(&path)));
    }
}

fn answer(out: Output) -> Result<String, String> {
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

/// A Pod of one busybox container; `container` is YAML of more fields of the container, indented by four.
pub fn busybox_pod(name: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nspec:\n  terminationGracePeriodSeconds: 5\n  containers:\n  - name: c\n    image: test/busybox:1\n    {container}\n"
    )
}

/// The first process of a container; `id` as Pod status has it.
fn container_pid(id: &str) -> Option<u32> {
    let id = id.rsplit('/').next().unwrap();
    let in_container = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|c| c.contains(id));
    let pids = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(in_container).min()
}

/// Whether a container has a process.
pub fn is_running(id: &str) -> bool {
    container_pid(id).is_some()
}

/// Kills the first process of a container, as a crash would. `id` as Pod status has it.
pub fn kill_container(id: &str) {
    let pid = container_pid(id).expect("the container has a process");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// The body of `http://host:port/`, which must answer 200.
pub fn http_get(host: &str, port: u16) -> Result<String, String> {
    use std::io::Read;
    let address = format!("{host}:{port}").parse().map_err(|e| format!("{e}"))?;
    let mut stream =
        std::net::TcpStream::connect_timeout(&address, Duration::from_secs(3)).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.to_string())?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
        _ => Err(answer),
    }
}

impl Namespace {
    /// The same namespace through a kubeconfig that names the cluster but nobody.
    pub fn without_credentials(&self) -> Namespace {
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let mut config: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        for user in config["users"].as_sequence_mut().unwrap() {
            user["user"] = serde_yaml::Value::Mapping(Default::default());
        }
        let path = std::env::temp_dir().join(format!("caravel-nobody-{}-{}", std::process::id(), self.name));
        std::fs::write(&path, serde_yaml::to_string(&config).unwrap()).unwrap();
        Namespace { name: self.name.clone(), kubeconfig: path, borrowed: true, wire: OnceLock::new() }
    }
}
