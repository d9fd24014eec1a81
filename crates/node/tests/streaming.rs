//! The kubelet API with the real kubectl, containerd and runc. Without them each test says so and passes.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::World;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

/// kubectl's two ways: WebSocket, and SPDY as before 1.31.
const WAYS: [&str; 2] = ["true", "false"];

async fn output(mut command: tokio::process::Command) -> (i32, String, String) {
    let run = async {
        let output = command.output().await.unwrap();
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    };
    tokio::time::timeout(Duration::from_secs(60), run).await.expect("kubectl hangs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_carries_output_input_and_exit_codes() {
    let Some(world) = World::start("exec").await else { return };
    world.run("main", &["sleep", "1000"], false).await;
    for websockets in WAYS {
        let kubectl = |args: &[&str]| {
            let mut command = world.kubectl(args);
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            command
        };
        let (code, out, err) =
            output(kubectl(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 3"])).await;
        assert_eq!((code, out.as_str()), (3, "out\n"), "{err}");
        assert!(err.starts_with("err\n") && err.contains("exit code 3"), "{err}");

        let (code, _, err) = output(kubectl(&["exec", "p", "--", "/no/such"])).await;
        assert!(code != 0 && err.contains("no such file"), "{code} {err}");
        let (code, _, err) = output(kubectl(&["exec", "p", "-c", "other", "--", "true"])).await;
        assert!(code != 0 && err.contains("not found"), "{code} {err}");

        // Standard input reaches the command, and its end too. A megabyte shows that nothing is lost on the way.
        let mut command = kubectl(&["exec", "-i", "p", "--", "sh", "-c", "wc -c; echo done"]);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&vec![b'x'; 1 << 20]).await.unwrap();
        drop(stdin);
        let done = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("cat hangs");
        assert_eq!(String::from_utf8_lossy(&done.unwrap().stdout), "1048576\ndone\n", "websockets={websockets}");

        let (code, out, _) = output(kubectl(&["exec", "p", "--", "dd", "if=/dev/zero", "bs=1M", "count=8"])).await;
        assert_eq!((code, out.len()), (0, 8 << 20));
    }
    world.finish().await;
}

/// A real terminal on kubectl's side (script makes one): its size arrives, and there is one output.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_has_its_clients_size() {
    let Some(world) = World::start("terminal").await else { return };
    world.run("main", &["sleep", "1000"], false).await;
    for websockets in WAYS {
        let kubectl =
            format!("kubectl --server http://{} --cache-dir {}", world.api, world.dir.path().join("cache").display());
        let inner = "for i in 1 2 3 4 5 6 7 8 9; do stty size; sleep 0.2; done; echo err >&2; exit 5";
        let line = format!("stty rows 41 cols 97; {kubectl} exec -it p -- sh -c '{inner}'");
        let mut command = tokio::process::Command::new("script");
        command.args(["-qec", &line, "/dev/null"]);
        command.env("KUBECONFIG", "/dev/null").env("HOME", world.dir.path());
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets).stdin(Stdio::null()).kill_on_drop(true);
        let (code, out, _) = output(command).await;
        assert!(out.contains("41 97") && out.contains("err"), "{websockets}: {out}");
        assert_eq!(code, 5, "{out}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attach_joins_a_terminal() {
    let Some(world) = World::start("attach").await else { return };
    world.run("tty", &["sh", "-c", "while read x; do echo got $x; done"], true).await;
    for websockets in WAYS {
        let mut command = world.kubectl(&["attach", "-i", "p", "-c", "tty"]);
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(format!("hello {websockets}\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let found = tokio::time::timeout(Duration::from_secs(20), async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains(&format!("got hello {websockets}")) {
                    return true;
                }
            }
            false
        });
        assert!(found.await.expect("attach hangs"));
        child.kill().await.unwrap();
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_forward_reaches_the_pod() {
    let Some(world) = World::start("forward").await else { return };
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    world.run("main", &["sleep", "1000"], false).await;
    for websockets in WAYS {
        let mut command = world.kubectl(&["port-forward", "p", &format!(":{port}"), ":1"]);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap();
        let line = line.expect("kubectl ended");
        let local: u16 = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        let mut tasks = Vec::new();
        for i in 0..5u8 {
            tasks.push(tokio::spawn(async move {
                let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", local)).await.unwrap();
                let data = vec![i; 300_000];
                let (mut read, mut write) = socket.split();
                let send = async {
                    write.write_all(&data).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let mut back = Vec::new();
                let (_, result) = tokio::join!(send, read.read_to_end(&mut back));
                result.unwrap();
                assert_eq!(back.len(), 300_000);
                assert!(back.iter().all(|b| *b == i));
            }));
        }
        for task in tasks {
            tokio::time::timeout(Duration::from_secs(30), task).await.expect("port-forward hangs").unwrap();
        }
        child.kill().await.unwrap();
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_followed_across_rotation_to_the_end() {
    let Some(world) = World::start("logs").await else { return };
    let script = "for i in 1 2 3; do echo line $i; done; read go < /dev/zero & while ! [ -e /go ]; do sleep 0.05; done; \
                  echo after; while ! [ -e /end ]; do sleep 0.05; done; echo last";
    let id = world.run("main", &["sh", "-c", script], false).await;
    let cri = world.daemon.runtime();
    use caravel_runtime::Runtime;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (code, out, err) = output(world.kubectl(&["logs", "p", "--tail=2"])).await;
    assert_eq!((code, out.as_str()), (0, "line 2\nline 3\n"), "{err}");
    let (_, out, _) = output(world.kubectl(&["logs", "p", "--limit-bytes=8", "--timestamps=false"])).await;
    assert_eq!(out, "line 1\nl");
    let (_, out, _) = output(world.kubectl(&["logs", "p", "--timestamps", "--tail=1"])).await;
    assert!(out.contains("Z line 3\n") && out.starts_with("20"), "{out}");
    let (status, why) = world.get("/containerLogs/default/p/main?previous=true", &world.tls).await;
    assert!(status == 400 && why.contains("in pod \"p\" is not available"), "{status} {why}");

    let mut child = world.kubectl(&["logs", "p", "-f"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.expect("logs -f hangs").unwrap()
    };
    for i in 1..=3 {
        assert_eq!(next().await, Some(format!("line {i}")));
    }
    // Rotation: the file is renamed, the runtime opens a new one.
    let log = format!("{}/main/0.log", world.sandbox.log_directory);
    std::fs::rename(&log, format!("{log}.1")).unwrap();
    cri.reopen_container_log(&id).await.unwrap();
    let touch = |file: &str| ["sh", "-c", &format!("echo > {file}")].map(String::from);
    cri.exec_sync(&id, &touch("/go"), None).await.unwrap();
    assert_eq!(next().await.as_deref(), Some("after"));
    cri.exec_sync(&id, &touch("/end"), None).await.unwrap();
    assert_eq!(next().await.as_deref(), Some("last"));
    // The stream ends with the container.
    assert_eq!(next().await, None);
    assert!(child.wait().await.unwrap().success());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_who_may_are_let_in() {
    let Some(world) = World::start("access").await else { return };
    world.run("main", &["sleep", "1000"], false).await;
    assert_eq!(world.get("/healthz", &world.anonymous).await, (401, "Unauthorized".into()));
    assert_eq!(world.get("/healthz", &world.tls).await, (200, "ok".into()));
    let (status, body) = world.get("/pods", &world.tls).await;
    let pods: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, pods["items"][0]["metadata"]["name"].as_str()), (200, Some("p")));
    let (status, body) = world.get("/stats/summary", &world.tls).await;
    let summary: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status, 200);
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64().unwrap() > 0);
    let container = &summary["pods"][0]["containers"][0];
    assert_eq!(container["name"], "main");
    assert!(container["memory"]["workingSetBytes"].as_u64().is_some(), "{container}");
    let (_, page) = world.get("/metrics/resource", &world.tls).await;
    assert!(
        page.contains("container_memory_working_set_bytes{container=\"main\",namespace=\"default\",pod=\"p\"}"),
        "{page}"
    );
    for path in ["/metrics", "/metrics/cadvisor"] {
        assert_eq!(world.get(path, &world.tls).await.0, 200, "{path}");
    }
    assert_eq!(world.get("/containerLogs/default/absent/main", &world.tls).await.0, 404);
    assert_eq!(world.get("/exec/default/p/main?command=true&output=1", &world.tls).await.0, 400);
    assert_eq!(world.get("/logs/../../etc/passwd", &world.tls).await.0, 404);
    assert_eq!(world.get("/logs/pods/", &world.tls).await.0, 200);
    assert_eq!(world.get("/nothing", &world.tls).await.0, 404);
    world.finish().await;
}

/// The first messages of a WebSocket session until it is closed.
async fn websocket(world: &World, path: &str, protocol: &str, send: &[&[u8]]) -> Vec<Vec<u8>> {
    use futures::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut request = format!("wss://127.0.0.1{path}").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let tls = common::connect(world.kubelet, &world.tls).await;
    let (mut socket, answer) = tokio_tungstenite::client_async(request, tls).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
    for message in send {
        socket.send(Message::binary(message.to_vec())).await.unwrap();
    }
    let mut out = Vec::new();
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(data) => out.push(data.to_vec()),
                Message::Text(text) => out.push(text.as_bytes().to_vec()),
                Message::Close(frame) => {
                    assert_eq!(frame.map(|f| u16::from(f.code)), Some(1000));
                    break;
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("the session does not end");
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_websocket_clients_are_served() {
    let Some(world) = World::start("websocket").await else { return };
    world.run("main", &["sh", "-c", "echo container is alive; sleep 1000"], false).await;
    let exec = "/exec/default/p/main?command=echo&command=remote&command=done&output=1&error=1";
    let all = websocket(&world, exec, "channel.k8s.io", &[]).await;
    assert_eq!(all, [b"\x01".to_vec(), b"\x01remote done\n".to_vec()]);
    let all = websocket(&world, exec, "v4.base64.channel.k8s.io", &[]).await;
    assert_eq!(all[..2], [b"1".to_vec(), b"1cmVtb3RlIGRvbmUK".to_vec()]);
    assert!(all[2].starts_with(b"3"), "{all:?}");
    let failing = "/exec/default/p/main?command=sh&command=-c&command=exit+9&output=1";
    let all = websocket(&world, failing, "v4.channel.k8s.io", &[]).await;
    let status: serde_json::Value = serde_json::from_slice(&all[1][1..]).unwrap();
    assert_eq!((all[1][0], status["reason"].as_str()), (3, Some("NonZeroExitCode")));
    assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "9"}));
    // Version 5 closes standard input with a message of its own.
    let cat = "/exec/default/p/main?command=cat&stdin=1&stdout=1";
    let all = websocket(&world, cat, "v5.channel.k8s.io", &[b"\0some input", b"\xff\0"]).await;
    assert_eq!(all[..2], [b"\x01".to_vec(), b"\x01some input".to_vec()]);

    let all = websocket(&world, "/containerLogs/default/p/main", "binary.k8s.io", &[]).await;
    assert_eq!(all, [Vec::new(), b"container is alive\n".to_vec()]);

    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = echo.accept().await.unwrap();
        let mut ask = [0; 4];
        socket.read_exact(&mut ask).await.unwrap();
        socket.write_all(b"pong").await.unwrap();
    });
    let forward = format!("/portForward/default/p?port={port}");
    let all = websocket(&world, &forward, "v4.channel.k8s.io", &[b"\0ping"]).await;
    let [low, high] = port.to_le_bytes();
    assert_eq!(all, [vec![0, low, high], vec![1, low, high], b"\0pong".to_vec()]);
    world.finish().await;
}
