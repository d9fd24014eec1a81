//! Who is asking. Authenticators run in upstream's order: client certificate, bearer token (static, bootstrap,
//! service account), and then, for the health endpoints only, nobody in particular.

pub mod impersonate;
pub mod jwt;
pub mod legacy;
pub mod oidc;
pub mod request_header;
pub mod service_account;
pub mod tokens;
pub mod x509;

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Members may do everything, whatever RBAC says.
pub const GROUP_MASTERS: &str = "system:masters";
/// Everyone whose identity is known.
pub const GROUP_AUTHENTICATED: &str = "system:authenticated";
/// Everyone whose identity is not known.
pub const GROUP_UNAUTHENTICATED: &str = "system:unauthenticated";
/// All service accounts.
pub const GROUP_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
/// All nodes.
pub const GROUP_NODES: &str = "system:nodes";
/// The user name of requests without credentials.
pub const USER_ANONYMOUS: &str = "system:anonymous";
/// Prefix of user names of service accounts.
pub const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Prefix of user names of nodes.
pub const NODE_PREFIX: &str = "system:node:";
/// The extra value that names the node of the Pod for which a service account's token was made.
pub const TOKEN_NODE: &str = "authentication.kubernetes.io/node-name";

/// `authentication.k8s.io/v1` UserInfo: who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Unique identifier, or empty.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Whatever else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Who a component is when it calls the server in-process.
pub type Identity = Arc<UserInfo>;

impl UserInfo {
    /// A user in `groups`, and in `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut user =
            Self { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Self::default() };
        user.authenticated();
        user
    }

    /// The server itself, and the administrator's equal.
    pub fn system_masters(name: &str) -> Self {
        Self::new(name, &[GROUP_MASTERS])
    }

    /// The user of a request without credentials.
    pub fn anonymous() -> Self {
        Self { name: USER_ANONYMOUS.into(), groups: vec![GROUP_UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Adds `system:authenticated` unless it, or its opposite, is there.
    pub fn authenticated(&mut self) {
        if !self.in_group(GROUP_AUTHENTICATED) && !self.in_group(GROUP_UNAUTHENTICATED) {
            self.groups.push(GROUP_AUTHENTICATED.into());
        }
    }

    /// The node of the Pod for which the token was made, when the user is a service account.
    pub fn token_node(&self) -> Option<&str> {
        match self.extra.get(TOKEN_NODE).map(Vec::as_slice) {
            Some([node]) if self.name.starts_with(SERVICE_ACCOUNT_PREFIX) => Some(node),
            _ => None,
        }
    }

    /// The node's name, when the user is a node.
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix(NODE_PREFIX)?;
        (!name.is_empty() && self.in_group(GROUP_NODES)).then_some(name)
    }

    /// Namespace and name, when the user is a service account.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':')
    }

    /// As written in reviews and in `CertificateSigningRequest`.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        if !self.name.is_empty() {
            out.insert("username".into(), json!(self.name));
        }
        if !self.uid.is_empty() {
            out.insert("uid".into(), json!(self.uid));
        }
        if !self.groups.is_empty() {
            out.insert("groups".into(), json!(self.groups));
        }
        if !self.extra.is_empty() {
            out.insert("extra".into(), json!(self.extra));
        }
        Value::Object(out)
    }
}

/// Why credentials were not accepted. The text goes to the log, never to the caller.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AuthnError {
    /// The token is not one that this server knows how to check.
    #[error("no authenticator knows this bearer token")]
    UnknownToken,
    /// The token is known for what it is, and is not good.
    #[error("the bearer token is not valid: {0}")]
    Token(String),
    /// The client certificate is not good.
    #[error("the client certificate is not valid: {0}")]
    Certificate(String),
    /// The token is in a Secret (namespace and name) that was marked as invalid, for it had not been used for long.
    #[error("the token in secret {0}/{1} has been marked invalid")]
    Invalidated(String, String),
    /// The store did not answer.
    #[error("credentials cannot be checked now: {0}")]
    Unavailable(String),
}

/// What there is to say about credentials that are good.
#[derive(Clone, Debug, Default)]
pub struct Remarks {
    /// Texts for `Warning` headers.
    pub warnings: Vec<String>,
    /// Annotations for the audit record.
    pub annotations: Vec<(String, String)>,
}

/// A successful authentication.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who it is.
    pub user: Arc<UserInfo>,
    /// The audiences of the token that are also audiences of whoever asks; empty for other credentials.
    pub audiences: Vec<String>,
    /// What there is to say about the credentials.
    pub remarks: Remarks,
}

impl Authenticated {
    /// A user of whose credentials there is nothing to say.
    pub fn plain(user: Arc<UserInfo>, audiences: Vec<String>) -> Self {
        Self { user, audiences, remarks: Remarks::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_of_a_token() {
        let mut user = UserInfo::new("system:serviceaccount:ns:driver", &[]);
        assert_eq!(user.token_node(), None);
        user.extra.insert(TOKEN_NODE.to_owned(), vec!["n".to_owned()]);
        assert_eq!(user.token_node(), Some("n"));
        user.name = "somebody".into();
        assert_eq!(user.token_node(), None);
    }

    #[test]
    fn nodes_and_service_accounts_are_recognised() {
        assert_eq!(UserInfo::new("system:node:n1", &["system:nodes"]).node_name(), Some("n1"));
        assert_eq!(UserInfo::new("system:node:n1", &[]).node_name(), None);
        assert_eq!(UserInfo::new("system:serviceaccount:ns:sa", &[]).service_account(), Some(("ns", "sa")));
        assert_eq!(UserInfo::new("me", &[]).service_account(), None);
    }
}
