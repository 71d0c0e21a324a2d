//! Test server: an API on a store, and a client of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use rollbook_api::{Api, KeySource, Ports, Refresh, SessionSettings, Settings, Tokens};
use rollbook_core::live::Live;
use rollbook_core::store::{
    Changes, ChangesError, ChangesPage, ChangesQuery, FeedState, FullStore, Generation, Position,
    RetentionLimits, StoreError,
};
use rollbook_core::time::{Clock as _, Timestamp};
use rollbook_operator::changes::generation_name;
use rollbook_session::{KeySet, Keys, Policy};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events::{START, change_of, event, user};
use rollbook_testkit::tokens::{ISSUER, PARTY, Signer, claims, member_claims};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{RwLock, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::engine::{Backing, Engine};

/// Deadline for everything that a test waits for; only a hang takes this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// In place of a line: the request has no token.
pub(crate) const NO_TOKEN: &str = "";
pub(crate) const OTHER_TOKEN: &str = "token.of-another_application~+/==";

/// The feed of the store, which the test can switch off, let fail and watch.
pub(crate) struct TestFeed {
    pub(crate) inner: Arc<dyn FullStore>,
    /// Held by a test while no reader may read.
    pub(crate) reading: RwLock<()>,
    pub(crate) is_off: AtomicBool,
    pub(crate) fails: AtomicBool,
    /// Number of readers that have begun to wait.
    waits: watch::Sender<usize>,
}

impl TestFeed {
    fn check(&self) -> Result<(), StoreError> {
        let fails = self.fails.load(Ordering::Relaxed);
        if fails { Err(StoreError::Unavailable("db.internal: refused".to_owned())) } else { Ok(()) }
    }

    /// Waits until readers have begun to wait this many times in total.
    pub(crate) async fn waited(&self, count: usize) {
        let mut waits = self.waits.subscribe();
        let reached = waits.wait_for(|waits| *waits >= count);
        tokio::time::timeout(DEADLINE, reached).await.expect("readers wait").expect("it is there");
    }
}

#[async_trait]
impl Changes for TestFeed {
    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
        let _reading = self.reading.read().await;
        self.check()?;
        self.inner.changes(query).await
    }

    async fn feed(&self) -> Result<FeedState, StoreError> {
        self.check()?;
        let state = self.inner.feed().await?;
        Ok(FeedState { is_on: !self.is_off.load(Ordering::Relaxed), ..state })
    }

    async fn position_before(&self, at: Timestamp) -> Result<Position, StoreError> {
        self.inner.position_before(at).await
    }

    async fn wait_for_change(&self, after: Position, timeout: Duration) -> Result<bool, StoreError> {
        self.check()?;
        let waiting = self.inner.wait_for_change(after, timeout);
        self.waits.send_modify(|waits| *waits += 1);
        waiting.await
    }

    async fn renew_feed(&self) -> Result<Generation, StoreError> {
        self.inner.renew_feed().await
    }
}

/// Choices of a server.
pub(crate) struct Options {
    pub(crate) settings: Settings,
    pub(crate) tokens: String,
    pub(crate) sessions: Option<SessionSettings>,
    pub(crate) refresh: Option<Arc<dyn Refresh>>,
}

impl Default for Options {
    fn default() -> Self {
        let keys = KeySet::from_pem(&Signer::of_the_instance().pem()).expect("a key");
        Self {
            settings: Settings::default(),
            tokens: format!("{TOKEN}, {OTHER_TOKEN}"),
            sessions: Some(SessionSettings::new(policy(), KeySource::Fixed(Keys::new(keys)))),
            refresh: None,
        }
    }
}

/// The policy of the tests.
pub(crate) fn policy() -> Policy {
    Policy::new(ISSUER, [PARTY]).expect("a policy")
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<dyn FullStore>,
    backing: Backing,
    pub(crate) feed: Arc<TestFeed>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) registry: Registry,
    pub(crate) tokens: Live<Tokens>,
    pub(crate) stop: CancellationToken,
    serving: JoinHandle<()>,
    changed: AtomicU64,
}

impl Server {
    pub(crate) async fn start(engine: Engine) -> Self {
        Self::with_options(engine, Options::default()).await
    }

