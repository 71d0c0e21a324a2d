//! A damaged queue: repairable damage is repaired, other damage is reported and counted.

use rollbook_testkit::process::{Home, until};
use serde_json::Value;

use crate::crashes::BINARY;
use crate::raw_http::{exchange, signed, status};

fn event(number: usize) -> String {
    format!(r#"{{"type":"user.created","timestamp":1785312000032,"data":{{"id":"user_{number}"}}}}"#)
}

/// Queues deliveries in a file, closes it, and damages it with this SQL.
async fn damaged(sql: &str) -> Home {
    let home = Home::new(BINARY).with("ROLLBOOK_LOG_FORMAT", "json");
    home.migrate();
    let mut receiver = home.start_ready(&["receive"]).await;
    for number in 0..3 {
        let delivery = signed(&format!("msg_{number}"), &event(number));
        assert_eq!(status(&exchange(home.listen, &delivery).await), 200);
    }
    receiver.signal("TERM");
    assert!(receiver.exit().await.success());
    let file = rusqlite::Connection::open(home.data().join("queue.db")).expect("the queue's file");
    file.execute_batch(sql).expect("the damage");
    home
}

fn log_lines(home: &Home) -> Vec<Value> {
    home.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn an_unreadable_entry_is_a_line_in_the_workers_log_and_is_counted() {
    let home = damaged("UPDATE messages SET format = 99 WHERE id = 'msg_1'").await;
    let _worker = home.start_ready(&["work"]).await;
    until("the others are applied", || async { home.metric("rollbook_applied_total").await == Some(2.0) })
        .await;
    until("it is a dead letter", || async { home.metric("rollbook_dead_letters").await == Some(1.0) }).await;
    let counted =
        home.metric_with("rollbook_settlements_total", r#"reason="corrupt_entry",settlement="dead_letter""#);
    assert_eq!(counted.await, Some(1.0));
    let lines = log_lines(&home);
    let mut reported = lines.iter().filter(|line| line["fields"]["reason"] == "corrupt_entry");
    let line = reported.next().expect("the worker reports it");
    assert_eq!((&line["level"], &line["fields"]["svix_id"]), (&"WARN".into(), &"msg_1".into()), "{line}");
    assert!(line["fields"]["detail"].as_str().is_some_and(|detail| detail.contains("format 99")), "{line}");
    assert!(reported.next().is_none(), "once");
    assert!(!home.log().contains("queue unreachable"), "an entry is not an outage: no lane pauses for it");
}

#[tokio::test]
async fn messages_that_no_index_leads_to_are_shown_by_doctor_and_repaired_by_a_worker_that_starts() {
    let home = damaged("UPDATE counters SET leased_to = 2, depth = 9").await;
    let doctor =
        home.command(&["doctor", "--face", "receive", "--output", "json"]).output().expect("it runs");
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("a report");
    let checks = report["checks"].as_array().expect("checks");
    let audit = checks.iter().find(|check| check["check"] == "audit").expect("an audit");
    assert_eq!(audit["state"], "warning", "{audit}");
    assert!(
        audit["found"].as_str().is_some_and(|found| found.contains("2 messages that no index")),
        "{audit}"
    );

    let _worker = home.start_ready(&["work"]).await;
    until("all are applied", || async { home.metric("rollbook_applied_total").await == Some(3.0) }).await;
    until("the queue is empty", || async { home.metric("rollbook_queue_depth").await == Some(0.0) }).await;
    let repaired = |kind| home.metric_with("rollbook_queue_audit_repaired_total", kind);
    assert_eq!((repaired("stranded").await, repaired("counts").await), (Some(2.0), Some(1.0)));
    let lines = log_lines(&home);
    let line = lines.iter().find(|line| line["fields"]["stranded"] == 2).expect("the worker reports it");
    assert_eq!(line["level"], "WARN", "{line}");
    assert!(
        line["fields"]["counts"].as_str().is_some_and(|counts| counts.contains("said 9 messages")),
        "{line}"
    );
}
