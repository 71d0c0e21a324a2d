//! Grouping of deliveries into calls to the queue.

use std::time::Duration;

use rollbook_core::queue::QueueError;
use rollbook_receiver::Settings;

use crate::client::{Client, Post};
use crate::queue::Mode;
use crate::server::Server;

/// Starts deliveries one after the other, each after the previous one waits for the queue.
async fn begin_in_order(server: &Server, already: usize, ids: &[&str]) -> Vec<Client> {
    let mut clients = Vec::new();
    for (index, id) in ids.iter().enumerate() {
        clients.push(server.begin(id).await);
        server.read(already + index + 1).await;
    }
    clients
}

#[tokio::test]
async fn a_single_delivery_is_sent_at_once_and_later_arrivals_form_the_next_batch() {
    let server = Server::start_gated(Settings::default()).await;
    let mut first = server.begin("msg_0").await;
    server.queue.called(1).await;
    let ids = ["msg_1", "msg_2", "msg_3", "msg_4"];
    let mut clients = begin_in_order(&server, 1, &ids).await;

    server.queue.let_through(2);
    first.answer().await.assert_status("queued");
    for client in &mut clients {
        client.answer().await.assert_status("queued");
    }
    assert_eq!(server.queue.batch_sizes(), [1, 4]);
    assert_eq!(server.queue.ids()[1..], ids);
    assert!((server.metric("rollbook_batch_size_sum{stage=\"enqueue\"}") - 5.0).abs() < 0.5);
    assert!((server.metric("rollbook_enqueue_seconds_count") - 2.0).abs() < 0.5);
}

#[tokio::test]
async fn a_second_batch_worth_its_commit_waits_at_the_queue_and_a_third_is_not_started() {
    let server = Server::start_gated(Settings::default()).await;
    let mut clients = begin_in_order(&server, 0, &["msg_0"]).await;
    server.queue.called(1).await;
    let seven = ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5", "msg_6", "msg_7"];
    clients.extend(begin_in_order(&server, 1, &seven).await);
    clients.extend(begin_in_order(&server, 8, &["msg_8"]).await);
    // The first call has not returned yet.
    server.queue.called(2).await;
    let nine = ["msg_11", "msg_12", "msg_13", "msg_14", "msg_15", "msg_16", "msg_17", "msg_18", "msg_19"];
    clients.extend(begin_in_order(&server, 9, &nine).await);

    server.queue.let_through(3);
    for client in &mut clients {
        client.answer().await.assert_status("queued");
    }
    // Seven deliveries were not enough for a second call, and no number is enough for a third.
    assert_eq!(server.queue.batch_sizes(), [1, 8, 9]);
}

#[tokio::test]
async fn no_batch_exceeds_the_limit() {
    let server = Server::start_gated(Settings { batch_max: 3, ..Settings::default() }).await;
    let mut clients = begin_in_order(&server, 0, &["msg_0"]).await;
    server.queue.called(1).await;
    clients.extend(begin_in_order(&server, 1, &["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"]).await);
    server.queue.let_through(3);
    for client in &mut clients {
        client.answer().await.assert_status("queued");
    }
    assert_eq!(server.queue.batch_sizes(), [1, 3, 2]);
}

#[tokio::test]
async fn each_delivery_of_a_batch_gets_its_own_result() {
    let server = Server::start_gated(Settings::default()).await;
    server.queue.let_through(1);
    server.deliver("msg_b").await.assert_status("queued");

    let mut first = server.begin("msg_0").await;
    server.queue.called(2).await;
    let mut clients = begin_in_order(&server, 2, &["msg_a", "msg_b", "msg_c", "msg_a"]).await;
    server.queue.let_through(2);
    first.answer().await.assert_status("queued");
    for (client, status) in clients.iter_mut().zip(["queued", "duplicate", "queued", "duplicate"]) {
        client.answer().await.assert_status(status);
    }
    assert_eq!(server.queue.batch_sizes(), [1, 1, 4]);
}

#[tokio::test]
async fn a_delivery_that_was_answered_503_before_its_batch_is_left_out() {
    let settings = Settings { enqueue_timeout: Duration::from_secs(1), ..Settings::default() };
    let server = Server::start_gated(settings).await;
    let mut first = server.begin("msg_0").await;
    server.queue.called(1).await;
    let mut second = begin_in_order(&server, 1, &["msg_1"]).await;
    first.answer().await.assert_error(503, "queue unavailable");
    second[0].answer().await.assert_error(503, "queue unavailable");
    let mut third = begin_in_order(&server, 2, &["msg_2"]).await;

    server.queue.let_through(2);
    third[0].answer().await.assert_status("queued");
    assert_eq!(server.queue.ids(), ["msg_0", "msg_2"]);
}

#[tokio::test]
async fn a_client_that_disconnects_does_not_cancel_its_batch() {
    let server = Server::start_gated(Settings::default()).await;
    let gone = server.begin("msg_0").await;
    server.queue.called(1).await;
    drop(gone);
    server.queue.let_through(2);
    server.counted("queued", 1.0).await;
    server.deliver("msg_0").await.assert_status("duplicate");
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_response() {
    let server = Server::start_gated(Settings::default()).await;
    let mut early = server.begin("msg_1").await;
    early.shutdown().await;
    server.queue.called(1).await;
    let mut late = server.begin("msg_2").await;
    server.read(2).await;
    late.shutdown().await;
    // Both requests are served after their end of stream was visible.
    assert_eq!(server.client().await.ask("GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n").await.status, 200);

    server.queue.let_through(2);
    for client in [&mut early, &mut late] {
        client.answer().await.assert_status("queued");
        client.closed().await;
    }
    // Refusals reach such clients too: for a header, for an incomplete body, and one of hyper itself.
    let unsigned = Post::new("msg_3", "{}").without("svix-id");
    let torn = Post::new("msg_3", "").head("content-length: 9");
    for (bytes, status) in [(unsigned.bytes(), 400), (torn, 400), (b"GET / FTP/1\r\n\r\n".to_vec(), 400)] {
        let mut client = server.client().await;
        client.send(bytes).await;
        client.shutdown().await;
        assert_eq!(client.answer().await.status, status);
        client.closed().await;
    }
}

#[tokio::test]
async fn a_failed_batch_fails_for_all_its_deliveries_and_for_no_others() {
    let server = Server::start_gated(Settings::default()).await;
    let mut first = server.begin("msg_0").await;
    server.queue.called(1).await;
    let mut clients = begin_in_order(&server, 1, &["msg_1", "msg_2"]).await;
    server.queue.let_through(1);
    first.answer().await.assert_status("queued");

    server.queue.called(2).await;
    server.queue.set(Mode::Fail(QueueError::Unavailable("connection refused".into())));
    server.queue.let_through(1);
    for client in &mut clients {
        client.answer().await.assert_error(503, "queue unavailable");
    }
    server.queue.set(Mode::Take);
    server.queue.let_through(1);
    // A 503 keeps the connection open.
    clients[0].ask(Post::new("msg_1", "body of msg_1").bytes()).await.assert_status("queued");
}
