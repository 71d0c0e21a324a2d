//! Settings of a Redis at their limits, and with each other.

use super::*;

fn with(settings: &[(&'static str, &'static str)]) -> Result<Config, Problems> {
    load(settings, &[], None)
}

#[test]
fn the_pause_between_polls_and_pinned_certificates_are_right_at_their_edge_and_wrong_beyond() {
    let fingerprint = Settings::redis_fingerprint().about.example;
    let [clear, tls] = ["redis://h", "rediss://h"].map(|url| ("queue_url", url));
    for (wrong, right) in [
        (vec![("redis_idle_poll", "999ms"), clear], vec![("redis_idle_poll", "1s"), clear]),
        (vec![("redis_idle_poll", "60001ms"), clear], vec![("redis_idle_poll", "60s"), clear]),
        (vec![("redis_fingerprint", fingerprint), clear], vec![("redis_fingerprint", fingerprint), tls]),
        (
            vec![("redis_fingerprint", fingerprint), tls, ("redis_ca_file", "ca.pem")],
            vec![("redis_ca_file", "ca.pem"), tls],
        ),
    ] {
        let text = refusal(with(&wrong));
        assert!(text.starts_with(&format!("{} (", wrong[0].0)) && text.lines().count() == 1, "{text}");
        assert!(with(&right).is_ok(), "{right:?}");
    }
}

#[test]
fn the_figures_of_an_empty_queue_hold_on_a_server_and_not_in_a_file() {
    let on = |settings: &[_]| with(settings).expect("all is right").idle_check();
    assert_eq!(on(&[("queue_url", "redis://h")]), Duration::from_secs(20));
    assert_eq!(on(&[("queue_url", "redis://h"), ("redis_idle_poll", "3s")]), Duration::from_secs(3));
    assert_eq!(on(&[("redis_idle_poll", "3s")]), Duration::ZERO);
}
