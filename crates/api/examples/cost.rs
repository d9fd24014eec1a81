//! What the functions on the path of a write cost, in microseconds an object.
//!
//! `cargo run -p caravel-api --example cost`

use std::hint::black_box;
use std::time::{Duration, Instant};

use caravel_api::decode::{self, Format, Options, Target};
use caravel_api::kinds::KindTable;
use caravel_api::patch::{apply, strategic};
use caravel_api::{openapi, protobuf};
use serde_json::{Value, json};

fn main() {
    let started = Clock::now();
    let table = KindTable::builtin();
    let Some(kind) = table.resource("", "v1", "pods") else { return };
    let target = Target::of(kind);
    println!("table and arena: {:?}", started.elapsed());

    let text = pod().to_string();
    println!("pod: {} bytes", text.len());
    let options = Options::default();
    time("parse without schema", || serde_json::from_str::<Value>(&text).is_ok());
    time("decode", || decode::body(&target, text.as_bytes(), Format::Json, &options).is_ok());
    let Ok(decoded) = decode::body(&target, text.as_bytes(), Format::Json, &options) else { return };
    let write = apply::Write {
        manager: "m",
        api_version: "v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
        ignored: &["status"],
    };
    time("clone", || black_box(decoded.value.clone()).is_object());
    time("clone and track a create", || {
        let mut new = decoded.value.clone();
        apply::track_update(&target.schema, None, &mut new, write);
        new.is_object()
    });
    let mut live = decoded.value.clone();
    apply::track_update(&target.schema, None, &mut live, write);
    time("clone and track an update of a label", || {
        let mut new = live.clone();
        new["metadata"]["labels"]["app"] = "other".into();
        apply::track_update(&target.schema, Some(&live), &mut new, write);
        new.is_object()
    });
    let patch = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"name": "app", "image": "j"}]}});
    time("clone and strategic patch", || strategic::apply(target.schema.root(), live.clone(), patch.clone()).is_ok());
    time("apply", || apply::apply(&target.schema, Some(&live), &patch, write, true).is_ok());
    time("to JSON", || live.to_string().len() > 1);
    time("to protobuf", || protobuf::encode(&target.schema, &live).is_ok());
    let Ok(bytes) = protobuf::encode(&target.schema, &live) else { return };
    println!("protobuf: {} bytes, JSON: {} bytes", bytes.len(), live.to_string().len());
    time("from protobuf", || protobuf::decode(&target.schema, &bytes).is_ok());

    let started = Clock::now();
    let document = openapi::v3::document(&table, "apps", "v1", &|_| None);
    println!("openapi v3 of apps/v1: {:?}, {} bytes", started.elapsed(), document.map_or(0, |d| d.to_string().len()));
    let started = Clock::now();
    let document = openapi::v2::document(&table, &|_| None);
    let encoded = openapi::gnostic::encode(&document);
    println!("openapi v2 and protobuf: {:?}, {} bytes", started.elapsed(), encoded.len());
}

/// Time on the processor, where the kernel tells it; the machine may be busy with other things.
struct Clock {
    wall: Instant,
    processor: Option<u64>,
}

impl Clock {
    fn now() -> Self {
        Self { wall: Instant::now(), processor: processor() }
    }

    fn elapsed(&self) -> Duration {
        match (self.processor, processor()) {
            (Some(before), Some(after)) => Duration::from_nanos(after - before),
            _ => self.wall.elapsed(),
        }
    }
}

fn processor() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok()
}

fn time(what: &str, mut once: impl FnMut() -> bool) {
    const ROUNDS: u32 = 5_000;
    let started = Clock::now();
    for _ in 0..ROUNDS {
        assert!(black_box(once()), "{what} failed");
    }
    println!("{what}: {:.1} µs", started.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "default", "labels": {"app": "web", "tier": "front"}, "annotations": {"note": "a text"}},
        "spec": {"containers": [{"name": "app", "image": "registry/app:1.2.3", "command": ["/app"], "args": ["--port", "8080"],
                "ports": [{"containerPort": 8080, "protocol": "TCP", "name": "http"}],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 5}}],
            "volumes": [{"name": "data", "emptyDir": {}}], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}})
}
