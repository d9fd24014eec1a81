"""Lists, watches, creates and execs with the Python client. Arguments: kubeconfig, namespace."""

import sys

from kubernetes import client, config, watch
from kubernetes.stream import stream

kubeconfig, namespace = sys.argv[1:]
config.load_kube_config(kubeconfig)
core, apps = client.CoreV1Api(), client.AppsV1Api()

name = "from-python"
core.create_namespaced_config_map(namespace, {"metadata": {"name": name}, "data": {"k": "v"}})
listed = core.list_namespaced_config_map(namespace)
assert name in [c.metadata.name for c in listed.items]

seen = []
core.patch_namespaced_config_map(name, namespace, {"data": {"k": "w"}})
for event in watch.Watch().stream(
    core.list_namespaced_config_map, namespace, resource_version=listed.metadata.resource_version, timeout_seconds=10
):
    seen.append((event["type"], event["object"].metadata.name, event["object"].data["k"]))
    break
assert seen == [("MODIFIED", name, "w")], seen

try:
    core.read_namespaced_config_map("absent", namespace)
    raise AssertionError("it should not be there")
except client.ApiException as e:
    assert e.status == 404 and '"reason":"NotFound"' in e.body, e

pod = {
    "metadata": {"name": "p"},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "test/busybox:1", "command": ["sleep", "3600"]}],
    },
}
core.create_namespaced_pod(namespace, pod)
for event in watch.Watch().stream(core.list_namespaced_pod, namespace, timeout_seconds=60):
    if event["object"].status.phase == "Running":
        break
said = stream(
    core.connect_get_namespaced_pod_exec,
    "p",
    namespace,
    command=["sh", "-c", "echo hello"],
    stderr=True,
    stdin=False,
    stdout=True,
    tty=False,
)
assert said == "hello\n", said
assert apps.list_deployment_for_all_namespaces().kind == "DeploymentList"
print("ok")
