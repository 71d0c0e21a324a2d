//! A simulated Clerk in a process of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rollbook_core::time::Clock as _;
use rollbook_simulator::api::{ApiSettings, ClerkApi, DEVELOPMENT_RATE, PRODUCTION_RATE};
use rollbook_testkit::clock::WallClock;
use rollbook_testkit::process::Home;
use rollbook_testkit::synthetic::{Synthetic, SyntheticSettings};

use super::LATENCY;

/// Argument that makes this program a simulated Clerk.
pub(crate) const CLERK_API: &str = "--clerk-api";
const PRODUCTION_KEY: &str = "sk_live_bench";
const DEVELOPMENT_KEY: &str = "sk_test_bench";
/// Users who signed up in the same millisecond.
const TIES: usize = 3;

/// Size of an instance.
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) users: usize,
    pub(super) organizations: usize,
    pub(super) memberships: usize,
    start_millis: i64,
}

impl Instance {
    /// Objects that were created up to ten seconds ago.
    pub(super) fn new(users: usize, organizations: usize, memberships: usize) -> Self {
        let millis = i64::try_from(users.max(memberships) / TIES).expect("a small number");
        let start_millis = WallClock.now().as_millis() - 10_000 - millis;
        Self { users, organizations, memberships, start_millis }
    }

    pub(super) fn settings(&self) -> SyntheticSettings {
        SyntheticSettings {
            users: self.users as u64,
            organizations: self.organizations as u64,
            memberships: self.memberships as u64,
            start_millis: self.start_millis,
            ties: TIES as u64,
            user_metadata: 0,
        }
    }

    fn arguments(&self) -> [String; 4] {
        let Self { users, organizations, memberships, start_millis } = self;
        [users.to_string(), organizations.to_string(), memberships.to_string(), start_millis.to_string()]
    }

    fn parse(arguments: &[&str]) -> Self {
        let number = |at: usize| arguments[at].parse::<usize>().expect("a number");
        let start_millis = arguments[3].parse().expect("a time");
        Self { users: number(0), organizations: number(1), memberships: number(2), start_millis }
    }
}

/// This program as a simulated Clerk, until its standard input ends.
pub(crate) async fn serve(arguments: &[&str]) {
    let (key, arguments) = arguments.split_first().expect("a key");
    let rate = if *key == PRODUCTION_KEY { PRODUCTION_RATE } else { DEVELOPMENT_RATE };
    let settings = ApiSettings {
        key: (*key).to_owned(),
        rate_limit: Some(rate),
        latency: LATENCY,
        ..ApiSettings::new(Arc::new(WallClock))
    };
    let objects = Arc::new(Synthetic::new(Instance::parse(arguments).settings()));
    let api = ClerkApi::start(objects, settings).await.expect("a port");
    println!("{}", api.url());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    drop(ended.await);
}

/// A simulated Clerk, killed when dropped.
pub(super) struct Clerk {
    child: Child,
    url: String,
    key: &'static str,
}

impl Clerk {
    /// Starts a simulated Clerk. Where `is_idle`, it runs only while no other process wants a core: in production
    /// it has machines of its own.
    pub(super) fn start(instance: &Instance, is_production: bool, is_idle: bool) -> Self {
        let key = if is_production { PRODUCTION_KEY } else { DEVELOPMENT_KEY };
        let this = std::env::current_exe().expect("this program");
        let mut command = Command::new("nice");
        let child = command
            .args(["-n", if is_idle { "19" } else { "0" }])
            .arg(this)
            .args([CLERK_API, key])
            .args(instance.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = child.expect("this program again");
        let mut url = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut url).expect("a line");
        Self { child, url: url.trim().to_owned(), key }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The home with the key and the URL of this Clerk.
    pub(super) fn known_to(&self, home: Home) -> Home {
        home.with("CLERK_SECRET_KEY", self.key).with("CLERK_API_URL", &self.url)
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
