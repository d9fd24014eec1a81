//! Moves bytes between a client and the runtime until the command has ended or the client has gone.

use bytes::Bytes;
use serde_json::{Value, json};

use super::super::spdy;
use super::backend::Backend;
use super::front::{Front, Sink, Source};

/// The largest outcome that the runtime may report.
const MAX_STATUS: usize = 64 << 10;

/// Runs a session to its end.
pub(super) async fn run(mut front: Front, back: Backend) {
    let Backend { error, stdin, stdout, stderr, resize, connection } = back;
    // Both directions at once: input must not wait for output. Input that is left when the output has ended is dropped.
    let input = futures::future::join(
        input(front.stdin.take(), stdin.map(|s| s.writer)),
        input(front.resize.take(), resize.map(|s| s.writer)),
    );
    let (front_out, front_err) = (front.stdout.take(), front.stderr.take());
    let mut outcome = error.reader;
    let output = futures::future::join3(
        output(stdout.map(|s| s.reader), front_out),
        output(stderr.map(|s| s.reader), front_err),
        outcome.read_to_end(MAX_STATUS),
    );
    let status = tokio::select! {
        (_, _, status) = output => status,
        // Never first: when input has ended the command may go on.
        () = async { input.await; std::future::pending::<()>().await } => return,
        () = front.gone() => return,
    };
    if let Some(sink) = &mut front.error {
        let text = outcome_text(&status, front.json_status);
        if !text.is_empty() {
            let _ = sink.write(text).await;
        }
        let _ = sink.finish().await;
    }
    front.finish().await;
    drop(connection);
}

async fn input(from: Option<Source>, to: Option<spdy::Writer>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(data) = from.next().await {
        if to.write(data).await.is_err() {
            return;
        }
    }
    let _ = to.finish().await;
}

async fn output(from: Option<spdy::Reader>, to: Option<Sink>) {
    let Some(mut from) = from else { return };
    let mut to = to;
    while let Some(data) = from.read().await {
        if let Some(sink) = &mut to
            && sink.write(data).await.is_err()
        {
            // The client has gone, or does not want this stream any more; the command must not block on it.
            to = None;
        }
    }
    if let Some(sink) = &mut to {
        let _ = sink.finish().await;
    }
}

/// What the client is told at the end. The runtime says it as a Status object (protocol v4); older clients get text,
/// and nothing when all went well.
fn outcome_text(status: &[u8], json_status: bool) -> Bytes {
    let parsed: Value = serde_json::from_slice(status).unwrap_or_else(|_| {
        json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": "the connection to the container runtime was lost before the command ended"})
    });
    if json_status {
        return parsed.to_string().into();
    }
    if parsed["status"] == "Success" {
        return Bytes::new();
    }
    parsed["message"].as_str().unwrap_or_default().to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_clients_get_text_new_ones_the_object() {
        let failure = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","message":"exit 3",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(outcome_text(failure, false), "exit 3");
        let object: Value = serde_json::from_slice(&outcome_text(failure, true)).unwrap_or_default();
        assert_eq!(object["details"]["causes"][0]["message"], "3");
        assert!(outcome_text(br#"{"status":"Success"}"#, false).is_empty());
        let lost: Value = serde_json::from_slice(&outcome_text(b"", true)).unwrap_or_default();
        assert_eq!(lost["reason"], "InternalError");
    }
}
