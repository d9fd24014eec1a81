//! Kubeconfig files: who the client is, where the server is, whom to trust.

use super::Leaf;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig (YAML) with one cluster, one user and one context, all named `name`. `server` is the whole URL.
pub fn kubeconfig(name: &str, server: &str, ca_pem: &str, leaf: &Leaf) -> String {
    let encode = |pem: &str| STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {ca}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    user: {name}\n\
         current-context: {name}\npreferences: {{}}\nusers:\n- name: {name}\n  user:\n    client-certificate-data: {cert}\n    \
         client-key-data: {key}\n",
        ca = encode(ca_pem),
        cert = encode(&leaf.cert_pem),
        key = encode(&leaf.key_pem),
    )
}
