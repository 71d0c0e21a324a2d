//! Every setting, declared once: its name, its form, its default, what it means.
//!
//! The flags, the names in the environment, the keys of the file, the report, the sample and the
//! checks all come from this table. A new setting is one entry here and one line where
//! [`Config`](super::Config) reads it.

use std::time::Duration;

/// One setting.
pub(crate) struct Setting {
    /// Its key in the file, from which the other names are made.
    pub(crate) key: &'static str,
    /// What it looks like.
    pub(crate) kind: Kind,
    /// What it is when nobody says. `None`: not set.
    pub(crate) default: Option<&'static str>,
    /// What it means, in one line.
    pub(crate) help: &'static str,
    /// Whether the help of every command shows its flag. All are flags, and `rollbook config` lists all.
    pub(crate) everyday: bool,
}

/// What the value of a setting looks like.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// Never shown, never a flag; may be read from a file.
    Secret,
    /// Where a system is. May hold a password: shown without it, may be read from a file.
    Url,
    /// A path.
    Path,
    /// `HOST:PORT`.
    Address,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A span of time, at most this long.
    Duration(Duration),
    /// A span of time, at most this long, or none at all.
    Pause(Duration),
    /// A number of bytes, at most this many.
    Size(u64),
    /// A whole number from one, at most this.
    Number(u64),
    /// A whole number from zero, at most this.
    Count(u64),
}

/// Names that Clerk's and others' programs use too: they keep them, without our prefix.
const UNPREFIXED: [&str; 6] = [
    "clerk_webhook_signing_secret",
    "clerk_instance_id",
    "clerk_secret_key",
    "clerk_api_url",
    "database_url",
    "redis_url",
];

impl Setting {
    /// Its name in the environment.
    pub(crate) fn environment(&self) -> String {
        let name = self.key.to_ascii_uppercase();
        if UNPREFIXED.contains(&self.key) { name } else { format!("ROLLBOOK_{name}") }
    }

    /// Its flag, without the dashes. A secret has none: every user of a machine reads the process list.
    pub(crate) fn flag(&self) -> Option<String> {
        (self.kind != Kind::Secret).then(|| self.key.replace('_', "-"))
    }

    /// Whether its value may be the content of a file (`X_FILE`).
    pub(crate) fn may_be_in_file(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::Url)
    }
}

/// The setting with this key.
pub(crate) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

const KIB: u64 = 1024;
const GIB: u64 = KIB * KIB * KIB;

/// No wait of ours has a use for more than a day.
const TIME: Kind = Kind::Duration(Duration::from_secs(24 * 60 * 60));
/// SQLite takes no larger value than 1 GB, and memory is finite.
const BYTES: Kind = Kind::Size(GIB);
/// Far more than one process can hold open, and still a number that a semaphore takes.
const MANY: Kind = Kind::Number(1_000_000);
/// A batch is one statement and one transaction, held in memory.
const BATCH: Kind = Kind::Number(10_000);
/// More than any Postgres allows by default, and far more than one process has a use for.
const CONNECTIONS: Kind = Kind::Number(1_000);
/// Nobody has a use for more than a century.
const AGE: Kind = Kind::Pause(Duration::from_secs(100 * 365 * 24 * 60 * 60));
const YES_OR_NO: Kind = Kind::Choice(&["yes", "no"]);

const fn everyday(
    key: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    help: &'static str,
) -> Setting {
    Setting { key, kind, default, help, everyday: true }
}

const fn limit(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default: Some(default), help, everyday: false }
}

const fn other(key: &'static str, kind: Kind, default: Option<&'static str>, help: &'static str) -> Setting {
    Setting { key, kind, default, help, everyday: false }
}

