//! Watches and lists in chunks: what clients that follow the cluster rely on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use caravel_tests::{Namespace, Watch};
use serde_json::{Value, json};
use std::time::Duration;

/// A watch that must say nothing is given this long to say it.
const QUIET: Duration = Duration::from_millis(700);

fn maps(ns: &Namespace) -> String {
    ns.wire().collection(&ns.name, "configmaps").unwrap()
}

fn map(name: &str, label: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"watch-this": label}}})
}

fn follow(ns: &Namespace, selector: &str, from: &str) -> Watch {
    ns.wire().watch(&format!("{}?watch=true&labelSelector={selector}&resourceVersion={from}", maps(ns)))
}

fn version(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Takes the next event, which must be this, and returns its object.
fn expect(watch: &Watch, type_: &str, name: &str, mutation: Option<&str>) -> Value {
    let event = watch.next(caravel_tests::PATIENCE).unwrap_or_else(|| panic!("the watch ended before {type_} {name}"));
    let object = event["object"].clone();
    assert_eq!(
        (event["type"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap()),
        (type_, name),
        "{event}"
    );
    assert_eq!(object["data"]["mutation"].as_str(), mutation, "{event}");
    assert_eq!((&object["kind"], &object["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    object
}

fn silent(watch: &Watch) {
    if let Some(event) = watch.next(QUIET) {
        panic!("the watch should say nothing: {event}");
    }
}

fn mutate(ns: &Namespace, name: &str, n: &str) -> Value {
    let (code, said) = ns.wire().merge(&format!("{}/{name}", maps(ns)), &json!({"data": {"mutation": n}}));
    assert_eq!(code, 200, "{said}");
    said
}

fn delete(ns: &Namespace, name: &str) {
    assert_eq!(ns.wire().delete(&format!("{}/{name}", maps(ns))).0, 200);
}

#[test]
fn watchers_see_what_their_selector_takes_in() {
    let ns = Namespace::new("watch-many");
    let from = version(&ns.wire().get(&maps(&ns)).1);
    let (a, b, both) = (
        follow(&ns, "watch-this%3Da", &from),
        follow(&ns, "watch-this%3Db", &from),
        follow(&ns, "watch-this%20in%20(a%2Cb)", &from),
    );
    ns.make("configmaps", &map("a", "a"));
    for watch in [&a, &both] {
        expect(watch, "ADDED", "a", None);
    }
    for n in ["1", "2"] {
        mutate(&ns, "a", n);
        for watch in [&a, &both] {
            expect(watch, "MODIFIED", "a", Some(n));
        }
    }
    delete(&ns, "a");
    for watch in [&a, &both] {
        expect(watch, "DELETED", "a", Some("2"));
    }
    silent(&b);
    ns.make("configmaps", &map("b", "b"));
    delete(&ns, "b");
    for watch in [&b, &both] {
        expect(watch, "ADDED", "b", None);
        expect(watch, "DELETED", "b", None);
    }
    silent(&a);
}

#[test]
fn a_watch_starts_after_the_version_it_names() {
    let ns = Namespace::new("watch-from");
    ns.make("configmaps", &map("m", "from"));
    let first = mutate(&ns, "m", "1");
    mutate(&ns, "m", "2");
    delete(&ns, "m");
    let watch = follow(&ns, "watch-this%3Dfrom", &version(&first));
    expect(&watch, "MODIFIED", "m", Some("2"));
    expect(&watch, "DELETED", "m", Some("2"));
    silent(&watch);
}

#[test]
fn a_watch_goes_on_where_the_last_one_ended() {
    let ns = Namespace::new("watch-again");
    let from = version(&ns.wire().get(&maps(&ns)).1);
    let watch = follow(&ns, "watch-this%3Dagain", &from);
    ns.make("configmaps", &map("m", "again"));
    mutate(&ns, "m", "1");
    expect(&watch, "ADDED", "m", None);
    let last = version(&expect(&watch, "MODIFIED", "m", Some("1")));
    drop(watch);
    mutate(&ns, "m", "2");
    let watch = follow(&ns, "watch-this%3Dagain", &last);
    delete(&ns, "m");
    expect(&watch, "MODIFIED", "m", Some("2"));
    expect(&watch, "DELETED", "m", Some("2"));
}

#[test]
fn leaving_the_selector_is_a_deletion() {
    let ns = Namespace::new("watch-leave");
    let relabel = |label: &str| {
        let path = format!("{}/m", maps(&ns));
        assert_eq!(ns.wire().merge(&path, &json!({"metadata": {"labels": {"watch-this": label}}})).0, 200);
    };
    let from = version(&ns.wire().get(&maps(&ns)).1);
    let watch = follow(&ns, "watch-this%3Din", &from);
    ns.make("configmaps", &map("m", "in"));
    expect(&watch, "ADDED", "m", None);
    mutate(&ns, "m", "1");
    expect(&watch, "MODIFIED", "m", Some("1"));
    relabel("out");
    let gone = expect(&watch, "DELETED", "m", Some("1"));
    assert_eq!(gone["metadata"]["labels"]["watch-this"], "in", "the last state that the watch could see");
    mutate(&ns, "m", "2");
    silent(&watch);
    relabel("in");
    expect(&watch, "ADDED", "m", Some("2"));
    mutate(&ns, "m", "3");
    expect(&watch, "MODIFIED", "m", Some("3"));
    delete(&ns, "m");
    expect(&watch, "DELETED", "m", Some("3"));
}

/// One watch leads; from each of its events another starts, and all see the same versions in the same order.
#[test]
fn concurrent_watches_agree_on_the_order() {
    let ns = Namespace::new("watch-order");
    let all = maps(&ns);
    let from = version(&ns.wire().get(&all).1);
    let leader = ns.wire().watch(&format!("{all}?watch=true&resourceVersion={from}"));
    let writer = {
        let (wire, all) = (ns.wire().clone(), all.clone());
        std::thread::spawn(move || {
            for i in 0..100 {
                let (name, step) = (format!("m{}", i % 7), i / 7 % 3);
                let path = format!("{all}/{name}");
                match step {
                    0 => drop(wire.post(&all, &json!({"metadata": {"name": name}}))),
                    1 => drop(wire.merge(&path, &json!({"data": {"i": i.to_string()}}))),
                    _ => drop(wire.delete(&path)),
                }
            }
        })
    };
    let mut order = vec![];
    let mut followers = vec![];
    for i in 0..90 {
        let event = leader.next(caravel_tests::PATIENCE).expect("the leader sees all writes");
        let at = version(&event["object"]);
        if i % 3 == 0 {
            followers.push((order.len() + 1, ns.wire().watch(&format!("{all}?watch=true&resourceVersion={at}"))));
        }
        order.push(at);
    }
    writer.join().unwrap();
    for (from, watch) in followers {
        for wanted in order.iter().skip(from) {
            let event = watch.next(caravel_tests::PATIENCE).expect("followers see what the leader saw");
            assert_eq!(version(&event["object"]), *wanted);
        }
    }
    assert!(order.windows(2).all(|w| w[0].parse::<u64>().unwrap() < w[1].parse::<u64>().unwrap()));
}

/// Bookmarks, initial events and their end: what a streaming list is made of (KEP-3157).
#[test]
fn a_watch_can_begin_with_what_there_is() {
    let ns = Namespace::new("watch-list");
    for name in ["a", "b"] {
        ns.make("configmaps", &map(name, "list"));
    }
    let query =
        "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion=";
    let watch = ns.wire().watch(&format!("{}?{query}&labelSelector=watch-this%3Dlist", maps(&ns)));
    for name in ["a", "b"] {
        expect(&watch, "ADDED", name, None);
    }
    let end = watch.next(caravel_tests::PATIENCE).unwrap();
    assert_eq!(end["type"], "BOOKMARK", "{end}");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true", "{end}");
    delete(&ns, "a");
    expect(&watch, "DELETED", "a", None);
}

fn templates(ns: &Namespace, count: usize) -> String {
    let path = ns.wire().collection(&ns.name, "podtemplates").unwrap();
    std::thread::scope(|scope| {
        for part in 0..8 {
            let (wire, path) = (ns.wire().clone(), path.clone());
            scope.spawn(move || {
                for i in (part..count).step_by(8) {
                    let one = json!({"metadata": {"name": format!("template-{i:04}")}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
                    assert_eq!(wire.post(&path, &one).0, 201);
                }
            });
        }
    });
    path
}

fn names(list: &Value) -> Vec<String> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn lists_come_in_chunks_of_one_version() {
    let ns = Namespace::new("chunks");
    let path = templates(&ns, 400);
    let (mut seen, mut next, mut first): (Vec<String>, String, Option<String>) = (vec![], String::new(), None);
    loop {
        let (code, page) = ns.wire().get(&format!("{path}?limit=57&continue={next}"));
        assert_eq!(code, 200, "{page}");
        if first.is_none() {
            // What comes meanwhile is not part of this list.
            templates_extra(&ns, &path);
        }
        let count = names(&page).len();
        assert!(count <= 57);
        assert_eq!(first.get_or_insert_with(|| version(&page)), &version(&page));
        seen.extend(names(&page));
        let left = page["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
        assert_eq!(left as usize, 400 - seen.len(), "{}", page["metadata"]);
        match page["metadata"]["continue"].as_str().unwrap_or_default() {
            "" => break,
            token => next = token.to_owned(),
        }
    }
    assert_eq!(seen, (0..400).map(|i| format!("template-{i:04}")).collect::<Vec<_>>());
    let (_, whole) = ns.wire().get(&path);
    assert_eq!(names(&whole).len(), 401);
    assert!(whole["metadata"].get("remainingItemCount").is_none() && whole["metadata"].get("continue").is_none());
}

fn templates_extra(ns: &Namespace, path: &str) {
    let one = json!({"metadata": {"name": "template-9999"}, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}});
    assert_eq!(ns.wire().post(path, &one).0, 201);
}

/// A list that was begun before history was compacted goes on at the newest state, if its client wants that.
#[test]
fn a_list_goes_on_after_compaction() {
    let plane = caravel_tests::ControlPlane::start();
    let wire = caravel_tests::Wire::new(&plane.kubeconfig());
    let path = "/api/v1/namespaces/default/podtemplates";
    let one = |i: usize, text: &str| {
        json!({"metadata": {"name": format!("template-{i:02}")}, "template": {"spec": {"containers": [
            {"name": "c", "image": "i", "args": [text]}]}}})
    };
    for i in 0..40 {
        assert_eq!(wire.post(path, &one(i, "")).0, 201);
    }
    let (_, page) = wire.get(&format!("{path}?limit=15"));
    assert_eq!((names(&page).len(), &page["metadata"]["remainingItemCount"]), (15, &json!(25)));
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    // History has a bound of bytes; it is reached by large changes sooner than by waiting.
    let expired = (0..100).find_map(|n| {
        let text = "x".repeat(1 << 20) + &n.to_string();
        assert_eq!(wire.put(&format!("{path}/template-39"), &one(39, &text)).0, 200);
        match wire.get(&format!("{path}?limit=15&continue={token}")) {
            (200, _) => None,
            (code, said) => Some((code, said)),
        }
    });
    let (code, said) = expired.expect("history is bounded");
    assert_eq!((code, said["reason"].as_str()), (410, Some("Expired")), "{said}");
    wire.delete(&format!("{path}/template-20"));
    let token = said["metadata"]["continue"].as_str().expect("a token to go on with");
    let (code, page) = wire.get(&format!("{path}?limit=15&continue={token}"));
    assert_eq!((code, &page["metadata"]["remainingItemCount"]), (200, &json!(9)), "{}", page["metadata"]);
    let shown = names(&page);
    assert_eq!((shown.len(), shown[0].as_str(), shown[5].as_str()), (15, "template-15", "template-21"));
    let (at, token) = (version(&page), page["metadata"]["continue"].as_str().unwrap().to_owned());
    let (code, rest) = wire.get(&format!("{path}?limit=15&continue={token}"));
    assert_eq!((code, names(&rest).len(), version(&rest)), (200, 9, at));
    assert!(rest["metadata"].get("continue").is_none(), "{}", rest["metadata"]);
}
