//! What a container finds when it starts: files, environment, identity. Each test runs one Pod to its end and
//! compares what it printed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::Namespace;
use serde_json::{Value, json};

/// The objects that the Pods' volumes and variables refer to.
fn sources(ns: &Namespace) {
    let objects = json!({"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm"},"data":{"data-1":"value-1","data-2":"value-2"},"binaryData":{"bin":"3q3+7w=="}},
        {"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"data-1":"secret-1","data-2":"secret-2"}},
    ]});
    ns.create(&objects.to_string());
}

/// Runs a Pod of one container `c` whose spec is `container` merged over a shell that runs `script`.
fn run(prefix: &str, pod: Value, container: Value, script: &str) -> String {
    let ns = Namespace::new(prefix);
    sources(&ns);
    let mut c = json!({"name":"c","image":"test/busybox:1","command":["sh","-c",script]});
    merge(&mut c, container);
    let mut spec = json!({"restartPolicy":"Never","terminationGracePeriodSeconds":0,"containers":[c]});
    merge(&mut spec, pod);
    let object = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"color":"blue"},"annotations":{"note":"hi"}},"spec":spec});
    ns.create(&object.to_string());
    ns.eventually("the Pod succeeds", || match ns.field("pod/p", "{.status.phase}").as_str() {
        "Succeeded" => Ok(()),
        "Failed" => panic!("the container failed and said: {:?}", ns.log("p", "c")),
        other => Err(format!("it is {other}")),
    });
    ns.log("p", "c").unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// `name: pod fields, container fields, script => what it prints`
macro_rules! prints {
    ($($test:ident: $pod:tt, $container:tt, $script:expr => $expected:expr;)*) => {$(
        #[test]
        fn $test() {
            let prefix = stringify!($test).replace('_', "-");
            let prefix: String = prefix.chars().take(40).collect();
            let said = run(prefix.trim_end_matches('-'), json!($pod), json!($container), $script);
            assert_eq!(said, $expected);
        }
    )*};
}

