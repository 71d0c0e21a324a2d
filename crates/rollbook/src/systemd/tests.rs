//! Notifications to a socket in place of systemd's, with a worker and a store that hangs.

use std::sync::Arc;

use bytes::Bytes;
use prometheus::Registry;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::Producer as _;
use rollbook_core::store::FullStore;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::events;
use rollbook_testkit::faults::{Fault, FaultyStore, Gate, StoreCall};
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::memory::store::MemoryStore;

use super::*;
use crate::config::{Config, FileSource, Settings, Sources};
use crate::faces::Faces;
use crate::service::Service;
use crate::startup_ports::Ports;
use crate::wire::Queue;
use rollbook_testkit::queues::all_of;

const PERIOD: Duration = Duration::from_secs(10);
/// Time without a message after which none will come. Tokio advances its paused clock while all tasks wait.
const LONG: Duration = Duration::from_secs(60);

/// Socket in place of systemd's.
struct Listener {
    socket: tokio::net::UnixDatagram,
    name: String,
}

impl Listener {
    fn start() -> Self {
        let name = format!("@rollbook-test-{:016x}", fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name[1..]).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        socket.set_nonblocking(true).expect("a setting");
        Self { socket: tokio::net::UnixDatagram::from_std(socket).expect("a socket"), name }
    }

    fn systemd(&self) -> Systemd {
        let period = PERIOD.as_micros().to_string();
        let environment = [("NOTIFY_SOCKET", self.name.as_str()), ("WATCHDOG_USEC", &period)];
        Systemd::of(&Environment::of(&environment)).expect("it listens")
    }

    /// Returns the next message, or `None` if there is none.
    async fn heard(&self) -> Option<String> {
        let mut buffer = [0; 64];
        let length = timeout(LONG, self.socket.recv(&mut buffer)).await.ok()?.expect("a datagram");
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

fn config() -> Config {
    let flags =
        [&Settings::listen().about, &Settings::ops_listen().about].map(|one| (one, "127.0.0.1:0".to_owned()));
    let environment = Environment::of(&[]);
    let sources = Sources { flags: &flags, environment, file: FileSource::None };
    Config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"))
}

#[tokio::test(start_paused = true)]
async fn the_watchdog_is_fed_until_a_lane_of_the_worker_stands_still() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_seconds(1_790_000_000)));
    let queue = Arc::new(MemoryQueue::new(10, Arc::clone(&clock) as Arc<dyn Clock>));
    let gate = Gate::new();
    let held = gate.clone();
    let store = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let store: Arc<dyn FullStore> = Arc::new(FaultyStore::new(store, move |call| match call {
        StoreCall::Apply(_) => Fault::Wait(held.clone()),
        _ => Fault::None,
    }));
    let config = config();
    let faces = Faces { receiver: false, worker: true };
    let queues = Queue { producer: queue.clone(), consumer: queue.clone(), admin: queue.clone() };
    let ports = Ports::bind(&config, faces).expect("free ports");
    let mut service =
        Service::start(&config, faces, ports, &queues, Some(store), clock.clone(), Registry::new())
            .expect("it starts");
    let listener = Listener::start();
    service.report_to_systemd(listener.systemd());
    let stop = CancellationToken::new();
    let messages = async {
        assert_eq!(listener.heard().await.as_deref(), Some("READY=1"));
        assert_eq!(listener.heard().await.as_deref(), Some("WATCHDOG=1"));
        let user = events::user("user_1", 1_790_000_000_000);
        let body = Bytes::from(events::event("user.updated", 1_790_000_000_000, &user).to_string());
        let delivery =
            Delivery { id: MessageId::new("msg_1"), received_at: clock.now(), traceparent: None, body };
        all_of(queue.enqueue_many(&[delivery]).await).expect("it is queued");
        gate.arrived(1).await;
        assert_eq!(listener.heard().await.as_deref(), Some("WATCHDOG=1"), "a batch may take a while");

        // The other lanes go on; this one has been in the same call for longer than two leases.
        clock.advance(config.settings.lease_for * 2);
        let mut after = 0;
        while listener.heard().await.is_some() {
            after += 1;
            assert!(after < 3, "it is fed though a lane hangs");
        }
        gate.open();
        assert_eq!(listener.heard().await.as_deref(), Some("WATCHDOG=1"), "it goes on");
        stop.cancel();
        while let Some(state) = listener.heard().await {
            if state == "STOPPING=1" {
                return;
            }
        }
        panic!("it stops without a notification");
    };
    let (ended, ()) = tokio::join!(service.run(stop.clone()), messages);
    ended.expect("it ends well");
}

#[test]
fn the_watchdog_is_for_the_process_that_is_named() {
    let own = std::process::id().to_string();
    let of = |variables: &[(&str, &str)]| watchdog(&Environment::of(variables));
    assert_eq!(of(&[("WATCHDOG_USEC", "30000000")]), Some(Duration::from_secs(30)));
    assert_eq!(of(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", &own)]), Some(Duration::from_secs(30)));
    assert_eq!(of(&[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "1")]), None);
    for nothing in ["0", "1", "soon", "-5", ""] {
        assert_eq!(of(&[("WATCHDOG_USEC", nothing)]), None, "{nothing}");
    }
}

#[test]
fn a_missing_socket_does_not_stop_the_service() {
    for name in ["", "relative", "/nowhere/notify", "@rollbook-nobody-listens", "vsock:2:1234"] {
        assert!(Systemd::of(&Environment::of(&[("NOTIFY_SOCKET", name)])).is_none(), "{name}");
    }
    assert!(Systemd::of(&Environment::of(&[])).is_none());
}
