//! Serves the simulated Clerk API until the standard input ends, for `ops/check-clerk-api` and for a look by
//! hand. The first line of output is the base URL, the second is the key.
//!
//! `cargo run -p rollbook-simulator --example clerk_api` serves a history with every kind of object;
//! with the argument `synthetic` it serves a million users. More arguments: the number of users, and the size of the
//! metadata of each in bytes.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rollbook_core::time::{Clock, Timestamp};
use rollbook_simulator::api::{ApiSettings, ClerkApi, DEFAULT_KEY, Objects};
use rollbook_simulator::history::{History, HistorySettings};
use rollbook_simulator::state::{ClerkState, TABLES};
use rollbook_testkit::synthetic::{Synthetic, SyntheticSettings};

struct WallClock;

impl Clock for WallClock {
    #[expect(clippy::disallowed_methods, reason = "an example has no other clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    let objects: Arc<dyn Objects> = if arguments.first().map(String::as_str) == Some("synthetic") {
        let default = SyntheticSettings::default();
        let users = number(1).unwrap_or(default.users);
        let user_metadata = usize::try_from(number(2).unwrap_or_default()).unwrap_or_default();
        Arc::new(Synthetic::new(SyntheticSettings { users, user_metadata, ..default }))
    } else {
        Arc::new(Mutex::new(with_every_kind()))
    };
    let api = ClerkApi::start(objects, ApiSettings::new(Arc::new(WallClock))).await?;
    println!("{}\n{DEFAULT_KEY}", api.url());
    // The standard input blocks, so another thread reads it.
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    Ok(())
}

/// Returns the last state of a history in which there is an object of every kind.
fn with_every_kind() -> ClerkState {
    let settings =
        HistorySettings { users: 300, organizations: 60, changes: 6000, ..HistorySettings::default() };
    let history = History::generate(&settings);
    let mut state = history.state_after(0);
    let mut last = state.clone();
    for events in (0..=history.events.len()).step_by(50) {
        state.advance_to(events);
        if TABLES.iter().all(|table| !state.ids(table).is_empty()) {
            last = state.clone();
        }
    }
    last
}
