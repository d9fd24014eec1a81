use super::*;

fn applied(group: &str, kind: &str, mut object: Value) -> Value {
    apply_to(group, kind, &mut object);
    let once = object.clone();
    apply_to(group, kind, &mut object);
    assert_eq!(object, once, "not idempotent");
    object
}

#[test]
fn pull_policies() {
    let cases = [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:00", "IfNotPresent"),
        ("nginx:latest@sha256:00", "Always"),
    ];
    for (image, want) in cases {
        assert_eq!(default_pull_policy(image), want, "{image}");
    }
}

#[test]
fn a_small_pod() {
    let pod =
        applied("", "Pod", json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}));
    assert_eq!(
        pod["spec"],
        json!({
            "containers": [{"name": "c", "image": "i:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        })
    );
}

#[test]
fn a_full_container() {
    let pod = applied(
        "",
        "Pod",
        json!({"spec": {"hostNetwork": true, "serviceAccount": "old", "containers": [{
            "name": "c", "image": "i", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}, "requests": {"cpu": 0.5}},
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
            "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0, "timeoutSeconds": 5},
            "readinessProbe": {"grpc": {"port": 1}},
            "lifecycle": {"preStop": {"httpGet": {"port": 1, "path": "/x"}}},
        }]}}),
    );
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})
    );
    assert_eq!(container["env"][0]["valueFrom"]["fieldRef"]["apiVersion"], "v1");
    assert_eq!(container["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"], "0");
    assert_eq!(
        container["livenessProbe"],
        json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 5,
               "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(container["readinessProbe"]["grpc"]["service"], "");
    assert_eq!(container["lifecycle"]["preStop"]["httpGet"]["scheme"], "HTTP");
    assert_eq!(pod["spec"]["serviceAccountName"], "old");
}

#[test]
fn volumes_of_pods() {
    let pod = applied(
        "",
        "Pod",
        json!({"spec": {"containers": [], "volumes": [
            {"name": "a"}, {"name": "b", "configMap": {"name": "x"}}, {"name": "c", "hostPath": {"path": "/"}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {"name": "e", "emptyDir": {"sizeLimit": "1024Mi"}}, {"name": "f", "secret": null}]}}),
    );
    assert_eq!(
        pod["spec"]["volumes"],
        json!([
            {"name": "a", "emptyDir": {}},
            {"name": "b", "configMap": {"name": "x", "defaultMode": 420}},
            {"name": "c", "hostPath": {"path": "/", "type": ""}},
            {"name": "d", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}},
            {"name": "e", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "f", "emptyDir": {}},
        ])
    );
}

#[test]
fn pod_level_requests() {
    let pod = applied(
        "",
        "Pod",
        json!({"spec": {"resources": {"limits": {"cpu": "2", "memory": "1Gi"}},
            "containers": [{"name": "a", "image": "i", "resources": {"requests": {"cpu": "250m"}}},
                           {"name": "b", "image": "i", "resources": {"requests": {"cpu": "250m"}}}],
            "initContainers": [{"name": "i", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}}),
    );
    assert_eq!(pod["spec"]["resources"]["requests"], json!({"cpu": "500m", "memory": "1Gi"}));
}

#[test]
fn services() {
    let service = applied("", "Service", json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}}));
    assert_eq!(
        service["spec"],
        json!({"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "selector": {"a": "b"},
               "sessionAffinity": "None", "type": "ClusterIP", "internalTrafficPolicy": "Cluster"})
    );
    assert_eq!(service["status"], json!({"loadBalancer": {}}));
    let balanced = applied("", "Service", json!({"spec": {"type": "LoadBalancer", "sessionAffinity": "ClientIP"}}));
    assert_eq!(balanced["spec"]["externalTrafficPolicy"], "Cluster");
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
    let named = applied("", "Service", json!({"spec": {"type": "ExternalName", "externalName": "a.b"}}));
    assert!(named["spec"].get("internalTrafficPolicy").is_none());
}

#[test]
fn workloads() {
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = applied("apps", "Deployment", json!({"spec": {"template": template}}));
    assert_eq!(
        deployment["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(deployment["spec"]["replicas"], 1);
    assert_eq!(deployment["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    assert!(deployment["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
    let recreate = applied("apps", "Deployment", json!({"spec": {"strategy": {"type": "Recreate"}, "replicas": 0}}));
    assert_eq!(recreate["spec"]["strategy"], json!({"type": "Recreate"}));
    assert_eq!(recreate["spec"]["replicas"], 0);
    let set = applied("apps", "StatefulSet", json!({"spec": {"volumeClaimTemplates": [{"metadata": {"name": "d"}}]}}));
    assert_eq!(set["spec"]["updateStrategy"], json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    assert_eq!(set["spec"]["volumeClaimTemplates"][0]["status"], json!({"phase": "Pending"}));
    let job = applied("batch", "Job", json!({"spec": {"template": template}}));
    assert_eq!((&job["spec"]["completions"], &job["spec"]["parallelism"]), (&json!(1), &json!(1)));
    assert_eq!(job["metadata"]["labels"], json!({"a": "b"}));
    let queue = applied("batch", "Job", json!({"spec": {"parallelism": 3, "template": template}}));
    assert!(queue["spec"].get("completions").is_none());
    let controller = applied("", "ReplicationController", json!({"spec": {"template": template}}));
    assert_eq!(controller["spec"]["selector"], json!({"a": "b"}));
}

#[test]
fn others() {
    let namespace = applied("", "Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(namespace["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    let secret = applied("", "Secret", json!({"stringData": {"a": "hi"}, "data": {"a": "eA=="}}));
    assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "aGk="}}));
    let policy = applied("networking.k8s.io", "NetworkPolicy", json!({"spec": {"egress": [{"ports": [{"port": 1}]}]}}));
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    let binding = applied(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role"}, "subjects": [{"kind": "User"}, {"kind": "ServiceAccount"}]}),
    );
    assert_eq!(
        binding["subjects"],
        json!([{"kind": "User", "apiGroup": "rbac.authorization.k8s.io"}, {"kind": "ServiceAccount"}])
    );
    let range = applied(
        "",
        "LimitRange",
        json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Ki"}}]}}),
    );
    assert_eq!(range["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "1", "memory": "1Ki"}));
    let fine = applied("", "ResourceQuota", json!({"spec": {"hard": {"cpu": "1u"}}}));
    assert_eq!(fine["spec"]["hard"]["cpu"], "1m");
    let crd = applied("apiextensions.k8s.io", "CustomResourceDefinition", json!({"spec": {"names": {"kind": "Foo"}}}));
    assert_eq!(crd["spec"]["names"], json!({"kind": "Foo", "singular": "foo", "listKind": "FooList"}));
    let hpa = applied("autoscaling", "HorizontalPodAutoscaler", json!({"spec": {"behavior": {"scaleDown": {}}}}));
    assert_eq!(hpa["spec"]["behavior"]["scaleUp"]["policies"][0]["value"], 4);
}
