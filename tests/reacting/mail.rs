//! The welcome mail, with a mail provider that remembers keys, while the reader is killed at the worst times.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::{Program, World, python, write_block};
use crate::crashes::{SEED, history, send};
use rollbook_testkit::process::DEADLINE;

/// A mail provider. The test answers each request, or does not.
struct Provider {
    listener: TcpListener,
    address: SocketAddr,
    /// Requests that were accepted, by key.
    accepted: BTreeMap<String, u32>,
}

impl Provider {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { listener, address, accepted: BTreeMap::new() }
    }

    /// Accepts the next mail: from now on it is on its way, whatever happens to the answer.
    async fn accept(&mut self) -> BufReader<TcpStream> {
        loop {
            let (stream, _) = self.listener.accept().await.expect("a connection");
            // A reader that was killed may leave half of a request.
            if let Some((key, stream)) = request(BufReader::new(stream)).await {
                *self.accepted.entry(key).or_default() += 1;
                return stream;
            }
        }
    }
}

/// Reads one request. Returns its key.
async fn request(mut stream: BufReader<TcpStream>) -> Option<(String, BufReader<TcpStream>)> {
    let (mut key, mut length) = (None, None);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("idempotency-key") => {
                key = Some(value.to_owned());
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok(),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => assert!(line.starts_with("POST /mails "), "{line}"),
        }
    }
    let mut body = vec![0; length.expect("a length")];
    stream.read_exact(&mut body).await.ok()?;
    let mail: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert!(mail["to"].as_str().is_some_and(|to| to.contains('@')), "{mail}");
    Some((key.expect("a key"), stream))
}

/// Fate of the reader after a mail was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The reader gets its answer.
    Answered,
    /// The reader is killed before it gets an answer.
    KilledBefore,
    /// The reader is killed when it has its answer, and has or has not committed.
    KilledAfter,
}

async fn answer(mut stream: BufReader<TcpStream>) {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
    stream.write_all(answer).await.expect("the reader waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_killed_sends_one_welcome_mail_to_each_user() {
    let folder = python();
    let (world, mut provider) = (World::new().await, Provider::new().await);
    let script = write_block(folder.path(), "welcome.py");
    let python = folder.path().join("venv/bin/python");
    let (url, mail_url) = (world.url(), format!("http://{}/mails", provider.address));
    let start = || {
        let mut command = Command::new(&python);
        command
            .arg(&script)
            .env("DATABASE_URL", &url)
            .env("MAIL_URL", &mail_url)
            .env("MAIL_TOKEN", "a token");
        Program::start(folder.path(), "welcome", &mut command)
    };
    let history = history(110);
    let serving = world.home.start_ready(&["serve"]).await;
    assert_eq!(send(world.home.listen, &history, 10_000).await.refused, []);
    world.until_applied().await;
    drop(serving);
    let due = "SELECT count(*) FROM clerk.users WHERE deleted_at IS NULL AND primary_email_address IS NOT NULL
               AND id IN (SELECT subject_id FROM clerk.changes WHERE resource = 'users' AND kind = 'created')";
    let due: usize = world.sql(due).await.parse().expect("a count");
    assert!(due > 5, "{due}");

    let mut random = fastrand::Rng::with_seed(SEED);
    let (mut reader, mut kills) = (start(), 0);
    let mut fates = vec![Fate::KilledBefore, Fate::KilledAfter];
    while provider.accepted.len() < due {
        let accepted = tokio::time::timeout(DEADLINE, provider.accept()).await;
        let stream = accepted.unwrap_or_else(|_| panic!("no mail: {}", reader.log()));
        let fate = fates.pop().unwrap_or_else(|| {
            *random.choice(&[Fate::Answered, Fate::KilledBefore, Fate::KilledAfter]).expect("one of three")
        });
        if fate != Fate::KilledBefore {
            answer(stream).await;
        }
        if fate != Fate::Answered {
            reader.kill();
            kills += 1;
            reader = start();
        }
    }
    // Whatever the last kill has left is done again, with the same keys.
    let reached = "SELECT (SELECT position FROM app.readers WHERE name = 'welcome-mail') = last_position FROM clerk.changes_state";
    let finishing = async {
        while world.sql(reached).await != "t" {
            if let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), provider.accept()).await {
                answer(stream).await;
            }
        }
    };
    tokio::time::timeout(DEADLINE, finishing).await.expect("the reader gets to the end");
    assert_eq!(provider.accepted.len(), due, "one key for each user");
    let welcomed = world
        .sql(
            "SELECT string_agg('welcome/' || user_id, ',' ORDER BY user_id COLLATE \"C\") FROM app.welcomed
                              WHERE user_id IN (SELECT id FROM clerk.users WHERE deleted_at IS NULL
                                                AND primary_email_address IS NOT NULL)",
        )
        .await;
    assert_eq!(welcomed, provider.accepted.keys().cloned().collect::<Vec<_>>().join(","));
    // Control: a provider that does not remember keys would have sent some mails twice.
    let requests: u32 = provider.accepted.values().sum();
    println!("{kills} kills, {requests} requests for {due} mails");
    assert!(kills >= 2 && requests as usize > due, "{kills} kills, {requests} requests");
}
