//! Declarations of all settings: name, type, form, default, meaning and conditions.
//!
//! The flags, the names in the environment, the keys of the file, the report, the sample and the checks all
//! follow from these declarations. A new setting is one declaration here and its use: `config.settings.NAME`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use rollbook_api::{JwksUrl, Tokens};
use rollbook_clerk::{ApiUrl, SecretKey};
use rollbook_core::merge::DeletedRows;
use rollbook_core::signature::SigningSecrets;
use rollbook_ops::Pages;
use rollbook_receiver::WebhookPaths;
use rollbook_session::KeySet;

use super::forward::{self, ForwardGroup};
use super::reader::{Declared, Reader};
use super::relations::Relation;
use super::relations::Scope::{Any, Postgres, Redis};
use super::setting::{
    About, Setting, address, age, choice, count, duration, file, folder, interval, number, ops_address,
    pause, plain, public_keys, secret, settings, share, size, text, url, yes_or_no,
};
use super::url::{Place, Role, ServerUrl};
use super::values::{
    Fingerprint, OpsListen, OpsTokens, api_tokens, api_url, authorized_parties, fingerprints, identifier,
    issuer, jwks_url, jwt_key, key_prefix, log_filter, ops_tokens, secret_key, signing_secrets,
    webhook_paths,
};

/// Every setting, in the order of the report.
pub(crate) static SETTINGS: LazyLock<Vec<&'static About>> = LazyLock::new(Settings::declarations);

/// Groups of settings that the file may hold several times, each under its own name: `[GROUP.NAME]`.
pub(crate) static GROUPS: &Groups = &[(forward::GROUP, ForwardGroup::declarations)];

/// Groups by name, each with its settings.
pub(crate) type Groups = [(&'static str, fn() -> Vec<&'static About>)];

/// Svix's time limit for an answer. A later answer counts as a failure.
const SVIX_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum of `enqueue_timeout`. The contract says: 503 if the queue has not answered within this time.
const ENQUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Maximum of `lease_linger`. Fewer commits are not worth a longer lag.
const LEASE_LINGER_MAX: Duration = Duration::from_secs(1);
/// Minimum of `reconcile_every`. Reconciliations without a pause would use up the budget of the API.
const RECONCILE_EVERY_MIN: Duration = Duration::from_secs(60);
/// Minimum of `reconcile_check_every`. A check is about ten requests.
const CHECK_EVERY_MIN: Duration = Duration::from_secs(10);
/// Minimum of `lease_for`. A batch must end long before another worker may take it.
const LEASE_FOR_MIN: Duration = Duration::from_secs(5);

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Maximum of most durations: no wait needs more than a day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum of retention times.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Maximum of sizes: SQLite takes no larger value than 1 GB.
const GIB: u64 = 1 << 30;
/// Maximum of most numbers: far more than one process can hold open, and a semaphore accepts it.
const MANY: u64 = 1_000_000;
/// Maximum of batches. A batch is one statement and one transaction, held in memory.
const BATCH: u64 = 10_000;
/// Maximum of connections: more than any Postgres allows by default, and far more than one process needs.
const CONNECTIONS: u64 = 1_000;
/// Example of a fingerprint.
const FINGERPRINT: &str =
    "9F:86:D0:81:88:4C:7D:65:9A:2F:EA:A0:C5:5A:D0:15:A3:BF:4F:1B:2B:0B:82:2C:D1:5D:6C:15:B0:F0:0A:08";
/// Limits of the pause between an idle worker's polls. A longer read may meet the idle limit of a network.
const REDIS_IDLE_POLL_MIN: Duration = Duration::from_secs(1);
const REDIS_IDLE_POLL_MAX: Duration = Duration::from_secs(60);

/// Behaviour while the queue could lose what it acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DurabilityMode {
    /// All work is refused.
    Strict,
    /// Work continues, and the weakness is reported.
    Degraded,
    /// Work continues: the operator vouches that the queue's server keeps what it acknowledges.
    Trusted,
}

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text for people.
    Pretty,
    /// One JSON object per line.
    Json,
}

