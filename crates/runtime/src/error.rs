//! What can go wrong between a node and its runtime.

/// The result of a call to a runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed. The variants are the gRPC codes a node decides by; everything else is [`Error::Runtime`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nothing answers at the runtime's socket (it is starting, restarting or gone). Try again.
    #[error("the container runtime does not answer: {0}")]
    Unavailable(String),
    /// The sandbox, container or image does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// A sandbox or container of this name and attempt exists already.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The runtime does not accept what was asked.
    #[error("the container runtime refused the request: {0}")]
    InvalidArgument(String),
    /// The call took longer than it was allowed to. For `exec_sync`: the command was killed.
    #[error("deadline exceeded: {0}")]
    DeadlineExceeded(String),
    /// The runtime has no such verb.
    #[error("the container runtime does not implement this: {0}")]
    Unimplemented(String),
    /// The registry refuses the credentials, or wants some.
    #[error("the registry refused access: {0}")]
    Unauthorized(String),
    /// The runtime tried and failed. The text is the runtime's own.
    #[error("{0}")]
    Runtime(String),
    /// The machine lacks something: a program, a kernel feature, a right.
    #[error("{0}")]
    Host(String),
    /// An operation on the file system or a process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, with the path.
        what: String,
        /// The operating system's answer.
        #[source]
        source: std::sync::Arc<std::io::Error>,
    },
}

impl Error {
    /// Wraps an I/O error with what was attempted.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Error::Io { what: what.into(), source: std::sync::Arc::new(source) }
    }

    /// Whether the object asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound(_))
    }

    /// Whether nothing answered at all, so that the same call may succeed later.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable(_))
    }

    /// The runtime's own words, without our prefix: what belongs into a Pod's status or event.
    pub fn detail(&self) -> String {
        match self {
            Error::Unavailable(m)
            | Error::NotFound(m)
            | Error::AlreadyExists(m)
            | Error::InvalidArgument(m)
            | Error::DeadlineExceeded(m)
            | Error::Unimplemented(m)
            | Error::Unauthorized(m)
            | Error::Runtime(m)
            | Error::Host(m) => m.clone(),
            Error::Io { .. } => self.to_string(),
        }
    }
}
