//! A private sentinel, which knows the master of a pair of private Redis servers.

use std::net::Ipv4Addr;
use std::process::Command;

use super::redis::RedisServer;
use super::{Guard, as_user, free_port, give_to, new_folder, run};

const USER: &str = "redis";

/// The only sentinel of one service, so its vote alone decides. Dropping it ends it.
#[derive(Debug)]
pub struct RedisSentinel {
    _guard: Guard,
    port: u16,
    service: String,
}

impl RedisSentinel {
    /// Starts a sentinel that watches `master` and its replicas.
    pub async fn start(service: &str, master: &RedisServer) -> Self {
        let port = free_port();
        let folder = new_folder("rollbook-sentinel-");
        let host = Ipv4Addr::LOCALHOST;
        let settings = format!(
            "port {port}\nbind {host}\ndir {}\nsentinel monitor {service} {host} {} 1\n\
             sentinel down-after-milliseconds {service} 1000\n",
            folder.display(),
            master.port()
        );
        // The sentinel writes its state to this file.
        let file = folder.join("sentinel.conf");
        std::fs::write(&file, settings).expect("a file of settings");
        give_to(USER, &folder);
        let mut command = as_user(USER);
        command.extend(["redis-server".to_owned(), file.display().to_string(), "--sentinel".to_owned()]);
        let guard = Guard::start(folder, &command);
        let ping = || {
            let answer = Command::new("redis-cli").args(["-p", &port.to_string(), "ping"]).output();
            answer.is_ok_and(|answer| answer.stdout.starts_with(b"PONG"))
        };
        guard.until_it_answers("the sentinel answers", ping).await;
        Self { _guard: guard, port, service: service.to_owned() }
    }

    /// Returns `redis+sentinel://127.0.0.1:PORT/SERVICE`.
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/{}", self.port, self.service)
    }

    /// Returns the port of the master, according to the sentinel.
    pub fn master(&self) -> u16 {
        let address = self.cli(&["sentinel", "get-master-addr-by-name", &self.service]);
        address.lines().last().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Returns the output of `redis-cli` for this command.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        run(Command::new("redis-cli").args(["-p", &port]).args(arguments)).trim_end().to_owned()
    }
}