settings! {
    /// Values of all settings.
    Settings {
        ("What and where", "What a deployment decides.") => {
            clerk_webhook_signing_secret: Option<SigningSecrets> =
                secret(signing_secrets).optional("/run/secrets/…").shared().live(),
                "one or more whsec_…, separated by commas or spaces; all are tried, so that a secret can be rotated";
            data_dir: PathBuf = folder().or("./rollbook-data"),
                "folder of queue.db and store.db, the embedded default";
            listen: SocketAddr = address().or("127.0.0.1:8080"),
                "address for deliveries; without it 0.0.0.0:PORT where PORT is set";
            port: Option<u16> = number(65_535).optional("8080").shared(),
                "port for deliveries, on every interface, where listen is not set: hosting platforms set PORT";
            webhook_path: WebhookPaths = text(webhook_paths).or("/webhooks/clerk"),
                "path of deliveries, or several, separated by commas; a slash at the end makes no difference";
            ops_listen: OpsListen = ops_address().or("127.0.0.1:9464"),
                "address of health and metrics, or same: they are answered at listen, and only health without a token",
                must(Any, "another port than that of listen, or same",
                    |s, _| OpsListen::Own(s.listen) != s.ops_listen || s.listen.port() == 0,
                    "is the same address as listen; health and metrics must not be public"),
                must(Any, "an address, or ops_tokens set",
                    |s, _| s.ops_listen != OpsListen::Same || s.ops_tokens.is_some(),
                    "is same without ops_tokens: anybody could read the metrics"),
                must(Any, "an address, or no webhook_path of its pages",
                    |s, _| s.ops_listen != OpsListen::Same || !s.webhook_path.iter().any(Pages::has),
                    "is same, and a webhook_path is /livez, /readyz, /metrics or /about");
            ops_tokens: Option<OpsTokens> = secret(ops_tokens).optional("/run/secrets/…"),
                "one or more bearer tokens of 32 to 512 characters, for metrics and details of health; without it a port of its own asks for none";
            queue_url: Option<Place> = url(Role::Queue).optional("rediss://redis.internal:6379"),
                "URL of the queue: redis://…, rediss://… or sqlite://PATH; without it redis_url, else embedded",
                must(Any, "another file than that of database_url",
                    |_, p| p.queue.file().is_none() || p.queue != p.store,
                    "is the same file as database_url");
            redis_url: Option<Place> = url(Role::Queue).optional("redis://127.0.0.1:6379").shared(),
                "URL of the queue if queue_url is not set";
            database_url: Option<Place> =
                url(Role::Store).optional("postgres://rollbook@127.0.0.1:5432/rollbook").shared(),
                "URL of the store: postgres://… or sqlite://PATH; without it embedded";
            durability: DurabilityMode =
                choice(&[
                    ("strict", DurabilityMode::Strict), ("degraded", DurabilityMode::Degraded),
                    ("trusted", DurabilityMode::Trusted),
                ]).or("degraded"),
                "behaviour while the queue could lose acknowledged deliveries: strict refuses all work, degraded reports it; trusted: \
                 you vouch for what a Redis does not show";
            schema: String = text(identifier).or("clerk"),
                "Postgres schema of the tables";
            deleted_rows: DeletedRows =
                choice(&[("keep", DeletedRows::Keep), ("erase", DeletedRows::Erase)]).or("keep"),
                "content of a deleted row: keep it, or erase it at once and permanently";
            deleted_rows_kept_for: Option<Duration> = age(CENTURY).or("0s"),
                "time after which a deleted row loses its content; 0s means never";
            ledger: bool = yes_or_no().or("yes"),
                "whether the table deliveries records the outcome of each delivery";
            ledger_kept_for: Option<Duration> = age(CENTURY).or("7d"),
                "time for which the table deliveries keeps an entry; 0s means without limit";
            changes: bool = yes_or_no().or("yes"),
                "whether the table changes records each real change of a row; rollbook migrate puts another value into effect";
            changes_kept_for: Option<Duration> = age(CENTURY).or("7d"),
                "time for which the table changes keeps a line; 0s means without limit";
            clerk_instance_id: Option<String> = plain().optional("ins_…").shared(),
                "ID of the Clerk instance (ins_…): events of another become dead letters, and on Redis it identifies \
                 the owner of the queue; set it on receivers and workers";
        }
        ("Clerk's API", "Backfill, reconciliation and resync. They need a secret key.") => {
            clerk_secret_key: Option<SecretKey> = secret(secret_key).optional("/run/secrets/…").shared(),
                "secret key of the Clerk instance (sk_live_… or sk_test_…); with it a worker reconciles the rows with Clerk's API";
            clerk_api_url: ApiUrl = text(api_url).or("https://api.clerk.com/v1").shared(),
                "URL of Clerk's Backend API, or of a proxy in front of it";
            reconcile_every: Option<Duration> = interval(CENTURY).or("24h"),
                "time between two reconciliations of a worker, up to a tenth more; off: workers start none, and still check",
                must(Any, "at least 1m, or off",
                    |s, _| s.reconcile_every.is_none_or(|every| every >= RECONCILE_EVERY_MIN),
                    "would read everything at Clerk without a pause");
            reconcile_check_every: Option<Duration> = interval(DAY).or("5m"),
                "time between two checks of a worker between reconciliations: numbers of objects, and recently changed \
                 users; off: none",
                must(Any, "at least 10s, or off",
                    |s, _| s.reconcile_check_every.is_none_or(|every| every >= CHECK_EVERY_MIN),
                    "would use up the budget of Clerk's API");
            api_budget: f64 = share().or("0.5"),
                "share of Clerk's rate limit that a process may use; your application shares the limit";
        }
        ("API", "The change feed, session tokens and rows over HTTP, for your own applications: see [API.md](API.md). A receiver alone has no API.") => {
            api_listen: Option<SocketAddr> = address().optional("127.0.0.1:8090"),
                "address of the API for your applications, on serve and work; without it there is none",
                must(Any, "left out, or api_tokens set",
                    |s, _| s.api_listen.is_none() || s.api_tokens.is_some(),
                    "is set without api_tokens: the API has no access without a token"),
                must(Any, "another port than those of listen and ops_listen",
                    |s, _| s.api_listen.is_none_or(|api| api.port() == 0 || (api != s.listen && OpsListen::Own(api) != s.ops_listen)),
                    "is the same address as listen or ops_listen");
            api_tokens: Option<Tokens> = secret(api_tokens).optional("/run/secrets/…").live(),
                "one or more bearer tokens of 32 to 512 characters, separated by commas or white space; all are valid, so that a token can be rotated";
        }
        ("Session tokens", "Which of Clerk's session tokens the API accepts: see [API.md](API.md#session-tokens).") => {
            clerk_issuer: Option<String> = text(issuer).optional("https://clerk.example.com").shared(),
                "issuer of session tokens: the instance's Frontend API URL; without it the API accepts no session token";
            clerk_jwt_key: Option<KeySet> = public_keys(jwt_key).optional("/run/secrets/…").shared().live(),
                "public key of the instance as PEM; without it the keys are fetched from the issuer every 5 minutes",
                must(Any, "left out, or clerk_issuer set",
                    |s, _| s.clerk_jwt_key.is_none() || s.clerk_issuer.is_some(),
                    "is set without clerk_issuer: the issuer of a token is always checked");
            clerk_jwks_url: Option<JwksUrl> =
                text(jwks_url).optional("https://clerk.example.com/.well-known/jwks.json").shared(),
                "URL of the keys, if it is not CLERK_ISSUER/.well-known/jwks.json",
                must(Any, "left out, or clerk_issuer set and clerk_jwt_key not",
                    |s, _| s.clerk_jwks_url.is_none() || (s.clerk_issuer.is_some() && s.clerk_jwt_key.is_none()),
                    "has no effect with clerk_jwt_key, and needs clerk_issuer");
            clerk_authorized_parties: Option<Vec<String>> =
                text(authorized_parties).optional("https://app.example.com").shared(),
                "origins of the applications that accepted session tokens are issued to (azp), separated by commas; without it any",
                must(Any, "left out, or clerk_issuer set",
                    |s, _| s.clerk_authorized_parties.is_none() || s.clerk_issuer.is_some(),
                    "is set without clerk_issuer: no session token is accepted");
        }
        ("Log", "One line for each fact, to standard error.") => {
            log: String = text(log_filter).or("info"),
                "log filter: a level, or target=level, separated by commas";
            log_format: Option<LogFormat> =
                choice(&[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)]).optional("json"),
                "log format: pretty or json; without it pretty on a terminal, else json";
        }
        ("Receiver", "Limits on requests, from Svix and from strangers.") => {
            tolerance: Duration = duration(DAY).or("300s"),
                "maximum difference between a delivery's timestamp and this machine's clock, in both directions";
            body_max: usize = size(GIB).or("1MiB"),
                "maximum size of a delivery's body",
                must(Any, "at most buffered_max", |s, _| s.body_max <= s.buffered_max,
                    "is more than buffered_max, so that a body of this size would never be taken");
            buffered_max: usize = size(GIB).or("64MiB"),
                "maximum memory for bodies over all connections; a quarter is reserved for bodies up to 32 KiB";
            header_timeout: Duration = duration(DAY).or("10s"),
                "maximum time for a request's head, from its first byte; for the first request, from the connection's start";
            idle_timeout: Duration = duration(DAY).or("75s"),
                "maximum time between an answer and the next request; longer than the keep-alive of the proxy in front (often 60s)";
            connection_age_max: Duration = duration(DAY).or("10m"),
                "maximum age of a connection; its next answer after that closes it";
            body_timeout: Duration = duration(DAY).or("8s"),
                "maximum time for a request's body",
                must(Any, "at most request_timeout", |s, _| s.body_timeout <= s.request_timeout,
                    "is longer than request_timeout, which would end it");
            body_rate_min: usize = size(GIB).or("1KiB"),
                "minimum rate of a request's body, per second, measured every 3s; a slower one is answered 408";
            request_timeout: Duration = duration(DAY).or("12s"),
                "maximum time for the whole request; Svix gives up after 15s",
                must(Any, "less than 15s", |s, _| s.request_timeout < SVIX_TIMEOUT,
                    "Svix gives up after 15s");
            enqueue_timeout: Duration = duration(DAY).or("8s"),
                "maximum time for the queue to store a delivery; then 503",
                must(Any, "at most 10s", |s, _| s.enqueue_timeout <= ENQUEUE_TIMEOUT_MAX,
                    "the contract promises an answer within 10s"),
                must(Any, "at most request_timeout", |s, _| s.enqueue_timeout <= s.request_timeout,
                    "is longer than request_timeout, which would end it");
            connections_max: usize = number(MANY).or("4096"),
                "maximum open connections; when full, the oldest without a genuine delivery is closed for a new client";
            in_flight_max: usize = number(MANY).or("1024"),
                "maximum deliveries that wait for the queue at once; more are answered 503";
            enqueue_batch_max: usize = number(BATCH).or("256"),
                "maximum deliveries in one commit of the queue";
            enqueue_bytes_max: usize = size(GIB).or("4MiB"),
                "maximum bytes of bodies in one commit of the queue; a larger body is stored alone";
        }
        ("Queue", "The last five are for Redis only.") => {
            queue_depth_max: u64 = number(1_000_000_000).or("1000000"),
                "maximum messages in the queue; more are answered 503";
            queue_shards: u16 = number(64).or("1"),
                "number of streams of the queue on Redis; more than 1 only for a Redis Cluster";
            redis_key_prefix: String = text(key_prefix).or("rollbook"),
                "prefix of all keys in Redis, {PREFIX:SHARD}:…: 1 to 64 letters, digits, _, - and .; deployments that \
                 share a server need one each";
            redis_timeout: Duration = duration(DAY).or("5s"),
                "maximum time for one answer of Redis",
                must(Redis, "less than enqueue_timeout", |s, _| s.redis_timeout < s.enqueue_timeout,
                    "is not shorter than enqueue_timeout, so that a call to a Redis that hangs would outlast \
                     the 503 and keep the next delivery waiting");
            redis_idle_poll: Duration = duration(REDIS_IDLE_POLL_MAX).or("20s"),
                "pause between an idle worker's polls, which find what a lost notification hides; also the age of the figures of an \
                 empty queue in /metrics and /readyz",
                must(Redis, "at least 1s", |s, _| s.redis_idle_poll >= REDIS_IDLE_POLL_MIN,
                    "would ask Redis all the time");
            redis_replicas: u32 = count(16).or("0"),
                "number of Redis replicas that must have a delivery before its 200";
            redis_ca_file: Option<PathBuf> = file().optional("/etc/ssl/private-ca.pem"),
                "certificate of a private CA for rediss://, as PEM",
                must(Redis, "left out, or queue_url a rediss://",
                    |s, p| s.redis_ca_file.is_none() || p.queue.server().is_some_and(ServerUrl::is_redis_tls),
                    "is set, but the connection to Redis is not encrypted");
            redis_fingerprint: Option<Vec<Fingerprint>> = text(fingerprints).optional(FINGERPRINT),
                "SHA-256 fingerprint of the certificate of a rediss:// server, or several, separated by commas: trusted instead of any \
                 authority",
                must(Redis, "left out, or queue_url a rediss://",
                    |s, p| s.redis_fingerprint.is_none() || p.queue.server().is_some_and(ServerUrl::is_redis_tls),
                    "is set, but the connection to Redis is not encrypted"),
                must(Redis, "left out where redis_ca_file is set",
                    |s, _| s.redis_fingerprint.is_none() || s.redis_ca_file.is_none(),
                    "and redis_ca_file are both set: one certificate, or all of an authority");
        }
        ("Worker", "Leasing and applying of messages.") => {
            lanes: usize = number(256).or("3"),
                "batches that a worker processes at once";
            lease_batch_max: usize = number(BATCH).or("100"),
                "maximum messages per lease request and per transaction of the store";
            lease_bytes_max: usize = size(GIB).or("16MiB"),
                "maximum bytes of bodies that a worker has leased, divided among its lanes; a larger message is leased alone";
            forward_bytes_max: usize = size(GIB).or("32MiB"),
                "maximum bytes of rows in requests of all forwards with expand; a larger row is sent alone";
            lease_for: Duration = duration(DAY).or("60s"),
                "duration of a lease; after it another worker may process the message",
                must(Any, "at least 5s", |s, _| s.lease_for >= LEASE_FOR_MIN,
                    "is so short that a slow batch would be processed twice");
            lease_linger: Duration = duration(DAY).or("8ms"),
                "time for which a worker collects messages after a batch that was not full",
                must(Any, "at most 1s", |s, _| s.lease_linger <= LEASE_LINGER_MAX,
                    "would delay every row");
            lease_wait: Duration = duration(DAY).or("1s"),
                "time for which an idle worker waits at the queue in one request",
                must(Any, "less than drain_timeout", |s, _| s.lease_wait < s.drain_timeout,
                    "is not shorter than drain_timeout, so that an idle worker could not stop in time");
        }
        ("Postgres", "They have no effect if the store is a file.") => {
            database_connections_max: u32 = number(CONNECTIONS).or("8"),
                "maximum connections to Postgres; at least one more than lanes",
                must(Postgres, "at least lanes + 1", |s, _| s.lanes < s.database_connections_max as usize,
                    "is not more than lanes: each lane holds a connection, and the health check needs one");
            database_connect_timeout: Duration = duration(DAY).or("5s"),
                "maximum time for a connection to Postgres",
                must(Postgres, "less than what statement_timeout leaves of lease_for",
                    |s, _| s.database_connect_timeout + s.statement_timeout < s.lease_for,
                    "and statement_timeout together are not shorter than lease_for, which a batch may need \
                     both of");
            statement_timeout: Duration = duration(DAY).or("20s"),
                "maximum time for one statement of Postgres",
                must(Postgres, "at most half of lease_for", |s, _| s.statement_timeout <= s.lease_for / 2,
                    "is more than half of lease_for: a statement that hangs would use up the lease, and \
                     another worker would send the same to a database in trouble");
            pgbouncer: bool = yes_or_no().or("no"),
                "whether a PgBouncer in transaction mode is in front of Postgres";
        }
        ("Failures", "The wait before an attempt is a random time up to the one given.") => {
            attempts_max: u32 = number(1_000).or("12"),
                "attempts before a message becomes a dead letter; one that kills its workers can kill 2 more";
            backoff: Duration = duration(DAY).or("2s"),
                "maximum wait after a first failed attempt; it doubles",
                must(Any, "at most backoff_max", |s, _| s.backoff <= s.backoff_max,
                    "is longer than backoff_max");
            backoff_max: Duration = duration(DAY).or("10m"),
                "maximum wait between two attempts";
            gate_backoff: Duration = duration(DAY).or("200ms"),
                "first wait of a worker while the store is unreachable; it doubles",
                must(Any, "at most gate_backoff_max", |s, _| s.gate_backoff <= s.gate_backoff_max,
                    "is longer than gate_backoff_max");
            gate_backoff_max: Duration = duration(DAY).or("10s"),
                "maximum wait of a worker while the store is unreachable";
        }
        ("Stopping", "After SIGTERM or SIGINT. A second signal ends the process at once.") => {
            stop_delay: Duration = pause(HOUR).or("0s"),
                "time for which deliveries are still accepted after the signal, while /readyz answers 503";
            drain_timeout: Duration = duration(DAY).or("25s"),
                "maximum time for work in progress to end after the signal and stop_delay";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_contract() {
        let names = |about: &About| (about.environment(), about.flag());
        let listen = names(&Settings::listen().about);
        assert_eq!(listen, ("ROLLBOOK_LISTEN".into(), Some("--listen".into())));
        let ops_listen = names(&Settings::ops_listen().about);
        assert_eq!(ops_listen, ("ROLLBOOK_OPS_LISTEN".into(), Some("--ops-listen".into())));
        let database_url = names(&Settings::database_url().about);
        assert_eq!(database_url, ("DATABASE_URL".into(), Some("--database-url".into())));
        let secret = names(&Settings::clerk_webhook_signing_secret().about);
        assert_eq!(secret, ("CLERK_WEBHOOK_SIGNING_SECRET".into(), None));
    }

    #[test]
    fn no_key_is_the_name_of_a_file_with_another_ones_value() {
        let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
        let holds_another = |key: &&str| key.strip_suffix("_file").is_some_and(|other| keys.contains(&other));
        assert!(!keys.iter().any(holds_another));
    }

    #[test]
    fn every_setting_has_a_default_or_is_optional_with_an_example() {
        assert!(SETTINGS.iter().all(|setting| setting.default.is_some() == setting.example.is_empty()));
    }
}
