//! A driver of devices for dynamic resource allocation, as small as one can be: it registers with the node's kubelet through a real
//! socket, speaks gRPC, and prepares a claim by describing its devices to the container runtime (CDI). Its messages are written
//! down here once more, independently of the node's.

use crate::{Namespace, block_on};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    endpoint: String,
    #[prost(string, repeated, tag = "4")]
    versions: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Registered {
    #[prost(bool, tag = "1")]
    yes: bool,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, Message)]
struct Claim {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Claims {
    #[prost(message, repeated, tag = "1")]
    claims: Vec<Claim>,
}

#[derive(Clone, PartialEq, Message)]
struct Device {
    #[prost(string, repeated, tag = "1")]
    requests: Vec<String>,
    #[prost(string, tag = "2")]
    pool: String,
    #[prost(string, tag = "3")]
    device: String,
    #[prost(string, repeated, tag = "4")]
    cdi: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Prepared {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
    #[prost(string, tag = "2")]
    error: String,
}

#[derive(Clone, PartialEq, Message)]
struct PrepareAnswer {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Prepared>,
}

#[derive(Clone, PartialEq, Message)]
struct Unprepared {
    #[prost(string, tag = "1")]
    error: String,
}

#[derive(Clone, PartialEq, Message)]
struct UnprepareAnswer {
    #[prost(map = "string, message", tag = "1")]
    claims: HashMap<String, Unprepared>,
}

/// What the driver was told, in order: `registered`, `prepare NAME`, `unprepare NAME`.
type Told = Arc<Mutex<Vec<String>>>;

struct Inner {
    ns: Namespace,
    name: String,
    socket: PathBuf,
    cdi: PathBuf,
    told: Told,
}

/// A running driver; its sockets are removed when it is dropped.
pub struct Driver {
    inner: Arc<Inner>,
    task: tokio::task::AbortHandle,
}

impl Driver {
    /// Starts one of this name on the node of the cluster in `dir`. Claims are read through `ns`.
    pub fn start(ns: Namespace, dir: &Path, name: &str) -> Driver {
        let socket = dir.join("node/plugins_registry").join(format!("{name}.sock"));
        let cdi = dir.join("cdi");
        std::fs::create_dir_all(&cdi).unwrap();
        let inner = Arc::new(Inner { ns, name: name.to_owned(), socket, cdi, told: Told::default() });
        let serving = inner.clone();
        let task = block_on(async move {
            // Bound under a hidden name, which nobody looks at before it listens.
            let early = serving.socket.with_file_name(format!(".{}.sock", serving.name));
            let listener = UnixListener::bind(&early).unwrap();
            std::fs::rename(&early, &serving.socket).unwrap();
            tokio::spawn(serve(listener, serving)).abort_handle()
        });
        Driver { inner, task }
    }

    /// What it was told so far.
    pub fn told(&self) -> Vec<String> {
        self.inner.told.lock().unwrap().clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.inner.socket);
    }
}

type Body = StreamBody<futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn serve(listener: UnixListener, inner: Arc<Inner>) {
    let mut open = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let inner = inner.clone();
        open.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| answer(request, inner.clone()));
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// One message in a frame of gRPC, then the status.
fn reply(message: &impl Message) -> Response<Body> {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = vec![Ok(Frame::data(frame.freeze())), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

async fn answer(request: Request<Incoming>, inner: Arc<Inner>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body = body.slice(5..);
    Ok(match path.as_str() {
        "/pluginregistration.Registration/GetInfo" => reply(&Info {
            kind: "DRAPlugin".into(),
            name: inner.name.clone(),
            endpoint: inner.socket.display().to_string(),
            versions: vec!["v1.DRAPlugin".into()],
        }),
        "/pluginregistration.Registration/NotifyRegistrationStatus" => {
            let said = Registered::decode(body).unwrap();
            let told = if said.yes { "registered".to_owned() } else { format!("refused: {}", said.error) };
            inner.told.lock().unwrap().push(told);
            reply(&Registered::default())
        }
        "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources" => {
            let claims = Claims::decode(body).unwrap().claims;
            let all = tokio::task::spawn_blocking(move || {
                claims.into_iter().map(|c| (c.uid.clone(), inner.prepare(&c))).collect()
            });
            reply(&PrepareAnswer { claims: all.await.unwrap() })
        }
        "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources" => {
            let claims = Claims::decode(body).unwrap().claims;
            let undo = |c: Claim| {
                inner.told.lock().unwrap().push(format!("unprepare {}", c.name));
                let _ = std::fs::remove_file(inner.file(&c.uid));
                (c.uid, Unprepared::default())
            };
            reply(&UnprepareAnswer { claims: claims.into_iter().map(undo).collect() })
        }
        other => panic!("the driver has no {other}"),
    })
}

impl Inner {
    fn file(&self, uid: &str) -> PathBuf {
        self.cdi.join(format!("{}-{uid}.json", self.name))
    }

    /// Describes the claim's devices: each puts its own name into the environment, as `DEVICE_<request>` and as `HAS_<device>`.
    fn prepare(&self, claim: &Claim) -> Prepared {
        let object = self.ns.get(&format!("resourceclaims.resource.k8s.io/{}", claim.name));
        assert_eq!((&object["metadata"]["uid"], claim.namespace.as_str()), (&json!(claim.uid), self.ns.name.as_str()));
        let results = object["status"]["allocation"]["devices"]["results"].as_array().cloned().unwrap_or_default();
        let kind = format!("{}/device", self.name);
        let described: Vec<Value> = results
            .iter()
            .map(|r| {
                let (request, device) = (r["request"].as_str().unwrap(), r["device"].as_str().unwrap());
                let request = request.replace('-', "_");
                let env = [format!("DEVICE_{request}={device}"), format!("HAS_{device}={device}")];
                json!({"name": format!("{}-{device}", claim.uid), "containerEdits": {"env": env}})
            })
            .collect();
        let spec = json!({"cdiVersion": "0.5.0", "kind": kind, "devices": described});
        std::fs::write(self.file(&claim.uid), spec.to_string()).unwrap();
        self.told.lock().unwrap().push(format!("prepare {}", claim.name));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let device = |r: &Value| Device {
            requests: vec![text(&r["request"])],
            pool: text(&r["pool"]),
            device: text(&r["device"]),
            cdi: vec![format!("{kind}={}-{}", claim.uid, text(&r["device"]))],
        };
        Prepared { devices: results.iter().map(device).collect(), error: String::new() }
    }
}