    pub(crate) async fn with_options(engine: Engine, options: Options) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(START)));
        let backing = engine.open(clock.clone()).await;
        Self::on_options(backing, clock, options).await
    }

    pub(crate) async fn with(engine: Engine, settings: Settings, tokens: &str) -> Self {
        let tokens = tokens.to_owned();
        Self::with_options(engine, Options { settings, tokens, ..Options::default() }).await
    }

    pub(crate) async fn on(
        backing: Backing,
        clock: Arc<ManualClock>,
        settings: Settings,
        tokens: &str,
    ) -> Self {
        let tokens = tokens.to_owned();
        Self::on_options(backing, clock, Options { settings, tokens, ..Options::default() }).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test that ends drops its runtime and the server in it")]
    async fn on_options(backing: Backing, clock: Arc<ManualClock>, options: Options) -> Self {
        let Options { settings, tokens, sessions, refresh } = options;
        let feed = Arc::new(TestFeed {
            inner: backing.reader.clone(),
            reading: RwLock::new(()),
            is_off: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            waits: watch::Sender::new(0),
        });
        let registry = Registry::new();
        let ports = Ports {
            changes: feed.clone(),
            rows: backing.reader.clone(),
            access: backing.reader.clone(),
            clock: clock.clone(),
            refresh,
        };
        let tokens = Live::new(Tokens::parse(&tokens).expect("tokens"));
        let api = Api::new(settings, tokens.clone(), sessions, ports, &registry).expect("all names are free");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let serving = tokio::spawn(api.serve(listener, stop.clone()));
        let store = backing.writer.clone();
        let changed = AtomicU64::new(0);
        Self { address, store, backing, feed, clock, registry, tokens, stop, serving, changed }
    }

    /// Applies an event. It makes one line.
    pub(crate) async fn apply(&self, event_type: &str, data: &Value) {
        let number = self.changed.fetch_add(1, Ordering::Relaxed) + 1;
        let at = START + i64::try_from(number).expect("few events");
        let change = change_of(&format!("msg_{number}"), &event(event_type, at, data));
        self.backing.apply(change).await;
    }

    /// The time of the server's clock, in seconds since 1970.
    pub(crate) fn seconds(&self) -> i64 {
        self.clock.now().as_millis() / 1000
    }

    /// Returns a line with a session token of this user, who is active in no organization.
    pub(crate) fn bearer(&self, user_id: &str) -> String {
        bearer(&claims(user_id, self.seconds()))
    }

    /// Returns a line with a session token of this user in this organization.
    pub(crate) fn bearer_in(&self, user_id: &str, organization_id: &str) -> String {
        bearer(&member_claims(user_id, organization_id, self.seconds()))
    }

    /// Creates this user.
    pub(crate) async fn create_user(&self, id: &str) {
        self.apply("user.created", &user(id, START)).await;
    }

    /// Creates users 1 to `count`.
    pub(crate) async fn create_users(&self, count: usize) {
        for number in 1..=count {
            self.create_user(&format!("user_{number}")).await;
        }
    }

    /// Creates users and removes all lines, before a reader sees the lines.
    pub(crate) async fn create_users_and_remove(&self, count: usize) {
        let _unread = self.feed.reading.write().await;
        self.create_users(count).await;
        self.clock.advance(Duration::from_secs(60));
        let last = self.store.feed().await.expect("a feed").last;
        self.remove(usize::try_from(last).expect("few lines")).await;
    }

    /// Removes the oldest lines.
    pub(crate) async fn remove(&self, count: usize) {
        self.clock.advance(Duration::from_secs(60));
        let due = RetentionLimits {
            changes_before: Some(Timestamp::from_millis(START + 30_000)),
            limit: count,
            ..RetentionLimits::default()
        };
        assert_eq!(self.store.retain(&due).await.expect("it retains").changes, count as u64);
    }

    /// Sends a request, with a token and these further lines, and returns the reader of its answer.
    pub(crate) async fn send(&self, method: &str, path: &str, lines: &[&str]) -> BufReader<TcpStream> {
        let token = format!("authorization: Bearer {TOKEN}");
        let own = lines.iter().any(|line| *line == NO_TOKEN || line.starts_with("authorization:"));
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: api\r\n");
        for line in
            lines.iter().copied().chain((!own).then_some(token.as_str())).filter(|line| *line != NO_TOKEN)
        {
            head.push_str(line);
            head.push_str("\r\n");
        }
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        stream.write_all(format!("{head}\r\n").as_bytes()).await.expect("it reads");
        BufReader::new(stream)
    }

    /// Name of the feed's generation.
    pub(crate) async fn generation(&self) -> String {
        generation_name(self.store.feed().await.expect("a feed").generation)
    }

    /// Removes the token of the requests. Another one stays.
    pub(crate) fn remove_token(&self) {
        self.tokens.replace(Tokens::parse(OTHER_TOKEN).expect("a token"));
    }

    /// Gets a path and returns the complete answer.
    pub(crate) async fn get(&self, path: &str, lines: &[&str]) -> Answer {
        self.ask("GET", path, lines).await
    }

    pub(crate) async fn ask(&self, method: &str, path: &str, lines: &[&str]) -> Answer {
        let lines: Vec<&str> = lines.iter().copied().chain(["connection: close"]).collect();
        let asked = async {
            let mut reader = self.send(method, path, &lines).await;
            let mut text = String::new();
            reader.read_to_string(&mut text).await.expect("a complete answer");
            Answer::of(&text)
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("it answers")
    }

    /// Opens a stream of events.
    pub(crate) async fn open(&self, path: &str, lines: &[&str]) -> Events {
        let lines: Vec<&str> = lines.iter().copied().chain(["accept: text/event-stream"]).collect();
        let mut events = Events { reader: self.send("GET", path, &lines).await };
        let head = events.block("\r\n").await.expect("a head");
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("content-type: text/event-stream"),
            "{head}"
        );
        events
    }

    /// Value of a metric, by its name and labels as rendered.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().expect("a number")
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.serving).await.expect("it stops").expect("it does not panic");
    }
}

