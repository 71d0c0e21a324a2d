//! What an error of Redis means: whose fault it is, and whether waiting helps.
//!
//! The texts hold the place, the error's code and its mend, never an argument of a command.

use std::fmt::Display;

use redis::{ErrorKind, RedisError};
use rollbook_core::queue::QueueError;

use crate::address::Address;
use crate::pool::Maker;

/// Where an error comes from, in words, and what our keys begin with there.
pub(crate) trait Place: Display {
    fn key_prefix(&self) -> &str;
}

impl Place for Address {
    fn key_prefix(&self) -> &str {
        &self.key_prefix
    }
}

impl Place for Maker {
    fn key_prefix(&self) -> &str {
        &self.address.key_prefix
    }
}

/// Judges an error that `address` answered, or that came up on the way there.
pub(crate) fn judge(error: &RedisError, address: &impl Place) -> QueueError {
    let code = match error.detail() {
        // What a script may not do, 7.0 tells in words alone.
        Some(detail) if detail.contains("user executing the script") => "NOPERM",
        _ => error.code().unwrap_or_default(),
    };
    let told = format!("{address}: {}", words(error, code, address));
    match (error.kind(), code) {
        _ if is_distrust(error) => QueueError::Deployment(told),
        (_, "OOM") => QueueError::NoRoom(told),
        (_, "MISCONF") if error.detail().is_some_and(|detail| detail.contains("No space left")) => {
            QueueError::NoRoom(told)
        }
        (
            _,
            "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "READONLY" | "NOREPLICAS"
            | "MISCONF" | "MOVED" | "ASK" | "UNBLOCKED" | "EXECABORT" | "NOSCRIPT",
        )
        | (
            ErrorKind::Io
            | ErrorKind::ClusterConnectionNotFound
            | ErrorKind::MasterNameNotFoundBySentinel
            | ErrorKind::Client,
            _,
        ) => QueueError::Unavailable(told),
        // Redis says this, and closes, when it has no handle left for us.
        _ if told.contains("max number of clients") => QueueError::Unavailable(told),
        _ => QueueError::Deployment(told),
    }
}

/// Whether the connection that brought this error is of no more use: it is broken, or it leads to the wrong server or
/// session. A demoted master, for example, answers everything but writes, for ever.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    // A master that has lost its replicas may be the old one, on the wrong side of a failover.
    is_of_the_connection(error) || matches!(error.code(), Some("NOREPLICAS"))
}

/// Whether a new connection may not bring this error again: then the call is repeated on one.
pub(crate) fn is_of_the_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.kind() == ErrorKind::Io
        // A replica now, or a server that was restarted as one; a session that lost its login.
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING" | "UNBLOCKED" | "NOAUTH"))
}

fn words(error: &RedisError, code: &str, address: &impl Place) -> String {
    let mend = match code {
        "OOM" => "it has reached maxmemory: raise it, or let the workers drain the queue",
        "LOADING" => "it is reading its data after a start: wait",
        "MISCONF" => "it can't write its data to the disk: is the disk full?",
        "READONLY" => "it is a replica now: the next connection asks for the master",
        "CLUSTERDOWN" => {
            "a node is down and the cluster refuses all writes: start the node, or set cluster-require-full-coverage no"
        }
        "MASTERDOWN" => "it is a replica and its master is down",
        "NOREPLICAS" => "too few replicas answer it (min-replicas-to-write): start them",
        "BUSY" => "a script of someone else runs for too long",
        "NOAUTH" | "WRONGPASS" => "user or password are wrong, or missing: see the URL",
        "NOPERM" => {
            return format!(
                "{code}: the user may not do this: it needs ~{{{}:* +@read +@write +@scripting +@connection +info +time \
                 +config|get, and +role behind sentinels, +cluster in a cluster",
                address.key_prefix()
            );
        }
        "WRONGTYPE" => {
            "another program uses our keys: give Rollbook a redis_key_prefix of its own, or a database (…/DB in the URL)"
        }
        "MOVED" | "CROSSSLOT" => "this is a cluster: write redis+cluster:// in the URL",
        "" if is_distrust(error) => {
            return format!("{error}: is it our server? Name its authority's certificates in redis_ca_file");
        }
        "" if error.is_timeout() => return "no answer in time".to_owned(),
        "" if error.is_connection_refusal() => {
            return "connection refused: is it running, is the port right?".to_owned();
        }
        "" if error.kind() == ErrorKind::AuthenticationFailed => {
            return "user or password are wrong: see the URL".to_owned();
        }
        "" if error.kind() == ErrorKind::Io => {
            return format!("{error}: is it running, is the address right?");
        }
        // The crate's text would quote the answer, and answers hold bodies.
        "" if matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType) => {
            return "an answer that Rollbook's scripts never give: is it Redis, 7.0 or newer?".to_owned();
        }
        "" => return without_arguments(&error.to_string()),
        _ => return without_arguments(&format!("{code} {}", error.detail().unwrap_or_default())),
    };
    format!("{code}: {mend}")
}

