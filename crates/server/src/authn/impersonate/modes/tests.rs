use super::*;
use crate::authn::TOKEN_NODE;

fn person(name: &str) -> UserInfo {
    UserInfo { name: name.into(), ..UserInfo::default() }
}

fn with(name: &str, uid: &str, groups: &[&str], extra: &[(&str, &[&str])]) -> UserInfo {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let extra = extra.iter().map(|(key, values)| ((*key).to_owned(), texts(values))).collect();
    UserInfo { name: name.into(), uid: uid.into(), groups: texts(groups), extra }
}

fn check(check: &Check) -> String {
    let Some(part) = &check.part else { return check.verb.clone() };
    let resource = [part.resource, &part.subresource].join("/");
    format!("{} {}:{}:{resource}:{}", check.verb, part.group, part.namespace, part.name)
}

fn steps(way: &Way) -> Vec<String> {
    way.steps
        .iter()
        .map(|step| match step {
            Step::Need(one) => check(one),
            Step::AllOr(all, each) => {
                format!("{}, or {}", check(all), each.iter().map(check).collect::<Vec<_>>().join(" and "))
            }
            Step::Never(one, why) => format!("{} never: {why}", check(one)),
        })
        .collect()
}

/// A service account whose token says these nodes.
fn agent(nodes: &[&str]) -> UserInfo {
    with(
        "system:serviceaccount:kube-system:agent",
        "",
        &[],
        &[(TOKEN_NODE, nodes), ("authentication.kubernetes.io/pod-name", &["p"])],
    )
}

#[test]
fn who_can_be_taken_in_which_way() {
    use Mode::{ArbitraryNode, AssociatedNode, Legacy, ServiceAccount, UserInfo as Info};
    let (me, node, sa) = (person("me"), "system:node:n1", "system:serviceaccount:ns:sa");
    let mut named_like_an_agent = agent(&["n1"]);
    named_like_an_agent.name = "system:serviceaccount:kube-system:agent:x".into();
    let table = [
        (person("jane"), me.clone(), vec![Info, Legacy]),
        (person("system:anonymous"), me.clone(), vec![Info, Legacy]),
        (with("jane", "7", &["g"], &[("a/b", &["c"])]), me.clone(), vec![Info, Legacy]),
        (person(sa), me.clone(), vec![ServiceAccount, Legacy]),
        (with(sa, "7", &[], &[]), me.clone(), vec![Legacy]),
        (with(sa, "", &["g"], &[]), me.clone(), vec![Legacy]),
        (with(sa, "", &[], &[("a/b", &["c"])]), me.clone(), vec![Legacy]),
        // What no service account and no node can be called is somebody else's name.
        (person("system:serviceaccount:ns"), me.clone(), vec![Info, Legacy]),
        (person("system:serviceaccount:ns:a:b"), me.clone(), vec![Info, Legacy]),
        (person("system:serviceaccount:n.s:a"), me.clone(), vec![Info, Legacy]),
        (person("system:serviceaccount:NS:a"), me.clone(), vec![Info, Legacy]),
        (person("system:node:"), me.clone(), vec![Info, Legacy]),
        (person("system:node:N1"), me.clone(), vec![Info, Legacy]),
        (person(node), me.clone(), vec![ArbitraryNode, Legacy]),
        (with(node, "", &["system:nodes"], &[]), me.clone(), vec![Legacy]),
        (with(node, "7", &[], &[]), agent(&["n1"]), vec![Legacy]),
        (person(node), agent(&["n1"]), vec![AssociatedNode, ArbitraryNode, Legacy]),
        (person(node), agent(&["n2"]), vec![ArbitraryNode, Legacy]),
        (person(node), agent(&["n1", "n1"]), vec![ArbitraryNode, Legacy]),
        (person(node), agent(&[]), vec![ArbitraryNode, Legacy]),
        (person(node), named_like_an_agent, vec![ArbitraryNode, Legacy]),
        (person(node), with("me", "", &[], &[(TOKEN_NODE, &["n1"])]), vec![ArbitraryNode, Legacy]),
        (person("jane"), agent(&["jane"]), vec![Info, Legacy]),
        (person("system:node:"), agent(&[""]), vec![Info, Legacy]),
    ];
    for (wanted, asker, modes) in table {
        let found: Vec<Mode> =
            Mode::ALL.into_iter().filter(|mode| mode.way(&wanted, &asker, "get").is_some()).collect();
        assert_eq!(found, modes, "{wanted:?} by {}", asker.name);
    }
}

