//! What probes and hooks do: run a command, ask over HTTP or gRPC, connect, sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{grpc, http, tcp};
use crate::shared::Shared;

/// How much of a command's output a message carries, bytes.
const MAX_OUTPUT: usize = 10 * 1024;

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// Well, with something to say.
    Warning(String),
    /// Badly.
    Failure(String),
    /// It could not be tried.
    Unknown(String),
}

/// Something to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Run a command in the container.
    Exec(Vec<String>),
    /// Ask over HTTP.
    Http(http::Get),
    /// Connect.
    Tcp(String, u16),
    /// Ask for health over gRPC.
    Grpc(String, u16, String),
    /// Wait.
    Sleep(Duration),
}

/// A port by number or by the name of a port of the container.
pub fn port(c: &Container, p: &IntOrString) -> Result<u16, String> {
    let number = match p {
        IntOrString::Int(n) => i64::from(*n),
        IntOrString::String(name) => match c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name)) {
            Some(p) => i64::from(p.container_port),
            None => name.parse().map_err(|_| format!("couldn't find port: \"{name}\""))?,
        },
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

fn http_action(c: &Container, h: &HTTPGetAction, ip: &str) -> Result<Action, String> {
    Ok(Action::Http(http::Get {
        scheme: h.scheme.as_deref().unwrap_or("HTTP").to_lowercase(),
        host: h.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_owned()),
        port: port(c, &h.port)?,
        path: h.path.clone().unwrap_or_default(),
        headers: h.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    }))
}

/// The action of a probe against the Pod's address.
pub fn of_probe(c: &Container, p: &Probe, ip: &str) -> Result<Action, String> {
    if let Some(e) = &p.exec {
        return Ok(Action::Exec(e.command.clone().unwrap_or_default()));
    }
    if let Some(h) = &p.http_get {
        return http_action(c, h, ip);
    }
    if let Some(t) = &p.tcp_socket {
        let host = t.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_owned());
        return Ok(Action::Tcp(host, port(c, &t.port)?));
    }
    if let Some(g) = &p.grpc {
        return Ok(Action::Grpc(
            ip.to_owned(),
            port(c, &IntOrString::Int(g.port))?,
            g.service.clone().unwrap_or_default(),
        ));
    }
    Err("the probe has no action".into())
}

/// The action of a hook.
pub fn of_hook(c: &Container, h: &LifecycleHandler, ip: &str) -> Result<Action, String> {
    if let Some(e) = &h.exec {
        return Ok(Action::Exec(e.command.clone().unwrap_or_default()));
    }
    if let Some(g) = &h.http_get {
        return http_action(c, g, ip);
    }
    if let Some(t) = &h.tcp_socket {
        let host = t.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_owned());
        return Ok(Action::Tcp(host, port(c, &t.port)?));
    }
    if let Some(s) = &h.sleep {
        return Ok(Action::Sleep(Duration::from_secs(u64::try_from(s.seconds).unwrap_or(0))));
    }
    Err("invalid handler: the hook has no action".into())
}

/// Does it.
pub async fn run(shared: &Shared, container_id: &str, action: &Action, timeout: Duration) -> Outcome {
    match action {
        Action::Exec(command) => exec(shared, container_id, command, timeout).await,
        Action::Http(get) => match http::get(get, timeout).await {
            Ok(a) if a.foreign_redirect => {
                Outcome::Warning(format!("Probe terminated redirects, Response body: {}", a.body))
            }
            Ok(a) if (200..400).contains(&a.status) => Outcome::Success,
            Ok(a) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", a.status)),
            Err(e) => Outcome::Failure(e),
        },
        Action::Tcp(host, port) => {
            tcp::probe(host, *port, timeout).await.map_or_else(Outcome::Failure, |()| Outcome::Success)
        }
        Action::Grpc(host, port, service) => {
            grpc::probe(host, *port, service, timeout).await.map_or_else(Outcome::Failure, |()| Outcome::Success)
        }
        Action::Sleep(d) => {
            tokio::time::sleep((*d).min(timeout)).await;
            Outcome::Success
        }
    }
}

async fn exec(shared: &Shared, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match shared.runtime.exec_sync(id, command, Some(timeout)).await {
        Ok(r) if r.exit_code == 0 => Outcome::Success,
        Ok(r) => {
            let mut out = r.stdout;
            out.extend_from_slice(&r.stderr);
            out.truncate(MAX_OUTPUT);
            Outcome::Failure(String::from_utf8_lossy(&out).into_owned())
        }
        Err(caravel_runtime::Error::DeadlineExceeded(_)) => Outcome::Failure(format!(
            "command timed out: \"{}\" timed out after {}",
            command.join(" "),
            caravel_api::duration::text_std(timeout)
        )),
        Err(e) => Outcome::Unknown(e.detail()),
    }
}
