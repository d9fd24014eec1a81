//! A server in this process over an embedded store in a temporary directory.

use caravel_server::{Body, Config, Server, UserInfo};
use caravel_store::embedded::{Embedded, Options};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt as _;

pub struct Cluster {
    pub server: Arc<Server>,
    pub dir: Arc<tempfile::TempDir>,
}

/// Somebody's view of the cluster.
#[derive(Clone)]
pub struct Client {
    server: Arc<Server>,
    user: Arc<UserInfo>,
}

impl Cluster {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let mut config = Config::new(dir.path(), [10, 0, 0, 1].into(), 6443);
        change(&mut config);
        let store = Arc::new(Embedded::open(Options::new(dir.path().join("store"))).unwrap());
        let server = Server::open(config, store).await.unwrap();
        Self { server, dir }
    }

    pub fn admin(&self) -> Client {
        self.client(UserInfo::system_masters("admin"))
    }

    pub fn client(&self, user: UserInfo) -> Client {
        Client { server: self.server.clone(), user: Arc::new(user) }
    }

    /// The same data opened by a new server.
    pub async fn restart(self) -> Self {
        let dir = self.dir.clone();
        let weak = Arc::downgrade(&self.server);
        drop(self);
        for _ in 0..200 {
            if weak.upgrade().is_none() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let config = Config::new(dir.path(), [10, 0, 0, 1].into(), 6443);
        let mut opened = Embedded::open(Options::new(dir.path().join("store")));
        for _ in 0..200 {
            if opened.is_ok() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            opened = Embedded::open(Options::new(dir.path().join("store")));
        }
        let server = Server::open(config, Arc::new(opened.unwrap())).await.unwrap();
        Self { server, dir }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.server.close();
    }
}

impl Client {
    /// Sends a request as it is.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Vec<u8>>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (key, value) in headers {
            request = request.header(*key, *value);
        }
        let request = request.body(Full::new(bytes::Bytes::from(body.into()))).unwrap();
        self.server.local(self.user.clone()).oneshot(request).await.unwrap()
    }

    /// Status and JSON body of an answer.
    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let media = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        self.call_as(method, path, media, body.to_string()).await
    }

    pub async fn call_as(&self, method: &str, path: &str, media: &str, body: impl Into<Vec<u8>>) -> (u16, Value) {
        let response = self.send(method, path, &[("content-type", media)], body).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (status, value)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call_as("GET", path, "application/json", "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.call("POST", path, body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> (u16, Value) {
        self.call("PUT", path, body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> (u16, Value) {
        self.call("PATCH", path, body).await
    }

    pub async fn delete(&self, path: &str) -> (u16, Value) {
        self.call_as("DELETE", path, "application/json", "").await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Watch {
        let response = self.send("GET", path, &[], "").await;
        assert_eq!(response.status(), 200, "{path}");
        Watch { body: response.into_body(), rest: vec![] }
    }
}

/// The frames of a watch.
pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(20), self.body.frame())
                .await
                .expect("a frame in time")?;
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    /// Type and object name of the next frame.
    pub async fn step(&mut self) -> (String, String) {
        let frame = self.next().await.expect("another frame");
        let text = |pointer: &str| frame.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/type"), text("/object/metadata/name"))
    }

    /// Whether nothing comes for a moment.
    pub async fn is_quiet(&mut self) -> bool {
        self.rest.is_empty()
            && tokio::time::timeout(std::time::Duration::from_millis(150), self.body.frame()).await.is_err()
    }
}

pub fn config_map(name: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
