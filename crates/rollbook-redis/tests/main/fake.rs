//! Fake server with settings chosen by the test, for kinds of servers that are not available here. Supports
//! connections with one enqueue each.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Marks a closed connection instead of an answer.
pub(crate) const HANGS_UP: &str = "";

/// Value of CONFIG at a server that forbids it.
pub(crate) const FORBIDDEN: &str = "forbidden";

/// A Redis 7.2 without data.
pub(crate) struct Fake {
    port: u16,
    state: Arc<Mutex<State>>,
    _server: JoinSet<()>,
}

struct State {
    /// One value of INFO or CONFIG GET that differs from the good one.
    odd: (&'static str, &'static str),
    waitaof: (u32, u32),
    /// Duration of WAITAOF.
    tick: Duration,
    asked: Vec<String>,
}

impl Fake {
    pub(crate) async fn start(name: &'static str, value: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State {
            odd: (name, value),
            waitaof: (0, 0),
            tick: Duration::ZERO,
            asked: Vec::new(),
        }));
        let mut server = JoinSet::new();
        let shared = Arc::clone(&state);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer_all(stream, Arc::clone(&shared)));
            }
        });
        Self { port, state, _server: server }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Sets the answer of WAITAOF: local disks and replicas' disks.
    pub(crate) fn waitaof(&self, local: u32, replicas: u32) {
        self.state.lock().expect("no panic").waitaof = (local, replicas);
    }

    /// Sets the duration of WAITAOF.
    pub(crate) fn tick(&self, tick: Duration) {
        self.state.lock().expect("no panic").tick = tick;
    }

    /// Returns the last two commands.
    pub(crate) fn last_two(&self) -> Vec<String> {
        let asked = &self.state.lock().expect("no panic").asked;
        asked[asked.len() - 2..].to_vec()
    }
}

async fn answer_all(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream).await {
        let (answer, tick) = {
            let mut state = state.lock().expect("no panic");
            (state.answer(&command), state.tick)
        };
        if command[0] == "WAITAOF" {
            tokio::time::sleep(tick).await;
        }
        if answer == HANGS_UP || stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_command(stream: &mut BufReader<TcpStream>) -> Option<Vec<String>> {
    let count = read_length(stream).await?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let mut word = vec![0; read_length(stream).await? + "\r\n".len()];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
    }
    Some(words)
}

async fn read_length(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

impl State {
    fn answer(&mut self, command: &[String]) -> String {
        self.asked.push(command.join(" "));
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match &words[..] {
            ["INFO", ..] => {
                let facts = ["redis_version", "loading", "aof_enabled", "role", "maxmemory_policy"];
                bulk(&facts.map(|name| format!("{name}:{}\r\n", self.fact(name))).concat())
            }
            ["CONFIG", ..] if self.odd == ("CONFIG", HANGS_UP) => HANGS_UP.to_owned(),
            ["CONFIG", ..] if self.odd == ("CONFIG", FORBIDDEN) => {
                "-ERR unknown command 'CONFIG', with args beginning with: 'GET'\r\n".to_owned()
            }
            ["CONFIG", ..] => {
                let names = ["appendfsync", "no-appendfsync-on-rewrite"];
                format!("*4\r\n{}", names.map(|name| bulk(name) + &bulk(self.fact(name))).concat())
            }
            // After the thirteen keys and the clock, set_up has the format and enqueue the limit.
            ["EVALSHA", _, _, arguments @ ..] if arguments.get(13 + 1) == Some(&"1") => {
                format!("*4\r\n{}{}{}{}", bulk("1"), bulk("1"), bulk("an epoch"), bulk(""))
            }
            ["EVALSHA", ..] => "*2\r\n:0\r\n*1\r\n:1\r\n".to_owned(),
            ["WAITAOF", ..] => format!("*2\r\n:{}\r\n:{}\r\n", self.waitaof.0, self.waitaof.1),
            _ => "+OK\r\n".to_owned(),
        }
    }

    fn fact(&self, name: &str) -> &'static str {
        match name {
            _ if name == self.odd.0 => self.odd.1,
            "redis_version" => "7.2.4",
            "loading" => "0",
            "aof_enabled" if self.odd == ("loading", "1") => "0",
            "aof_enabled" => "1",
            "role" => "master",
            "maxmemory_policy" => "noeviction",
            "appendfsync" => "always",
            _ => "no",
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}
