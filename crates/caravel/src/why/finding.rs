//! What was found out about an object: one link of the chain.

use super::world::{Subject, World, name, text};
use super::{node, pod, storage, workload};
use serde_json::Value;

/// One link, with what is behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    /// `Pod default/web`.
    pub about: String,
    /// One sentence.
    pub says: String,
    /// Nothing is wrong with it.
    pub fine: bool,
    /// What would help.
    pub mends: Vec<String>,
    /// What it comes from.
    pub because: Vec<Finding>,
    /// A Pod (namespace, name) of which the scheduler can tell more.
    pub ask: Option<(String, String)>,
}

impl Finding {
    /// Something is wrong.
    pub fn wrong(about: impl Into<String>, says: impl Into<String>) -> Self {
        Self { about: about.into(), says: says.into(), ..Self::default() }
    }

    /// Nothing is wrong.
    pub fn fine(about: impl Into<String>, says: impl Into<String>) -> Self {
        Self { fine: true, ..Self::wrong(about, says) }
    }

    /// Adds what would help.
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mends.push(mend.into());
        self
    }

    /// Adds causes.
    pub fn because(mut self, causes: impl IntoIterator<Item = Finding>) -> Self {
        self.because.extend(causes);
        self
    }

    /// The chain as text, a level of indentation for each link.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        let word = if depth == 0 { "" } else { "because " };
        *out += &format!("{indent}{word}{}: {}\n", self.about, self.says);
        for mend in &self.mends {
            *out += &format!("{indent}  mend: {mend}\n");
        }
        for cause in &self.because {
            cause.write(out, depth + 1);
        }
    }

    /// Every link.
    pub fn each(&mut self, f: &mut impl FnMut(&mut Finding)) {
        f(self);
        self.because.iter_mut().for_each(|cause| cause.each(f));
    }
}

/// Links that say the same are one, with the number of the others.
pub fn grouped(findings: impl IntoIterator<Item = Finding>) -> Vec<Finding> {
    let mut out: Vec<(Finding, usize)> = Vec::new();
    for finding in findings {
        match out.iter_mut().find(|(first, _)| first.says == finding.says) {
            Some((_, more)) => *more += 1,
            None => out.push((finding, 0)),
        }
    }
    let name = |(mut finding, more): (Finding, usize)| {
        if more > 0 {
            finding.about += &format!(" (and {more} more like it)");
        }
        finding
    };
    out.into_iter().map(name).collect()
}

/// Explains the subject.
pub fn of(world: &World, subject: &Subject) -> Finding {
    let object = &world.subject;
    if let Some(going) = terminating(world, subject, object) {
        return going;
    }
    match subject.kind {
        "Pod" => pod::pod(world, object),
        "Deployment" => workload::deployment(world, object),
        "ReplicaSet" => workload::replica_set(world, object),
        "StatefulSet" => workload::stateful_set(world, object),
        "DaemonSet" => workload::daemon_set(world, object),
        "Job" => workload::job(world, object),
        "Service" => workload::service(world, object),
        "PersistentVolumeClaim" => storage::claim(world, object),
        "Node" => node::node(object),
        _ => node::namespace(object),
    }
}

/// An object that should be gone, other than those for which that has steps of its own.
fn terminating(world: &World, subject: &Subject, object: &Value) -> Option<Finding> {
    if matches!(subject.kind, "Pod" | "Namespace") || object["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let about = format!("{} {}", subject.kind, name(object));
    let since = text(&object["metadata"]["deletionTimestamp"]);
    let held: Vec<&str> = object["metadata"]["finalizers"].as_array().into_iter().flatten().map(text).collect();
    let mut finding =
        Finding::wrong(&about, format!("it is being deleted since {since}; finalizers hold it: {}", held.join(", ")));
    for finalizer in held {
        match finalizer {
            "kubernetes.io/pvc-protection" => {
                let users = storage::users(world, object);
                let names: Vec<String> = users.iter().map(|p| name(p)).collect();
                finding = finding.mend(format!("end the Pods that use it: {}", names.join(", ")));
            }
            "foregroundDeletion" => {
                finding = finding.mend("what it owns goes first: look at its dependents that are still there");
            }
            other => {
                finding = finding.mend(format!(
                    "whoever set {other} removes it when its clean-up is done; if that controller is gone for good, take the \
                     finalizer off by hand"
                ));
            }
        }
    }
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_and_the_chain_is_indented() {
        let pods = (0..3).map(|i| Finding::wrong(format!("Pod a/p{i}"), "no image").mend("make one"));
        let chain = Finding::wrong("Deployment a/d", "0 of 3").because(grouped(pods));
        assert_eq!(
            chain.render(),
            "Deployment a/d: 0 of 3\n  because Pod a/p0 (and 2 more like it): no image\n    mend: make one\n"
        );
    }
}
