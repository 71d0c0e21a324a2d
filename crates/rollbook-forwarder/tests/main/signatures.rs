//! Signatures, verified by Svix's library.

use rollbook_core::signature::SigningSecrets;
use rollbook_core::time::Timestamp;
use rollbook_testkit::hooks::{HookAnswer, HookRequest, HookServer};
use svix::webhooks::Webhook;

use crate::http::receive_one;
use crate::stage::SECRET;

const OTHER: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY=";
const THIRD: &str = "whsec_enp6enp6enp6enp6enp6enp6enp6enp6enp6enp6eno=";

fn headers(request: &HookRequest) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
        let value = request.header(name).expect("the header").parse().expect("a value");
        headers.insert(name, value);
    }
    headers
}

#[tokio::test]
async fn svix_accepts_a_request_with_each_of_the_secrets_and_no_other() {
    let server = HookServer::start(|_| HookAnswer::Status(200, Vec::new()));
    let request = receive_one(&server, &format!("{SECRET} {OTHER}")).await;
    assert_eq!(request.header("webhook-id"), Some("chg_1"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let verify = |secret: &str, body: &[u8]| {
        Webhook::new(secret).expect("a secret").verify(body, &headers(&request)).is_ok()
    };
    assert!(verify(SECRET, &request.body) && verify(OTHER, &request.body));
    assert!(!verify(THIRD, &request.body));
    let mut changed = request.body.clone();
    changed[10] ^= 1;
    assert!(!verify(SECRET, &changed));
}

#[test]
fn the_signature_is_that_of_svix() {
    let secrets = SigningSecrets::parse(OTHER).expect("a secret");
    let at = Timestamp::from_seconds(1_785_312_000);
    let expected =
        Webhook::new(OTHER).expect("a secret").sign("chg_7", 1_785_312_000, b"{}").expect("signed");
    assert_eq!(secrets.sign("chg_7", at, b"{}"), expected);
}
