use super::*;
use crate::authz::rbac::PolicyKind;
use crate::request_info::RequestInfo;
use futures::FutureExt as _;
use http::Method;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

/// Everything around a decision; RBAC decides.
struct World {
    authorizer: Authorizer,
    memory: Memory,
    metrics: ImpersonationMetrics,
    registry: Registry,
    constrained: bool,
}

impl World {
    /// Where `me` has these rules, and `agent` (a service account of `kube-system`) too.
    fn new(rules: Value) -> Self {
        let mut registry = Registry::default();
        let metrics = ImpersonationMetrics::register(&mut registry);
        let world =
            Self { authorizer: Authorizer::default(), memory: Memory::default(), metrics, registry, constrained: true };
        world.rules(rules);
        world
    }

    fn rules(&self, rules: Value) {
        let rbac = &self.authorizer.rbac;
        rbac.put(PolicyKind::Role, "", "r", &json!({"rules": rules}));
        let subjects = json!([{"kind": "User", "name": "me"}, {"kind": "User", "name": AGENT}]);
        let reference = json!({"kind": "ClusterRole", "name": "r"});
        rbac.put(PolicyKind::Binding, "", "b", &json!({"subjects": subjects, "roleRef": reference}));
    }

    fn decide(&self, asker: &UserInfo, wanted: &UserInfo, request: (&str, &str)) -> Result<Granted, ApiError> {
        let method: Method = request.0.parse().unwrap();
        let info = RequestInfo::parse(&method, &request.1.parse().unwrap());
        let decider = Decider {
            authorizer: &self.authorizer,
            memory: &self.memory,
            metrics: &self.metrics,
            constrained: self.constrained,
        };
        decider.decide(asker, wanted, &info).now_or_never().expect("RBAC answers at once")
    }

    /// In which way `me` becomes `wanted`, or the refusal.
    fn told(&self, wanted: &UserInfo, request: (&str, &str)) -> Result<Mode, String> {
        let me = UserInfo::new("me", &[]);
        self.decide(&me, wanted, request).map(|granted| granted.mode).map_err(|e| e.message)
    }
}

const AGENT: &str = "system:serviceaccount:kube-system:agent";
const LIST: (&str, &str) = ("GET", "/api/v1/namespaces/ns/pods");
const DELETE: (&str, &str) = ("DELETE", "/api/v1/namespaces/ns/pods/p");

fn user(name: &str, groups: &[&str]) -> UserInfo {
    UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).into()).collect(), ..UserInfo::default() }
}

fn part(mode: &str, resource: &str, names: &[&str]) -> Value {
    json!({"apiGroups": ["authentication.k8s.io"], "resources": [resource], "resourceNames": names, "verbs": [format!("impersonate:{mode}")]})
}

fn on(mode: &str, verb: &str, resource: &str) -> Value {
    json!({"apiGroups": [""], "resources": [resource], "verbs": [format!("impersonate-on:{mode}:{verb}")]})
}

fn legacy(resource: &str, names: &[&str]) -> Value {
    json!({"apiGroups": [""], "resources": [resource], "resourceNames": names, "verbs": ["impersonate"]})
}

