//! The checks of the Pod Security Standards, in upstream's order and words.

use super::levels::{Level, Policy};
use serde_json::Value;

const NULL: Value = Value::Null;
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Harmless sysctls, with the minor version that allowed them.
const SYSCTLS: [(&str, u32); 10] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
];
const SELINUX_TYPES: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];
const VOLUMES: [&str; 8] =
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

/// A Pod under the checks.
struct Pod<'a> {
    spec: &'a Value,
    annotations: &'a Value,
    containers: Vec<&'a Value>,
    out: Vec<String>,
}

/// What a Pod (or a workload's template) breaks: reasons with their details.
pub fn violations(policy: &Policy, pod: &Value) -> Vec<String> {
    if policy.level == Level::Privileged {
        return vec![];
    }
    let spec = pod.get("spec").unwrap_or(&NULL);
    let all = ["initContainers", "containers", "ephemeralContainers"];
    let containers = all.iter().filter_map(|f| spec.get(*f)).filter_map(Value::as_array).flatten().collect();
    let annotations = pod.pointer("/metadata/annotations").unwrap_or(&NULL);
    let mut pod = Pod { spec, annotations, containers, out: vec![] };
    let minor = policy.minor();
    let restricted = policy.level == Level::Restricted;
    pod.app_armor();
    if !restricted {
        pod.capabilities();
    }
    pod.host_namespaces();
    if !restricted {
        pod.host_paths();
    }
    pod.host_ports();
    if minor >= 34 {
        pod.probe_hosts();
    }
    pod.privileged();
    pod.proc_mount(minor);
    if !restricted || minor < 19 {
        pod.seccomp_baseline();
    }
    pod.selinux(minor);
    pod.sysctls(minor);
    pod.host_process();
    if restricted {
        // Pods for Windows have no such settings.
        let windows = minor >= 25 && pod.spec.pointer("/os/name").and_then(Value::as_str) == Some("windows");
        if !windows {
            pod.privilege_escalation();
            pod.capabilities_restricted();
        }
        pod.restricted_volumes();
        pod.non_root();
        if minor >= 23 {
            pod.root_user();
        }
        if !windows && minor >= 19 {
            pod.seccomp_restricted();
        }
    }
    pod.out
}

fn name(container: &Value) -> &str {
    container.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn quoted<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let mut list: Vec<String> = vec![];
    for one in all {
        let one = format!("{one:?}");
        if !list.contains(&one) {
            list.push(one);
        }
    }
    list.join(", ")
}

fn plural<T>(all: &[T], one: &str) -> String {
    if all.len() == 1 { one.to_owned() } else { format!("{one}s") }
}

fn sorted(mut all: Vec<&str>) -> Vec<&str> {
    all.sort_unstable();
    all.dedup();
    all
}

impl<'a> Pod<'a> {
    fn say(&mut self, reason: &str, detail: String) {
        self.out.push(format!("{reason} ({detail})"));
    }

