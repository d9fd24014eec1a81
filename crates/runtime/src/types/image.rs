//! Images.

use super::StringMap;

/// An image in the runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Names with tags.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// Compressed size, bytes.
    pub size: u64,
    /// The numeric user of its configuration.
    pub uid: Option<i64>,
    /// The user of its configuration by name, when not numeric.
    pub username: String,
    /// Garbage collection leaves it.
    pub pinned: bool,
}

/// Credentials for one pull (`kubernetes.io/dockerconfigjson`). All empty means anonymous.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// base64 of `user:password`.
    pub auth: String,
    /// The registry they are for.
    pub server_address: String,
    /// A token to get an access token with.
    pub identity_token: String,
    /// A bearer token.
    pub registry_token: String,
}

/// Does not show secrets.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

/// One pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullRequest {
    /// The image's name.
    pub image: String,
    /// Annotations of the image spec.
    pub annotations: StringMap,
    /// Credentials.
    pub auth: Option<Auth>,
}

/// A file system that images or containers live on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// When measured, ns.
    pub timestamp: i64,
    /// The directory.
    pub mountpoint: String,
    /// Bytes taken.
    pub used_bytes: u64,
    /// Inodes taken.
    pub inodes_used: u64,
}

/// What images take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFsInfo {
    /// File systems of images.
    pub image_filesystems: Vec<FilesystemUsage>,
    /// File systems of containers' writable layers, where they are others.
    pub container_filesystems: Vec<FilesystemUsage>,
}
