//! Writes and their errors.

use kube::Error;

/// An event to record about the object in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `Normal` or `Warning`.
    pub type_: &'static str,
    /// A CamelCase word for machines.
    pub reason: &'static str,
    /// A sentence for people.
    pub note: String,
}

impl Event {
    /// A `Normal` event.
    pub fn normal(reason: &'static str, note: impl Into<String>) -> Self {
        Self { type_: "Normal", reason, note: note.into() }
    }

    /// A `Warning` event.
    pub fn warning(reason: &'static str, note: impl Into<String>) -> Self {
        Self { type_: "Warning", reason, note: note.into() }
    }
}

/// Whether the server said that the object does not exist.
pub fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_not_found())
}

/// Whether the server said that the object exists already.
pub fn is_already_exists(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_already_exists())
}

/// Whether the object changed since it was read.
pub fn is_conflict(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.is_conflict())
}

/// Whether the server refused a creation because the namespace is being deleted (then nothing is to be retried).
pub fn is_namespace_terminating(error: &Error) -> bool {
    matches!(error, Error::Api(s) if s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
}

/// The server's message without the client's wrapping, for events and conditions.
pub fn message_of(error: &Error) -> String {
    match error {
        Error::Api(s) => s.message.clone(),
        other => other.to_string(),
    }
}

/// Ok also when the object was not there: for deletions, whose aim is met then.
///
/// # Errors
/// Any other failure.
pub fn gone_is_fine<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Ok(_) => Ok(()),
        Err(e) if is_not_found(&e) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Writes an object's status (PUT of the status subresource; the object's resourceVersion guards it).
///
/// # Errors
/// As the server answers; a conflict means that the cache was behind.
pub async fn put_status<K>(api: &kube::Api<K>, object: &K) -> Result<K, Error>
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    api.replace_subresource("status", super::name(object), &kube::api::PostParams::default(), object).await
}

/// Asks the server whether an owner still exists as itself and is not being deleted: the cache may be behind, and adopting for an owner that
/// is gone would get the object collected.
///
/// # Errors
/// As the server answers.
pub async fn still_there<K>(api: &kube::Api<K>, owner: &K) -> anyhow::Result<bool>
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let live = api.get_opt(super::name(owner)).await?;
    Ok(live.is_some_and(|l| super::uid(&l) == super::uid(owner) && !super::deleting(&l)))
}
