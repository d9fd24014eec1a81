//! The one error type of reconcilers, and how to read what the API answered.

/// Why a reconcile did not finish. The queue backs off and tries again, whatever it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or could not be reached.
    #[error("{}", told(.0))]
    Api(#[from] Box<kube::Error>),
    /// The object in hand is not what the reconciler can work with.
    #[error("{0}")]
    Invalid(String),
    /// Anything else, with its context.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// The API's own words, without the whole of its Status.
fn told(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.reason),
        other => other.to_string(),
    }
}

impl From<kube::Error> for Error {
    fn from(e: kube::Error) -> Self {
        Error::Api(Box::new(e))
    }
}

impl Error {
    /// The HTTP status of the API's refusal, when it was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Error::Api(e) => status_code(e),
            _ => None,
        }
    }

    /// The write lost a race: the object has moved on, or was made by somebody else meanwhile.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
}

/// The HTTP status code of the API's refusal; `None` for transport and decoding errors.
pub fn status_code(e: &kube::Error) -> Option<u16> {
    match e {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// The machine-readable reason of the API's refusal (`AlreadyExists`, `Conflict`, …).
pub fn status_reason(e: &kube::Error) -> Option<&str> {
    match e {
        kube::Error::Api(status) => Some(&status.reason),
        _ => None,
    }
}
