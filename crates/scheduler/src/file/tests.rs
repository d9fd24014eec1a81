#![allow(clippy::unwrap_used)]
use super::*;
use crate::decide::{Decision, Turn, decide};
use crate::message::message;
use crate::model::WhenUnsatisfiable;
use crate::plugins::Plugin;
use crate::plugins::fit::Strategy;
use crate::plugins::spread::Defaults;
use crate::preempt::{Outcome, preempt};
use crate::testing::{NodeBuilder, PodBuilder, node, pod, state};

fn file(rest: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{rest}")
}

/// A file with one profile; `rest` is indented by four.
fn with(rest: &str) -> Result<Config, FileError> {
    let rest: String = rest.lines().map(|line| format!("    {line}\n")).collect();
    parse(&file(&format!("profiles:\n  - schedulerName: default-scheduler\n{rest}")))
}

fn args(plugin: &str, args: &str) -> Result<Config, FileError> {
    with(&format!("pluginConfig:\n  - {{name: {plugin}, args: {{{args}}}}}"))
}

fn place(config: &Config, nodes: &[NodeBuilder], wants: &PodBuilder) -> Result<String, String> {
    let mut state = state(nodes.iter().cloned());
    let pod = wants.info();
    match decide(&mut state, &config.profiles[0], &pod, &mut Turn { start: 0, seed: 1 }) {
        Decision::Node { node, .. } => Ok(state.node(node).name.to_string()),
        Decision::Nowhere(failure) => Err(message(&state, &pod, &failure, None)),
    }
}

#[test]
fn an_empty_file_is_the_defaults() {
    let config = parse(&file("")).unwrap();
    let default = Config::default();
    assert_eq!(config.backoff, default.backoff);
    assert_eq!(config.profiles.len(), 1);
    assert_eq!(config.profiles[0].weights, default.profiles[0].weights);
    // What kubeadm and others write into every file.
    parse(&file(
        "leaderElection: {leaderElect: true}\nclientConnection: {qps: 50}\nenableProfiling: true\nparallelism: 16\n",
    ))
    .unwrap();
}