// Volumes of ConfigMaps, Secrets and projections: `/v` is the volume.
prints! {
    config_map_volume: {"volumes":[{"name":"v","configMap":{"name":"cm"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a %u' /v/data-1" => "value-1 644 0\n";
    config_map_volume_default_mode: {"volumes":[{"name":"v","configMap":{"name":"cm","defaultMode":256}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1" => "value-1 400\n";
    config_map_volume_non_root: {"securityContext":{"runAsUser":1000},"volumes":[{"name":"v","configMap":{"name":"cm"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; echo; id -u" => "value-1\n1000\n";
    config_map_volume_mappings: {"volumes":[{"name":"v","configMap":{"name":"cm","items":[{"key":"data-2","path":"path/to/data-2"}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/path/to/data-2; echo; ls /v" => "value-2\npath\n";
    config_map_volume_mappings_item_mode: {"volumes":[{"name":"v","configMap":{"name":"cm","items":[{"key":"data-2","path":"path/to/data-2","mode":256}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/path/to/data-2; stat -L -c ' %a' /v/path/to/data-2" => "value-2 400\n";
    config_map_volume_mappings_non_root: {"securityContext":{"runAsUser":1000},"volumes":[{"name":"v","configMap":{"name":"cm","items":[{"key":"data-2","path":"path/to/data-2"}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/path/to/data-2; echo; id -u" => "value-2\n1000\n";
    config_map_volume_twice: {"volumes":[{"name":"v","configMap":{"name":"cm"}},{"name":"w","configMap":{"name":"cm"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]},
        "cat /v/data-1 /w/data-1" => "value-1value-1";
    config_map_volume_binary: {"volumes":[{"name":"v","configMap":{"name":"cm"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "hexdump -e '4/1 \"%02x\"' /v/bin" => "deadfeef";
    secret_volume: {"volumes":[{"name":"v","secret":{"secretName":"s"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1; grep -c ' /v tmpfs' /proc/mounts" => "secret-1 644\n1\n";
    secret_volume_default_mode: {"volumes":[{"name":"v","secret":{"secretName":"s","defaultMode":256}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1" => "secret-1 400\n";
    secret_volume_non_root_mode_and_fs_group: {"securityContext":{"runAsUser":1000,"fsGroup":1001},"volumes":[{"name":"v","secret":{"secretName":"s","defaultMode":288}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a %g' /v/data-1" => "secret-1 440 1001\n";
    secret_volume_mappings: {"volumes":[{"name":"v","secret":{"secretName":"s","items":[{"key":"data-1","path":"new-path-data-1"}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/new-path-data-1; echo; ls /v" => "secret-1\nnew-path-data-1\n";
    secret_volume_mappings_item_mode: {"volumes":[{"name":"v","secret":{"secretName":"s","items":[{"key":"data-1","path":"new-path-data-1","mode":256}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/new-path-data-1; stat -L -c ' %a' /v/new-path-data-1" => "secret-1 400\n";
    secret_volume_twice: {"volumes":[{"name":"v","secret":{"secretName":"s"}},{"name":"w","secret":{"secretName":"s"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]},
        "cat /v/data-1 /w/data-1" => "secret-1secret-1";
    projected_config_map: {"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1" => "value-1 644\n";
    projected_config_map_default_mode: {"volumes":[{"name":"v","projected":{"defaultMode":256,"sources":[{"configMap":{"name":"cm"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1" => "value-1 400\n";
    projected_config_map_non_root: {"securityContext":{"runAsUser":1000},"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; echo; id -u" => "value-1\n1000\n";
    projected_config_map_mappings: {"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm","items":[{"key":"data-2","path":"path/to/data-2"}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/path/to/data-2; echo; ls /v" => "value-2\npath\n";
    projected_config_map_mappings_item_mode: {"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm","items":[{"key":"data-2","path":"path/to/data-2","mode":256}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/path/to/data-2; stat -L -c ' %a' /v/path/to/data-2" => "value-2 400\n";
    projected_config_map_mappings_non_root: {"securityContext":{"runAsUser":1000},"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm","items":[{"key":"data-2","path":"path/to/data-2"}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/path/to/data-2; echo; id -u" => "value-2\n1000\n";
    projected_config_map_twice: {"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm"}}]}},{"name":"w","projected":{"sources":[{"configMap":{"name":"cm"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]},
        "cat /v/data-1 /w/data-1" => "value-1value-1";
    projected_secret: {"volumes":[{"name":"v","projected":{"sources":[{"secret":{"name":"s"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1" => "secret-1 644\n";
    projected_secret_default_mode: {"volumes":[{"name":"v","projected":{"defaultMode":256,"sources":[{"secret":{"name":"s"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a' /v/data-1" => "secret-1 400\n";
    projected_secret_non_root_mode_and_fs_group: {"securityContext":{"runAsUser":1000,"fsGroup":1001},"volumes":[{"name":"v","projected":{"defaultMode":288,"sources":[{"secret":{"name":"s"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/data-1; stat -L -c ' %a %g' /v/data-1" => "secret-1 440 1001\n";
    projected_secret_mappings: {"volumes":[{"name":"v","projected":{"sources":[{"secret":{"name":"s","items":[{"key":"data-1","path":"new-path-data-1"}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/new-path-data-1; echo; ls /v" => "secret-1\nnew-path-data-1\n";
    projected_secret_mappings_item_mode: {"volumes":[{"name":"v","projected":{"sources":[{"secret":{"name":"s","items":[{"key":"data-1","path":"new-path-data-1","mode":256}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/new-path-data-1; stat -L -c ' %a' /v/new-path-data-1" => "secret-1 400\n";
    projected_secret_twice: {"volumes":[{"name":"v","projected":{"sources":[{"secret":{"name":"s"}}]}},{"name":"w","projected":{"sources":[{"secret":{"name":"s"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]},
        "cat /v/data-1 /w/data-1" => "secret-1secret-1";
    projected_all_in_one: {"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm","items":[{"key":"data-1","path":"cm"}]}},{"secret":{"name":"s","items":[{"key":"data-1","path":"secret"}]}},{"downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.name"}}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]},
        "cat /v/cm /v/secret /v/name" => "value-1secret-1p";
    optional_sources_may_be_absent: {"volumes":[{"name":"v","configMap":{"name":"absent","optional":true}},{"name":"w","secret":{"secretName":"absent","optional":true}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"},{"name":"w","mountPath":"/w"}]},
        "ls /v /w" => "/v:\n\n/w:\n";
}

// Downward API: `/v` holds what the Pod knows of itself.
macro_rules! downward {
    ($($test:ident: $item:tt, $container:tt, $script:expr => $expected:expr;)*) => {$(
        mod $test {
            use super::*;
            prints! {
                volume: {"volumes":[{"name":"v","downwardAPI":{"items":[$item]}}]}, $container, $script => $expected;
                projected: {"volumes":[{"name":"v","projected":{"sources":[{"downwardAPI":{"items":[$item]}}]}}]}, $container, $script => $expected;
            }
        }
    )*};
}
downward! {
    downward_name: {"path":"f","fieldRef":{"fieldPath":"metadata.name"}}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "p";
    downward_item_mode: {"path":"f","fieldRef":{"fieldPath":"metadata.name"},"mode":256}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f; stat -L -c ' %a' /v/f" => "p 400\n";
    downward_cpu_limit: {"path":"f","resourceFieldRef":{"containerName":"c","resource":"limits.cpu","divisor":"1m"}}, {"resources":{"limits":{"cpu":"250m","memory":"64Mi"}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "250";
    downward_memory_limit: {"path":"f","resourceFieldRef":{"containerName":"c","resource":"limits.memory"}}, {"resources":{"limits":{"cpu":"250m","memory":"64Mi"}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "67108864";
    downward_cpu_request: {"path":"f","resourceFieldRef":{"containerName":"c","resource":"requests.cpu","divisor":"1m"}}, {"resources":{"requests":{"cpu":"50m","memory":"32Mi"}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "50";
    downward_memory_request: {"path":"f","resourceFieldRef":{"containerName":"c","resource":"requests.memory"}}, {"resources":{"requests":{"cpu":"50m","memory":"32Mi"}},"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "33554432";
    downward_labels: {"path":"f","fieldRef":{"fieldPath":"metadata.labels"}}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "color=\"blue\"";
    downward_annotations: {"path":"f","fieldRef":{"fieldPath":"metadata.annotations['note']"}}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "cat /v/f" => "hi";
}
prints! {
    downward_default_mode: {"volumes":[{"name":"v","downwardAPI":{"defaultMode":256,"items":[{"path":"f","fieldRef":{"fieldPath":"metadata.name"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "stat -L -c %a /v/f" => "400\n";
    projected_downward_default_mode: {"volumes":[{"name":"v","projected":{"defaultMode":256,"sources":[{"downwardAPI":{"items":[{"path":"f","fieldRef":{"fieldPath":"metadata.name"}}]}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/v"}]}, "stat -L -c %a /v/f" => "400\n";
}

// emptyDir: who may write, with which mode, on which medium.
macro_rules! empty_dir {
    ($($test:ident: $user:expr, $medium:expr, $mode:literal;)*) => {$(
        #[test]
        fn $test() {
            let medium = if $medium == "Memory" { "tmpfs" } else { "disk" };
            let pod = json!({"securityContext":{"runAsUser":$user},"volumes":[{"name":"v","emptyDir":{"medium":$medium}}]});
            let script = format!("umask 0; echo -n content > /v/f && chmod {0} /v/f && cat /v/f; stat -c ' %a %u' /v/f; grep -q ' /v tmpfs ' /proc/mounts && echo tmpfs || echo disk; stat -c %a /v", $mode);
            let said = run("empty-dir", pod, json!({"volumeMounts":[{"name":"v","mountPath":"/v"}]}), &script);
            assert_eq!(said, format!("content {} {}\n{medium}\n777\n", $mode, $user));
        }
    )*};
}
empty_dir! {
    empty_dir_root_0644_default: 0, "", "644";
    empty_dir_root_0666_default: 0, "", "666";
    empty_dir_root_0777_default: 0, "", "777";
    empty_dir_root_0644_tmpfs: 0, "Memory", "644";
    empty_dir_root_0666_tmpfs: 0, "Memory", "666";
    empty_dir_root_0777_tmpfs: 0, "Memory", "777";
    empty_dir_user_0644_default: 1001, "", "644";
    empty_dir_user_0666_default: 1001, "", "666";
    empty_dir_user_0777_default: 1001, "", "777";
    empty_dir_user_0644_tmpfs: 1001, "Memory", "644";
    empty_dir_user_0666_tmpfs: 1001, "Memory", "666";
    empty_dir_user_0777_tmpfs: 1001, "Memory", "777";
}

// Programs, arguments, variables.
prints! {
    command_and_args_are_expanded: {}, {"command":["sh","-c","echo $(A) $0 $1"],"args":["$(A)-x","$$(A)"],"env":[{"name":"A","value":"1"}]}, "" => "1 1-x $(A)\n";
    variables_compose: {}, {"env":[{"name":"FOO","value":"foo"},{"name":"BAR","value":"bar"},{"name":"FOOBAR","value":"$(FOO);;$(BAR)"}]}, "echo $FOOBAR" => "foo;;bar\n";
    config_map_key_in_env: {}, {"env":[{"name":"D","valueFrom":{"configMapKeyRef":{"name":"cm","key":"data-1"}}}]}, "echo $D" => "value-1\n";
    config_map_in_env: {}, {"envFrom":[{"configMapRef":{"name":"cm"}},{"prefix":"p_","configMapRef":{"name":"cm"}}]}, "tr '\\0' '\\n' < /proc/1/environ | grep value- | sort" => "data-1=value-1\ndata-2=value-2\np_data-1=value-1\np_data-2=value-2\n";
    secret_key_in_env: {}, {"env":[{"name":"D","valueFrom":{"secretKeyRef":{"name":"s","key":"data-1"}}}]}, "echo $D" => "secret-1\n";
    secret_in_env: {}, {"envFrom":[{"secretRef":{"name":"s"}},{"prefix":"p_","secretRef":{"name":"s"}}]}, "tr '\\0' '\\n' < /proc/1/environ | grep secret- | sort" => "data-1=secret-1\ndata-2=secret-2\np_data-1=secret-1\np_data-2=secret-2\n";
    pod_fields_in_env: {}, {"env":[{"name":"N","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}},{"name":"IP","valueFrom":{"fieldRef":{"fieldPath":"status.podIP"}}},{"name":"H","valueFrom":{"fieldRef":{"fieldPath":"status.hostIP"}}},{"name":"HS","valueFrom":{"fieldRef":{"fieldPath":"status.hostIPs"}}},{"name":"U","valueFrom":{"fieldRef":{"fieldPath":"metadata.uid"}}}]},
        "echo $N; [ \"$H\" = \"$HS\" ] && [ ${#U} = 36 ] && ip addr | grep -q \"inet $IP/\" && echo all" => "p\nall\n";
    resources_in_env: {}, {"resources":{"requests":{"cpu":"250m","memory":"32Mi"},"limits":{"cpu":"1250m","memory":"64Mi"}},"env":[{"name":"CL","valueFrom":{"resourceFieldRef":{"resource":"limits.cpu"}}},{"name":"ML","valueFrom":{"resourceFieldRef":{"resource":"limits.memory"}}},{"name":"CR","valueFrom":{"resourceFieldRef":{"resource":"requests.cpu"}}},{"name":"MR","valueFrom":{"resourceFieldRef":{"resource":"requests.memory"}}}]},
        "echo $CL $ML $CR $MR" => "2 67108864 1 33554432\n";
    host_aliases: {"hostAliases":[{"ip":"123.45.67.89","hostnames":["foo","bar"]}]}, {}, "grep 123.45.67.89 /etc/hosts" => "123.45.67.89\tfoo\tbar\n";
    hostname_and_subdomain: {"hostname":"h","subdomain":"s"}, {}, "hostname; grep -c 'h[.]s[.]' /etc/hosts" => "h\n1\n";
}

// Names of variables may hold any printable character but `=`.
prints! {
    config_map_prefixes: {}, {"envFrom":[{"prefix":"1-","configMapRef":{"name":"cm"}},{"prefix":"$_-1","configMapRef":{"name":"cm"}},{"prefix":"#@!a.b ","configMapRef":{"name":"cm"}}]},
        "tr '\\0' '\\n' < /proc/1/environ | grep value-1 | sort" => "#@!a.b data-1=value-1\n$_-1data-1=value-1\n1-data-1=value-1\n";
    secret_prefixes: {}, {"envFrom":[{"prefix":"1-","secretRef":{"name":"s"}},{"prefix":"$_-1","secretRef":{"name":"s"}},{"prefix":"#@!a.b ","secretRef":{"name":"s"}}]},
        "tr '\\0' '\\n' < /proc/1/environ | grep secret-1 | sort" => "#@!a.b data-1=secret-1\n$_-1data-1=secret-1\n1-data-1=secret-1\n";
    privilege_does_not_grow: {}, {"securityContext":{"allowPrivilegeEscalation":false,"runAsUser":1000}},
        "id -u; grep NoNewPrivs /proc/self/status" => "1000\nNoNewPrivs:\t1\n";
    output_is_logged: {}, {}, "echo 'Hello World'" => "Hello World\n";
    errors_are_logged: {}, {}, "echo error >&2" => "error\n";
}

// Who the process is and what it may do.
prints! {
    runs_as_user: {}, {"securityContext":{"runAsUser":65534}}, "id -u" => "65534\n";
    runs_as_user_and_group_of_the_container: {}, {"securityContext":{"runAsUser":1001,"runAsGroup":2002}}, "id -u; id -g" => "1001\n2002\n";
    runs_as_user_and_group_of_the_pod: {"securityContext":{"runAsUser":1001,"runAsGroup":2002,"supplementalGroups":[3003]}}, {}, "id -u; id -g; id -G" => "1001\n2002\n2002 3003\n";
    unprivileged_by_default: {}, {"securityContext":{"privileged":false}}, "ip link add dummy0 type bridge 2>/dev/null && echo may || echo may not" => "may not\n";
    root_file_system_is_writable: {}, {"securityContext":{"readOnlyRootFilesystem":false}}, "echo x > /f && cat /f" => "x\n";
    root_file_system_is_read_only: {}, {"securityContext":{"readOnlyRootFilesystem":true}}, "echo x 2>/dev/null > /f && echo written || echo refused" => "refused\n";
    no_new_privileges: {}, {"securityContext":{"allowPrivilegeEscalation":false}}, "grep NoNewPrivs /proc/self/status" => "NoNewPrivs:\t1\n";
    sysctls: {"securityContext":{"sysctls":[{"name":"kernel.shm_rmid_forced","value":"1"}]}}, {}, "cat /proc/sys/kernel/shm_rmid_forced" => "1\n";
}

// Sub-paths.
prints! {
    sub_path_of_config_map: {"volumes":[{"name":"v","configMap":{"name":"cm"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/f","subPath":"data-1"}]}, "cat /f" => "value-1";
    sub_path_over_an_existing_file: {"volumes":[{"name":"v","configMap":{"name":"cm"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/etc/resolv.conf","subPath":"data-1"}]}, "cat /etc/resolv.conf" => "value-1";
    sub_path_of_secret: {"volumes":[{"name":"v","secret":{"secretName":"s"}}]}, {"volumeMounts":[{"name":"v","mountPath":"/f","subPath":"data-1"}]}, "cat /f" => "secret-1";
    sub_path_of_projected: {"volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"cm"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/f","subPath":"data-1"}]}, "cat /f" => "value-1";
    sub_path_of_downward: {"volumes":[{"name":"v","downwardAPI":{"items":[{"path":"d/n","fieldRef":{"fieldPath":"metadata.name"}}]}}]}, {"volumeMounts":[{"name":"v","mountPath":"/f","subPath":"d"}]}, "cat /f/n" => "p";
    sub_path_expanded: {"volumes":[{"name":"v","emptyDir":{}}]}, {"env":[{"name":"N","valueFrom":{"fieldRef":{"fieldPath":"metadata.name"}}}],"volumeMounts":[{"name":"v","mountPath":"/sub","subPathExpr":"$(N)"},{"name":"v","mountPath":"/all"}]}, "echo x > /sub/f; cat /all/p/f" => "x\n";
    sub_path_is_as_open_as_its_volume: {"securityContext":{"runAsUser":1001},"volumes":[{"name":"v","emptyDir":{}}]}, {"volumeMounts":[{"name":"v","mountPath":"/sub","subPath":"a/b"}]}, "echo x > /sub/f; cat /sub/f" => "x\n";
}

#[test]
fn containers_of_a_pod_share_an_empty_dir() {
    let ns = Namespace::new("share");
    ns.create(
        &json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Never","volumes":[{"name":"v","emptyDir":{}}],"containers":[
            {"name":"writer","image":"test/busybox:1","command":["sh","-c","echo shared > /v/new; mv /v/new /v/f"],"volumeMounts":[{"name":"v","mountPath":"/v"}]},
            {"name":"reader","image":"test/busybox:1","command":["sh","-c","until [ -e /v/f ]; do sleep 0.1; done; cat /v/f"],"volumeMounts":[{"name":"v","mountPath":"/v"}]}]}})
        .to_string(),
    );
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    assert_eq!(ns.log("p", "reader").unwrap(), "shared\n");
}

#[test]
fn a_termination_message_comes_from_the_file_or_the_log() {
    let ns = Namespace::new("message");
    let pod = |name: &str, script: &str, more: Value| {
        let mut c = json!({"name":"c","image":"test/busybox:1","command":["sh","-c",script]});
        merge(&mut c, more);
        ns.create(&json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},"spec":{"restartPolicy":"Never","containers":[c]}}).to_string());
    };
    let fallback = json!({"terminationMessagePolicy":"FallbackToLogsOnError"});
    pod("file", "echo -n DONE > /dev/termination-log", json!({"securityContext":{"runAsUser":0}}));
    pod(
        "other",
        "echo -n DONE > /dev/custom",
        json!({"terminationMessagePath":"/dev/custom","securityContext":{"runAsUser":10000}}),
    );
    pod("log", "echo -n DONE; exit 1", fallback.clone());
    pod("both", "echo -n OK > /dev/termination-log; echo no", fallback.clone());
    pod("none", "echo no", fallback);
    let message =
        |name: &str| ns.field(&format!("pod/{name}"), "{.status.containerStatuses[0].state.terminated.message}");
    for (name, phase, expected) in [
        ("file", "Succeeded", "DONE"),
        ("other", "Succeeded", "DONE"),
        ("log", "Failed", "DONE"),
        ("both", "Succeeded", "OK"),
        ("none", "Succeeded", ""),
    ] {
        ns.until(&format!("pod/{name}"), "{.status.phase}", phase);
        assert_eq!(message(name), expected, "{name}");
    }
}

/// What a container runs when its image has an entrypoint and arguments of its own.
#[test]
fn an_image_s_program_and_arguments_can_be_overridden() {
    let ns = Namespace::new("entry");
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("busybox")).unwrap();
    let recipe = "FROM scratch\nCOPY busybox /bin/echo\nCOPY busybox /bin/printf\nENTRYPOINT [\"/bin/echo\",\"entrypoint\"]\nCMD [\"default\",\"arguments\"]\n";
    std::fs::write(dir.path().join("Containerfile"), recipe).unwrap();
    let image = format!("test/entry:{}", ns.name);
    let mut build = std::process::Command::new(caravel_tests::program());
    build.args(["image", "build", "-t", &image]).arg(dir.path()).arg("--data-dir").arg(caravel_tests::cluster_dir());
    let built = build.output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let (command, args) = (json!(["/bin/printf", "%s,%s"]), json!(["override", "arguments"]));
    let run = |name: &str, more: Value| {
        let mut c = json!({"name":name,"image":image,"imagePullPolicy":"Never"});
        merge(&mut c, more);
        c
    };
    let containers = [
        run("defaults", json!({})),
        run("args", json!({"args":args})),
        run("command", json!({"command":["/bin/printf", "%s", "override"]})),
        run("both", json!({"command":command,"args":args})),
    ];
    ns.create(&json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"restartPolicy":"Never","terminationGracePeriodSeconds":0,"containers":containers}}).to_string());
    ns.until("pod/p", "{.status.phase}", "Succeeded");
    let said = ["defaults", "args", "command", "both"].map(|c| ns.log("p", c).unwrap());
    assert_eq!(
        said,
        ["entrypoint default arguments\n", "entrypoint override arguments\n", "override", "override,arguments"]
    );
}