    fn context(&self) -> &'a Value {
        self.spec.get("securityContext").unwrap_or(&NULL)
    }

    /// Names of the containers whose security context is bad.
    fn bad(&self, bad: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let context = |c: &&'a Value| c.get("securityContext").is_some_and(&bad);
        self.containers.iter().filter(|c| context(c)).map(|c| name(c)).collect()
    }

    fn containers_say(&mut self, reason: &str, bad: &[&str], what: &str) {
        if !bad.is_empty() {
            let detail = format!("{} {} {what}", plural(bad, "container"), quoted(bad.iter().copied()));
            self.say(reason, detail);
        }
    }

    fn app_armor(&mut self) {
        let mut bad: Vec<String> = vec![];
        let forbidden = |context: &Value| {
            let kind = context.pointer("/appArmorProfile/type").and_then(Value::as_str);
            kind.is_some_and(|k| !matches!(k, "RuntimeDefault" | "Localhost"))
        };
        if forbidden(self.context()) {
            bad.push("pod must not set AppArmor profile type to \"Unconfined\"".to_owned());
        }
        let containers = self.bad(forbidden);
        if !containers.is_empty() {
            let list = quoted(containers.iter().copied());
            bad.push(format!(
                "{} {list} must not set AppArmor profile type to \"Unconfined\"",
                plural(&containers, "container")
            ));
        }
        for (key, value) in self.annotations.as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default();
            let allowed = value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
            if key.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed {
                bad.push(format!("annotation must not set AppArmor profile type to \"{key}={value}\""));
            }
        }
        if !bad.is_empty() {
            self.say("forbidden AppArmor profile", bad.join(", "));
        }
    }

    fn added(container: &Value) -> impl Iterator<Item = &str> {
        let all = container.pointer("/securityContext/capabilities/add").and_then(Value::as_array);
        all.into_iter().flatten().filter_map(Value::as_str)
    }

    fn capabilities(&mut self) {
        let wrong = |c: &'a Value| Self::added(c).filter(|a| !CAPABILITIES.contains(a));
        let bad: Vec<&str> = self.containers.iter().filter(|c| wrong(c).next().is_some()).map(|c| name(c)).collect();
        let which = sorted(self.containers.iter().flat_map(|c| wrong(c)).collect());
        let what = format!("must not include {} in securityContext.capabilities.add", quoted(which));
        self.containers_say("non-default capabilities", &bad, &what);
    }

    fn host_namespaces(&mut self) {
        let set = |f: &&str| self.spec.get(*f).and_then(Value::as_bool) == Some(true);
        let all: Vec<String> =
            ["hostNetwork", "hostPID", "hostIPC"].iter().filter(|f| set(f)).map(|f| format!("{f}=true")).collect();
        if !all.is_empty() {
            self.say("host namespaces", all.join(", "));
        }
    }

    fn volumes(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.spec.get("volumes").and_then(Value::as_array).into_iter().flatten()
    }

    fn host_paths(&mut self) {
        let bad: Vec<&str> = self.volumes().filter(|v| v.get("hostPath").is_some()).map(name).collect();
        if !bad.is_empty() {
            self.say("hostPath volumes", format!("{} {}", plural(&bad, "volume"), quoted(bad.iter().copied())));
        }
    }

    fn host_ports(&mut self) {
        let ports = |c: &'a Value| {
            let all = c.get("ports").and_then(Value::as_array).into_iter().flatten();
            all.filter_map(|p| p.get("hostPort").and_then(Value::as_i64)).filter(|p| *p != 0)
        };
        let bad: Vec<&str> = self.containers.iter().filter(|c| ports(c).next().is_some()).map(|c| name(c)).collect();
        let mut which: Vec<i64> = self.containers.iter().flat_map(|c| ports(c)).collect();
        which.sort_unstable();
        which.dedup();
        if !bad.is_empty() {
            let uses = if bad.len() == 1 { "uses" } else { "use" };
            let list: Vec<String> = which.iter().map(i64::to_string).collect();
            let detail = format!(
                "{} {} {uses} {} {}",
                plural(&bad, "container"),
                quoted(bad.iter().copied()),
                plural(&which, "hostPort"),
                list.join(", ")
            );
            self.say("hostPort", detail);
        }
    }

    fn probe_hosts(&mut self) {
        let mut bad: Vec<&str> = vec![];
        for container in &self.containers {
            let handlers =
                ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
            let set = |at: &str| container.pointer(at).and_then(Value::as_str).is_some_and(|h| !h.is_empty());
            if handlers.iter().any(|h| set(&format!("{h}/httpGet/host")) || set(&format!("{h}/tcpSocket/host"))) {
                bad.push(name(container));
            }
        }
        self.containers_say("probe or lifecycle host", &bad, "must not set a host in probes or lifecycle handlers");
    }

    fn privileged(&mut self) {
        let bad = self.bad(|c| c.get("privileged").and_then(Value::as_bool) == Some(true));
        self.containers_say("privileged", &bad, "must not set securityContext.privileged=true");
    }

    fn proc_mount(&mut self, minor: u32) {
        // Inside a user namespace an unmasked /proc shows nothing of the host.
        if minor >= 35 && self.spec.get("hostUsers").and_then(Value::as_bool) == Some(false) {
            return;
        }
        let bad = self.bad(|c| c.get("procMount").and_then(Value::as_str).is_some_and(|m| m != "Default"));
        self.containers_say("procMount", &bad, "must not set securityContext.procMount to \"Unmasked\"");
    }

    fn seccomp_of(context: &Value) -> Option<&str> {
        context.pointer("/seccompProfile/type").and_then(Value::as_str)
    }

    fn seccomp_baseline(&mut self) {
        let mut said = vec![];
        if Self::seccomp_of(self.context()) == Some("Unconfined") {
            said.push("pod must not set securityContext.seccompProfile.type to \"Unconfined\"".to_owned());
        }
        let bad = self.bad(|c| Self::seccomp_of(c) == Some("Unconfined"));
        if !bad.is_empty() {
            let list = quoted(bad.iter().copied());
            let who = plural(&bad, "container");
            said.push(format!("{who} {list} must not set securityContext.seccompProfile.type to \"Unconfined\""));
        }
        if !said.is_empty() {
            self.say("seccompProfile", said.join(" and "));
        }
    }

    fn selinux(&mut self, minor: u32) {
        let mut types = vec![];
        let (mut users, mut roles) = (false, false);
        let mut bad = |context: &Value| {
            let Some(options) = context.get("seLinuxOptions").filter(|o| o.is_object()) else { return false };
            let text = |key: &str| options.get(key).and_then(Value::as_str).unwrap_or_default();
            let kind = text("type");
            let known = SELINUX_TYPES.contains(&kind) || (minor >= 31 && kind == "container_engine_t");
            if !known && !types.contains(&kind.to_owned()) {
                types.push(kind.to_owned());
            }
            users |= !text("user").is_empty();
            roles |= !text("role").is_empty();
            !known || !text("user").is_empty() || !text("role").is_empty()
        };
        let pod = bad(self.context());
        let mut containers: Vec<&str> = vec![];
        for container in &self.containers {
            if container.get("securityContext").is_some_and(&mut bad) {
                containers.push(name(container));
            }
        }
        if !pod && containers.is_empty() {
            return;
        }
        let mut who = vec![];
        if pod {
            who.push("pod".to_owned());
        }
        if !containers.is_empty() {
            who.push(format!("{} {}", plural(&containers, "container"), quoted(containers.iter().copied())));
        }
        let mut what = vec![];
        if !types.is_empty() {
            what.push(format!("{} {}", plural(&types, "type"), quoted(types.iter().map(String::as_str))));
        }
        if users {
            what.push("user may not be set".to_owned());
        }
        if roles {
            what.push("role may not be set".to_owned());
        }
        let detail = format!("{} set forbidden securityContext.seLinuxOptions: {}", who.join(" and "), what.join("; "));
        self.say("seLinuxOptions", detail);
    }

    fn sysctls(&mut self, minor: u32) {
        let all = self.context().get("sysctls").and_then(Value::as_array).into_iter().flatten().map(name);
        let bad: Vec<&str> = all.filter(|s| !SYSCTLS.iter().any(|(n, since)| n == s && minor >= *since)).collect();
        if !bad.is_empty() {
            self.say("forbidden sysctls", bad.join(", "));
        }
    }

    fn host_process(&mut self) {
        let set = |c: &Value| c.pointer("/windowsOptions/hostProcess").and_then(Value::as_bool) == Some(true);
        let mut said = vec![];
        if set(self.context()) {
            said.push("pod".to_owned());
        }
        let bad = self.bad(set);
        if !bad.is_empty() {
            said.push(format!("{} {}", plural(&bad, "container"), quoted(bad.iter().copied())));
        }
        if !said.is_empty() {
            let detail = format!("{} must not set securityContext.windowsOptions.hostProcess=true", said.join(" and "));
            self.say("hostProcess", detail);
        }
    }

    fn privilege_escalation(&mut self) {
        let allows = |c: &&&'a Value| {
            c.pointer("/securityContext/allowPrivilegeEscalation").and_then(Value::as_bool) != Some(false)
        };
        let bad: Vec<&str> = self.containers.iter().filter(allows).map(|c| name(c)).collect();
        self.containers_say(
            "allowPrivilegeEscalation != false",
            &bad,
            "must set securityContext.allowPrivilegeEscalation=false",
        );
    }

    fn capabilities_restricted(&mut self) {
        let drops = |c: &Value| {
            let all = c.pointer("/securityContext/capabilities/drop").and_then(Value::as_array);
            all.into_iter().flatten().any(|d| d == "ALL")
        };
        let keeps: Vec<&str> = self.containers.iter().filter(|c| !drops(c)).map(|c| name(c)).collect();
        let wrong = |c: &'a Value| Self::added(c).filter(|a| *a != "NET_BIND_SERVICE");
        let adds: Vec<&str> = self.containers.iter().filter(|c| wrong(c).next().is_some()).map(|c| name(c)).collect();
        let which = sorted(self.containers.iter().flat_map(|c| wrong(c)).collect());
        let mut said = vec![];
        if !keeps.is_empty() {
            let list = quoted(keeps.iter().copied());
            let who = plural(&keeps, "container");
            said.push(format!("{who} {list} must set securityContext.capabilities.drop=[\"ALL\"]"));
        }
        if !adds.is_empty() {
            let list = quoted(adds.iter().copied());
            let who = plural(&adds, "container");
            said.push(format!("{who} {list} must not include {} in securityContext.capabilities.add", quoted(which)));
        }
        if !said.is_empty() {
            self.say("unrestricted capabilities", said.join("; "));
        }
    }

    fn restricted_volumes(&mut self) {
        let mut bad: Vec<&str> = vec![];
        let mut kinds: Vec<&str> = vec![];
        for volume in self.volumes() {
            let keys = volume.as_object().into_iter().flat_map(|o| o.keys()).map(String::as_str);
            let kind = keys.filter(|k| *k != "name").find(|k| !VOLUMES.contains(k));
            if let Some(kind) = kind {
                bad.push(name(volume));
                kinds.push(kind);
            }
        }
        if !bad.is_empty() {
            let kinds = sorted(kinds);
            let detail = format!(
                "{} {} {} restricted volume {} {}",
                plural(&bad, "volume"),
                quoted(bad.iter().copied()),
                if bad.len() == 1 { "uses" } else { "use" },
                plural(&kinds, "type"),
                quoted(kinds.iter().copied())
            );
            self.say("restricted volume types", detail);
        }
    }

    fn non_root(&mut self) {
        let said = |c: &Value| c.get("runAsNonRoot").and_then(Value::as_bool);
        let pod = said(self.context());
        let own = |c: &&'a Value| c.get("securityContext").and_then(said);
        let explicit: Vec<&str> = self.containers.iter().filter(|c| own(c) == Some(false)).map(|c| name(c)).collect();
        let implicit: Vec<&str> = self.containers.iter().filter(|c| own(c).is_none()).map(|c| name(c)).collect();
        let mut bad = vec![];
        if pod == Some(false) {
            bad.push("pod".to_owned());
        }
        if !explicit.is_empty() {
            bad.push(format!("{} {}", plural(&explicit, "container"), quoted(explicit.iter().copied())));
        }
        if !bad.is_empty() {
            let detail = format!("{} must not set securityContext.runAsNonRoot=false", bad.join(" and "));
            return self.say("runAsNonRoot != true", detail);
        }
        if pod != Some(true) && !implicit.is_empty() {
            let list = quoted(implicit.iter().copied());
            let who = plural(&implicit, "container");
            self.say("runAsNonRoot != true", format!("pod or {who} {list} must set securityContext.runAsNonRoot=true"));
        }
    }

    fn root_user(&mut self) {
        let root = |c: &Value| c.get("runAsUser").and_then(Value::as_i64) == Some(0);
        let mut bad = vec![];
        if root(self.context()) {
            bad.push("pod".to_owned());
        }
        let containers = self.bad(root);
        if !containers.is_empty() {
            bad.push(format!("{} {}", plural(&containers, "container"), quoted(containers.iter().copied())));
        }
        if !bad.is_empty() {
            self.say("runAsUser=0", format!("{} must not set runAsUser=0", bad.join(" and ")));
        }
    }

    fn seccomp_restricted(&mut self) {
        let good = |t: &str| matches!(t, "RuntimeDefault" | "Localhost");
        let pod = Self::seccomp_of(self.context());
        let own = |c: &&'a Value| c.get("securityContext").and_then(Self::seccomp_of);
        let explicit: Vec<&str> =
            self.containers.iter().filter(|c| own(c).is_some_and(|t| !good(t))).map(|c| name(c)).collect();
        let implicit: Vec<&str> = self.containers.iter().filter(|c| own(c).is_none()).map(|c| name(c)).collect();
        let mut bad = vec![];
        if pod.is_some_and(|t| !good(t)) {
            bad.push("pod".to_owned());
        }
        if !explicit.is_empty() {
            bad.push(format!("{} {}", plural(&explicit, "container"), quoted(explicit.iter().copied())));
        }
        if !bad.is_empty() {
            let detail =
                format!("{} must not set securityContext.seccompProfile.type to \"Unconfined\"", bad.join(" and "));
            return self.say("seccompProfile", detail);
        }
        if pod.is_none() && !implicit.is_empty() {
            let list = quoted(implicit.iter().copied());
            let who = plural(&implicit, "container");
            let what = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
            self.say("seccompProfile", format!("pod or {who} {list} {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(level: Level, version: Option<u32>, spec: Value) -> Vec<String> {
        violations(&Policy { level, version }, &json!({"spec": spec}))
    }

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let plain = json!({"containers": [{"name": "c"}]});
        assert!(check(Level::Baseline, None, plain.clone()).is_empty());
        assert_eq!(
            check(Level::Restricted, None, plain),
            [
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let careful = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}],
            "volumes": [{"name": "v", "emptyDir": {}}]});
        assert!(check(Level::Restricted, None, careful).is_empty());
    }

    #[test]
    fn each_baseline_check() {
        let table = [
            (
                json!({"hostNetwork": true, "hostPID": true, "containers": []}),
                "host namespaces (hostNetwork=true, hostPID=true)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {"privileged": true}}, {"name": "b", "securityContext": {"privileged": true}}]}),
                "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}}}]}),
                "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (
                json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
                "hostPath volumes (volume \"v\")",
            ),
            (
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}]}]}),
                "hostPort (container \"a\" uses hostPort 80)",
            ),
            (
                json!({"containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]}),
                "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                json!({"containers": [], "securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (
                json!({"containers": [], "securityContext": {"seLinuxOptions": {"type": "bad", "user": "u"}}}),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"bad\"; user may not be set)",
            ),
            (
                json!({"containers": [], "securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
                "forbidden sysctls (kernel.msgmax)",
            ),
            (
                json!({"containers": [], "securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ];
        for (spec, wanted) in table {
            assert_eq!(check(Level::Baseline, None, spec.clone()), [wanted], "{spec}");
            assert!(check(Level::Privileged, None, spec).is_empty());
        }
        let keepalive =
            json!({"containers": [], "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_keepalive_time"}]}});
        assert!(check(Level::Baseline, Some(29), keepalive.clone()).is_empty());
        assert_eq!(check(Level::Baseline, Some(28), keepalive).len(), 1);
    }
}
