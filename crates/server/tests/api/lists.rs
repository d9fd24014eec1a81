//! LIST and WATCH: selectors, pages, revisions, bookmarks.

use crate::harness::{Cluster, MAPS, config_map};
use serde_json::{Value, json};

async fn fill(cluster: &Cluster, names: &[&str]) {
    for name in names {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"name": name, "all": "yes"});
        assert_eq!(cluster.admin().post(MAPS, object).await.0, 201);
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn selectors_and_pages() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    fill(&cluster, &["a", "b", "c", "d", "e"]).await;
    for (query, wanted) in [
        ("", vec!["a", "b", "c", "d", "e"]),
        ("labelSelector=name%20in%20(a,c)", vec!["a", "c"]),
        ("labelSelector=name!=a", vec!["b", "c", "d", "e"]),
        ("fieldSelector=metadata.name=b", vec!["b"]),
        ("fieldSelector=metadata.name!=b", vec!["a", "c", "d", "e"]),
        ("fieldSelector=metadata.namespace=other", vec![]),
        ("resourceVersion=0", vec!["a", "b", "c", "d", "e"]),
    ] {
        let (code, list) = admin.get(&format!("{MAPS}?{query}")).await;
        assert_eq!((code, names(&list)), (200, wanted), "{query}");
        assert_eq!(list["kind"], "ConfigMapList");
        assert!(list["items"].as_array().unwrap().iter().all(|i| i.get("kind").is_none()));
    }
    assert_eq!(admin.get(&format!("{MAPS}?fieldSelector=data.a=b")).await.0, 400);
    assert_eq!(admin.get(&format!("{MAPS}?labelSelector=a%20in%20(")).await.0, 400);

    let (_, first) = admin.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    // What is written meanwhile is not in the later pages.
    fill(&cluster, &["bb"]).await;
    assert_eq!(admin.delete(&format!("{MAPS}/d")).await.0, 200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["c", "d"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let (_, last) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&last), ["e"]);
    assert!(last["metadata"].get("continue").is_none());
    assert_eq!(admin.get(&format!("{MAPS}?limit=2&continue=nonsense")).await.0, 400);

    let at = first["metadata"]["resourceVersion"].as_str().unwrap();
    let (_, exact) = admin.get(&format!("{MAPS}?resourceVersion={at}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);
    let (code, future) = admin.get(&format!("{MAPS}?resourceVersion=99999999")).await;
    assert_eq!((code, &future["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
    assert_eq!(admin.get(&format!("{MAPS}?resourceVersion=x")).await.0, 400);
}

#[tokio::test]
async fn a_forgotten_revision_is_gone() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    fill(&cluster, &["a", "b", "c"]).await;
    let (_, first) = admin.get(&format!("{MAPS}?limit=1")).await;
    fill(&cluster, &["d"]).await;
    let store = &cluster.server.registry().store;
    store.compact(store.revision()).await.unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (code, gone) = admin.get(&format!("{MAPS}?limit=1&continue={token}")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
    // The answer offers to go on at the newest state.
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = admin.get(&format!("{MAPS}?continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["b", "c", "d"]));
    let mut watch = admin.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let frame = watch.next().await.unwrap();
    assert_eq!((&frame["type"], &frame["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn watches_begin_as_asked() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    fill(&cluster, &["a"]).await;
    let (_, list) = admin.get(MAPS).await;
    let at = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut from = admin.watch(&format!("{MAPS}?watch=true&resourceVersion={at}")).await;
    let mut unset = admin.watch(&format!("{MAPS}?watch=true")).await;
    let mut zero = admin.watch(&format!("{MAPS}?watch=true&resourceVersion=0")).await;
    let path =
        format!("{MAPS}?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan");
    let mut streamed = admin.watch(&path).await;
    for watch in [&mut unset, &mut zero, &mut streamed] {
        assert_eq!(watch.step().await, ("ADDED".into(), "a".into()));
    }
    let end = streamed.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(end["object"]["kind"], "ConfigMap");
    fill(&cluster, &["b"]).await;
    admin.patch(&format!("{MAPS}/b"), json!({"data": {"x": "y"}})).await;
    let (_, deleted) = admin.delete(&format!("{MAPS}/b")).await;
    assert_eq!(deleted["status"], "Success");
    for watch in [&mut from, &mut unset, &mut zero, &mut streamed] {
        assert_eq!(watch.step().await, ("ADDED".into(), "b".into()));
        assert_eq!(watch.step().await, ("MODIFIED".into(), "b".into()));
        let last = watch.next().await.unwrap();
        assert_eq!(last["type"], "DELETED");
        assert_eq!(last["object"]["data"]["x"], "y");
        assert!(
            last["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
                > at.parse().unwrap()
        );
        assert!(watch.is_quiet().await);
    }
}

#[tokio::test]
async fn selectors_turn_changes_into_comings_and_goings() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let mut watch = admin.watch(&format!("{MAPS}?watch=true&labelSelector=on")).await;
    let mut one = admin.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name=a")).await;
    admin.post(MAPS, config_map("a")).await;
    admin.post(MAPS, config_map("ab")).await;
    admin.patch(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"on": "1"}}})).await;
    admin.patch(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await;
    admin.patch(&format!("{MAPS}/a"), json!({"metadata": {"labels": {"on": null}}})).await;
    admin.delete(&format!("{MAPS}/a")).await;
    for wanted in ["ADDED", "MODIFIED"] {
        assert_eq!(watch.step().await, (wanted.into(), "a".into()));
    }
    let left = watch.next().await.unwrap();
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["on"]), (&json!("DELETED"), &json!("1")));
    assert!(watch.is_quiet().await);
    for wanted in ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(one.step().await, (wanted.into(), "a".into()));
    }
    assert!(one.is_quiet().await);
}

#[tokio::test]
async fn watches_end_in_time() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let mut watch = admin.watch(&format!("{MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    let last = watch.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
    let mut open = admin.watch(&format!("{MAPS}?watch=true")).await;
    cluster.server.close();
    assert!(open.next().await.is_none());
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    fill(&cluster, &["a", "b", "c"]).await;
    let (code, list) = admin.delete(&format!("{MAPS}?labelSelector=name%20in%20(a,b)")).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 2));
    assert_eq!(names(&admin.get(MAPS).await.1), ["c"]);
}

#[tokio::test]
async fn events_are_one_kind_under_two_groups() {
    let cluster = Cluster::new().await;
    let admin = cluster.admin();
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"}, "reason": "Test",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}, "message": "hello", "type": "Normal",
    });
    let (code, made) = admin.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(code, 201, "{made}");
    let (code, other) = admin.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((code, &other["note"], &other["regarding"]["name"]), (200, &json!("hello"), &json!("p")));
    assert_eq!(other["apiVersion"], "events.k8s.io/v1");
    let (_, list) = admin.get("/api/v1/events?fieldSelector=involvedObject.name=p").await;
    assert_eq!(names(&list), ["e"]);
}
