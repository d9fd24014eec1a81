//! Creating and deleting pods for an owner, with the events that upstream records on it.

use std::sync::Arc;

use caravel_client::Recorder;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{is_namespace_terminating, is_not_found, message_of, namespace, uid};

/// The action named in events of pod creation and deletion.
const ACTION: &str = "Reconciling";

/// Copies of a pod that are created at the same time at most: as many as are made durable with one flush, about.
const PARALLEL: usize = 128;

/// All of a created pod that is looked at: the rest comes through the watch.
#[derive(Deserialize)]
struct Created {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// Creates and deletes pods on behalf of one kind of owner.
#[derive(Clone)]
pub struct PodControl {
    client: Client,
    recorder: Recorder,
}

impl PodControl {
    /// A pod control that records its events as `recorder`.
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder }
    }

    /// Creates one pod; on success and on failure the owner gets an event, except when its namespace is going away.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn create(&self, pod: &Pod, owner: &ObjectReference) -> Result<Pod, kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(pod));
        let result = api.create(&PostParams::default(), pod).await;
        self.tell(owner, result.as_ref().map(|made| made.metadata.name.as_deref().unwrap_or_default()));
        result
    }

    /// The event about a pod that was made, or was not.
    fn tell(&self, owner: &ObjectReference, result: Result<&str, &kube::Error>) {
        match result {
            Ok(name) => {
                self.recorder.event(owner, "Normal", "SuccessfulCreate", ACTION, &format!("Created pod: {name}"));
            }
            Err(e) if !is_namespace_terminating(e) => {
                let note = format!("Error creating: {}", message_of(e));
                self.recorder.event(owner, "Warning", "FailedCreate", ACTION, &note);
            }
            Err(_) => {}
        }
    }

    /// Creates `count` pods that differ only in the names that the server gives them, as [`PodControl::create_batch`] does, but written
    /// out once and sent from tasks of their own: thousands of pods are made on all processors. Returns how many were made and the
    /// first error.
    pub async fn create_copies(
        &self,
        pod: &Pod,
        count: usize,
        owner: &ObjectReference,
    ) -> (usize, Option<kube::Error>) {
        let body = match serde_json::to_vec(pod) {
            Ok(body) => body,
            Err(e) => return (0, Some(kube::Error::SerdeError(e))),
        };
        let path = Pod::url_path(&(), Some(namespace(pod)));
        let (mut done, mut batch) = (0, 1);
        while done < count {
            let mut running = JoinSet::new();
            for _ in 0..batch.min(count - done) {
                let request = kube::core::Request::new(&*path).create(&PostParams::default(), body.clone());
                let (client, owner, this) = (self.client.clone(), owner.clone(), self.clone());
                running.spawn(async move {
                    let request = request.map_err(kube::Error::BuildRequest)?;
                    let result = client.request::<Created>(request).await;
                    this.tell(&owner, result.as_ref().map(|c| c.metadata.name.as_str()));
                    result
                });
            }
            let mut first = None;
            while let Some(joined) = running.join_next().await {
                match joined.unwrap_or_else(|e| Err(kube::Error::Service(e.into()))) {
                    Ok(_) => done += 1,
                    Err(e) => {
                        first.get_or_insert(e);
                    }
                }
            }
            if first.is_some() {
                return (done, first);
            }
            batch = (batch * 2).min(PARALLEL);
        }
        (done, None)
    }

    /// Deletes one pod, this very one (by uid). A pod that is gone already is an error `NotFound` for the caller to judge.
    ///
    /// # Errors
    /// As the server answers.
    pub async fn delete(&self, pod: &Pod, owner: &ObjectReference) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace(pod));
        let params = DeleteParams::default()
            .preconditions(Preconditions { uid: Some(uid(pod).to_owned()), resource_version: None });
        match api.delete(&pod.name_any(), &params).await {
            Ok(_) => {
                let note = format!("Deleted pod: {}", pod.name_any());
                self.recorder.event(owner, "Normal", "SuccessfulDelete", ACTION, &note);
                Ok(())
            }
            Err(e) if is_not_found(&e) => Err(e),
            Err(e) => {
                let note = format!("Error deleting: {}", message_of(&e));
                self.recorder.event(owner, "Warning", "FailedDelete", ACTION, &note);
                Err(e)
            }
        }
    }

    /// Creates `pods` in growing batches (1, 2, 4, …): when the first ones fail, the rest is not tried, so that a quota does not get
    /// thousands of refusals. Returns how many were made and the first error.
    pub async fn create_batch(&self, pods: &[Pod], owner: &ObjectReference) -> (usize, Option<kube::Error>) {
        slow_start(pods, 1, |pod| self.create(pod, owner)).await
    }

    /// Deletes pods at once. Returns the uids of those whose deletion failed or whose object was gone, and the first error of the former.
    pub async fn delete_all(&self, pods: &[Arc<Pod>], owner: &ObjectReference) -> (Vec<String>, Option<kube::Error>) {
        let mut not_coming = vec![];
        let mut first = None;
        // A bounded number at a time, so that scaling 10,000 pods down does not open 10,000 requests.
        for chunk in pods.chunks(64) {
            for (pod, result) in chunk.iter().zip(join_all(chunk.iter().map(|p| self.delete(p, owner))).await) {
                if let Err(e) = result {
                    not_coming.push(uid(&**pod).to_owned());
                    if !is_not_found(&e) {
                        first.get_or_insert(e);
                    }
                }
            }
        }
        (not_coming, first)
    }
}

/// Runs `f` over all items in batches that double while all goes well, none larger than 64. Returns the successes and the first error.
pub async fn slow_start<'a, T, R, E, F, Fut>(items: &'a [T], initial: usize, f: F) -> (usize, Option<E>)
where
    F: Fn(&'a T) -> Fut,
    Fut: Future<Output = Result<R, E>>,
{
    let (mut done, mut batch, mut rest) = (0, initial.max(1), items);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(batch.min(rest.len()));
        let mut first = None;
        for result in join_all(now.iter().map(&f)).await {
            match result {
                Ok(_) => done += 1,
                Err(e) => {
                    first.get_or_insert(e);
                }
            }
        }
        if first.is_some() {
            return (done, first);
        }
        rest = later;
        batch = (batch * 2).min(64);
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn stops_after_the_failing_batch() {
        let items: Vec<usize> = (0..20).collect();
        let calls = AtomicUsize::new(0);
        let (done, error) = slow_start(&items, 1, |i| {
            calls.fetch_add(1, Ordering::Relaxed);
            let i = *i;
            async move { if i == 4 { Err("no") } else { Ok(()) } }
        })
        .await;
        // Batches 1, 2, 4: the third holds items 3..7 of which one fails.
        assert_eq!((done, error, calls.into_inner()), (6, Some("no"), 7));
    }
}
