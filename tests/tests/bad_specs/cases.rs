//! What is wrong, the field that is to be named, and part of what is to be said of it, as upstream's validation has it.

use serde_json::{Value, json};

/// Resource, what is merged into a good object, field of the cause, part of its message.
pub type Case = (&'static str, Value, &'static str, &'static str);

const NEGATIVE: &str = "must be greater than or equal to 0";

fn spec(resource: &'static str, patch: Value, field: &'static str, message: &'static str) -> Case {
    (resource, json!({"spec": patch}), field, message)
}

/// Deployments, ReplicaSets, ReplicationControllers, StatefulSets and DaemonSets.
pub fn workloads() -> Vec<Case> {
    let rolling = |unavailable: Value, surge: Value| json!({"strategy": {"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}});
    let daemon = |unavailable: Value, surge: Value| json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}});
    let expressions = |one: Value| json!({"selector": {"matchExpressions": [one]}});
    let pod = |patch: Value| json!({"template": {"spec": patch}});
    let (d, rs, rc, sts, ds) = ("deployments", "replicasets", "replicationcontrollers", "statefulsets", "daemonsets");
    let (unavailable, surge) = ("spec.strategy.rollingUpdate.maxUnavailable", "spec.strategy.rollingUpdate.maxSurge");
    vec![
        spec(d, rolling(json!("120%"), json!(1)), unavailable, "must not be greater than 100%"),
        spec(d, rolling(json!(-1), json!(1)), unavailable, NEGATIVE),
        spec(d, rolling(json!("0%"), json!("0%")), unavailable, "may not be 0 when `maxSurge` is 0"),
        spec(d, rolling(json!(1), json!("many")), surge, "a valid percent string must be"),
        spec(
            d,
            json!({"strategy": {"type": "Sometimes"}}),
            "spec.strategy",
            "supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        spec(
            d,
            json!({"strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}}),
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        spec(d, json!({"revisionHistoryLimit": -1}), "spec.revisionHistoryLimit", NEGATIVE),
        spec(
            d,
            json!({"progressDeadlineSeconds": 5, "minReadySeconds": 5}),
            "spec.progressDeadlineSeconds",
            "must be greater than minReadySeconds",
        ),
        spec(
            d,
            json!({"selector": {"matchLabels": {"app": "x", "b": "a b"}}}),
            "spec.selector.matchLabels",
            "a valid label must be an empty string or consist of",
        ),
        spec(
            d,
            expressions(json!({"key": "app", "operator": "Near", "values": ["x"]})),
            "spec.selector.matchExpressions[0].operator",
            "not a valid selector operator",
        ),
        spec(
            d,
            expressions(json!({"key": "app", "operator": "Exists", "values": ["x"]})),
            "spec.selector.matchExpressions[0].values",
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        spec(
            d,
            expressions(json!({"key": "a b", "operator": "Exists"})),
            "spec.selector.matchExpressions[0].key",
            "name part must consist of alphanumeric characters",
        ),
        spec(
            d,
            expressions(json!({"key": "app", "operator": "DoesNotExist"})),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        spec(
            d,
            pod(json!({"restartPolicy": "Never"})),
            "spec.template.spec.restartPolicy",
            "supported values: \"Always\"",
        ),
        spec(
            d,
            pod(json!({"activeDeadlineSeconds": 5})),
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in ReplicaSet is not Supported",
        ),
        spec(d, pod(json!({"containers": []})), "spec.template.spec.containers", "Required value"),
        spec(
            rs,
            json!({"selector": {"matchLabels": null}}),
            "spec.selector",
            "empty selector is invalid for deployment",
        ),
        spec(rs, json!({"minReadySeconds": -1}), "spec.minReadySeconds", NEGATIVE),
        spec(rc, json!({"replicas": -1}), "spec.replicas", NEGATIVE),
        spec(
            rc,
            json!({"selector": {"app": "other"}}),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        spec(
            rc,
            pod(json!({"restartPolicy": "OnFailure"})),
            "spec.template.spec.restartPolicy",
            "supported values: \"Always\"",
        ),
        spec(
            sts,
            json!({"selector": {"matchLabels": null}}),
            "spec.selector",
            "empty selector is invalid for statefulset",
        ),
        spec(
            sts,
            json!({"podManagementPolicy": "Backwards"}),
            "spec.podManagementPolicy",
            "must be 'OrderedReady' or 'Parallel'",
        ),
        spec(
            sts,
            json!({"updateStrategy": {"type": "Sometimes"}}),
            "spec.updateStrategy",
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
        spec(
            sts,
            json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}}),
            "spec.updateStrategy.rollingUpdate",
            "only allowed for updateStrategy 'RollingUpdate'",
        ),
        spec(
            sts,
            json!({"updateStrategy": {"rollingUpdate": {"partition": -1}}}),
            "spec.updateStrategy.rollingUpdate.partition",
            NEGATIVE,
        ),
        spec(sts, json!({"ordinals": {"start": -1}}), "spec.ordinals.start", NEGATIVE),
        spec(sts, json!({"minReadySeconds": -1}), "spec.minReadySeconds", NEGATIVE),
        spec(
            sts,
            json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Maybe", "whenScaled": "Retain"}}),
            "spec.persistentVolumeClaimRetentionPolicy.whenDeleted",
            "Unsupported value: \"Maybe\"",
        ),
        spec(
            sts,
            pod(json!({"activeDeadlineSeconds": 5})),
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in StatefulSet is not Supported",
        ),
        (sts, json!({"metadata": {"name": "a.b"}}), "metadata.name", "must not contain dots"),
        spec(
            ds,
            json!({"selector": {"matchLabels": null}}),
            "spec.selector",
            "empty selector is invalid for daemonset",
        ),
        spec(
            ds,
            daemon(json!(0), json!(0)),
            "spec.updateStrategy.rollingUpdate.maxUnavailable",
            "cannot be 0 when maxSurge is 0",
        ),
        spec(
            ds,
            daemon(json!(1), json!(1)),
            "spec.updateStrategy.rollingUpdate.maxSurge",
            "may not be set when maxUnavailable is non-zero",
        ),
        spec(
            ds,
            daemon(json!("101%"), json!(0)),
            "spec.updateStrategy.rollingUpdate.maxUnavailable",
            "must not be greater than 100%",
        ),
        spec(
            ds,
            json!({"updateStrategy": {"type": "Sometimes"}}),
            "spec.updateStrategy",
            "supported values: \"RollingUpdate\", \"OnDelete\"",
        ),
        spec(ds, json!({"revisionHistoryLimit": -1}), "spec.revisionHistoryLimit", NEGATIVE),
        spec(
            ds,
            pod(json!({"activeDeadlineSeconds": 5})),
            "spec.template.spec.activeDeadlineSeconds",
            "activeDeadlineSeconds in DaemonSet is not Supported",
        ),
        spec(
            ds,
            pod(
                json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": 81}]}]}),
            ),
            "spec.template.spec.containers[0].ports[0].hostPort",
            "must match `containerPort` when `hostNetwork` is true",
        ),
        spec(
            ds,
            expressions(json!({"key": "app", "operator": "NotIn", "values": []})),
            "spec.selector.matchExpressions[0].values",
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
    ]
}

/// Jobs and CronJobs.
pub fn jobs() -> Vec<Case> {
    let job = |patch: Value, field: &'static str, message: &'static str| spec("jobs", patch, field, message);
    let cron = |patch: Value, field: &'static str, message: &'static str| spec("cronjobs", patch, field, message);
    let indexed = |completions: i64, more: Value| {
        let mut patch = json!({"completionMode": "Indexed", "completions": completions, "parallelism": 1});
        patch.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        patch
    };
    let failure = |rule: Value| json!({"podFailurePolicy": {"rules": [rule]}});
    let codes =
        |values: Value| failure(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": values}}));
    let success = |rule: Value| indexed(5, json!({"successPolicy": {"rules": [rule]}}));
    let (rule, values) = ("spec.podFailurePolicy.rules[0]", "spec.podFailurePolicy.rules[0].onExitCodes.values");
    let (named, counted) =
        ("spec.successPolicy.rules[0].succeededIndexes", "spec.successPolicy.rules[0].succeededCount");
    vec![
        job(json!({"ttlSecondsAfterFinished": -1}), "spec.ttlSecondsAfterFinished", NEGATIVE),
        job(json!({"completionMode": "Some"}), "spec.completionMode", "supported values: \"NonIndexed\", \"Indexed\""),
        job(
            json!({"completionMode": "Indexed", "parallelism": 1}),
            "spec.completions",
            "when completion mode is Indexed",
        ),
        job(
            indexed(5, json!({"parallelism": 100_001})),
            "spec.parallelism",
            "must be less than or equal to 100000 when completion mode is Indexed",
        ),
        job(indexed(5, json!({"backoffLimitPerIndex": -1})), "spec.backoffLimitPerIndex", NEGATIVE),
        job(
            indexed(5, json!({"maxFailedIndexes": 2})),
            "spec.backoffLimitPerIndex",
            "when maxFailedIndexes is specified",
        ),
        job(
            indexed(5, json!({"maxFailedIndexes": 6, "backoffLimitPerIndex": 1})),
            "spec.maxFailedIndexes",
            "must be less than or equal to completions",
        ),
        job(
            indexed(200_000, json!({"backoffLimitPerIndex": 1})),
            "spec.maxFailedIndexes",
            "must be specified when completions is above 100000",
        ),
        job(
            indexed(200_000, json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 10_001})),
            "spec.maxFailedIndexes",
            "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
        ),
        job(
            indexed(200_000, json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1, "parallelism": 10_001})),
            "spec.parallelism",
            "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
        ),
        job(json!({"backoffLimitPerIndex": 1}), "spec.backoffLimitPerIndex", "requires indexed completion mode"),
        job(
            json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 1}),
            "spec.maxFailedIndexes",
            "requires indexed completion mode",
        ),
        job(
            json!({"successPolicy": {"rules": [{"succeededCount": 1}]}}),
            "spec.successPolicy",
            "requires indexed completion mode",
        ),
        job(
            success(json!({})),
            "spec.successPolicy.rules[0]",
            "at least one of succeededCount or succeededIndexes must be specified",
        ),
        job(
            indexed(5, json!({"successPolicy": {"rules": []}})),
            "spec.successPolicy.rules",
            "at least one rules must be specified",
        ),
        job(success(json!({"succeededIndexes": "0-7"})), named, "too large index: \"7\""),
        job(success(json!({"succeededIndexes": "2,1"})), named, "non-increasing order, previous: 2, current: 1"),
        job(success(json!({"succeededIndexes": "1-2-3"})), named, "an index interval can have at most two parts"),
        job(success(json!({"succeededIndexes": "a"})), named, "cannot convert string to integer for index: \"a\""),
        job(
            success(json!({"succeededCount": 6})),
            counted,
            "must be less than or equal to 5 (the number of specified completions)",
        ),
        job(
            success(json!({"succeededCount": 3, "succeededIndexes": "0-1"})),
            counted,
            "must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
        ),
        job(success(json!({"succeededCount": -1})), counted, NEGATIVE),
        job(
            failure(json!({"action": "Dance", "onPodConditions": [{"type": "Ready"}]})),
            "spec.podFailurePolicy.rules[0].action",
            "Unsupported value: \"Dance\"",
        ),
        job(
            failure(json!({"action": "FailIndex", "onPodConditions": [{"type": "Ready"}]})),
            "spec.podFailurePolicy.rules[0].action",
            "requires the backoffLimitPerIndex to be set",
        ),
        job(
            failure(json!({"action": "FailJob"})),
            rule,
            "specifying one of OnExitCodes and OnPodConditions is required",
        ),
        job(
            failure(
                json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}, "onPodConditions": [{"type": "Ready"}]}),
            ),
            rule,
            "specifying both OnExitCodes and OnPodConditions is not supported",
        ),
        job(codes(json!([])), values, "at least one value is required"),
        job(codes(json!([2, 1])), values, "must be ordered"),
        job(codes(json!([1, 1])), "spec.podFailurePolicy.rules[0].onExitCodes.values[1]", "Duplicate value: 1"),
        job(
            codes(json!([0])),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]",
            "must not be 0 for the In operator",
        ),
        job(
            failure(
                json!({"action": "FailJob", "onExitCodes": {"containerName": "nobody", "operator": "In", "values": [1]}}),
            ),
            "spec.podFailurePolicy.rules[0].onExitCodes.containerName",
            "must be one of the container or initContainer names in the pod template",
        ),
        job(
            json!({"podReplacementPolicy": "Never"}),
            "spec.podReplacementPolicy",
            "supported values: \"Failed\", \"TerminatingOrFailed\"",
        ),
        job(json!({"managedBy": "nobody"}), "spec.managedBy", "must be a domain-prefixed path"),
        job(json!({"selector": {"matchLabels": {"app": "x"}}}), "spec.selector", "`selector` not auto-generated"),
        job(
            json!({"manualSelector": true, "selector": {"matchLabels": {"app": "other"}}}),
            "spec.template.metadata.labels",
            "`selector` does not match template `labels`",
        ),
        job(
            json!({"template": {"spec": {"restartPolicy": "Always"}}}),
            "spec.template.spec.restartPolicy",
            "valid values: \"OnFailure\", \"Never\"",
        ),
        job(
            json!({"template": {"spec": {"restartPolicy": "OnFailure"}}, "podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": [{"type": "Ready"}]}]}}),
            "spec.template.spec.restartPolicy",
            "only \"Never\" is supported when podFailurePolicy is specified",
        ),
        (
            "jobs",
            json!({"metadata": {"name": "j23456789012345678901234567890123456789012345678901234567890123"}, "spec": indexed(5, json!({}))}),
            "metadata.name",
            "will not able to create pod with invalid DNS label: j23456789012345678901234567890123456789012345678901234567890123-4",
        ),
        cron(
            json!({"schedule": "TZ=UTC 0 0 * * *"}),
            "spec.schedule",
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        cron(
            json!({"schedule": "CRON_TZ=Europe/Zurich * * * * *"}),
            "spec.schedule",
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        ),
        cron(json!({"schedule": ""}), "spec.schedule", "Required value"),
        cron(json!({"schedule": "0 0 0 1 1 *"}), "spec.schedule", "expected exactly 5 fields, found 6"),
        cron(json!({"schedule": "*/0 * * * *"}), "spec.schedule", "step of range should be a positive number: */0"),
        cron(json!({"schedule": "5-1 * * * *"}), "spec.schedule", "beginning of range (5) beyond end of range (1)"),
        cron(json!({"schedule": "0 0 0 * *"}), "spec.schedule", "beginning of range (0) below minimum (1)"),
        cron(json!({"schedule": "@someday"}), "spec.schedule", "unrecognized descriptor: @someday"),
        cron(json!({"schedule": "a * * * *"}), "spec.schedule", "failed to parse int from a"),
        cron(json!({"timeZone": ""}), "spec.timeZone", "timeZone must be nil or non-empty string"),
        cron(json!({"concurrencyPolicy": "Perhaps"}), "spec.concurrencyPolicy", "Unsupported value: \"Perhaps\""),
        cron(json!({"startingDeadlineSeconds": -1}), "spec.startingDeadlineSeconds", NEGATIVE),
        cron(json!({"failedJobsHistoryLimit": -1}), "spec.failedJobsHistoryLimit", NEGATIVE),
        cron(json!({"jobTemplate": {"spec": {"parallelism": -1}}}), "spec.jobTemplate.spec.parallelism", NEGATIVE),
        cron(
            json!({"jobTemplate": {"spec": {"selector": {"matchLabels": {"app": "x"}}}}}),
            "spec.jobTemplate.spec.selector",
            "`selector` will be auto-generated",
        ),
        (
            "cronjobs",
            json!({"metadata": {"name": "c2345678901234567890123456789012345678901234567890123"}}),
            "metadata.name",
            "must be no more than 52 characters",
        ),
    ]
}

