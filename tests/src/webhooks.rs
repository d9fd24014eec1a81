//! A namespace with a webhook server of its own, for tests of admission webhooks.

use crate::Namespace;
use crate::extension::{Call, Extension, Reply};
use serde_json::{Value, json};

/// Where webhook configurations are served.
pub const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
/// Those that change objects.
pub const MUTATING: &str = "mutatingwebhookconfigurations";
/// Those that refuse.
pub const VALIDATING: &str = "validatingwebhookconfigurations";

/// A namespace with a webhook server behind the Service `hook` in it.
pub struct World {
    /// The namespace.
    pub ns: Namespace,
    /// The server.
    pub hook: Extension,
    /// Cluster-scoped objects to be removed at the end.
    pub litter: Vec<String>,
}

impl World {
    /// A fresh namespace whose webhook server answers so.
    pub fn new(prefix: &str, answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> World {
        let ns = Namespace::new(prefix);
        let hook = Extension::start(&ns, "hook", answer);
        World { ns, hook, litter: vec![] }
    }

    /// A webhook for these rules, in this namespace alone.
    pub fn webhook(&self, name: &str, path: &str, rules: Value) -> Value {
        json!({
            "name": format!("{name}.{}.example.com", self.ns.name),
            "clientConfig": self.hook.service(&self.ns, "hook", path),
            "rules": rules, "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self.ns.name}},
        })
    }

    /// Registers webhooks under a configuration of this name.
    pub fn register(&mut self, plural: &str, name: &str, hooks: Vec<Value>) -> String {
        let kind = if plural == MUTATING { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
        let name = format!("{name}-{}", self.ns.name);
        let object = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name, "labels": {"of": self.ns.name}}, "webhooks": hooks,
        });
        self.made(&format!("{GROUP}/{plural}"), &object);
        format!("{GROUP}/{plural}/{name}")
    }

    /// Creates something of the cluster, to be removed at the end.
    pub fn made(&mut self, collection: &str, object: &Value) -> Value {
        let (code, made) = self.ns.wire().post(collection, object);
        assert_eq!(code, 201, "{made}");
        self.litter.push(format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap()));
        made
    }

    /// Path of its ConfigMaps.
    pub fn maps(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.ns.name)
    }

    /// Creates a ConfigMap in it.
    pub fn create_map(&self, name: &str, data: Value) -> (u16, Value) {
        self.ns.wire().post(&self.maps(), &config_map(name, data))
    }

    /// What a dry run of this ConfigMap becomes, once the wanted comes true: the webhooks are in force.
    pub fn until(&self, what: &str, data: Value, wanted: impl Fn(u16, &Value) -> bool) {
        self.ns.eventually(what, || {
            let path = format!("{}?dryRun=All", self.maps());
            let (code, said) = self.ns.wire().post(&path, &config_map("probe", data.clone()));
            if wanted(code, &said) { Ok(()) } else { Err(format!("{code} {said}")) }
        });
    }

    /// Creates a definition of a custom resource and waits until it is served; the path of its collection.
    pub fn define(&mut self, plural: &str, change: impl FnOnce(&mut Value)) -> String {
        let group = format!("{}.example.com", self.ns.name);
        let singular = plural.trim_end_matches('s');
        let kind = format!("{}{}", singular[..1].to_uppercase(), &singular[1..]);
        let open = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
        let version =
            |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": open});
        let mut definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}")},
            "spec": {"group": group, "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
                "versions": [version("v1", true), version("v2", false)]},
        });
        change(&mut definition);
        self.made("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition);
        let path = format!("/apis/{group}/v1/namespaces/{}/{plural}", self.ns.name);
        self.ns.eventually("the custom resource is served", || match self.ns.wire().get(&path) {
            (200, _) => Ok(()),
            (code, said) => Err(format!("{code} {said}")),
        });
        path
    }

    /// An object of a custom resource that [`World::define`] defined.
    pub fn custom(&self, plural: &str, name: &str, data: Value) -> Value {
        let singular = plural.trim_end_matches('s');
        let kind = format!("{}{}", singular[..1].to_uppercase(), &singular[1..]);
        json!({"apiVersion": format!("{}.example.com/v1", self.ns.name), "kind": kind, "metadata": {"name": name}, "data": data})
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Webhooks first, lest they hold up what follows.
        self.litter.sort_by_key(|path| !path.starts_with(GROUP));
        for path in &self.litter {
            self.ns.wire().delete(path);
        }
    }
}

/// A ConfigMap.
pub fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}
