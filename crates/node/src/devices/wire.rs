//! The messages between node and drivers: registration (`pluginregistration`), preparation of claims
//! (`k8s.io.kubelet.pkg.apis.dra`, versions v1 and v1beta1, which are the same on the wire).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long a driver may take to answer one call.
const CALL: Duration = Duration::from_secs(45);
/// The largest answer taken, bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Asks who registers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct InfoRequest {}

/// Who registers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PluginInfo {
    /// `DRAPlugin` for drivers of devices.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// The driver's name.
    #[prost(string, tag = "2")]
    pub name: String,
    /// The socket of its service; empty when it is the one it registers with.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    /// Services that it offers, such as `v1.DRAPlugin`.
    #[prost(string, repeated, tag = "4")]
    pub supported_versions: Vec<String>,
}

/// What came of a registration.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatus {
    /// It is registered.
    #[prost(bool, tag = "1")]
    pub plugin_registered: bool,
    /// Why not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// The answer to that.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegistrationStatusResponse {}

/// A claim by its names.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Claim {
    /// Its namespace.
    #[prost(string, tag = "1")]
    pub namespace: String,
    /// Its uid.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub name: String,
}

/// `NodePrepareResourcesRequest` and `NodeUnprepareResourcesRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Claims {
    /// The claims.
    #[prost(message, repeated, tag = "1")]
    pub claims: Vec<Claim>,
}

/// A prepared device.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Device {
    /// The requests it is for; all when empty.
    #[prost(string, repeated, tag = "1")]
    pub request_names: Vec<String>,
    /// Its pool.
    #[prost(string, tag = "2")]
    pub pool_name: String,
    /// Its name.
    #[prost(string, tag = "3")]
    pub device_name: String,
    /// What the runtime knows it by.
    #[prost(string, repeated, tag = "4")]
    pub cdi_device_ids: Vec<String>,
}

/// What came of preparing one claim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Prepared {
    /// Its devices.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
    /// Why it failed; empty when it did not.
    #[prost(string, tag = "2")]
    pub error: String,
}

/// `NodePrepareResourcesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PrepareAnswer {
    /// By the claims' uids.
    #[prost(map = "string, message", tag = "1")]
    pub claims: HashMap<String, Prepared>,
}

/// What came of giving one claim's devices back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Unprepared {
    /// Why it failed; empty when it did not.
    #[prost(string, tag = "1")]
    pub error: String,
}

/// `NodeUnprepareResourcesResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct UnprepareAnswer {
    /// By the claims' uids.
    #[prost(map = "string, message", tag = "1")]
    pub claims: HashMap<String, Unprepared>,
}

/// A driver's service, in the best version that both know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// `k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin`
    V1,
    /// `k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin`
    V1beta1,
}

impl Service {
    /// The best of what a driver offers.
    pub fn choose(offered: &[String]) -> Option<Self> {
        let has = |name: &str| offered.iter().any(|o| o == name);
        if has("v1.DRAPlugin") {
            Some(Self::V1)
        } else if has("v1beta1.DRAPlugin") {
            Some(Self::V1beta1)
        } else {
            None
        }
    }

    fn prepare(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
            Self::V1beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        }
    }

    fn unprepare(self) -> &'static str {
        match self {
            Self::V1 => "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
            Self::V1beta1 => "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
        }
    }
}

/// A client of one socket. The connection is made at the first call, and again after it broke.
#[derive(Clone, Debug)]
pub struct Client(Channel);

impl Client {
    /// For a socket.
    ///
    /// # Errors
    /// Never in practice: the address is fixed.
    pub fn new(socket: &Path) -> Result<Self, String> {
        let path: PathBuf = socket.to_owned();
        let endpoint = Endpoint::try_from("http://localhost").map_err(|e| e.to_string())?;
        Ok(Self(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        }))))
    }

    async fn call<Q, A>(&self, path: &'static str, message: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.0.clone()).max_decoding_message_size(MAX_ANSWER);
        let work = async {
            grpc.ready().await.map_err(|e| e.to_string())?;
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            let answer = grpc.unary(tonic::Request::new(message), path, codec).await;
            answer.map(tonic::Response::into_inner).map_err(|s| format!("rpc error: {:?}: {}", s.code(), s.message()))
        };
        match tokio::time::timeout(CALL, work).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", CALL.as_secs())),
        }
    }

    /// Asks who registers.
    ///
    /// # Errors
    /// What the call came to.
    pub async fn info(&self) -> Result<PluginInfo, String> {
        self.call("/pluginregistration.Registration/GetInfo", InfoRequest {}).await
    }

    /// Says what came of a registration.
    ///
    /// # Errors
    /// What the call came to.
    pub async fn registered(&self, result: Result<(), &str>) -> Result<(), String> {
        let status = RegistrationStatus {
            plugin_registered: result.is_ok(),
            error: result.err().unwrap_or_default().to_owned(),
        };
        let path = "/pluginregistration.Registration/NotifyRegistrationStatus";
        self.call::<_, RegistrationStatusResponse>(path, status).await.map(drop)
    }

    /// Has claims prepared.
    ///
    /// # Errors
    /// What the call as a whole came to.
    pub async fn prepare(&self, service: Service, claims: Vec<Claim>) -> Result<HashMap<String, Prepared>, String> {
        self.call::<_, PrepareAnswer>(service.prepare(), Claims { claims }).await.map(|a| a.claims)
    }

    /// Gives claims' devices back.
    ///
    /// # Errors
    /// What the call as a whole came to.
    pub async fn unprepare(&self, service: Service, claims: Vec<Claim>) -> Result<HashMap<String, Unprepared>, String> {
        self.call::<_, UnprepareAnswer>(service.unprepare(), Claims { claims }).await.map(|a| a.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_version_both_know() {
        let of = |names: &[&str]| Service::choose(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["v1beta1.DRAPlugin", "v1.DRAPlugin"]), Some(Service::V1));
        assert_eq!(of(&["v1beta1.DRAPlugin"]), Some(Service::V1beta1));
        assert_eq!(of(&["v1alpha4.Node"]), None);
    }
}
