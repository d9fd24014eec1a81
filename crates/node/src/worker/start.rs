//! Starting one container.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use caravel_runtime as rt;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::Worker;
use crate::cgroup::qos;
use crate::container::env::{self, Sources};
use crate::container::security::Given;
use crate::container::{config, hosts, sandbox};
use crate::image;
use crate::objects;
use crate::pod::observed::Observed;
use crate::pod::plan::{self, Start};
use crate::pod::spec::{self, Member, Role};
use crate::pod::status::Hindrance;
use crate::probe::action::{self, Outcome};
use crate::shared::About;
use crate::time::now_ns;
use crate::volume;

/// A hook that starts a container may take this long at most, as nothing else bounds it.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);

struct Failure {
    reason: &'static str,
    message: String,
    /// A container that was started and ended is a crash; the planner waits for it.
    crashed: bool,
}

fn failed(reason: &'static str, message: impl Into<String>) -> Failure {
    Failure { reason, message: message.into(), crashed: false }
}

impl Worker {
    /// Starts a container. The error is when to try again, ns.
    pub(super) async fn start(&mut self, pod: &Arc<Pod>, observed: &Observed, s: &Start) -> Result<(), i64> {
        let Some(member) = pod.spec.as_ref().and_then(|p| spec::member(p, &s.name)) else { return Ok(()) };
        let about = self.shared.about(pod, member.role, &s.name);
        if let Some(after) = s.after {
            self.backoff.next(&plan::key(pod, &member.container), after, now_ns());
        }
        let ending = self.handle.ending.clone();
        let wanted = &member.container;
        let named = (wanted.image.as_deref().unwrap_or_default(), wanted.image_pull_policy.as_deref());
        let image = match image::ensure(&self.shared, pod, named, &about, &ending).await {
            Ok(i) => i,
            Err(f) => return Err(self.lacks_image(&s.name, f)),
        };
        if let Err(f) = self.image_volumes(pod, observed, wanted, &about).await {
            return Err(self.lacks_image(&s.name, f));
        }
        if ending.is_cancelled() {
            return Err(0);
        }
        match self.make_and_start(pod, observed, &member, s, image, &about).await {
            Ok(()) => {
                self.hindrances.remove(&s.name);
                self.retries.remove(&s.name);
                Ok(())
            }
            Err(f) => {
                self.shared.event(&about, "Warning", "Failed", &format!("Error: {}", f.message));
                self.hindrances.insert(s.name.clone(), Hindrance { reason: f.reason.into(), message: f.message });
                if f.crashed {
                    return Ok(());
                }
                Err(self.retry(&s.name, Duration::from_secs(1), Duration::from_secs(10)))
            }
        }
    }

    /// An image is not there; returns when to try again, ns.
    fn lacks_image(&mut self, container: &str, f: image::Failure) -> i64 {
        self.hindrances.insert(container.to_owned(), f.hindrance);
        let at = f.retry_at.unwrap_or_else(|| now_ns() + 30_000_000_000);
        self.retries.insert(container.to_owned(), (at, Duration::from_secs(1)));
        at
    }

