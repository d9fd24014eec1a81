//! Queue and informer against a scripted API.

use crate::{Change, Cluster, Key, WorkQueue};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn an_item_is_never_with_two_workers_and_never_lost() {
    let q = WorkQueue::new();
    q.add("a");
    q.add("a");
    assert_eq!(q.len(), 1, "waiting once");
    assert_eq!(q.get().await, Some("a"));
    q.add("a");
    assert_eq!(q.len(), 0, "not handed out while a worker has it");
    q.done(&"a");
    assert_eq!(q.get().await, Some("a"), "handed out again afterwards");
    q.done(&"a");
    q.add_after("b", Duration::from_secs(60));
    q.add_after("b", Duration::from_secs(5));
    let t = tokio::time::Instant::now();
    assert_eq!(q.get().await, Some("b"));
    assert_eq!(t.elapsed().as_secs(), 5, "the earliest delay counts");
    q.done(&"b");
    let waiting = tokio::time::timeout(Duration::from_secs(600), q.get()).await;
    assert!(waiting.is_err(), "and the later one is forgotten");
    q.add("c");
    q.shut_down();
    assert_eq!(q.get().await, Some("c"), "drained before closing");
    assert_eq!(q.get().await, None);
}

#[tokio::test(start_paused = true)]
async fn back_off_doubles_until_forgotten() {
    let q = WorkQueue::new();
    for expected in [5, 10, 20, 40] {
        let t = tokio::time::Instant::now();
        q.add_rate_limited("x");
        assert_eq!(q.get().await, Some("x"));
        // The timer wheel counts in whole milliseconds.
        assert!((expected..=expected + 1).contains(&t.elapsed().as_millis()), "{:?}", t.elapsed());
        q.done(&"x");
    }
    q.forget(&"x");
    assert_eq!(q.failures(&"x"), 0);
}

#[tokio::test]
async fn workers_waiting_together_are_all_woken() {
    let q = WorkQueue::new();
    let busy = Arc::new(tokio::sync::Barrier::new(3));
    let work = tokio::spawn(crate::run_workers(q.clone(), 3, {
        let busy = busy.clone();
        move |_: u32| {
            let busy = busy.clone();
            async move {
                busy.wait().await; // passes only when three workers have an item each
                Ok(None)
            }
        }
    }));
    tokio::task::yield_now().await;
    (0..3).for_each(|i| q.add(i));
    q.shut_down();
    tokio::time::timeout(Duration::from_secs(10), work).await.expect("a worker was not woken").expect("no panic");
}

fn cm(name: &str, rv: u64) -> serde_json::Value {
    serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"namespace":"d","resourceVersion":rv.to_string(),"labels":{"l":name}}})
}

/// A client whose answers are a script; the requests are kept. When the script is done, requests hang.
fn scripted(answers: Vec<String>) -> (kube::Client, Arc<Mutex<Vec<String>>>) {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let script = Arc::new(Mutex::new(VecDeque::from(answers)));
    let seen = asked.clone();
    let service = tower::service_fn(move |r: Request<kube::client::Body>| {
        seen.lock().push(r.uri().to_string());
        let next = script.lock().pop_front();
        async move {
            match next {
                Some(body) => Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))),
                None => std::future::pending().await,
            }
        }
    });
    (kube::Client::new(service, "default"), asked)
}

fn list(rv: u64, items: Vec<serde_json::Value>) -> String {
    serde_json::json!({"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":rv.to_string()},"items":items}).to_string()
}

fn event(type_: &str, object: serde_json::Value) -> String {
    serde_json::json!({"type":type_,"object":object}).to_string() + "\n"
}

#[tokio::test(start_paused = true)]
async fn an_informer_resumes_relists_and_reports_the_difference() {
    let gone = serde_json::json!({"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"});
    let (client, asked) = scripted(vec![
        list(10, vec![cm("a", 3), cm("b", 4)]),
        event("MODIFIED", cm("a", 11)) + &event("ADDED", cm("c", 12)), // then the watch ends
        event("DELETED", cm("c", 13)) + &event("ERROR", gone),         // then it has expired
        list(30, vec![cm("a", 11), cm("d", 25)]),
        event(
            "BOOKMARK",
            serde_json::json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"40"}}),
        ),
    ]);
    let cluster = Cluster::new(client, "test");
    let informer = cluster.informer::<ConfigMap>();
    informer.add_index("l", |c| c.metadata.labels.iter().flatten().map(|(_, v)| v.clone()).collect());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    informer.on_change(move |c| {
        let what = match c {
            Change::Added(_) => "+",
            Change::Updated { .. } => "~",
            Change::Deleted(_) => "-",
        };
        let _ = tell.send(format!("{what}{}", Key::of(&**c.object()).name));
    });
    let mut seen = vec![];
    for _ in 0..7 {
        seen.push(told.recv().await.expect("seven changes"));
    }
    assert_eq!(seen, ["+a", "+b", "~a", "+c", "-c", "-b", "+d"]);
    informer.synced().await;
    while asked.lock().len() < 6 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let asked = asked.lock();
    assert!(asked[2].contains("resourceVersion=12"), "goes on from the last revision: {}", asked[2]);
    assert!(asked[5].contains("resourceVersion=40"), "a bookmark moves the revision: {}", asked[5]);
    assert_eq!(informer.by_index("l", "d").len(), 1);
    assert!(informer.by_index("l", "b").is_empty(), "the index forgets with the object");
    assert_eq!(informer.list_in("d").len(), 2);
    assert!(cluster.informer::<ConfigMap>().is_synced(), "shared, not a second one");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_does_not_stop_the_others() {
    let broken = |rv: u64| serde_json::json!({"metadata":{"name":"x","namespace":"d","resourceVersion":rv.to_string()},"data":"no map"});
    let (client, asked) = scripted(vec![
        list(10, vec![cm("a", 3), broken(4), cm("x", 2)]),
        event("MODIFIED", broken(11)) + &event("ADDED", cm("b", 12)), // then the watch ends
        event("MODIFIED", broken(14)),                                // the same, as the last of a watch
        event("DELETED", broken(15)),
        event("ADDED", cm("c", 16)),
    ]);
    let cluster = Cluster::new(client, "test");
    let informer = cluster.informer::<ConfigMap>();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    informer.on_change(move |c| {
        let _ = tell.send((matches!(c, Change::Deleted(_)), Key::of(&**c.object()).name));
    });
    let mut seen = vec![];
    for _ in 0..5 {
        seen.push(told.recv().await.expect("five changes"));
    }
    let wanted = [(false, "a"), (false, "x"), (false, "b"), (true, "x"), (false, "c")];
    assert_eq!(seen, wanted.map(|(gone, name)| (gone, name.to_owned())));
    let asked = asked.lock();
    assert!(asked[3].contains("resourceVersion=14"), "what cannot be read is not asked for again: {}", asked[3]);
}