/// Autoscalers and budgets.
pub fn policies() -> Vec<Case> {
    let hpa = |patch: Value, field: &'static str, message: &'static str| {
        spec("horizontalpodautoscalers", patch, field, message)
    };
    let pdb =
        |patch: Value, field: &'static str, message: &'static str| spec("poddisruptionbudgets", patch, field, message);
    let cpu = |target: Value| json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]});
    let down = |rules: Value| json!({"behavior": {"scaleDown": rules}});
    let policy = |kind: &str, value: i64, period: i64| {
        down(json!({"policies": [{"type": kind, "value": value, "periodSeconds": period}]}))
    };
    vec![
        hpa(json!({"minReplicas": 0}), "spec.minReplicas", "must be greater than or equal to 1"),
        hpa(json!({"scaleTargetRef": {"name": ""}}), "spec.scaleTargetRef.name", "Required value"),
        hpa(json!({"scaleTargetRef": {"kind": "a/b"}}), "spec.scaleTargetRef.kind", "may not contain '/'"),
        hpa(json!({"metrics": [{"type": "Mood"}]}), "spec.metrics[0].type", "Unsupported value: \"Mood\""),
        hpa(
            json!({"metrics": [{"type": "Resource"}]}),
            "spec.metrics[0].resource",
            "must populate information for the given metric source",
        ),
        hpa(
            cpu(json!({"type": "Utilization", "averageUtilization": 0})),
            "spec.metrics[0].resource.target.averageUtilization",
            "must be greater than 0",
        ),
        hpa(
            cpu(json!({"type": "Utilization", "averageUtilization": 5, "averageValue": "1"})),
            "spec.metrics[0].resource.target.averageValue",
            "may not set both a target raw value and a target utilization",
        ),
        hpa(
            cpu(json!({"type": "AverageValue", "averageValue": "-1"})),
            "spec.metrics[0].resource.target.averageValue",
            "must be positive",
        ),
        hpa(
            down(json!({"stabilizationWindowSeconds": 3601})),
            "spec.behavior.scaleDown.stabilizationWindowSeconds",
            "must be less than or equal to 3600",
        ),
        hpa(
            down(json!({"stabilizationWindowSeconds": -1})),
            "spec.behavior.scaleDown.stabilizationWindowSeconds",
            "must be greater than or equal to zero",
        ),
        hpa(
            down(json!({"selectPolicy": "Mean"})),
            "spec.behavior.scaleDown.selectPolicy",
            "Unsupported value: \"Mean\"",
        ),
        hpa(policy("Pods", 0, 60), "spec.behavior.scaleDown.policies[0].value", "must be greater than zero"),
        hpa(policy("Pods", 1, 0), "spec.behavior.scaleDown.policies[0].periodSeconds", "must be greater than zero"),
        hpa(
            policy("Pods", 1, 1801),
            "spec.behavior.scaleDown.policies[0].periodSeconds",
            "must be less than or equal to 1800",
        ),
        hpa(policy("Mood", 1, 60), "spec.behavior.scaleDown.policies[0].type", "Unsupported value: \"Mood\""),
        pdb(
            json!({"minAvailable": null, "maxUnavailable": "101%"}),
            "spec.maxUnavailable",
            "must not be greater than 100%",
        ),
        pdb(json!({"minAvailable": "some"}), "spec.minAvailable", "a valid percent string must be"),
        pdb(
            json!({"unhealthyPodEvictionPolicy": "Whenever"}),
            "spec.unhealthyPodEvictionPolicy",
            "Unsupported value: \"Whenever\"",
        ),
        pdb(
            json!({"selector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "spec.selector.matchExpressions[0].values",
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
    ]
}

/// Where Pods may run, and what they ask for.
pub fn pods() -> Vec<Case> {
    let pod = |patch: Value, field: &'static str, message: &'static str| spec("pods", patch, field, message);
    let spread = |more: Value| {
        let mut one = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
        one.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"topologySpreadConstraints": [one]})
    };
    let nodes = |one: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [one]}]}}}});
    let anti = |term: Value| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let tolerates = |one: Value| json!({"tolerations": [one]});
    let asks = |resources: Value| json!({"containers": [{"name": "c", "image": "i", "resources": resources}]});
    let twice = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"});
    vec![
        pod(spread(json!({"maxSkew": 0})), "spec.topologySpreadConstraints[0].maxSkew", "must be greater than 0"),
        pod(spread(json!({"topologyKey": ""})), "spec.topologySpreadConstraints[0].topologyKey", "can not be empty"),
        pod(
            spread(json!({"whenUnsatisfiable": "Pray"})),
            "spec.topologySpreadConstraints[0].whenUnsatisfiable",
            "supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ),
        pod(spread(json!({"minDomains": 0})), "spec.topologySpreadConstraints[0].minDomains", "must be greater than 0"),
        pod(
            spread(json!({"minDomains": 2, "whenUnsatisfiable": "ScheduleAnyway"})),
            "spec.topologySpreadConstraints[0].minDomains",
            "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ),
        pod(
            spread(json!({"nodeTaintsPolicy": "Shrug"})),
            "spec.topologySpreadConstraints[0].nodeTaintsPolicy",
            "supported values: \"Honor\", \"Ignore\"",
        ),
        pod(
            spread(json!({"matchLabelKeys": ["app"]})),
            "spec.topologySpreadConstraints[0].matchLabelKeys",
            "must not be specified when labelSelector is not set",
        ),
        pod(
            json!({"topologySpreadConstraints": [twice, twice]}),
            "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}",
            "Duplicate value",
        ),
        pod(
            nodes(json!({"key": "a", "operator": "Near"})),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator",
            "not a valid selector operator",
        ),
        pod(
            nodes(json!({"key": "a", "operator": "In"})),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values",
            "must be specified when `operator` is 'In' or 'NotIn'",
        ),
        pod(
            nodes(json!({"key": "a", "operator": "Gt", "values": ["1", "2"]})),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values",
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        pod(
            anti(json!({"topologyKey": ""})),
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey",
            "can not be empty",
        ),
        pod(
            anti(json!({"topologyKey": "zone", "namespaces": ["A"]})),
            "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace",
            "a lowercase RFC 1123 label must consist of",
        ),
        pod(
            json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {"topologyKey": "zone"}}]}}}),
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight",
            "must be in the range 1-100",
        ),
        pod(
            tolerates(json!({"operator": "Equal", "value": "x"})),
            "spec.tolerations[0].operator",
            "operator must be Exists when `key` is empty",
        ),
        pod(
            tolerates(json!({"key": "a", "operator": "Nearly"})),
            "spec.tolerations[0].operator",
            "supported values: \"Equal\", \"Exists\"",
        ),
        pod(
            tolerates(json!({"key": "a", "operator": "Exists", "effect": "Explode"})),
            "spec.tolerations[0].effect",
            "Unsupported value: \"Explode\"",
        ),
        pod(
            json!({"schedulingGates": [{"name": "a b"}]}),
            "spec.schedulingGates[0]",
            "name part must consist of alphanumeric characters",
        ),
        pod(
            json!({"schedulingGates": [{"name": "g"}], "nodeName": "n"}),
            "spec.nodeName",
            "cannot be set until all schedulingGates have been cleared",
        ),
        pod(
            asks(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            "spec.containers[0].resources.requests",
            "must be less than or equal to cpu limit of 1",
        ),
        pod(asks(json!({"requests": {"memory": "-1Gi"}})), "spec.containers[0].resources.requests[memory]", NEGATIVE),
        pod(
            json!({"terminationGracePeriodSeconds": -1, "activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds",
            "must be between 1 and 2147483647, inclusive",
        ),
    ]
}
