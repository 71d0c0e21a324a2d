//! The fault proxy: each fault has its effect and no other.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rollbook_testkit::servers::proxy::{Break, Direction, Fault, FaultProxy};

/// Time without bytes after which a connection counts as silent.
const SILENCE: Duration = Duration::from_millis(100);

/// Returns a proxy in front of an echo server, which ends a connection when its client does.
fn before_an_echo() -> FaultProxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(std::io::copy(&mut &stream, &mut &stream)));
        }
    });
    FaultProxy::start(port)
}

fn client(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    stream
}

/// Sends these bytes. Returns the number of bytes echoed, and the error at the end.
fn echoed(mut stream: &TcpStream, bytes: &[u8]) -> (usize, Option<ErrorKind>) {
    drop(stream.write_all(bytes));
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all).err().map(|error| error.kind());
    (all.len(), end)
}

/// Returns whether a byte is sent and received.
fn passes(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && &buffer == b"ping"
}

/// Returns whether nothing arrives, neither bytes nor an end.
fn is_silent(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout");
    let read = stream.read(&mut [0; 4]);
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    read.is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[test]
fn without_a_fault_all_bytes_and_the_end_are_forwarded() {
    let proxy = before_an_echo();
    let stream = client(&proxy);
    assert!(passes(&stream));
    stream.shutdown(std::net::Shutdown::Write).expect("an open connection");
    assert_eq!(echoed(&stream, b""), (0, None));
    assert_eq!((proxy.accepted(), proxy.broken()), (1, 0));
}

#[test]
fn a_connection_breaks_at_the_given_byte_in_either_direction() {
    for (direction, then, end) in [
        (Direction::ToClient, Break::Reset, Some(ErrorKind::ConnectionReset)),
        (Direction::ToServer, Break::Reset, Some(ErrorKind::ConnectionReset)),
        (Direction::ToClient, Break::Close, None),
    ] {
        let proxy = before_an_echo();
        proxy.fail(direction, Fault::after(7, then));
        let (length, ended) = echoed(&client(&proxy), b"0123456789");
        // The echo of bytes that arrived may still be in transit when the reset comes.
        assert!(if direction == Direction::ToClient { length == 7 } else { length <= 7 }, "{length}");
        assert_eq!((ended, proxy.broken()), (end, 1), "{direction:?} {then:?}");
    }
}

#[test]
fn a_random_number_of_bytes_is_at_most_the_limit() {
    let proxy = before_an_echo();
    proxy.fail(Direction::ToClient, Fault::within(3, Break::Reset));
    let lengths: Vec<usize> = (0..60).map(|_| echoed(&client(&proxy), b"0123456789").0).collect();
    assert!((0..=3).all(|length| lengths.contains(&length)), "{lengths:?}");
    assert!(lengths.iter().all(|length| *length <= 3), "{lengths:?}");
    assert_eq!(proxy.broken(), 60);
}

#[test]
fn a_half_closed_direction_has_ended_and_the_other_continues() {
    let proxy = before_an_echo();
    let stream = client(&proxy);
    assert!(passes(&stream));
    proxy.fail(Direction::ToServer, Fault::after(5, Break::HalfClose));
    // The server sees the end after five bytes, and echoes them.
    assert_eq!(echoed(&stream, b"0123456789").0, 5);
}

#[test]
fn a_black_hole_blocks_all_bytes_until_it_is_healed() {
    let proxy = before_an_echo();
    let stream = client(&proxy);
    assert!(passes(&stream));
    proxy.fail(Direction::ToServer, Fault::after(0, Break::BlackHole));
    (&stream).write_all(b"ping").expect("the proxy's side is open");
    assert!(is_silent(&stream));
    proxy.heal();
    (&stream).read_exact(&mut [0; 4]).expect("the blocked bytes");
    assert!(passes(&stream));
}

#[test]
fn a_forgotten_connection_is_silent_for_ever_and_a_new_one_works() {
    let proxy = before_an_echo();
    let old = client(&proxy);
    assert!(passes(&old));
    proxy.forget();
    assert!(passes(&client(&proxy)));
    proxy.heal();
    (&old).write_all(b"ping").expect("the proxy's side is open");
    assert!(is_silent(&old));
    proxy.cut();
    assert_eq!(echoed(&old, b""), (0, Some(ErrorKind::ConnectionReset)));
    assert!(passes(&client(&proxy)));
}

#[test]
fn a_lost_answer_is_a_reset_instead_of_bytes() {
    let proxy = before_an_echo();
    proxy.fail(Direction::ToServer, Fault::when(|chunk| (chunk == b"commit").then_some(Break::LoseAnswer)));
    let stream = client(&proxy);
    assert!(passes(&stream));
    assert_eq!(echoed(&stream, b"commit"), (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!(proxy.broken(), 1);
}

#[test]
fn slow_directions_have_the_configured_speed() {
    for fault in [Fault::Delay(Duration::from_millis(200)), Fault::Throttle(20)] {
        let proxy = before_an_echo();
        proxy.fail(Direction::ToClient, fault);
        let started = Instant::now();
        assert!(passes(&client(&proxy)));
        assert!(started.elapsed() >= Duration::from_millis(200));
    }
}

#[test]
fn a_new_target_applies_to_new_connections_only() {
    let (proxy, other) = (before_an_echo(), before_an_echo());
    let old = client(&proxy);
    assert!(passes(&old));
    proxy.set_target(other.port());
    assert_eq!(proxy.url(&format!("postgres://a:b@127.0.0.1:{}/x", other.port())), {
        format!("postgres://a:b@127.0.0.1:{}/x", proxy.port())
    });
    assert!(passes(&client(&proxy)) && passes(&old));
    assert_eq!(other.accepted(), 1);
    proxy.set_target(1);
    assert_eq!(echoed(&client(&proxy), b"").0, 0, "no server listens on that port");
}