#[test]
fn what_is_wrong_is_named_with_what_is_right() {
    let plugin = |text: &str| with(&format!("plugins: {{{text}}}"));
    for (got, wants) in [
        (
            parse("kind: KubeSchedulerConfiguration"),
            "apiVersion: \"\" is not known; write kubescheduler.config.k8s.io/v1",
        ),
        (
            parse("apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration"),
            "write kubescheduler.config.k8s.io/v1",
        ),
        (parse("apiVersion: kubescheduler.config.k8s.io/v1\nkind: Config"), "write KubeSchedulerConfiguration"),
        (parse(&file("profile: []")), "unknown field `profile`, expected one of"),
        (parse(&file("profiles: [{schedulerName: a, plugin: {}}]")), "profiles[0]: unknown field `plugin`"),
        (
            parse(&file("profiles: [{schedulerName: a}, {schedulerName: a}]")),
            "profiles[1].schedulerName: another profile",
        ),
        (parse(&file("profiles: [{schedulerName: a}, {}]")), "profiles[1].schedulerName: with several profiles"),
        (parse(&file("percentageOfNodesToScore: 101")), "not between 0 and 100"),
        (parse(&file("podInitialBackoffSeconds: 0")), "podInitialBackoffSeconds: 0 is not greater than 0"),
        (parse(&file("podInitialBackoffSeconds: 20")), "podMaxBackoffSeconds: 10 is less than"),
        (parse(&file("parallelism: 0")), "parallelism"),
        (parse(&file("extenders: [{urlPrefix: 'x'}]")), "extenders[0].urlPrefix"),
        (parse(&file("clientConnection: {kubeconfig: /etc/x}")), "needs none"),
        (
            plugin("filter: {disabled: [{name: NodeAfinity}]}"),
            "plugins.filter.disabled[0].name: there is no plug-in \"NodeAfinity\"; there are",
        ),
        (plugin("filter: {enabled: [{name: ImageLocality}]}"), "ImageLocality has nothing to do at filter"),
        (plugin("preFilter: {disabled: [{name: NodePorts}]}"), "disable the plug-in at filter"),
        (plugin("preScore: {enabled: [{name: NodePorts}]}"), "nothing to do at preScore"),
        (plugin("score: {enabled: [{name: ImageLocality}, {name: ImageLocality}]}"), "ImageLocality is listed twice"),
        (plugin("score: {enabled: [{name: ImageLocality, weight: 101}]}"), "weight: 101 is not between"),
        (plugin("queueSort: {disabled: [{name: '*'}]}"), "PrioritySort cannot be done without"),
        (plugin("multiPoint: {disabled: [{name: DefaultBinder}]}"), "DefaultBinder cannot be done without"),
        (args("Mine", ""), "\"Mine\" takes no arguments here; these do"),
        (with("pluginConfig: [{name: NodeAffinity}]"), "args: it is missing"),
        (
            with("pluginConfig: [{name: NodeAffinity, args: {}}, {name: NodeAffinity, args: {}}]"),
            "NodeAffinity is configured twice",
        ),
        (args("NodeResourcesFit", "kind: NodeAffinityArgs"), "write NodeResourcesFitArgs"),
        (args("NodeResourcesFit", "scoring: 1"), "unknown field `scoring`"),
        (args("NodeResourcesFit", "scoringStrategy: {type: Most}"), "\"Most\" is not LeastAllocated"),
        (
            args("NodeResourcesFit", "scoringStrategy: {resources: [{name: cpu, weight: 0}]}"),
            "0 is not between 1 and 100",
        ),
        (args("NodeResourcesFit", "scoringStrategy: {type: RequestedToCapacityRatio}"), "shape: at least one point"),
        (
            args(
                "NodeResourcesFit",
                "scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: 1}, {utilization: 50, score: 2}]}}",
            ),
            "shape[1].utilization: utilizations must grow",
        ),
        (args("NodeResourcesFit", "ignoredResourceGroups: [a/b]"), "before the slash"),
        (args("NodeResourcesBalancedAllocation", "resources: [{name: gpu}]"), "only the balance of cpu and memory"),
        (
            args(
                "PodTopologySpread",
                "defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}]",
            ),
            "say defaultingType: List",
        ),
        (
            args(
                "PodTopologySpread",
                "defaultingType: List, defaultConstraints: [{maxSkew: 0, topologyKey: z, whenUnsatisfiable: ScheduleAnyway}]",
            ),
            "maxSkew: 0 is not",
        ),
        (
            args(
                "PodTopologySpread",
                "defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: z, whenUnsatisfiable: ScheduleAnyway, labelSelector: {}}]",
            ),
            "labelSelector: it must be left out",
        ),
        (args("InterPodAffinity", "hardPodAffinityWeight: 101"), "101 is not between 0 and 100"),
        (
            args(
                "NodeAffinity",
                "addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: In}]}]}}",
            ),
            "a In has 0 values",
        ),
        (
            args("DefaultPreemption", "minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0"),
            "must not both be 0",
        ),
        (args("VolumeBinding", "bindTimeoutSeconds: -1"), "-1 is less than 0"),
    ] {
        let error = got.map(|_| ()).expect_err(wants).to_string();
        assert!(error.contains(wants), "{wants:?} is not in {error:?}");
    }
}

