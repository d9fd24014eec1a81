//! The environment of a container.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, Pod, Secret, Service};

use super::expand::expand;
use super::fields::{self, Surroundings};

/// The objects an environment or a volume refers to, read beforehand; a name without a value does not exist.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// By name, in the Pod's namespace.
    pub config_maps: HashMap<String, Option<Arc<ConfigMap>>>,
    /// By name, in the Pod's namespace.
    pub secrets: HashMap<String, Option<Arc<Secret>>>,
}

/// The names of the objects a container's environment refers to: config maps, secrets.
pub fn references(c: &Container) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    for e in c.env_from.iter().flatten() {
        maps.extend(e.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(e.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// What an environment is made from.
#[derive(Debug)]
pub struct Sources<'a> {
    /// The Pod.
    pub pod: &'a Pod,
    /// Addresses and the node's resources.
    pub around: &'a Surroundings,
    /// Config maps and secrets.
    pub objects: &'a Objects,
    /// The variables of Services (see [`service_vars`]).
    pub services: &'a BTreeMap<String, String>,
}

/// The environment, in order of first mention, or why it cannot be made (a `CreateContainerConfigError`).
pub fn environment(src: &Sources<'_>, c: &Container) -> Result<Vec<(String, String)>, String> {
    let mut env = Env::default();
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match src.objects.config_maps.get(&r.name).cloned().flatten() {
                Some(m) => {
                    m.data.iter().flatten().for_each(|(k, v)| env.set_checked(format!("{prefix}{k}"), v.clone()))
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", r.name)),
            }
        } else if let Some(r) = &from.secret_ref {
            match src.objects.secrets.get(&r.name).cloned().flatten() {
                Some(s) => s.data.iter().flatten().for_each(|(k, v)| {
                    env.set_checked(format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned());
                }),
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", r.name)),
            }
        }
    }
    for var in c.env.iter().flatten() {
        let value = match &var.value_from {
            None => {
                let get = |name: &str| env.get(name).or_else(|| src.services.get(name)).cloned();
                Some(expand(var.value.as_deref().unwrap_or_default(), &get))
            }
            Some(_) => from_source(src, c, var)?,
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    for (k, v) in src.services {
        if env.get(k).is_none() {
            env.set(k.clone(), v.clone());
        }
    }
    Ok(env.list)
}

fn from_source(src: &Sources<'_>, c: &Container, var: &EnvVar) -> Result<Option<String>, String> {
    let Some(from) = &var.value_from else { return Ok(None) };
    if let Some(f) = &from.field_ref {
        return fields::field(src.pod, src.around, &f.field_path).map(Some);
    }
    if let Some(r) = &from.resource_field_ref {
        let spec = src.pod.spec.as_ref().ok_or("the pod has no spec")?;
        return fields::resource(spec, &c.name, src.around, r).map(Some);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = src.objects.config_maps.get(&r.name).cloned().flatten() else {
            return if optional { Ok(None) } else { Err(format!("configmap \"{}\" not found", r.name)) };
        };
        return match map.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(v) => Ok(Some(v.clone())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in ConfigMap {}/{}",
                r.key,
                crate::pod::spec::namespace(src.pod),
                r.name
            )),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = src.objects.secrets.get(&r.name).cloned().flatten() else {
            return if optional { Ok(None) } else { Err(format!("secret \"{}\" not found", r.name)) };
        };
        return match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
            Some(v) => Ok(Some(String::from_utf8_lossy(&v.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!(
                "couldn't find key {} in Secret {}/{}",
                r.key,
                crate::pod::spec::namespace(src.pod),
                r.name
            )),
        };
    }
    if from.file_key_ref.is_some() {
        return Err(format!("env {}: fileKeyRef is not supported by this node", var.name));
    }
    Ok(None)
}

#[derive(Default)]
struct Env {
    list: Vec<(String, String)>,
    at: HashMap<String, usize>,
}

impl Env {
    fn get(&self, name: &str) -> Option<&String> {
        self.at.get(name).map(|i| &self.list[*i].1)
    }

    fn set(&mut self, name: String, value: String) {
        match self.at.get(&name) {
            Some(i) => self.list[*i].1 = value,
            None => {
                self.at.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    /// Leaves out names that no environment can hold.
    fn set_checked(&mut self, name: String, value: String) {
        if !name.is_empty() && name.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
            self.set(name, value);
        }
    }
}

/// The variables that tell of Services: those of the Pod's namespace if it wants them, and always the API's own.
pub fn service_vars(services: &[Arc<Service>], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    let (mut chosen, mut master) = (Vec::new(), None);
    for s in services {
        let (Some(name), Some(ns)) = (s.metadata.name.as_deref(), s.metadata.namespace.as_deref()) else { continue };
        let ip = s.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()).unwrap_or_default();
        if ip.is_empty() || ip == "None" {
            continue;
        }
        if ns == "default" && name == "kubernetes" {
            master = Some(s);
        }
        if links && ns == namespace {
            chosen.push(s);
        }
    }
    // A Service named kubernetes in the Pod's own namespace hides the API's.
    if let Some(m) = master {
        one_service(m, &mut vars);
    }
    chosen.into_iter().for_each(|s| one_service(s, &mut vars));
    vars
}

fn one_service(s: &Service, vars: &mut BTreeMap<String, String>) {
    let Some(spec) = &s.spec else { return };
    let name = s.metadata.name.as_deref().unwrap_or_default().to_uppercase().replace('-', "_");
    let ip = spec.cluster_ip.clone().unwrap_or_default();
    let ports: Vec<_> = spec.ports.iter().flatten().collect();
    let Some(first) = ports.first() else { return };
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    vars.insert(format!("{name}_SERVICE_HOST"), ip.clone());
    vars.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for p in &ports {
        if let Some(n) = p.name.as_deref().filter(|n| !n.is_empty()) {
            vars.insert(format!("{name}_SERVICE_PORT_{}", n.to_uppercase().replace('-', "_")), p.port.to_string());
        }
    }
    for (i, p) in ports.iter().enumerate() {
        let protocol = p.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), p.port);
        if i == 0 {
            vars.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{}", p.port, protocol.to_uppercase());
        vars.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        vars.insert(format!("{prefix}_PORT"), p.port.to_string());
        vars.insert(format!("{prefix}_ADDR"), ip.clone());
        vars.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn env(container: serde_json::Value) -> Result<Vec<(String, String)>, String> {
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [container]}}),
        )
        .unwrap();
        let mut objects = Objects::default();
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "a=b": "bad"}})).unwrap();
        objects.config_maps.insert("m".into(), Some(Arc::new(map)));
        objects.config_maps.insert("gone".into(), None);
        let secret: Secret = serde_json::from_value(json!({"data": {"s": "c2VjcmV0"}})).unwrap();
        objects.secrets.insert("sec".into(), Some(Arc::new(secret)));
        let services = BTreeMap::from([("SVC_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())]);
        let around = Surroundings::default();
        let c = pod.spec.as_ref().unwrap().containers[0].clone();
        environment(&Sources { pod: &pod, around: &around, objects: &objects, services: &services }, &c)
    }

    fn got(list: &[(String, String)], name: &str) -> Option<String> {
        list.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone())
    }

    #[test]
    fn sources_and_order() {
        let e = env(json!({"name": "a",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "sec"}}],
            "env": [{"name": "X", "value": "$(P_k)-$(SVC_SERVICE_HOST)-$(LATER)-$$(P_k)"}, {"name": "LATER", "value": "l"},
                    {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "S", "valueFrom": {"secretKeyRef": {"name": "sec", "key": "s"}}},
                    {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "s", "optional": true}}}]}))
        .unwrap();
        assert_eq!(got(&e, "X").unwrap(), "v-10.0.0.1-$(LATER)-$(P_k)");
        assert_eq!(got(&e, "N").unwrap(), "p");
        assert_eq!(got(&e, "S").unwrap(), "secret");
        assert_eq!(got(&e, "s").unwrap(), "secret");
        assert_eq!((got(&e, "O"), got(&e, "P_a=b")), (None, None));
        assert_eq!(got(&e, "SVC_SERVICE_HOST").unwrap(), "10.0.0.1");
    }

    #[test]
    fn missing_objects_are_told() {
        let e = env(
            json!({"name": "a", "env": [{"name": "O", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "s"}}}]}),
        );
        assert_eq!(e.unwrap_err(), "configmap \"gone\" not found");
        let e = env(
            json!({"name": "a", "env": [{"name": "O", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "zz"}}}]}),
        );
        assert_eq!(e.unwrap_err(), "couldn't find key zz in ConfigMap n/m");
    }

    #[test]
    fn service_variables() {
        let svc = |ns: &str, name: &str, ip: &str| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": ns}, "spec": {"clusterIP": ip,
                "ports": [{"name": "my-web", "port": 80}, {"port": 53, "protocol": "UDP"}]}}))
                .unwrap(),
            )
        };
        let all = [
            svc("default", "kubernetes", "10.96.0.1"),
            svc("n", "my-db", "10.96.0.9"),
            svc("n", "headless", "None"),
            svc("o", "x", "1.1.1.1"),
        ];
        let vars = service_vars(&all, "n", true);
        assert_eq!(vars["MY_DB_SERVICE_HOST"], "10.96.0.9");
        assert_eq!(vars["MY_DB_SERVICE_PORT_MY_WEB"], "80");
        assert_eq!(vars["MY_DB_PORT"], "tcp://10.96.0.9:80");
        assert_eq!(vars["MY_DB_PORT_53_UDP_PROTO"], "udp");
        assert_eq!(vars["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert!(!vars.keys().any(|k| k.starts_with("HEADLESS") || k.starts_with("X_")));
        assert!(service_vars(&all, "n", false).keys().all(|k| k.starts_with("KUBERNETES_")));
    }
}
