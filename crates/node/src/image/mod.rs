//! Bringing images into the node for containers.

pub mod auth;

use std::time::Duration;

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::objects;
use crate::pod::backoff::Backoff;
use crate::pod::spec;
use crate::pod::status::Hindrance;
use crate::shared::{About, Shared};
use crate::time::now_ns;

/// How long a failed pull shows as `ErrImagePull` before it shows as `ImagePullBackOff`.
const SHOW_ERROR: Duration = Duration::from_secs(3);

/// What is common to all pulls of the node.
pub struct Pulls {
    slots: Semaphore,
    backoff: Mutex<Backoff>,
}

/// Why an image is not there, and when to try again (ns).
#[derive(Debug, Clone)]
pub struct Failure {
    /// For the container's status.
    pub hindrance: Hindrance,
    /// Not before.
    pub retry_at: Option<i64>,
}

impl Pulls {
    /// At most `parallel` pulls at once.
    pub fn new(parallel: usize) -> Self {
        Pulls {
            slots: Semaphore::new(parallel.max(1)),
            backoff: Mutex::new(Backoff::new(Duration::from_secs(10), Duration::from_secs(300))),
        }
    }
}

fn failure(reason: &str, message: impl Into<String>, retry_at: Option<i64>) -> Failure {
    Failure { hindrance: Hindrance { reason: reason.into(), message: message.into() }, retry_at }
}

/// The image of a container or of an image volume, fetched if the pull policy says so.
pub async fn ensure(
    shared: &Shared,
    pod: &Pod,
    (name, policy): (&str, Option<&str>),
    about: &About,
    cancel: &CancellationToken,
) -> Result<rt::Image, Failure> {
    if let Err(why) = auth::check_name(name) {
        let message =
            format!("Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {why}");
        shared.event(about, "Warning", "InspectFailed", &message);
        return Err(failure("InvalidImageName", message, None));
    }
    let present = shared.runtime.image_status(name).await.map_err(|e| {
        shared.event(about, "Warning", "InspectFailed", &format!("Failed to inspect image \"{name}\": {}", e.detail()));
        failure(
            "ImageInspectError",
            format!("Failed to inspect image \"{name}\": {}", e.detail()),
            Some(now_ns() + 5_000_000_000),
        )
    })?;
    let policy = policy.unwrap_or("IfNotPresent");
    match (policy, present) {
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            shared.event(about, "Warning", "ErrImageNeverPull", &message);
            Err(failure("ErrImageNeverPull", message, Some(now_ns() + 10_000_000_000)))
        }
        ("Never" | "IfNotPresent", Some(image)) => {
            shared.event(
                about,
                "Normal",
                "Pulled",
                &format!("Container image \"{name}\" already present on machine and can be accessed by the pod"),
            );
            Ok(image)
        }
        _ => pull(shared, pod, name, about, cancel).await,
    }
}

async fn pull(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    about: &About,
    cancel: &CancellationToken,
) -> Result<rt::Image, Failure> {
    let key = format!("{}_{name}", spec::uid(pod));
    let now = now_ns();
    // The wait counts from the entry itself: it was made when the pull failed.
    if let Some(until) = shared.pulls.backoff.lock().waiting(&key, now) {
        let message = format!("Back-off pulling image \"{name}\"");
        shared.event(about, "Normal", "BackOff", &message);
        return Err(failure("ImagePullBackOff", message, Some(until)));
    }
    shared.event(about, "Normal", "Pulling", &format!("Pulling image \"{name}\""));
    let asked = std::time::Instant::now();
    let work = async {
        let _slot = shared.pulls.slots.acquire().await.map_err(|e| e.to_string())?;
        let started = std::time::Instant::now();
        fetch(shared, pod, name).await.map(|image| (image, started.elapsed()))
    };
    let result = tokio::select! {
        r = work => r,
        () = cancel.cancelled() => return Err(failure("ContainerCreating", "the pod is ending", None)),
    };
    match result {
        Ok((image, took)) => {
            shared.pulls.backoff.lock().forget(&key);
            let (took, all) = (round(took), round(asked.elapsed()));
            let message = format!(
                "Successfully pulled image \"{name}\" in {took} ({all} including waiting). Image size: {} bytes.",
                image.size
            );
            shared.event(about, "Normal", "Pulled", &message);
            Ok(image)
        }
        Err(e) => {
            let now = now_ns();
            shared.pulls.backoff.lock().next(&key, now, now);
            shared.pulls.backoff.lock().collect(now);
            let message = format!("Failed to pull image \"{name}\": {e}");
            shared.event(about, "Warning", "Failed", &message);
            shared.event(about, "Warning", "Failed", "Error: ErrImagePull");
            Err(failure("ErrImagePull", e, Some(now + SHOW_ERROR.as_nanos() as i64)))
        }
    }
}

fn round(d: Duration) -> String {
    caravel_api::duration::text_std(Duration::from_millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
}

/// Tries the Pod's credentials one after the other; without any, asks as anyone.
async fn fetch(shared: &Shared, pod: &Pod, name: &str) -> Result<rt::Image, String> {
    let names = pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()).map(|r| r.name.clone());
    let secrets = objects::read(&shared.client, spec::namespace(pod), [], names).await?;
    let found: Vec<_> = secrets.secrets.values().flatten().cloned().collect();
    let mut credentials: Vec<Option<rt::Auth>> = auth::credentials(name, &found).into_iter().map(Some).collect();
    if credentials.is_empty() {
        credentials.push(None);
    }
    let mut last = String::new();
    for auth in credentials {
        let request = rt::PullRequest { image: name.into(), auth, ..Default::default() };
        match shared.runtime.pull_image(&request).await {
            Ok(_) => {
                let image = shared.runtime.image_status(name).await.map_err(|e| e.detail())?;
                return image.ok_or_else(|| format!("the image {name} was pulled but is not there"));
            }
            Err(e) => last = e.detail(),
        }
    }
    Err(last)
}
