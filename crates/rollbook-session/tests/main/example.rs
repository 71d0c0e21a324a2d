//! The example service, started as a process of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::mint::{ISSUER, PARTY, Signer, claims_with, token};

/// The running example; ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// Starts the example, which cargo builds with the tests, and returns its output and address.
fn start(key: &std::path::Path) -> (Service, BufReader<ChildStdout>, String) {
    let tests = std::env::current_exe().expect("this binary");
    let example =
        tests.parent().and_then(|deps| deps.parent()).expect("a target folder").join("examples/tasks");
    let mut command = Command::new(&example);
    command.arg("--key").arg(key).args(["--issuer", ISSUER, "--party", PARTY, "--listen", "127.0.0.1:0"]);
    let child = command.stdout(Stdio::piped()).spawn();
    let mut service = Service(child.unwrap_or_else(|error| panic!("{}: {error}", example.display())));
    let mut output = BufReader::new(service.0.stdout.take().expect("its output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    (service, output, address)
}

fn ask(address: &str, line: &str, token: &str) -> String {
    let mut connection = TcpStream::connect(address).expect("a connection");
    let head =
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nCookie: __session={token}\r\n\r\n");
    connection.write_all(head.as_bytes()).expect("it is sent");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the example reads the machine's clock")]
fn the_example_answers_members_and_reports_refusals() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = folder.path().join("key.pem");
    std::fs::write(&key, Signer::of_the_instance().pem()).expect("it is written");
    let (_service, mut output, address) = start(&key);

    let current = json!({"iat": now, "nbf": now - 10, "exp": now + 600});
    let member = token(&claims_with(&current));
    assert!(ask(&address, "GET /who", &member).ends_with("user user_1, organization org_1\n"));
    assert!(ask(&address, "DELETE /tasks/1", &member).ends_with("deleted in org_1\n"));
    let expired = token(&claims_with(&json!({"exp": now - 60})));
    assert!(ask(&address, "GET /who", &expired).starts_with("HTTP/1.1 401 "));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    assert!(line.starts_with("refused: expired ("), "{line}");
}
