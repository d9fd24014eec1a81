//! Rendered manifests of real-life shapes (`tests/manifests`): they apply client-side and server-side, and the second time
//! nothing is different.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A shape, and the kinds of which kubectl says "configured" whenever it applies them client-side, against upstream's server
/// just the same: its patch is never empty where defaults are inside of lists that are replaced whole (webhook rules,
/// ports of network policies, `fieldRef` in a list of custom resources), where quantities are not spelled canonically, where
/// a field says null, where it says what Go leaves out (false, an empty list), and where the patch strategy is `replace` (the selector of a disruption budget). The server finds
/// nothing changed then.
struct Shape {
    name: &'static str,
    configured: &'static [&'static str],
}

/// The rendered files of a shape, in the order of application, with the names of this test's own.
struct Rendered {
    ns: Namespace,
    _dir: tempfile::TempDir,
    files: Vec<PathBuf>,
}

impl Rendered {
    fn new(shape: &str, how: &str) -> Rendered {
        let ns = Namespace::new(&format!("{shape}-{how}"));
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests");
        let mut files = vec![];
        for part in [format!("{shape}.crds.yaml"), format!("{shape}.yaml"), format!("{shape}.resources.yaml")] {
            let Ok(text) = std::fs::read_to_string(from.join(&part)) else { continue };
            let file = dir.path().join(&part);
            std::fs::write(&file, text.replace("thisns", &ns.name)).unwrap();
            files.push(file);
        }
        assert!(!files.is_empty(), "no manifests of {shape}");
        Rendered { ns, _dir: dir, files }
    }

    /// kubectl, in the test's namespace, or in the one that the manifests bring along.
    fn kubectl(&self, words: &[&str], file: &Path) -> Result<String, String> {
        let mut all = words.to_vec();
        all.extend(["-f", file.to_str().unwrap()]);
        let theirs = format!("{}-system", self.ns.name);
        if std::fs::read_to_string(file).unwrap().contains(&theirs) {
            // Said twice, the last one counts.
            all.extend(["-n", &theirs]);
        }
        self.ns.try_kubectl(&all)
    }

    /// Applies all files; what kubectl said, line by line.
    fn apply(&self, flags: &[&str]) -> Vec<String> {
        let mut said = vec![];
        for file in &self.files {
            let mut words = vec!["apply"];
            words.extend(flags);
            let out = self.kubectl(&words, file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            said.extend(out.lines().map(str::to_owned));
            if file.to_str().unwrap().ends_with(".crds.yaml") {
                let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
                self.kubectl(&wait, file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            }
        }
        said
    }

    /// `kubectl diff` of all files; controllers may still be writing a status in between.
    fn no_difference(&self, flags: &[&str]) {
        for file in &self.files {
            let mut words = vec!["diff"];
            words.extend(flags);
            self.ns.eventually(&format!("no difference in {}", file.display()), || {
                self.kubectl(&words, file).and_then(|said| if said.is_empty() { Ok(()) } else { Err(said) })
            });
        }
    }

    /// What of every object must not change by applying it again: uid, generation, labels, annotations.
    fn state(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for file in &self.files {
            let list = self.kubectl(&["get", "-o", "json"], file).unwrap();
            let list: serde_json::Value = serde_json::from_str(&list).unwrap();
            for object in list["items"].as_array().unwrap() {
                let m = &object["metadata"];
                all.insert(format!(
                    "{} {} {} {} {} {}",
                    object["kind"], m["name"], m["uid"], m["generation"], m["labels"], object["spec"]
                ));
            }
        }
        all
    }
}

impl Drop for Rendered {
    /// What is not in the test's namespace goes with it.
    fn drop(&mut self) {
        for file in self.files.iter().rev() {
            let _ = self.kubectl(&["delete", "--wait=false", "--ignore-not-found"], file);
        }
    }
}

fn client_side(shape: &Shape) {
    let rendered = Rendered::new(shape.name, "csa");
    for line in rendered.apply(&[]) {
        assert!(line.ends_with(" created"), "the first time: {line}");
    }
    let before = rendered.state();
    rendered.no_difference(&[]);
    let mut configured = vec![];
    for line in rendered.apply(&[]) {
        match line.strip_suffix(" configured") {
            Some(name) => configured.push(name.replace(&rendered.ns.name, "thisns")),
            None => assert!(line.ends_with(" unchanged"), "the second time: {line}"),
        }
    }
    assert_eq!(configured, shape.configured, "what kubectl cannot leave alone");
    assert_eq!(rendered.state(), before, "nothing is different after the second time");
    // Server-side from here on: kubectl takes over what it wrote itself.
    for line in rendered.apply(&["--server-side", "--force-conflicts"]) {
        assert!(line.ends_with(" serverside-applied"), "{line}");
    }
    rendered.no_difference(&["--server-side", "--force-conflicts"]);
    assert_eq!(rendered.state(), before, "nothing is different by applying server-side");
}

fn server_side(shape: &Shape) {
    let rendered = Rendered::new(shape.name, "ssa");
    for line in rendered.apply(&["--server-side"]) {
        assert!(line.ends_with(" serverside-applied"), "the first time: {line}");
    }
    let before = rendered.state();
    rendered.no_difference(&["--server-side"]);
    for line in rendered.apply(&["--server-side"]) {
        assert!(line.ends_with(" serverside-applied"), "the second time: {line}");
    }
    assert_eq!(rendered.state(), before, "nothing is different after the second time");
}

macro_rules! shapes {
    ($($name:ident: $configured:expr,)*) => {$(
        mod $name {
            use super::{client_side, server_side, Shape};

            const SHAPE: Shape = Shape { name: stringify!($name), configured: &$configured };

            #[test]
            fn applies_client_side_twice() {
                client_side(&SHAPE);
            }

            #[test]
            fn applies_server_side_twice() {
                server_side(&SHAPE);
            }
        }
    )*};
}

shapes! {
    operator: [
        "deployment.apps/cache-operator",
        "poddisruptionbudget.policy/cache-operator",
        "networkpolicy.networking.k8s.io/cache-operator",
        "mutatingwebhookconfiguration.admissionregistration.k8s.io/thisns-cache-operator",
        "validatingadmissionpolicy.admissionregistration.k8s.io/thisns-no-latest",
        "cache.thisns.example.test/sessions",
    ],
    database: [
        "service/db",
        "statefulset.apps/db",
        "persistentvolumeclaim/db-backups",
        "job.batch/db-migrate",
        "poddisruptionbudget.policy/db",
        "networkpolicy.networking.k8s.io/db",
    ],
    ingress: [
        "priorityclass.scheduling.k8s.io/thisns-edge",
        "configmap/tcp-services",
        "deployment.apps/ingress-controller",
        "horizontalpodautoscaler.autoscaling/ingress-controller",
        "poddisruptionbudget.policy/ingress-controller",
        "validatingwebhookconfiguration.admissionregistration.k8s.io/thisns-ingress-admission",
    ],
    monitoring: [
        "customresourcedefinition.apiextensions.k8s.io/prometheusrules.thisns.monitoring.test",
        "daemonset.apps/node-exporter",
        "service/prometheus",
        "deployment.apps/grafana",
        "servicemonitor.thisns.monitoring.test/node-exporter",
    ],
    gitops: [
        "resourcequota/critical-pods",
        "deployment.apps/source-controller",
        "networkpolicy.networking.k8s.io/allow-webhooks",
        "gitrepository.thisns.toolkit.test/infra",
    ],
}