/// Whether TLS ended it because of the server's certificate: in rustls's words, which the crate passes on.
fn is_distrust(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Io && error.to_string().contains("invalid peer certificate")
}

/// Redis quotes the arguments of a command that it does not know.
fn without_arguments(text: &str) -> String {
    let text = text.split(", with args").next().unwrap_or_default();
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof};

    use super::*;

    fn address() -> Address {
        Address::of(&crate::settings::RedisSettings {
            url: "redis://me:hidden@h:1".into(),
            ca_file: None,
            key_prefix: crate::KEY_PREFIX.to_owned(),
            owner: crate::Owner::default(),
            depth_max: 1,
            shards: 1,
            strict: false,
            replicas: 0,
            due_within: std::time::Duration::from_secs(600),
            lease_for: std::time::Duration::from_secs(60),
            call_timeout: std::time::Duration::from_secs(1),
        })
        .expect("a URL")
    }

    fn error_of(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an answer");
        value.extract_error().expect_err("an error")
    }

    fn answered(line: &str) -> QueueError {
        judge(&error_of(line), &address())
    }

    #[test]
    fn full_memory_is_no_room_and_what_passes_is_waited_for() {
        assert!(matches!(
            answered("OOM command not allowed when used memory > 'maxmemory'."),
            QueueError::NoRoom(_)
        ));
        for line in [
            "LOADING Redis is loading the dataset in memory",
            "MISCONF Redis is configured to save RDB snapshots",
            "READONLY You can't write against a read only replica.",
            "CLUSTERDOWN The cluster is down",
            "MASTERDOWN Link with MASTER is down",
            "NOREPLICAS Not enough good replicas to write.",
            "BUSY Redis is busy running a script.",
            "ERR max number of clients reached",
        ] {
            assert!(matches!(answered(line), QueueError::Unavailable(_)), "{line}");
        }
        let refused = RedisError::from(std::io::Error::from(ConnectionRefused));
        let told = judge(&refused, &address()).to_string();
        assert!(told.contains("Redis at h:1: connection refused: is it running"), "{told}");
    }

    #[test]
    fn errors_of_the_wrong_server_or_session_end_the_connection_and_others_do_not() {
        let table = [
            // Error, whether it ends the connection, whether the call is repeated on a new one.
            ("READONLY You can't write against a read only replica.", true, true),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true, true),
            ("LOADING Redis is loading the dataset in memory", true, true),
            (
                "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
                true,
                true,
            ),
            ("NOAUTH Authentication required.", true, true),
            ("NOREPLICAS Not enough good replicas to write.", true, false),
            ("MISCONF Redis is configured to save RDB snapshots", false, false),
            ("OOM command not allowed when used memory > 'maxmemory'.", false, false),
            ("BUSY Redis is busy running a script.", false, false),
            ("CLUSTERDOWN The cluster is down", false, false),
            ("TRYAGAIN Multiple keys request during rehashing of slot", false, false),
            ("MOVED 3999 127.0.0.1:6381", false, false),
            ("ASK 3999 127.0.0.1:6381", false, false),
            ("NOSCRIPT No matching script.", false, false),
            ("NOPERM this user has no permissions", false, false),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", false, false),
            ("ERR Error running script", false, false),
        ];
        for (line, ends, repeats) in table {
            let error = error_of(line);
            assert_eq!((ends_connection(&error), is_of_the_connection(&error)), (ends, repeats), "{line}");
        }
        for kind in [BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof] {
            assert!(is_of_the_connection(&RedisError::from(std::io::Error::from(kind))), "{kind}");
        }
    }

    #[test]
    fn what_a_person_must_mend_says_how_and_shows_no_argument_and_no_password() {
        for line in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR unknown command 'EVALSHA', with args beginning with: 'somebody@example.com'",
        ] {
            let QueueError::Deployment(told) = answered(line) else { panic!("{line}") };
            assert!(!told.contains("example.com") && !told.contains("hidden"), "{told}");
        }
    }
}