#[test]
fn what_is_asked_and_what_one_becomes() {
    let me = person("me");
    let table: Vec<(Mode, UserInfo, &[&str], &[&str])> = vec![
        (
            Mode::UserInfo,
            person("jane"),
            &["impersonate-on:user-info:list", "impersonate:user-info authentication.k8s.io::users/:jane"],
            &["system:authenticated"],
        ),
        (
            Mode::UserInfo,
            with("jane", "7", &["a", "b", "c"], &[("x.y/z", &["1", "2"]), ("x.y/a", &["3"])]),
            &[
                "impersonate-on:user-info:list",
                "impersonate:user-info authentication.k8s.io::users/:jane",
                "impersonate:user-info authentication.k8s.io::uids/:7",
                "impersonate:user-info authentication.k8s.io::groups/:a",
                "impersonate:user-info authentication.k8s.io::groups/:b",
                "impersonate:user-info authentication.k8s.io::groups/:c",
                "impersonate:user-info authentication.k8s.io::userextras/x.y/a:3",
                "impersonate:user-info authentication.k8s.io::userextras/x.y/z:1",
                "impersonate:user-info authentication.k8s.io::userextras/x.y/z:2",
            ],
            &["a", "b", "c", "system:authenticated"],
        ),
        (
            Mode::UserInfo,
            person("system:anonymous"),
            &["impersonate-on:user-info:list", "impersonate:user-info authentication.k8s.io::users/:system:anonymous"],
            &["system:unauthenticated"],
        ),
        (
            Mode::ServiceAccount,
            person("system:serviceaccount:ns:sa"),
            &[
                "impersonate-on:serviceaccount:list",
                "impersonate:serviceaccount authentication.k8s.io:ns:serviceaccounts/:sa",
            ],
            &["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
        ),
        (
            Mode::ArbitraryNode,
            person("system:node:n1"),
            &["impersonate-on:arbitrary-node:list", "impersonate:arbitrary-node authentication.k8s.io::nodes/:n1"],
            &["system:nodes", "system:authenticated"],
        ),
        (Mode::Legacy, person("system:node:n1"), &["impersonate ::users/:system:node:n1"], &["system:authenticated"]),
        (
            Mode::Legacy,
            person("system:serviceaccount:ns:sa"),
            &["impersonate :ns:serviceaccounts/:sa"],
            &["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
        ),
        (
            Mode::Legacy,
            with("system:serviceaccount:ns:sa", "", &["g"], &[]),
            &["impersonate :ns:serviceaccounts/:sa", "impersonate ::groups/:g"],
            &["g", "system:authenticated"],
        ),
        (
            Mode::Legacy,
            with("jane", "7", &["system:masters", "system:unauthenticated", "", "d"], &[("A", &["1", "2", "3", ""])]),
            &[
                "impersonate ::users/:jane",
                "impersonate authentication.k8s.io::uids/:7",
                "impersonate ::groups/:system:masters",
                "impersonate ::groups/:system:unauthenticated",
                "impersonate ::groups/:",
                "impersonate ::groups/:d",
                "impersonate authentication.k8s.io::userextras/A:1",
                "impersonate authentication.k8s.io::userextras/A:2",
                "impersonate authentication.k8s.io::userextras/A:3",
                "impersonate authentication.k8s.io::userextras/A:",
            ],
            &["system:masters", "system:unauthenticated", "", "d"],
        ),
        (
            Mode::Legacy,
            with("system:anonymous", "", &["system:authenticated"], &[]),
            &["impersonate ::users/:system:anonymous", "impersonate ::groups/:system:authenticated"],
            &["system:authenticated", "system:unauthenticated"],
        ),
    ];
    for (mode, wanted, asked, groups) in table {
        let way = mode.way(&wanted, &me, "list").unwrap();
        assert_eq!(steps(&way), asked, "{mode:?} {wanted:?}");
        assert_eq!(way.user, UserInfo { groups: way.user.groups.clone(), ..wanted.clone() });
        assert_eq!(way.user.groups, groups, "{mode:?} {wanted:?}");
        assert_eq!((way.shown, way.mode), (None, mode));
    }
}

/// Of many values it is first asked whether all of them are allowed.
#[test]
fn many_are_asked_about_at_once() {
    let me = person("me");
    let last = |wanted: &UserInfo| steps(&Mode::UserInfo.way(wanted, &me, "get").unwrap()).pop().unwrap();
    let u = "impersonate:user-info authentication.k8s.io:";
    assert_eq!(
        last(&with("jane", "", &["a", "b", "c", "d"], &[])),
        format!("{u}:groups/:*, or {u}:groups/:a and {u}:groups/:b and {u}:groups/:c and {u}:groups/:d")
    );
    assert_eq!(
        last(&with("jane", "", &[], &[("a/b", &["1", "2"]), ("c/d", &["3", "4"])])),
        format!(
            "{u}:userextras/*:*, or {u}:userextras/a/b:1 and {u}:userextras/a/b:2 and {u}:userextras/c/d:3 and {u}:userextras/c/d:4"
        )
    );
    assert_eq!(last(&with("jane", "", &["a", "b", "c"], &[])), format!("{u}:groups/:c"));
    assert_eq!(last(&with("jane", "", &[], &[("a/b", &["1", "2", "3"])])), format!("{u}:userextras/a/b:3"));
}

#[test]
fn some_can_never_be_taken_in_a_constrained_way() {
    let me = person("me");
    let table: Vec<(UserInfo, &str)> = vec![
        (
            with("jane", "", &["a", "system:masters"], &[]),
            "groups/:system:masters never: impersonating the system:masters group",
        ),
        (
            with("jane", "", &["a", "b", "c", "d", "system:masters"], &[]),
            "never: impersonating the system:masters group",
        ),
        (with("jane", "", &["a", ""], &[]), "groups/: never: impersonating the empty string group"),
        (with("jane", "", &[], &[("", &["x"])]), "userextras/: never: impersonating the empty string key"),
        (
            with("jane", "", &[], &[("scopes", &["x"])]),
            "invalid key in extra is not allowed: extra.key: Invalid value: \"scopes\": must be a domain-prefixed path",
        ),
        (
            with("jane", "", &[], &[("acme.com/Project", &["x"])]),
            "non-lowercase key in extra is not allowed: \"acme.com/Project\"",
        ),
        (with("jane", "", &[], &[("acme.com/project", &["x", ""])]), "the empty string value in extra"),
    ];
    for (wanted, why) in table {
        let way = Mode::UserInfo.way(&wanted, &me, "get").unwrap();
        let never: Vec<String> = steps(&way).into_iter().filter(|step| step.contains(" never: ")).collect();
        assert!(never.len() == 1 && never[0].contains(why), "{wanted:?}: {never:?}");
        let legacy = Mode::Legacy.way(&wanted, &me, "get").unwrap();
        assert!(legacy.steps.iter().all(|step| matches!(step, Step::Need(_))), "as ever");
    }
}

/// A right to one's own node is a right to whichever it is, and what differs between a node agent's Pods is not shown.
#[test]
fn ones_own_node() {
    let way = Mode::AssociatedNode.way(&person("system:node:n1"), &agent(&["n1"]), "watch").unwrap();
    assert_eq!(
        steps(&way),
        ["impersonate-on:associated-node:watch", "impersonate:associated-node authentication.k8s.io::nodes/:*"]
    );
    assert_eq!(way.user, with("system:node:n1", "", &["system:nodes", "system:authenticated"], &[]));
    let shown = with(&agent(&[]).name, "", &[], &[(NODE_KEYS, &[TOKEN_NODE, "authentication.kubernetes.io/pod-name"])]);
    assert_eq!(way.shown, Some(shown));
}