/// Rules, whom `me` wants to be, a request (method and path), and the way or a part of the refusal.
type Row = (Value, UserInfo, (&'static str, &'static str), Result<Mode, &'static str>);

#[test]
fn who_may_become_whom_for_what() {
    let jane = user("jane", &[]);
    let (sa, node) = (user("system:serviceaccount:ns:sa", &[]), user("system:node:n1", &[]));
    let many = user("jane", &["a", "b", "c", "d"]);
    let masters = user("jane", &["system:masters"]);
    let as_jane = json!([part("user-info", "users", &["jane"]), on("user-info", "list", "pods")]);
    let table: Vec<Row> = vec![
        (as_jane.clone(), jane.clone(), LIST, Ok(Mode::UserInfo)),
        // Another verb, resource, user: refused by what was asked first.
        (
            as_jane.clone(),
            jane.clone(),
            DELETE,
            Err(
                "pods \"p\" is forbidden: User \"me\" cannot impersonate-on:user-info:delete resource \"pods\" in API group \"\" in the namespace \"ns\"",
            ),
        ),
        (
            as_jane.clone(),
            jane.clone(),
            ("GET", "/api/v1/namespaces/ns/pods?watch=true"),
            Err("cannot impersonate-on:user-info:watch resource \"pods\""),
        ),
        (as_jane.clone(), jane.clone(), ("GET", "/api/v1/pods/p/log"), Err("cannot impersonate-on:user-info:")),
        (
            as_jane.clone(),
            jane.clone(),
            ("GET", "/api/v1/secrets"),
            Err("cannot impersonate-on:user-info:list resource \"secrets\""),
        ),
        (
            as_jane.clone(),
            user("joe", &[]),
            LIST,
            Err(
                "users.authentication.k8s.io \"joe\" is forbidden: User \"me\" cannot impersonate:user-info resource \"users\" in API group \"authentication.k8s.io\" at the cluster scope",
            ),
        ),
        (as_jane.clone(), user("jane", &["g"]), LIST, Err("cannot impersonate:user-info resource \"groups\"")),
        (
            as_jane.clone(),
            UserInfo { uid: "7".into(), ..jane.clone() },
            LIST,
            Err("cannot impersonate:user-info resource \"uids\""),
        ),
        (as_jane.clone(), masters.clone(), LIST, Err("impersonating the system:masters group is not allowed")),
        // The right to a name alone is none.
        (
            json!([part("user-info", "users", &["jane"])]),
            jane.clone(),
            LIST,
            Err("cannot impersonate-on:user-info:list"),
        ),
        (
            json!([on("user-info", "list", "pods")]),
            jane.clone(),
            LIST,
            Err("cannot impersonate:user-info resource \"users\""),
        ),
        // A right in one way is none in another.
        (as_jane.clone(), sa.clone(), LIST, Err("cannot impersonate-on:serviceaccount:list")),
        (as_jane, node.clone(), LIST, Err("cannot impersonate-on:arbitrary-node:list")),
        (
            json!([part("serviceaccount", "serviceaccounts", &["sa"]), on("serviceaccount", "list", "pods")]),
            sa.clone(),
            LIST,
            Ok(Mode::ServiceAccount),
        ),
        (
            json!([part("serviceaccount", "serviceaccounts", &["sb"]), on("serviceaccount", "list", "pods")]),
            sa.clone(),
            LIST,
            Err(
                "serviceaccounts.authentication.k8s.io \"sa\" is forbidden: User \"me\" cannot impersonate:serviceaccount resource \"serviceaccounts\" in API group \"authentication.k8s.io\" in the namespace \"ns\"",
            ),
        ),
        (
            json!([part("arbitrary-node", "nodes", &["n1"]), on("arbitrary-node", "list", "pods")]),
            node.clone(),
            LIST,
            Ok(Mode::ArbitraryNode),
        ),
        (
            json!([part("arbitrary-node", "nodes", &["n2"]), on("arbitrary-node", "list", "pods")]),
            node.clone(),
            LIST,
            Err("nodes.authentication.k8s.io \"n1\" is forbidden"),
        ),
        (
            json!([part("associated-node", "nodes", &[]), on("associated-node", "list", "pods")]),
            node.clone(),
            LIST,
            Err("cannot impersonate-on:arbitrary-node:list"),
        ),
        // Paths that are no resources.
        (
            json!([part("user-info", "users", &[]), {"nonResourceURLs": ["/metrics"], "verbs": ["impersonate-on:user-info:get"]}]),
            jane.clone(),
            ("GET", "/metrics"),
            Ok(Mode::UserInfo),
        ),
        (
            json!([part("user-info", "users", &[]), {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]),
            jane.clone(),
            ("GET", "/metrics"),
            Err("User \"me\" cannot impersonate-on:user-info:get path \"/metrics\""),
        ),
        // Many groups: all of them, or each of them.
        (
            json!([
                part("user-info", "users", &[]),
                part("user-info", "groups", &["*"]),
                on("user-info", "list", "pods")
            ]),
            many.clone(),
            LIST,
            Ok(Mode::UserInfo),
        ),
        (
            json!([
                part("user-info", "users", &[]),
                part("user-info", "groups", &["a", "b", "c", "d"]),
                on("user-info", "list", "pods")
            ]),
            many.clone(),
            LIST,
            Ok(Mode::UserInfo),
        ),
        (
            json!([
                part("user-info", "users", &[]),
                part("user-info", "groups", &["a", "b", "c"]),
                on("user-info", "list", "pods")
            ]),
            many.clone(),
            LIST,
            Err("groups.authentication.k8s.io \"d\" is forbidden"),
        ),
        // The older verb is as good as ever, for whatever is done.
        (json!([legacy("users", &["jane"])]), jane.clone(), DELETE, Ok(Mode::Legacy)),
        (
            json!([legacy("users", &["jane"]), legacy("groups", &["system:masters"])]),
            masters.clone(),
            DELETE,
            Ok(Mode::Legacy),
        ),
        (json!([legacy("users", &["jane"])]), masters.clone(), DELETE, Err("cannot impersonate-on:user-info:delete")),
        (json!([legacy("serviceaccounts", &["sa"])]), sa.clone(), DELETE, Ok(Mode::Legacy)),
        (json!([legacy("users", &["system:node:n1"])]), node.clone(), DELETE, Ok(Mode::Legacy)),
        (
            json!([]),
            user("system:node:n1", &["system:nodes"]),
            LIST,
            Err(
                "users \"system:node:n1\" is forbidden: User \"me\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            ),
        ),
        // A right to everything under the constrained verbs' group is none to the older verb.
        (
            json!([{"apiGroups": ["authentication.k8s.io"], "resources": ["*"], "verbs": ["*"]}]),
            jane.clone(),
            LIST,
            Err("cannot impersonate-on:user-info:list"),
        ),
    ];
    for (rules, wanted, request, want) in table {
        let told = World::new(rules.clone()).told(&wanted, request);
        match (&told, want) {
            (Ok(mode), Ok(want)) => assert_eq!(*mode, want, "{rules} {wanted:?} {request:?}"),
            (Err(told), Err(want)) => assert!(told.contains(want), "{rules} {wanted:?} {request:?}: {told}"),
            _ => panic!("{rules} {wanted:?} {request:?}: {told:?}"),
        }
    }
}

/// What was good last is tried first, and its refusal is the one that is told.
#[test]
fn the_last_good_way_is_tried_first() {
    let jane = user("jane", &[]);
    let world = World::new(json!([legacy("users", &["jane"])]));
    let refused = world.told(&user("joe", &[]), LIST).unwrap_err();
    assert!(refused.contains("cannot impersonate-on:user-info:list resource \"pods\""), "{refused}");
    assert_eq!(world.told(&jane, LIST), Ok(Mode::Legacy));
    let refused = world.told(&user("joe", &[]), LIST).unwrap_err();
    assert!(refused.contains("\"joe\" is forbidden: User \"me\" cannot impersonate resource \"users\""), "{refused}");
    // It stays so for as long as it is good, and others come next when it is not.
    let constrained =
        json!([part("user-info", "users", &["jane"]), on("user-info", "list", "pods"), legacy("users", &["jane"])]);
    world.rules(constrained);
    assert_eq!(world.told(&jane, LIST), Ok(Mode::Legacy));
    world.rules(json!([part("user-info", "users", &["jane"]), on("user-info", "list", "pods")]));
    assert_eq!(world.told(&jane, LIST), Ok(Mode::UserInfo));
    // What is taken away is gone at once.
    world.rules(json!([]));
    assert!(world.told(&jane, LIST).unwrap_err().contains("cannot impersonate-on:user-info:list"));
}

#[test]
fn a_node_agent_acts_as_its_own_node() {
    let node = |name: &str| user(&format!("system:node:{name}"), &[]);
    let agent = |node: &str| UserInfo {
        extra: [("authentication.kubernetes.io/node-name".into(), vec![node.into()])].into(),
        ..UserInfo::new(AGENT, &[])
    };
    let world = World::new(json!([part("associated-node", "nodes", &[]), on("associated-node", "list", "pods")]));
    for name in ["n1", "n2"] {
        let granted = world.decide(&agent(name), &node(name), LIST).unwrap();
        assert_eq!(granted.mode, Mode::AssociatedNode);
        assert_eq!(
            granted.user,
            UserInfo { extra: Default::default(), ..UserInfo::new(format!("system:node:{name}"), &["system:nodes"]) }
        );
    }
    for (asker, wanted, request, why) in [
        (agent("n1"), node("n2"), LIST, "impersonate-on:arbitrary-node:list"),
        (UserInfo::new(AGENT, &[]), node("n1"), LIST, "impersonate-on:arbitrary-node:list"),
        (agent("n1"), node("n1"), DELETE, "impersonate-on:associated-node:delete"),
    ] {
        let refused = world.decide(&asker, &wanted, request).unwrap_err().message;
        assert!(refused.contains(why), "{wanted:?}: {refused}");
    }
    // A right to one node by name is no right to whichever node one is on.
    let named = World::new(json!([part("associated-node", "nodes", &["n1"]), on("associated-node", "list", "pods")]));
    let refused = named.decide(&agent("n1"), &node("n1"), LIST).unwrap_err().message;
    assert!(refused.contains("nodes.authentication.k8s.io \"*\" is forbidden"), "{refused}");
}

/// Whoever may do everything is constrained to everything, except for what only the older way has.
#[test]
fn masters_may_become_anybody() {
    let world = World::new(json!([]));
    let admin = UserInfo::system_masters("admin");
    let mode = |wanted: UserInfo| world.decide(&admin, &wanted, DELETE).unwrap().mode;
    assert_eq!(mode(user("jane", &["dev"])), Mode::UserInfo);
    assert_eq!(mode(user("system:node:n1", &[])), Mode::ArbitraryNode);
    assert_eq!(mode(user("system:serviceaccount:ns:sa", &[])), Mode::ServiceAccount);
    assert_eq!(mode(user("jane", &["system:masters"])), Mode::Legacy);
    assert_eq!(mode(user("system:node:n1", &["system:nodes"])), Mode::Legacy);
}

#[test]
fn without_the_gate_there_is_only_the_older_way() {
    let rules =
        json!([part("user-info", "users", &["jane"]), on("user-info", "list", "pods"), legacy("users", &["joe"])]);
    let world = World { constrained: false, ..World::new(rules) };
    assert_eq!(world.told(&user("joe", &[]), DELETE), Ok(Mode::Legacy));
    let refused = world.told(&user("jane", &[]), LIST).unwrap_err();
    assert!(refused.contains("cannot impersonate resource \"users\" in API group \"\""), "{refused}");
    // A node that is not said to be in a group is in none, as ever.
    let granted = world.decide(&UserInfo::system_masters("admin"), &user("system:node:n1", &[]), LIST).unwrap();
    assert_eq!((granted.mode, granted.user.groups), (Mode::Legacy, vec!["system:authenticated".to_owned()]));
}

#[test]
fn it_is_counted() {
    let world = World::new(json!([legacy("users", &["jane"])]));
    world.told(&user("jane", &[]), LIST).unwrap();
    world.told(&user("jane", &[]), LIST).unwrap();
    world.told(&user("joe", &[]), LIST).unwrap_err();
    let mut text = String::new();
    encode(&mut text, &world.registry).unwrap();
    for line in [
        "apiserver_impersonation_attempts_total{mode=\"legacy\",decision=\"allowed\"} 2",
        "apiserver_impersonation_attempts_total{mode=\"\",decision=\"denied\"} 1",
        "apiserver_impersonation_attempts_duration_seconds_count{mode=\"legacy\",decision=\"allowed\"} 2",
        "apiserver_impersonation_authorization_attempts_total{mode=\"legacy\",decision=\"allowed\"} 2",
        "apiserver_impersonation_authorization_attempts_total{mode=\"legacy\",decision=\"denied\"} 1",
        "apiserver_impersonation_authorization_attempts_total{mode=\"user-info\",decision=\"denied\"} 2",
        "apiserver_impersonation_authorization_attempts_duration_seconds_count{mode=\"user-info\",decision=\"denied\"} 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
