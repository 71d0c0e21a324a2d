//! A private `PgBouncer` in front of a private PostgreSQL.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use super::postgres::{PASSWORD, PostgresServer, SYSTEM_USER, USER};
use super::{Guard, as_user, free_port, give_to, new_folder};

/// A `PgBouncer` in transaction mode, with fewer connections to the server than it has clients.
#[derive(Debug)]
pub struct PgBouncer {
    guard: Guard,
    port: u16,
}

impl PgBouncer {
    /// Starts `PgBouncer` in front of `server` and waits until it answers.
    pub async fn start(server: &PostgresServer) -> Self {
        let folder = new_folder("rollbook-pgbouncer-");
        let (port, users) = (free_port(), folder.join("users"));
        std::fs::write(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")).expect("a written file");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\npool_mode = transaction\ndefault_pool_size = 2\nauth_type = scram-sha-256\n\
             auth_file = {}\n",
            server.port(),
            users.display()
        );
        let file = folder.join("pgbouncer.ini");
        std::fs::write(&file, settings).expect("a written file");
        give_to(SYSTEM_USER, &folder);
        let mut command = as_user(SYSTEM_USER);
        // The folder of the program may not be in PATH.
        let debian = "/usr/sbin/pgbouncer";
        let program = if Path::new(debian).exists() { debian } else { "pgbouncer" };
        command.extend([program.to_owned(), file.display().to_string()]);
        let bouncer = Self { guard: Guard::start(folder, &command), port };
        bouncer.until_it_answers().await;
        bouncer
    }

    /// Kills it with `kill -9` and waits for its end.
    pub fn kill(&mut self) {
        self.guard.kill();
    }

    /// Starts it again after [`Self::kill`], on the same port, and waits until it answers.
    pub async fn restart(&mut self) {
        self.guard.restart();
        self.until_it_answers().await;
    }

    async fn until_it_answers(&self) {
        let answers = || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
        self.guard.until_it_answers("PgBouncer answers", answers).await;
    }

    /// Returns the URL of one of the server's databases, through `PgBouncer`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{database}", self.port)
    }
}
