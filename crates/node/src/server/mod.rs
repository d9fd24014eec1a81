//! The kubelet's HTTPS API: logs, exec, attach, port-forward, stats and metrics of this node's Pods.
//!
//! The API server is its only regular client. It authorizes the user and then tunnels the connection here unchanged,
//! so this module terminates kubectl's streaming protocols (WebSocket and SPDY/3.1) itself.