/// Returns a line with a session token with these claims.
pub(crate) fn bearer(claims: &Value) -> String {
    format!("authorization: Bearer {}", Signer::of_the_instance().token(claims))
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    fn of(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        let status = head.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let named =
            |line: &str| line.split_once(": ").is_some_and(|(known, _)| known.eq_ignore_ascii_case(name));
        self.head
            .lines()
            .find(|line| named(line))
            .and_then(|line| line.split_once(": "))
            .map(|(_, value)| value)
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {}\n{}", self.head, self.body))
    }

    /// Checks that the answer is a problem document, and returns it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let document = self.json();
        assert_eq!(document["type"], json!(format!("urn:rollbook:problem:{name}")));
        assert_eq!(document["status"], json!(status));
        assert!(["title", "detail"].iter().all(|key| document[key].is_string()), "{document}");
        document
    }

    /// Positions of the changes in the page.
    #[track_caller]
    pub(crate) fn positions(&self) -> Vec<u64> {
        assert_eq!(
            (self.status, self.header("content-type")),
            (200, Some("application/json")),
            "{}",
            self.body
        );
        let page = self.json();
        let changes = page["changes"].as_array().expect("changes");
        changes.iter().map(|change| change["position"].as_u64().expect("a position")).collect()
    }
}

/// An event of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) id: Option<u64>,
    pub(crate) name: String,
    pub(crate) data: Value,
}

/// An open stream of events.
pub(crate) struct Events {
    pub(crate) reader: BufReader<TcpStream>,
}

impl Events {
    /// Reads lines up to an empty one; `None` at the end. Sizes of chunks are passed over.
    async fn block(&mut self, end: &str) -> Option<String> {
        let mut block = String::new();
        loop {
            let mut line = String::new();
            let read =
                tokio::time::timeout(DEADLINE, self.reader.read_line(&mut line)).await.expect("it sends");
            read.ok().filter(|read| *read > 0)?;
            if line == end && !block.is_empty() {
                return Some(block);
            }
            // Only heads and sizes of chunks end with CR LF.
            if end == "\r\n" || !line.ends_with("\r\n") {
                block.push_str(&line);
            }
        }
    }

    /// Returns the next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let block = self.block("\n").await?;
            let field =
                |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let (Some(name), Some(data)) = (field("event"), field("data")) {
                return Some(Event {
                    id: field("id").map(|id| id.parse().expect("a position")),
                    name: name.to_owned(),
                    data: serde_json::from_str(data).expect("JSON"),
                });
            }
        }
    }

    /// Returns the next change.
    pub(crate) async fn change(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("the stream goes on");
            assert!(event.name == "change" || event.name == "heartbeat", "{event:?}");
            if event.name == "change" {
                return event;
            }
        }
    }
}
