//! Requests as they go over the wire, without a typed client's help.

use crate::cluster_dir;
use http::{Method, Request};
use serde_json::Value;

/// The admin at the shared cluster, in plain requests.
#[derive(Clone)]
pub struct Raw {
    client: kube::Client,
}

/// A status code and a JSON body (null when there is none).
pub type Answer = (u16, Value);

impl Raw {
    /// At the shared cluster.
    pub async fn new() -> Raw {
        Raw { client: crate::client(cluster_dir().join("kubeconfig")).await }
    }

    /// Through this client.
    pub fn with(client: kube::Client) -> Raw {
        Raw { client }
    }

    /// The client beneath.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// Sends these bytes and returns the answer, whatever its status.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(kube::client::Body::from(body)).unwrap();
        let response = self.client.send(request).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let status = response.status().as_u16();
        let body = response.into_body().collect_bytes().await.unwrap();
        let json = serde_json::from_slice(&body);
        (status, json.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned())))
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], vec![]).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().into_bytes()).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[("content-type", "application/json")], body.to_string().into_bytes()).await
    }

    /// A merge patch.
    pub async fn merge(&self, path: &str, body: &Value) -> Answer {
        let kind = [("content-type", "application/merge-patch+json")];
        self.send("PATCH", path, &kind, body.to_string().into_bytes()).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], vec![]).await
    }
}
