//! Reading what an explanation needs.

use super::finding::Finding;
use super::world::{Subject, World};
use anyhow::{Context, Result};
use caravel_scheduler::Config;
use caravel_scheduler::explain::{Explanation, explain_pod};
use kube::Client;
use serde_json::Value;

/// So many Pods of a chain are explained by the scheduler: each explanation reads the whole cluster.
const ASKED: usize = 3;

async fn get(client: &Client, path: &str) -> Result<Value> {
    let request = http::Request::get(path).body(Vec::new())?;
    Ok(client.request(request).await?)
}

/// The subject, and what may be behind it.
pub async fn world(client: &Client, subject: &Subject) -> Result<World> {
    let object = get(client, &subject.path()).await.with_context(|| format!("{} {}", subject.kind, subject.name))?;
    let mut world = World { subject: object, ..World::default() };
    if subject.namespace.is_empty() {
        return Ok(world);
    }
    let within = format!("namespaces/{}", subject.namespace);
    let unseen = &mut world.unseen;
    for (list, path) in [
        (&mut world.pods, format!("/api/v1/{within}/pods")),
        (&mut world.replica_sets, format!("/apis/apps/v1/{within}/replicasets")),
        (&mut world.claims, format!("/api/v1/{within}/persistentvolumeclaims")),
        (&mut world.events, format!("/api/v1/{within}/events")),
        (&mut world.nodes, "/api/v1/nodes".to_owned()),
        (&mut world.volumes, "/api/v1/persistentvolumes".to_owned()),
        (&mut world.classes, "/apis/storage.k8s.io/v1/storageclasses".to_owned()),
    ] {
        match get(client, &path).await {
            Ok(mut found) => {
                if let Value::Array(items) = found["items"].take() {
                    *list = items;
                }
            }
            // Who asks may not see everything; what can be seen is still told.
            Err(error) => unseen.push(format!("{path}: {error:#}")),
        }
    }
    Ok(world)
}

/// Lets the scheduler tell about the Pods of a chain that no node took.
pub async fn ask_scheduler(client: &Client, chain: &mut Finding) -> Result<()> {
    let mut pods = Vec::new();
    chain.each(&mut |link| pods.extend(link.ask.clone()));
    pods.dedup();
    if pods.is_empty() {
        return Ok(());
    }
    let (config, unsure) = match crate::scheduling::read(client).await {
        Ok(config) => (config, None),
        Err(error) => (
            Config::default(),
            Some(format!("(explained by the default profile, for the cluster's cannot be had: {error:#})")),
        ),
    };
    for (namespace, name) in pods.into_iter().take(ASKED) {
        let explanation = match explain_pod(client.clone(), &config, &namespace, &name).await {
            Ok(mut explanation) => {
                explanation.mends.extend(unsure.clone());
                explanation
            }
            // It went meanwhile, or who asks may not see all that the scheduler sees: the Pod's own condition stands.
            Err(error) => Explanation {
                mends: vec![format!("(the scheduler's view cannot be had: {error})")],
                ..Explanation::default()
            },
        };
        let asked = (namespace, name);
        chain.each(&mut |link| {
            if link.ask.as_ref() == Some(&asked) {
                told(link, &explanation);
            }
        });
    }
    Ok(())
}

/// Takes the scheduler's explanation over.
pub fn told(link: &mut Finding, explanation: &Explanation) {
    if !explanation.summary.is_empty() {
        link.says = format!("it waits for a node: {}", explanation.summary);
    }
    for (reason, nodes) in &explanation.reasons {
        link.because.push(Finding::wrong(format!("{nodes} node{}", if *nodes == 1 { "" } else { "s" }), reason));
    }
    if let Some((node, lacks)) = &explanation.nearest {
        link.because.push(Finding::wrong(format!("the nearest fit is Node {node}"), lacks.join("; ")));
    }
    link.mends.extend(explanation.mends.iter().cloned());
}
