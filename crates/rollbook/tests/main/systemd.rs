//! The real process notifies a socket in place of systemd's.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;

use rollbook_testkit::process::{DEADLINE, Home};

const BINARY: &str = env!("CARGO_BIN_EXE_rollbook");

struct Listener {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Listener {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a setting");
        Self { socket, folder }
    }

    fn path(&self) -> String {
        self.folder.path().join("notify").to_str().expect("a plain path").to_owned()
    }

    fn hear(&self) -> String {
        let mut buffer = [0; 64];
        let length = self.socket.recv(&mut buffer).expect("a message comes in time");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

#[tokio::test]
async fn systemd_is_notified_when_both_ports_answer_then_regularly_and_at_the_stop() {
    let listener = Listener::start();
    let home = Home::new(BINARY).with("NOTIFY_SOCKET", listener.path()).with("WATCHDOG_USEC", "100000");
    let mut rollbook = home.start(&["serve"]);
    assert_eq!(listener.hear(), "READY=1", "{}", home.log());
    for port in [home.listen, home.ops] {
        assert!(TcpStream::connect(port).is_ok(), "{port} was said to be ready");
    }
    assert_eq!(home.ops_get("/livez").await.expect("an answer").status, 200);
    for _ in 0..3 {
        assert_eq!(listener.hear(), "WATCHDOG=1");
    }
    rollbook.signal("TERM");
    assert!(rollbook.exit().await.success(), "{}", home.log());
    loop {
        match listener.hear().as_str() {
            "STOPPING=1" => break,
            other => assert_eq!(other, "WATCHDOG=1"),
        }
    }
}

#[tokio::test]
async fn a_process_that_does_not_start_never_says_that_it_is_ready() {
    let listener = Listener::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    for variable in ["ROLLBOOK_LISTEN", "ROLLBOOK_OPS_LISTEN"] {
        let home = Home::new(BINARY).with("NOTIFY_SOCKET", listener.path()).with(variable, &address);
        assert_eq!(home.start(&["serve"]).exit().await.code(), Some(1), "{}", home.log());
    }
    listener.socket.set_nonblocking(true).expect("a setting");
    assert!(listener.socket.recv(&mut [0; 64]).is_err(), "nothing was said");
}
