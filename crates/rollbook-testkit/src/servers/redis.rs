//! A private Redis.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::shim::Shim;
use super::{Guard, as_user, free_port, give_to, new_folder, run, signal};

/// System user of the server, if the tests run as root. The package creates it.
const USER: &str = "redis";

/// A Redis that acknowledges writes once they are on disk. It starts empty. Dropping it ends it.
#[derive(Debug)]
pub struct RedisServer {
    guard: Guard,
    port: u16,
}

impl RedisServer {
    /// Starts a server with the settings that Rollbook requires: `appendonly yes`, `appendfsync always`,
    /// `noeviction`.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with these settings, in addition to or instead of the default ones. Each word of a
    /// value is an argument of its own.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_command(&["redis-server"], settings).await
    }

    /// Starts a server with a library that is loaded before those of the system.
    pub async fn start_preloading(library: &Path, settings: &[(&str, &str)]) -> Self {
        let library = format!("LD_PRELOAD={}", library.display());
        Self::start_command(&["env", &library, "redis-server"], settings).await
    }

    /// Starts a server on the disk and with the clock of this shim.
    pub async fn start_on(shim: &Shim, settings: &[(&str, &str)]) -> Self {
        let mut program = shim.command();
        program.push("redis-server".to_owned());
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        Self::start_command(&program, settings).await
    }

    async fn start_command(program: &[&str], settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        let folder = new_folder("rollbook-redis-");
        give_to(USER, &folder);
        let ours = [
            ("port", port.to_string()),
            ("bind", Ipv4Addr::LOCALHOST.to_string()),
            ("dir", folder.display().to_string()),
            ("save", String::new()),
            ("appendonly", "yes".to_owned()),
            ("appendfsync", "always".to_owned()),
            ("maxmemory-policy", "noeviction".to_owned()),
        ];
        let theirs = settings.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let mut command = as_user(USER);
        command.extend(program.iter().map(|&word| word.to_owned()));
        for (name, value) in ours.into_iter().chain(theirs) {
            command.push(format!("--{name}"));
            command.extend(value.split(' ').map(str::to_owned));
        }
        let server = Self { guard: Guard::start(folder, &command), port };
        server.until_it_answers().await;
        server
    }

    /// Returns `redis://127.0.0.1:PORT/0`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    /// Returns the port on which the server listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of its append-only log.
    pub fn log_folder(&self) -> PathBuf {
        self.guard.folder().join("appendonlydir")
    }

    /// Waits until it has exited by itself; [`Self::restart`] starts it again.
    pub async fn ended(&mut self) {
        self.guard.ended().await;
    }

    /// Returns everything that the server has printed.
    pub fn log(&self) -> String {
        self.guard.log()
    }

    /// Returns the output of `redis-cli` for this command.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let port = self.port.to_string();
        run(Command::new("redis-cli").args(["-p", &port]).args(arguments)).trim_end().to_owned()
    }

    /// Kills it with `kill -9` and waits for its end.
    pub fn kill(&mut self) {
        self.guard.kill();
    }

    /// Starts it again on the same port, with the data of its append-only log.
    pub async fn restart(&mut self) {
        self.guard.restart();
        self.until_it_answers().await;
    }

    /// Starts it again on the same port, without data.
    pub async fn restart_empty(&mut self) {
        self.guard.remove("appendonlydir");
        self.restart().await;
    }

    /// Sends a signal by name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        signal(self.guard.id(), name);
    }

    /// Waits until it has read its data: before that it answers `LOADING`.
    async fn until_it_answers(&self) {
        let port = self.port;
        self.guard
            .until_it_answers("Redis answers", || {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() && answers(port)
            })
            .await;
    }
}

fn answers(port: u16) -> bool {
    let answer = Command::new("redis-cli").args(["-p", &port.to_string(), "ping"]).output();
    answer.is_ok_and(|answer| answer.stdout.starts_with(b"PONG") || answer.stdout.starts_with(b"NOAUTH"))
}
