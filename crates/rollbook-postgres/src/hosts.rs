//! New connections: to the host that takes writes, with what every connection needs.
//!
//! Where the URL names several hosts, they are tried in turn, the one that served last first, and each gets
//! an equal share of the time that is left: a host that answers nothing does not use up the time of the
//! others. A host that is read-only is passed over.
//!
//! sqlx keeps its socket to itself, so the server is asked to send the TCP keepalives: their answers keep
//! a firewall's memory of the connection alive just as well, and the server learns of a client that is gone
//! (decision 0113).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sqlx::{PgConnection, Row as _, raw_sql};
use tokio::time::{Instant, timeout};

use crate::fault::{ReadOnly, database_error};
use crate::link::NoConnection;
use crate::place::Host;

/// What the server is asked for: a probe after 30 s of silence, and an end after four without an answer. The session
/// begins with it, so that a `RESET ALL` leaves it.
const KEEPALIVE: [(&str, u32); 3] =
    [("tcp_keepalives_idle", 30), ("tcp_keepalives_interval", 10), ("tcp_keepalives_count", 4)];

/// All hosts of one database.
pub(crate) struct Hosts {
    all: Vec<Host>,
    /// Whether a new connection must be one that takes writes.
    writable: bool,
    /// Whether a connection is ours for as long as it is open: a pooler lends it for a transaction only.
    own_session: bool,
    /// The one that served last.
    last: AtomicUsize,
    /// Whether sessions that begin with settings of ours are refused.
    refuses_settings: AtomicBool,
}

impl Hosts {
    pub(crate) const fn new(all: Vec<Host>, writable: bool, own_session: bool) -> Self {
        Self {
            all,
            writable,
            own_session,
            last: AtomicUsize::new(0),
            refuses_settings: AtomicBool::new(false),
        }
    }

    /// A new connection to the first host that can be used.
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
            // That a standby is read-only says nothing: the reason is with the host that should not be.
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
        if !self.own_session || host.is_socket() || self.refuses_settings.load(Ordering::Relaxed) {
            return host.connect().await;
        }
        match host.with_settings(KEEPALIVE).connect().await {
            // Some poolers take no settings, and what only resembles Postgres may not have these.
            Err(error) if may_refuse_settings(&error) => {
                let connection = host.connect().await?;
                self.refuses_settings.store(true, Ordering::Relaxed);
                Ok(connection)
            }
            connected => connected,
        }
    }
}

/// Whether a session may have been refused for its settings.
fn may_refuse_settings(error: &sqlx::Error) -> bool {
    database_error(error)
        .is_some_and(|error| matches!(error.code(), "08P01" | "0A000" | "22023" | "42601" | "42704"))
}

/// Checks that the session takes writes.
///
/// # Errors
/// [`ReadOnly`], or what came of asking.
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
    use crate::place::Place;

    async fn refused(url: &str) -> NoConnection {
        let (place, _) = Place::parse(url).expect("a URL");
        let hosts = Hosts::new(place.hosts, place.writable, true);
        match hosts.connect(Instant::now() + Duration::from_secs(60)).await {
            Ok(_) => panic!("somebody answers"),
            Err(none) => none,
        }
    }

    #[tokio::test]
    async fn a_refused_connection_says_so_at_once_and_so_do_several() {
        // Port 1 is nobody's.
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
