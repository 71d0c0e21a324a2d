//! New connections, to the host that accepts writes.
//!
//! If the URL names several hosts, they are tried in turn, beginning with the one that was used last. Each
//! gets an equal share of the remaining time, so that a host that does not answer leaves time for the others.
//! A read-only host is skipped.
//!
//! sqlx does not expose its socket, so the server is asked to send the TCP keepalives: they keep a firewall's
//! state of the connection alive just as well, and the server detects a lost client (decision 0113).

use std::sync::atomic::{AtomicUsize, Ordering};

use sqlx::{PgConnection, Row as _, raw_sql};
use tokio::time::{Instant, timeout};

use crate::address::Host;
use crate::fault::{ReadOnly, database_error};
use crate::link::NoConnection;

/// Settings of a new session. A session starts with them, so that `RESET ALL` keeps them.
///
/// A client that was killed, or that the network cut off, must not keep its locks for long. The server ends the session
/// of a killed client within 2 s even in the middle of a statement (from Postgres 14 on), and within 20 s if the client no
/// longer answers: three probes at 3 s intervals after 10 s of silence, or 20 s without an acknowledgement of what was sent.
const SETTINGS: [(&str, u32); 5] = [
    ("tcp_keepalives_idle", 10),
    ("tcp_keepalives_interval", 3),
    ("tcp_keepalives_count", 3),
    ("tcp_user_timeout", 20_000),
    ("client_connection_check_interval", 2_000),
];
/// Numbers of [`SETTINGS`] that are tried, for servers that accept fewer and fewer of them.
const TRIED: [usize; 2] = [5, 4];

/// All hosts of one database.
pub(crate) struct Hosts {
    all: Vec<Host>,
    /// Whether a new connection must accept writes.
    writable: bool,
    /// Whether each connection has a session of its own: a pooler assigns one for a transaction only.
    own_session: bool,
    /// Host of the latest connection.
    last: AtomicUsize,
    /// Number of entries of [`TRIED`] that the server refused.
    refused_settings: AtomicUsize,
}

impl Hosts {
    pub(crate) const fn new(all: Vec<Host>, writable: bool, own_session: bool) -> Self {
        Self { all, writable, own_session, last: AtomicUsize::new(0), refused_settings: AtomicUsize::new(0) }
    }

    /// Opens a connection to the first usable host.
    pub(crate) async fn connect(&self, deadline: Instant) -> Result<PgConnection, NoConnection> {
        let (first, count) = (self.last.load(Ordering::Relaxed), self.all.len());
        let mut failure = None;
        for tried in 0..count {
            let host = (first + tried) % count;
            let left = u32::try_from(count - tried).unwrap_or(u32::MAX);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let none = match timeout(share, self.open(&self.all[host])).await {
                Ok(Ok(connection)) => {
                    self.last.store(host, Ordering::Relaxed);
                    return Ok(connection);
                }
                Ok(Err(error)) => NoConnection::Refused(error),
                Err(_) => NoConnection::Slow,
            };
            // A read-only standby is normal: the reason is the failure of the host that should be the primary.
            if failure.as_ref().is_none_or(is_read_only) {
                failure = Some(none);
            }
        }
        Err(failure.unwrap_or(NoConnection::Slow))
    }

    async fn open(&self, host: &Host) -> sqlx::Result<PgConnection> {
        let mut connection = self.begin_session(host).await?;
        if self.writable {
            must_be_writable(&mut connection).await?;
        }
        Ok(connection)
    }

    async fn begin_session(&self, host: &Host) -> sqlx::Result<PgConnection> {
        if !self.own_session {
            return host.connect().await;
        }
        let refused_before = self.refused_settings.load(Ordering::Relaxed);
        for (number, count) in TRIED.into_iter().enumerate().skip(refused_before) {
            match host.with_settings(&SETTINGS[..count]).connect().await {
                // Some poolers accept no settings, and older or similar servers may not have all of these.
                Err(error) if may_refuse_settings(&error) => {}
                connected => {
                    if connected.is_ok() {
                        self.refused_settings.store(number, Ordering::Relaxed);
                    }
                    return connected;
                }
            }
        }
        let connection = host.connect().await?;
        if self.refused_settings.swap(TRIED.len(), Ordering::Relaxed) < TRIED.len() {
            host.refused_settings();
        }
        Ok(connection)
    }
}

/// Returns whether the server may have refused the session because of its settings.
fn may_refuse_settings(error: &sqlx::Error) -> bool {
    database_error(error)
        .is_some_and(|error| matches!(error.code(), "08P01" | "0A000" | "22023" | "42601" | "42704"))
}

/// Checks that the session accepts writes.
///
/// # Errors
/// [`ReadOnly`], or the error of the check.
pub(crate) async fn must_be_writable(connection: &mut PgConnection) -> sqlx::Result<()> {
    let row = raw_sql("SHOW transaction_read_only").fetch_one(connection).await?;
    if row.try_get::<&str, _>(0)? == "off" { Ok(()) } else { Err(ReadOnly.into()) }
}

fn is_read_only(none: &NoConnection) -> bool {
    matches!(none, NoConnection::Refused(error) if ReadOnly::is(error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::address::Address;

    async fn refused(url: &str) -> NoConnection {
        let (address, _) = Address::parse(url).expect("a URL");
        let hosts = Hosts::new(address.hosts, address.writable, true);
        match hosts.connect(Instant::now() + Duration::from_secs(60)).await {
            Ok(_) => panic!("somebody answers"),
            Err(none) => none,
        }
    }

    #[tokio::test]
    async fn a_refused_connection_says_so_at_once_and_so_do_several() {
        // No process listens at port 1.
        for hosts in ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:1"] {
            match refused(&format!("postgres://me@{hosts}/x?sslmode=disable")).await {
                NoConnection::Refused(sqlx::Error::Io(error)) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