#[test]
fn several_profiles_with_their_own_settings() {
    let config = parse(&file(
        "percentageOfNodesToScore: 30\npodInitialBackoffSeconds: 2\npodMaxBackoffSeconds: 40\nprofiles:\n  - schedulerName: default-scheduler\n  - schedulerName: packer\n    percentageOfNodesToScore: 100\n    plugins:\n      score:\n        disabled: [{name: '*'}]\n        enabled: [{name: NodeResourcesFit, weight: 7}, {name: ImageLocality}]\n    pluginConfig:\n      - name: NodeResourcesFit\n        args: {scoringStrategy: {type: MostAllocated, resources: [{name: example.com/gpu, weight: 3}]}}\n",
    ))
    .unwrap();
    assert_eq!(config.backoff, (2.0, 40.0));
    let [first, packer] = &config.profiles[..] else { panic!("two profiles") };
    assert_eq!((first.percentage_of_nodes, packer.percentage_of_nodes), (Some(30), Some(100)));
    assert_eq!(first.weights, crate::config::Weights::default());
    let weights = packer.weights;
    assert_eq!((weights.fit, weights.images, weights.taints, weights.spread), (7, 1, 0, 0));
    assert_eq!(packer.fit.strategy, Strategy::MostAllocated);
    assert_eq!(&*packer.fit.resources, [("example.com/gpu".into(), 3)]);
}

#[test]
fn points_by_themselves_stand_over_multi_point() {
    let config = with(
        "plugins:\n  multiPoint: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: SchedulingGates}, {name: TaintToleration, weight: 9}, {name: NodeResourcesFit}]}\n  score: {enabled: [{name: NodeResourcesFit, weight: 4}]}\n  filter: {disabled: [{name: TaintToleration}]}",
    )
    .unwrap();
    let profile = &config.profiles[0];
    assert_eq!((profile.weights.taints, profile.weights.fit, profile.weights.images), (9, 4, 0));
    assert!(profile.rules.off.contains(Plugin::TaintToleration) && profile.rules.off.contains(Plugin::NodePorts));
    assert!(!profile.rules.off.contains(Plugin::NodeResourcesFit));
    assert!(!profile.preemption.enabled);
}

#[test]
fn a_filter_that_is_off_rejects_nothing() {
    let nodes = [node("a").taint("k", "v", "NoSchedule").cpu(1000)];
    let on = with("plugins: {}").unwrap();
    assert!(place(&on, &nodes, &pod("p")).is_err());
    let off = |name: &str| with(&format!("plugins: {{filter: {{disabled: [{{name: {name}}}]}}}}")).unwrap();
    assert_eq!(place(&off("TaintToleration"), &nodes, &pod("p")).unwrap(), "a");
    assert!(place(&off("NodePorts"), &nodes, &pod("p")).is_err());
    let small = [node("a").cpu(1000)];
    assert!(place(&on, &small, &pod("p").cpu(2000)).is_err());
    assert_eq!(place(&off("NodeResourcesFit"), &small, &pod("p").cpu(2000)).unwrap(), "a");
    assert_eq!(place(&off("NodeAffinity"), &small, &pod("p").node_selector("x", "y")).unwrap(), "a");
    assert_eq!(place(&off("NodeUnschedulable"), &[node("a").cordoned()], &pod("p")).unwrap(), "a");
    let spread = pod("p").spread("zone", 1, "DoNotSchedule", "a=b");
    assert!(place(&on, &small, &spread).is_err());
    assert_eq!(place(&off("PodTopologySpread"), &small, &spread).unwrap(), "a");
    assert_eq!(place(&off("InterPodAffinity"), &small, &pod("p").near("zone", "a=b")).unwrap(), "a");
}

#[test]
fn resources_that_others_look_after_are_ignored() {
    let nodes = [node("a").cpu(1000)];
    let config =
        args("NodeResourcesFit", "ignoredResources: [example.com/a], ignoredResourceGroups: [other.com]").unwrap();
    assert_eq!(place(&config, &nodes, &pod("p").scalar("example.com/a", 1).scalar("other.com/b", 1)).unwrap(), "a");
    let text = place(&config, &nodes, &pod("p").scalar("example.com/a", 1).scalar("example.com/c", 1)).unwrap_err();
    assert_eq!(text, "0/1 nodes are available: 1 Insufficient example.com/c.");
    assert!(place(&config, &nodes, &pod("p").cpu(2000).scalar("example.com/a", 1)).is_err());
}