    async fn make_and_start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        m: &Member,
        s: &Start,
        image: rt::Image,
        about: &About,
    ) -> Result<(), Failure> {
        let Some(sandbox) = observed.ready_sandbox() else {
            return Err(failed("CreateContainerError", "the pod's sandbox is gone"));
        };
        let config =
            self.config(pod, observed, m, s, image).await.map_err(|e| failed("CreateContainerConfigError", e))?;
        let sandbox_config =
            self.sandbox_config(pod, sandbox.attempt).map_err(|e| failed("CreateContainerConfigError", e))?;
        let id = match self.shared.runtime.create_container(&sandbox.id, &config, &sandbox_config).await {
            Ok(id) => id,
            Err(e) => return Err(failed("CreateContainerError", e.detail())),
        };
        self.shared.owners.lock().insert(id.clone(), self.uid.clone());
        self.sizes.started(&id, &m.container);
        self.shared.event(about, "Normal", "Created", "Container created");
        if let Err(e) = self.shared.runtime.start_container(&id).await {
            return Err(Failure { reason: "RunContainerError", message: e.detail(), crashed: true });
        }
        self.shared.event(about, "Normal", "Started", "Container started");
        let hook = m.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()).filter(|_| m.role != Role::Init);
        if let Some(hook) = hook {
            self.post_start(pod, observed, m, &id, hook, about).await?;
        }
        Ok(())
    }

    async fn post_start(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        m: &Member,
        id: &str,
        hook: &LifecycleHandler,
        about: &About,
    ) -> Result<(), Failure> {
        let ip = self.pod_ip(pod, observed);
        let outcome = match action::of_hook(&m.container, hook, &ip) {
            Ok(a) => {
                let ending = self.handle.ending.clone();
                tokio::select! {
                    o = action::run(&self.shared, id, &a, POST_START_LIMIT) => o,
                    () = ending.cancelled() => return Ok(()),
                }
            }
            Err(e) => Outcome::Unknown(e),
        };
        match outcome {
            Outcome::Success | Outcome::Warning(_) => Ok(()),
            Outcome::Failure(e) | Outcome::Unknown(e) => {
                self.shared.event(about, "Warning", "FailedPostStartHook", &format!("PostStartHook failed: {e}"));
                self.shared.event(about, "Normal", "Killing", "FailedPostStartHook");
                let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
                let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
                let _ = self.shared.runtime.stop_container(id, grace).await;
                Err(Failure {
                    reason: "PostStartHookError",
                    message: format!("PostStartHook failed: {e}"),
                    crashed: true,
                })
            }
        }
    }

    pub(super) fn pod_ip(&self, pod: &Pod, observed: &Observed) -> String {
        let ip = if spec::host_network(pod) {
            self.shared.node_ips().first().cloned()
        } else {
            observed.sandbox().and_then(|s| s.ips.first().cloned())
        };
        ip.unwrap_or_default()
    }

    pub(super) fn sandbox_config(&self, pod: &Pod, attempt: u32) -> Result<rt::SandboxConfig, String> {
        let resolvers = self.shared.resolvers();
        let given = Given { seccomp_default: self.shared.config.seccomp_default, ..Default::default() };
        sandbox::config(
            pod,
            attempt,
            &sandbox::Around {
                resolvers: &resolvers,
                given: &given,
                cgroup_parent: self.shared.cgroups.pod_path(qos::class(pod), &self.uid),
                log_dir: self
                    .shared
                    .config
                    .pod_log_dir(spec::namespace(pod), spec::name(pod), &self.uid)
                    .to_string_lossy()
                    .into_owned(),
            },
        )
    }

    async fn config(
        &mut self,
        pod: &Arc<Pod>,
        observed: &Observed,
        m: &Member,
        s: &Start,
        image: rt::Image,
    ) -> Result<rt::ContainerConfig, String> {
        let c = &m.container;
        let ips = if spec::host_network(pod) {
            self.shared.node_ips()
        } else {
            observed.ready_sandbox().map(|s| s.ips.clone()).unwrap_or_default()
        };
        let env = self.environment(pod, c, &ips).await?;
        let dir = self.shared.config.pod_dir(&self.uid);
        let mounted = self.volumes.as_ref().map(|v| v.mounted.clone()).unwrap_or_default();
        let mut mounts = volume::container_mounts(c, &mounted, &dir, &env)?;
        self.hosts_file(pod, c, &ips, &mut mounts)?;
        self.termination_file(c, s.attempt, &mut mounts)?;
        let logs = self.shared.config.pod_log_dir(spec::namespace(pod), spec::name(pod), &self.uid).join(&c.name);
        fs::create_dir_all(&logs).map_err(|e| format!("cannot make the log directory {}: {e}", logs.display()))?;
        let target_id = m.target.as_ref().and_then(|t| observed.active(t)).map(|r| r.id.clone());
        let around = config::Around {
            attempt: s.attempt,
            life: observed.life,
            image,
            env,
            mounts,
            given: Given {
                target_id,
                volume_groups: Vec::new(),
                seccomp_root: self.shared.config.root_dir.join("seccomp").to_string_lossy().into_owned(),
                seccomp_default: self.shared.config.seccomp_default,
            },
            memory_capacity: i64::try_from(self.shared.machine.memory).unwrap_or(i64::MAX),
            cgroup_v2: self.shared.cgroups.is_v2(),
        };
        let mut made = config::config(pod, c, around)?;
        let devices = self.shared.devices.of_container(pod, c);
        self.shared.devices.inject(&*self.shared.runtime, devices, &mut made).await?;
        Ok(made)
    }

    async fn environment(&self, pod: &Pod, c: &Container, ips: &[String]) -> Result<Vec<(String, String)>, String> {
        let (maps, secrets) = env::references(c);
        let ns = spec::namespace(pod);
        let objects = objects::read(&self.shared.client, ns, maps, secrets).await?;
        // Until the Services are known an environment would be wrong for the container's whole life.
        self.shared.services.synced().await;
        let links = pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        let services = env::service_vars(&self.shared.services.list(), ns, links);
        let around = self.shared.surroundings(ips.to_vec());
        env::environment(&Sources { pod, around: &around, objects: &objects, services: &services }, c)
    }

    /// The Pod's `/etc/hosts`, unless the container mounts one itself.
    fn hosts_file(&self, pod: &Pod, c: &Container, ips: &[String], mounts: &mut Vec<rt::Mount>) -> Result<(), String> {
        if mounts.iter().any(|m| m.container_path == "/etc/hosts") {
            return Ok(());
        }
        let path = self.shared.config.pod_dir(&self.uid).join("etc-hosts");
        let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.clone()).unwrap_or_default();
        let text = if spec::host_network(pod) {
            hosts::file_on_host(&fs::read_to_string("/etc/hosts").unwrap_or_default(), &aliases)
        } else {
            hosts::file(ips, &hosts::names(pod, &self.shared.config.cluster_domain)?, &aliases)
        };
        // The file is bound into running containers: it is written in place, not replaced.
        if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        }
        let readonly = c.security_context.as_ref().and_then(|s| s.read_only_root_filesystem).unwrap_or(false);
        mounts.push(rt::Mount {
            container_path: "/etc/hosts".into(),
            host_path: path.to_string_lossy().into_owned(),
            readonly,
            ..Default::default()
        });
        Ok(())
    }

    /// An empty file for the container's last words.
    fn termination_file(&self, c: &Container, attempt: u32, mounts: &mut Vec<rt::Mount>) -> Result<(), String> {
        let at = c.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".into());
        if at.is_empty() {
            return Ok(());
        }
        let dir = self.shared.config.pod_dir(&self.uid).join("containers").join(&c.name);
        let path = dir.join(format!("{attempt}-{:08x}", rand::random::<u32>()));
        fs::create_dir_all(&dir)
            .and_then(|()| {
                // Of earlier instances only the one before is still of use.
                let old = fs::read_dir(&dir)?.flatten().map(|e| e.path());
                let keep = format!("{}-", attempt.saturating_sub(1));
                old.filter(|p| !p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&keep)))
                    .for_each(|p| drop(fs::remove_file(p)));
                fs::write(&path, "")
            })
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o666)))
            .map_err(|e| format!("cannot make the termination log {}: {e}", path.display()))?;
        mounts.push(rt::Mount {
            container_path: at,
            host_path: path.to_string_lossy().into_owned(),
            ..Default::default()
        });
        Ok(())
    }
}
