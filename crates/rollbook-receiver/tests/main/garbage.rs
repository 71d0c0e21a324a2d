//! Arbitrary bytes cause an error or a closed connection, never a panic, and never affect the next request.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rollbook_core::signature::VerifyError;
use rollbook_receiver::Settings;
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Builder;

use crate::client::Post;
use crate::server::Server;

/// Arbitrary bytes, and valid requests with one piece overwritten, removed or duplicated.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let bent = (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40), 0..3_u8);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        "(GET|POST|PUT) /(healthz|webhooks/clerk)? HTTP/1.[01]\r\n(svix-(id|timestamp|signature): [ -~]{0,20}\r\n){0,4}\r\n"
            .prop_map(String::into_bytes),
        bent.prop_map(|(index, piece, how)| {
            let mut request = Post::new("msg_bent", r#"{"type":"user.created"}"#).bytes();
            let from = index.index(request.len());
            let to = (from + piece.len()).min(request.len());
            match how {
                0 => drop(request.splice(from..to, piece)),
                1 => drop(request.drain(from..to)),
                _ => request.extend_from_within(from..to),
            }
            request
        }),
    ]
}

#[test]
fn arbitrary_bytes_affect_neither_the_server_nor_the_next_delivery() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(Settings::default()));
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let next = std::cell::Cell::new(0);
    let tried = runner.run(&bytes(), |bytes| {
        runtime.block_on(async {
            let mut client = server.client().await;
            // The server may have closed the connection already.
            _ = client.stream.write_all(&bytes).await;
            _ = client.stream.shutdown().await;
            while let Some(answer) = client.try_answer().await {
                prop_assert!([200, 400, 404, 405, 413, 414, 431].contains(&answer.status), "{answer:?}");
            }
            next.set(next.get() + 1);
            let id = format!("msg_good_{}", next.get());
            server.deliver(&id).await.assert_status("queued");
            let kept = server.queue.ids().into_iter().filter(|kept| *kept == id).count();
            prop_assert_eq!(kept, 1);
            Ok(())
        })
    });
    tried.unwrap();
    assert!(VerifyError::LABELS.iter().any(|label| server.count(label) > 0.0), "some reached verification");
}