#[test]
fn affinity_that_is_added_to_every_pod() {
    let nodes = [
        node("hdd").label("disk", "hdd"),
        node("ssd").label("disk", "ssd"),
        node("best").label("disk", "ssd").label("best", "yes"),
    ];
    let term =
        |key: &str, value: &str| format!("{{matchExpressions: [{{key: {key}, operator: In, values: [{value}]}}]}}");
    let config = args(
        "NodeAffinity",
        &format!(
            "addedAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{}]}}, preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 10, preference: {}}}]}}",
            term("disk", "ssd"),
            term("best", "'yes'")
        ),
    )
    .unwrap();
    assert_eq!(place(&config, &nodes, &pod("p")).unwrap(), "best");
    assert_eq!(
        place(&config, &nodes[..1], &pod("p")).unwrap_err(),
        "0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity."
    );
}

#[test]
fn other_arguments() {
    let config = args(
        "PodTopologySpread",
        "defaultingType: List, defaultConstraints: [{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]",
    )
    .unwrap();
    assert_eq!(config.profiles[0].spread, Defaults::List(vec![(2, "zone".into(), WhenUnsatisfiable::DoNotSchedule)]));
    let config =
        args("InterPodAffinity", "hardPodAffinityWeight: 0, ignorePreferredTermsOfExistingPods: true").unwrap();
    assert_eq!((config.profiles[0].hard_affinity_weight, config.profiles[0].ignore_preferences_of_others), (0, true));
    let config = args("VolumeBinding", "bindTimeoutSeconds: 5").unwrap();
    assert_eq!(config.profiles[0].bind_timeout.as_secs(), 5);
    let config = args("DynamicResources", "bindingTimeout: 1m30s, filterTimeout: 5s").unwrap();
    assert_eq!(config.profiles[0].device_timeout.as_secs(), 90);
    assert!(args("DynamicResources", "bindingTimeout: 10ms").is_err());
    let shape = "shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]";
    let config = args(
        "NodeResourcesFit",
        &format!("scoringStrategy: {{type: RequestedToCapacityRatio, requestedToCapacityRatio: {{{shape}}}}}"),
    )
    .unwrap();
    assert_eq!(config.profiles[0].fit.strategy, Strategy::RequestedToCapacityRatio(vec![(0, 0), (100, 10)]));
}

#[test]
fn without_preemption_nobody_goes() {
    let run = |config: &Config| {
        let mut state = state([node("a").cpu(1000)]);
        state.set_pod(pod("low").cpu(900).priority(1).on("a").info());
        let high = pod("high").cpu(900).priority(5).info();
        let mut turn = Turn { start: 0, seed: 1 };
        let Decision::Nowhere(failure) = decide(&mut state, &config.profiles[0], &high, &mut turn) else {
            panic!("it fits")
        };
        matches!(preempt(&mut state, &config.profiles[0], &high, &failure, &mut turn), Outcome::Make(_))
    };
    assert!(run(&Config::default()));
    assert!(!run(&with("plugins: {postFilter: {disabled: [{name: DefaultPreemption}]}}").unwrap()));
}

#[test]
fn what_is_told_says_the_same_without_secrets() {
    let text = file(
        "profiles: [{schedulerName: a, percentageOfNodesToScore: 7}]\nclientConnection: {qps: 3}\nextenders:\n- {urlPrefix: 'https://x', filterVerb: f, \
         tlsConfig: {certData: YQ==, keyData: c2VjcmV0}, managedResources: [{name: a/b, ignoredByScheduler: true}]}",
    );
    let config = parse(&text).unwrap();
    let told = config.told.unwrap();
    assert!(!told.contains("c2VjcmV0") && !told.contains("qps"), "{told}");
    let again = parse(&told).unwrap();
    assert_eq!(again.told.as_deref(), Some(told.as_str()));
    assert_eq!((&*again.profiles[0].name, again.profiles[0].percentage_of_nodes), ("a", Some(7)));
    assert!(again.profiles[0].rules.ignores("a/b"));
    assert_eq!(again.extenders[0].filter.as_deref(), Some("f"));
}