/// Every setting, in the order of the report.
pub(crate) static SETTINGS: &[Setting] = &[
    everyday(
        "clerk_webhook_signing_secret",
        Kind::Secret,
        None,
        "one or more whsec_…, separated by commas or spaces; all are tried, so that a secret can be rotated",
    ),
    everyday(
        "data_dir",
        Kind::Path,
        Some("./rollbook-data"),
        "where the embedded default keeps queue.db and store.db",
    ),
    everyday("listen", Kind::Address, Some("127.0.0.1:8080"), "where deliveries come in"),
    everyday("ops_listen", Kind::Address, Some("127.0.0.1:9464"), "where health and metrics are"),
    everyday(
        "queue_url",
        Kind::Url,
        None,
        "the queue: redis://…, rediss://… or sqlite://PATH; else redis_url, else embedded",
    ),
    other("redis_url", Kind::Url, None, "the queue, where queue_url is not set"),
    everyday("database_url", Kind::Url, None, "the store: postgres://… or sqlite://PATH; else embedded"),
    everyday(
        "durability",
        Kind::Choice(&["strict", "degraded"]),
        Some("degraded"),
        "while the queue could lose what it acknowledged: strict refuses all work, degraded says so",
    ),
    other("schema", Kind::Text, Some("clerk"), "the Postgres schema of the mirror"),
    everyday(
        "deleted_rows",
        Kind::Choice(&["keep", "erase"]),
        Some("keep"),
        "what a deleted row was like: keep it beside deleted_at, or erase it at once and for good",
    ),
    limit(
        "deleted_rows_kept_for",
        AGE,
        "0s",
        "how long a deleted row is kept before it is erased; 0s for good",
    ),
    other(
        "ledger",
        YES_OR_NO,
        Some("yes"),
        "whether the table deliveries tells what became of each delivery",
    ),
    limit("ledger_kept_for", AGE, "7d", "how long the ledger keeps a line; 0s for good"),
    other(
        "clerk_instance_id",
        Kind::Text,
        None,
        "ID of the Clerk instance (ins_…): events of another become dead letters, and on Redis it identifies the owner of the queue; set it on receivers and workers",
    ),
    other("clerk_secret_key", Kind::Secret, None, "Clerk's Backend API, for reconcile and resync"),
    other("clerk_api_url", Kind::Url, Some("https://api.clerk.com/v1"), "where Clerk's Backend API is"),
    everyday(
        "log",
        Kind::Text,
        Some("info"),
        "what is logged: a level, or target=level, separated by commas",
    ),
    everyday(
        "log_format",
        Kind::Choice(&["pretty", "json"]),
        None,
        "how: pretty or json; pretty on a terminal, else json",
    ),
    limit("tolerance", TIME, "300s", "how far a delivery's timestamp may be from our clock, either way"),
    limit("body_max", BYTES, "1MiB", "the largest body of a delivery"),
    limit(
        "buffered_max",
        BYTES,
        "64MiB",
        "bodies in memory at once, over all connections; a quarter is for bodies up to 32 KiB alone",
    ),
    limit(
        "header_timeout",
        TIME,
        "10s",
        "for a request's head, from its first byte; for the first request, from the connection's start",
    ),
    limit(
        "idle_timeout",
        TIME,
        "75s",
        "between an answer and the next request; longer than the keep-alive of the proxy in front (often 60s)",
    ),
    limit(
        "connection_age_max",
        TIME,
        "10m",
        "maximum age of a connection; its next answer after that closes it",
    ),
    limit("body_timeout", TIME, "8s", "for a request's body"),
    limit(
        "body_rate_min",
        BYTES,
        "1KiB",
        "minimum rate of a request's body, per second, measured every 3s; a slower one is answered 408",
    ),
    limit("request_timeout", TIME, "12s", "for the whole request; Svix gives up after 15s"),
    limit("enqueue_timeout", TIME, "8s", "for the queue to take a delivery; then 503"),
    limit(
        "connections_max",
        MANY,
        "4096",
        "open connections; when full, the oldest without a genuine delivery is closed for a new client",
    ),
    limit("in_flight_max", MANY, "1024", "deliveries that wait for the queue at once; more are answered 503"),
    limit("enqueue_batch_max", BATCH, "256", "deliveries in one commit of the queue"),
    limit(
        "enqueue_bytes_max",
        BYTES,
        "4MiB",
        "bytes of bodies in one commit of the queue; a larger body goes alone",
    ),
    limit(
        "queue_depth_max",
        Kind::Number(1_000_000_000),
        "1000000",
        "messages that may wait; more are answered 503",
    ),
    limit(
        "queue_shards",
        Kind::Number(64),
        "1",
        "streams of the queue on Redis; more only for a Redis Cluster",
    ),
    other(
        "redis_key_prefix",
        Kind::Text,
        Some("rollbook"),
        "prefix of all keys in Redis, {PREFIX:SHARD}:…: 1 to 64 letters, digits, _, - and .; deployments that share a server need one each",
    ),
    limit("redis_timeout", TIME, "5s", "for one answer of Redis"),
    limit(
        "redis_replicas",
        Kind::Count(16),
        "0",
        "replicas of Redis that must have a delivery before its 200",
    ),
    other("redis_ca_file", Kind::Path, None, "the certificate of a private CA for rediss://, as PEM"),
    limit("lanes", Kind::Number(256), "3", "batches that a worker has in hand at once"),
    limit("lease_batch_max", BATCH, "100", "messages in one lease and one transaction of the store"),
    limit(
        "lease_bytes_max",
        BYTES,
        "16MiB",
        "bytes of bodies that a worker has leased, divided among its lanes; a larger message is leased alone",
    ),
    limit("lease_for", TIME, "60s", "how long a message stays with a worker before another may have it"),
    limit(
        "lease_linger",
        TIME,
        "8ms",
        "how long a worker lets messages collect after a batch that was not full",
    ),
    limit("lease_wait", TIME, "1s", "how long an idle worker waits at the queue before it asks again"),
    limit(
        "database_connections_max",
        CONNECTIONS,
        "8",
        "connections to Postgres; one more than lanes, or more",
    ),
    limit("database_connect_timeout", TIME, "5s", "for a connection to Postgres"),
    limit("statement_timeout", TIME, "20s", "for one statement of Postgres"),
    limit("pgbouncer", YES_OR_NO, "no", "whether a PgBouncer in transaction mode stands before Postgres"),
    limit(
        "attempts_max",
        Kind::Number(1_000),
        "12",
        "attempts before a message becomes a dead letter; one that kills its workers can kill 2 more",
    ),
    limit("backoff", TIME, "2s", "the longest wait after a first failed attempt; it doubles"),
    limit("backoff_max", TIME, "10m", "the longest wait between two attempts"),
    limit("gate_backoff", TIME, "200ms", "the first wait of a worker while the store is away; it doubles"),
    limit("gate_backoff_max", TIME, "10s", "the longest wait of a worker while the store is away"),
    limit(
        "stop_delay",
        Kind::Pause(Duration::from_secs(60 * 60)),
        "0s",
        "how long deliveries are still taken once the process is told to stop, while /readyz says 503",
    ),
    limit(
        "drain_timeout",
        TIME,
        "25s",
        "for everything in hand to end once the process is told to stop, and stop_delay is over",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_contract() {
        let names = |key| {
            let setting = find(key).expect("a setting");
            (setting.environment(), setting.flag())
        };
        assert_eq!(names("listen"), ("ROLLBOOK_LISTEN".into(), Some("listen".into())));
        assert_eq!(names("ops_listen"), ("ROLLBOOK_OPS_LISTEN".into(), Some("ops-listen".into())));
        assert_eq!(names("database_url"), ("DATABASE_URL".into(), Some("database-url".into())));
        assert_eq!(names("clerk_webhook_signing_secret"), ("CLERK_WEBHOOK_SIGNING_SECRET".into(), None));
    }

    #[test]
    fn no_key_is_there_twice_and_none_is_the_name_of_a_file_with_another_ones_value() {
        let mut keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        let holds_another = |key: &&str| key.strip_suffix("_file").is_some_and(|other| find(other).is_some());
        assert!(!keys.iter().any(holds_another));
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), SETTINGS.len());
    }
}
