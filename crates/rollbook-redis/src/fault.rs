//! Classification of Redis errors: the cause, and whether waiting helps.
//!
//! Error texts contain the server, the error code and its fix, never an argument of a command.

use std::fmt::Display;

use redis::{ErrorKind, RedisError};
use rollbook_core::queue::QueueError;

use crate::address::Address;
use crate::tls::UNTRUSTED;

/// Source of an error: its description, and the prefix of the queue's keys there.
pub(crate) trait Location: Display {
    fn key_prefix(&self) -> &str;

    /// Returns whether connections are encrypted.
    fn is_encrypted(&self) -> bool;
}

impl Location for Address {
    fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    fn is_encrypted(&self) -> bool {
        self.tls
    }
}

/// Classifies an error that the server returned or that the connection to it caused.
pub(crate) fn classify(error: &RedisError, address: &impl Location) -> QueueError {
    let code = match error.detail() {
        // Redis 7.0 reports a missing permission inside a script only in words.
        Some(detail) if detail.contains("user executing the script") => "NOPERM",
        _ => error.code().unwrap_or_default(),
    };
    let text = format!("{address}: {}", message(error, code, address));
    match (error.kind(), code) {
        _ if is_untrusted_certificate(error) => QueueError::Deployment(text),
        (_, "OOM") => QueueError::OutOfSpace(text),
        (_, "MISCONF") if error.detail().is_some_and(|detail| detail.contains("No space left")) => {
            QueueError::OutOfSpace(text)
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
        ) => QueueError::Unavailable(text),
        // Redis sends this text and closes the connection when it has no client slot left.
        _ if text.contains("max number of clients") => QueueError::Unavailable(text),
        _ => QueueError::Deployment(text),
    }
}

/// Returns whether the connection of this error must not be used again: it is broken, or leads to the wrong
/// server or session. A demoted master, for example, answers everything except writes, permanently.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    // A master without replicas may be the old one, isolated by a failover.
    is_connection_error(error) || matches!(error.code(), Some("NOREPLICAS"))
}

/// Returns whether a new connection may avoid this error; then the call is repeated on one.
pub(crate) fn is_connection_error(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.kind() == ErrorKind::Io
        // A replica now, or a server restarted as one; a session that lost its login.
        || matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING" | "UNBLOCKED" | "NOAUTH"))
}

fn message(error: &RedisError, code: &str, address: &impl Location) -> String {
    let fix = match code {
        "OOM" => "the server has reached maxmemory: raise it, or let the workers drain the queue",
        "LOADING" => "the server is loading its data after a start: wait",
        "MISCONF" => "the server can't write its data to the disk: check whether the disk is full",
        "READONLY" => "the server is a replica now: the next connection asks for the master",
        "CLUSTERDOWN" => {
            "a node is down and the cluster refuses all writes: start the node, or set cluster-require-full-coverage no"
        }
        "MASTERDOWN" => "the server is a replica and its master is down",
        "NOREPLICAS" => "too few replicas answer the master (min-replicas-to-write): start them",
        "BUSY" => "a script of another program runs for too long",
        "NOAUTH" | "WRONGPASS" => "user or password is wrong or missing: see the URL",
        "NOPERM" => {
            return format!(
                "{code}: the user lacks a permission: it needs ~{{{}:* +@read +@write +@scripting +@connection +info +time \
                 +config|get, and +role behind sentinels, +cluster in a cluster",
                address.key_prefix()
            );
        }
        "WRONGTYPE" => {
            "another program uses the queue's keys: set a separate redis_key_prefix for Rollbook, or a database (…/DB in the URL)"
        }
        "MOVED" | "CROSSSLOT" => "this is a cluster: write redis+cluster:// in the URL",
        "" if error.to_string().contains(UNTRUSTED) => return error.to_string(),
        "" if is_untrusted_certificate(error) => {
            return format!(
                "{error}: for a private certificate authority, set redis_ca_file to its certificates"
            );
        }
        "" if error.is_timeout() => return "no answer in time".to_owned(),
        "" if error.is_connection_refusal() => {
            return "connection refused: check that the server is running and that the port is right"
                .to_owned();
        }
        "" if error.kind() == ErrorKind::AuthenticationFailed => {
            return "user or password is wrong: see the URL".to_owned();
        }
        "" if error.kind() == ErrorKind::Io && error.is_connection_dropped() && !address.is_encrypted() => {
            return format!(
                "{error}: check that the server is running and that the address is right; if this port takes TLS only, write \
                 rediss:// in the URL"
            );
        }
        "" if error.kind() == ErrorKind::Io => {
            return format!("{error}: check that the server is running and that the address is right");
        }
        // The library's text would quote the answer, and answers contain bodies.
        "" if matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType) => {
            return "unexpected answer to a script: check that the server is Redis 7.0 or newer".to_owned();
        }
        "" => return without_arguments(&error.to_string()),
        _ => return without_arguments(&format!("{code} {}", error.detail().unwrap_or_default())),
    };
    format!("{code}: {fix}")
}

/// Returns whether TLS failed because of the server's certificate. Matches the text of `tls.rs`, and that of rustls,
/// which the library passes on for connections by sentinels.
fn is_untrusted_certificate(error: &RedisError) -> bool {
    let text = error.to_string();
    error.kind() == ErrorKind::Io && (text.contains(UNTRUSTED) || text.contains("invalid peer certificate"))
}

/// Removes arguments: Redis quotes the arguments of an unknown command.
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
            fingerprints: Vec::new(),
            key_prefix: crate::KEY_PREFIX.to_owned(),
            owner: crate::Owner::default(),
            depth_max: 1,
            shards: 1,
            strict: false,
            trusted: false,
            replicas: 0,
            due_ahead_max: std::time::Duration::from_secs(600),
            lease_for: std::time::Duration::from_secs(60),
            call_timeout: std::time::Duration::from_secs(1),
            idle_poll: std::time::Duration::from_secs(20),
        })
        .expect("a URL")
    }

    fn error_of(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("an answer");
        value.extract_error().expect_err("an error")
    }

    fn answered(line: &str) -> QueueError {
        classify(&error_of(line), &address())
    }

    #[test]
    fn full_memory_is_out_of_space_and_temporary_errors_are_unavailable() {
        assert!(matches!(
            answered("OOM command not allowed when used memory > 'maxmemory'."),
            QueueError::OutOfSpace(_)
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
        let text = classify(&refused, &address()).to_string();
        assert!(
            text.contains("Redis at h:1: connection refused: check that the server is running"),
            "{text}"
        );
    }

    #[test]
    fn errors_of_the_wrong_server_or_session_end_the_connection_and_others_do_not() {
        let table = [
            // Error, whether the connection must not be reused, whether the call is repeated on a new one.
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
            assert_eq!((ends_connection(&error), is_connection_error(&error)), (ends, repeats), "{line}");
        }
        for kind in [BrokenPipe, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof] {
            assert!(is_connection_error(&RedisError::from(std::io::Error::from(kind))), "{kind}");
        }
    }

    #[test]
    fn errors_that_need_manual_action_name_the_fix_and_no_argument_and_no_password() {
        for line in [
            "NOAUTH Authentication required.",
            "WRONGPASS invalid username-password pair or user is disabled.",
            "NOPERM this user has no permissions to run the 'evalsha' command",
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            "ERR unknown command 'EVALSHA', with args beginning with: 'somebody@example.com'",
        ] {
            let QueueError::Deployment(text) = answered(line) else { panic!("{line}") };
            assert!(!text.contains("example.com") && !text.contains("hidden"), "{text}");
        }
    }
}
