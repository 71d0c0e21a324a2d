//! The configuration: flags before environment before file before default, read and judged as a whole.
//!
//! Constraints:
//!
//! * Everything that is wrong is found before a port is bound, and told at once, each with the
//!   setting's name, where its value came from, what is wrong and the mend ([`Problems`]).
//! * No message, report or `Debug` holds the value of a secret.
//! * `environment.rs` alone reads the environment, `settings.rs` alone knows the names.

pub(crate) mod environment;
mod file;
mod problem;
mod reader;
pub(crate) mod reference;
mod relations;
pub(crate) mod report;
mod settings;
mod source;
mod url;
pub(crate) mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollbook_core::merge::DeletedRows;
use rollbook_core::retry::RetryPolicy;
use rollbook_core::signature::SigningSecrets;
use rollbook_core::store::Keeping;
use rollbook_worker::UpkeepSettings;

pub(crate) use self::environment::Environment;
pub(crate) use self::problem::{Origin, Problem, Problems};
use self::reader::Reader;
pub(crate) use self::settings::{Kind, SETTINGS, Setting, find};
pub(crate) use self::source::{Given, Values};
pub(crate) use self::url::{Place, Role, ServerUrl, has_password, place};

/// How much of the time to drain the receiver has; what is left is for the worker to hand leases back.
const RECEIVER_DRAIN_PERCENT: u32 = 80;

/// Every setting, read and judged.
pub(crate) struct Config {
    /// Where the embedded default keeps its files.
    pub(crate) data_dir: PathBuf,
    /// Where the queue is.
    pub(crate) queue: Place,
    /// Where the store is.
    pub(crate) store: Place,
    /// Where deliveries come in.
    pub(crate) listen: SocketAddr,
    /// Where health and metrics are.
    pub(crate) ops_listen: SocketAddr,
    /// What is logged and how.
    pub(crate) log: Log,
    /// The limits of the receiver.
    pub(crate) receiver: rollbook_receiver::Settings,
    /// The limits of the worker.
    pub(crate) worker: rollbook_worker::Settings,
    /// What the store keeps.
    pub(crate) keeping: Keeping,
    /// How many messages may wait.
    pub(crate) queue_depth_max: u64,
    /// What holds where the queue is on Redis.
    pub(crate) redis: Redis,
    /// What holds where the store is on Postgres.
    pub(crate) postgres: Postgres,
    /// How long everything may take to stop.
    pub(crate) drain_timeout: Duration,
    signing_secrets: Option<SigningSecrets>,
    values: Values,
}

/// What holds where the queue is on Redis.
pub(crate) struct Redis {
    /// What the names of all keys begin with.
    pub(crate) key_prefix: String,
    /// Over how many streams the queue is spread.
    pub(crate) shards: usize,
    /// Whether nothing runs while an acknowledged delivery could be lost.
    pub(crate) strict: bool,
    /// How many replicas must have a delivery before its 200.
    pub(crate) replicas: usize,
    /// For one answer.
    pub(crate) timeout: Duration,
    /// The certificate of a private CA.
    pub(crate) ca_file: Option<PathBuf>,
}

/// What holds where the store is on Postgres.
pub(crate) struct Postgres {
    /// The schema of the mirror.
    pub(crate) schema: String,
    /// Whether a pool in transaction mode stands before it.
    pub(crate) pgbouncer: bool,
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// For one statement.
    pub(crate) statement_timeout: Duration,
    /// For a connection.
    pub(crate) connect_timeout: Duration,
}

/// What is logged and how.
#[derive(Clone)]
pub(crate) struct Log {
    /// A filter that parses.
    pub(crate) filter: String,
    /// `pretty` or `json`; with neither, the one that suits where it goes.
    pub(crate) format: Option<&'static str>,
}

/// A file that values came from.
pub(crate) struct FileRead {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Whether a secret or a URL with a password is in it.
    pub(crate) is_secret: bool,
}

/// Where values may come from.
pub(crate) struct Sources<'a> {
    /// The values of flags.
    pub(crate) flags: &'a [(&'static Setting, String)],
    /// The environment.
    pub(crate) environment: Environment,
    /// The file.
    pub(crate) file: FileSource<'a>,
}

/// Which file is read.
pub(crate) enum FileSource<'a> {
    /// This one, which must be there.
    Named(&'a Path),
    /// `rollbook.toml`, if it is there.
    Default,
    /// None at all.
    None,
}

impl Config {
    /// Reads every source and judges the whole.
    pub(crate) fn load(sources: &Sources<'_>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let mut values = Values::default();
        for setting in SETTINGS {
            if let Some(text) = setting.default {
                let given = Given { text: text.to_owned(), origin: Origin::Default };
                values.give(setting, false, given, &mut problems);
            }
        }
        values.override_by(match sources.file {
            FileSource::Named(path) => file::values(Some(path), &mut problems),
            FileSource::Default => file::values(None, &mut problems),
            FileSource::None => Values::default(),
        });
        values.override_by(sources.environment.values(&mut problems));
        let mut flags = Values::default();
        for (setting, text) in sources.flags {
            let origin = Origin::Flag(format!("--{}", setting.flag().unwrap_or_default()));
            flags.give(setting, false, Given { text: text.clone(), origin }, &mut problems);
        }
        values.override_by(flags);
        let config = Self::read(values, &mut problems);
        Problems(problems).check()?;
        relations::check(&config).check()?;
        Ok(config)
    }

    fn read(values: Values, problems: &mut Vec<Problem>) -> Self {
        let mut read = Reader::new(&values, problems);
        let data_dir = read.path("data_dir");
        let embedded = |file: &str| Place::Sqlite(data_dir.join(file));
        let queue = read.place("queue_url", Role::Queue);
        let queue = queue.or_else(|| read.place("redis_url", Role::Queue));
        let store = read.place("database_url", Role::Store);
        let drain_timeout = read.duration("drain_timeout");
        Self {
            queue: queue.unwrap_or_else(|| embedded("queue.db")),
            store: store.unwrap_or_else(|| embedded("store.db")),
            listen: read.address("listen"),
            ops_listen: read.address("ops_listen"),
            log: Log { filter: read.log_filter("log"), format: read.choice("log_format") },
            receiver: receiver(&mut read, drain_timeout),
            worker: worker(&mut read),
            keeping: keeping(&mut read),
            queue_depth_max: read.number("queue_depth_max") as u64,
            redis: redis(&mut read),
            postgres: postgres(&mut read),
            drain_timeout,
            signing_secrets: read.signing_secrets("clerk_webhook_signing_secret"),
            data_dir,
            values,
        }
    }

    /// The signing secrets.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn signing_secrets(&self) -> Result<SigningSecrets, Problems> {
        self.signing_secrets.clone().ok_or_else(|| {
            Problems::one(
                "CLERK_WEBHOOK_SIGNING_SECRET",
                "is not set",
                "copy the Signing Secret (whsec_…) of your endpoint from Clerk's dashboard, Webhooks; \
                 or see it work without one: rollbook demo",
            )
        })
    }

    /// Whether a setting has a value.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.values.get(key).is_some()
    }

    /// The files that values came from, each once.
    pub(crate) fn files_read(&self) -> Vec<FileRead> {
        let mut found: BTreeMap<PathBuf, bool> = BTreeMap::new();
        for (key, given) in self.values.all() {
            let is_secret = match find(key).map(|setting| setting.kind) {
                Some(Kind::Secret) => true,
                Some(Kind::Url) => has_password(&given.text),
                _ => false,
            };
            let mut note = |path: &Path, is_secret| *found.entry(path.to_owned()).or_default() |= is_secret;
            match &given.origin {
                Origin::File { path, .. } => note(path, is_secret),
                Origin::Content { path, named_by } => {
                    note(path, is_secret);
                    if let Origin::File { path, .. } = &**named_by {
                        note(path, false);
                    }
                }
                _ => {}
            }
        }
        found.into_iter().map(|(path, is_secret)| FileRead { path, is_secret }).collect()
    }

    /// The name of the setting that says where the queue is.
    pub(crate) fn queue_key(&self) -> &'static str {
        if self.values.get("queue_url").is_some() { "queue_url" } else { "redis_url" }
    }

    /// Fingerprints of the signing secrets that are set.
    pub(crate) fn secret_fingerprints(&self) -> Vec<String> {
        self.signing_secrets.as_ref().map(SigningSecrets::fingerprints).unwrap_or_default()
    }

    /// The same with queue and store in these places, in a schema of this name, and these secrets.
    ///
    /// # Errors
    /// They do not fit the other settings.
    pub(crate) fn for_demo(
        self,
        queue: Place,
        store: Place,
        schema: String,
        secrets: SigningSecrets,
    ) -> Result<Self, Problems> {
        let postgres = Postgres { schema, ..self.postgres };
        let config = Self { queue, store, postgres, signing_secrets: Some(secrets), ..self };
        relations::check(&config).check()?;
        Ok(config)
    }

    /// A problem with a setting whose value reads well and still can't be.
    pub(crate) fn problem(&self, key: &str, wrong: impl Into<String>, mend: impl Into<String>) -> Problem {
        let origin = self.values.get(key).map(|given| given.origin.clone());
        Problem { name: key.to_owned(), origin, wrong: wrong.into(), mend: mend.into() }
    }
}

fn receiver(read: &mut Reader<'_>, drain_timeout: Duration) -> rollbook_receiver::Settings {
    rollbook_receiver::Settings {
        header_timeout: read.duration("header_timeout"),
        idle_timeout: read.duration("idle_timeout"),
        connection_age_max: read.duration("connection_age_max"),
        body_timeout: read.duration("body_timeout"),
        body_rate_min: read.size("body_rate_min"),
        body_window: rollbook_receiver::BODY_WINDOW,
        request_timeout: read.duration("request_timeout"),
        enqueue_timeout: read.duration("enqueue_timeout"),
        stop_delay: read.pause("stop_delay"),
        drain_timeout: drain_timeout * RECEIVER_DRAIN_PERCENT / 100,
        tolerance: read.duration("tolerance"),
        body_max: read.size("body_max"),
        buffered_max: read.size("buffered_max"),
        connections_max: read.number("connections_max"),
        in_flight_max: read.number("in_flight_max"),
        batch_max: read.number("enqueue_batch_max"),
        batch_bytes_max: read.size("enqueue_bytes_max"),
    }
}

fn worker(read: &mut Reader<'_>) -> rollbook_worker::Settings {
    rollbook_worker::Settings {
        lanes: read.number("lanes"),
        batch_max: read.number("lease_batch_max"),
        lease_bytes_max: read.size("lease_bytes_max"),
        lease_for: read.duration("lease_for"),
        lease_wait: read.duration("lease_wait"),
        lease_linger: read.duration("lease_linger"),
        retry: RetryPolicy {
            backoff: read.duration("backoff"),
            backoff_max: read.duration("backoff_max"),
            attempts_max: u32::try_from(read.number("attempts_max")).unwrap_or(u32::MAX),
        },
        instance_id: read.text("clerk_instance_id"),
        gate_backoff: read.duration("gate_backoff"),
        gate_backoff_max: read.duration("gate_backoff_max"),
        upkeep: upkeep(read),
    }
}

fn keeping(read: &mut Reader<'_>) -> Keeping {
    let erases = read.choice("deleted_rows") == Some("erase");
    Keeping {
        deleted_rows: if erases { DeletedRows::Erase } else { DeletedRows::Keep },
        ledger: read.choice("ledger") == Some("yes"),
    }
}

/// How long what time takes away is kept; `None` for good.
fn upkeep(read: &mut Reader<'_>) -> UpkeepSettings {
    let age = |kept_for: Duration| (kept_for > Duration::ZERO).then_some(kept_for);
    let erases = read.choice("deleted_rows") == Some("erase");
    let deleted_kept_for = age(read.pause("deleted_rows_kept_for"));
    UpkeepSettings {
        ledger_kept_for: age(read.pause("ledger_kept_for")),
        // What was kept before the choice was made goes too.
        deleted_kept_for: if erases { Some(Duration::ZERO) } else { deleted_kept_for },
        ..UpkeepSettings::default()
    }
}

fn redis(read: &mut Reader<'_>) -> Redis {
    Redis {
        key_prefix: read.key_prefix("redis_key_prefix").unwrap_or_default(),
        shards: read.number("queue_shards"),
        strict: read.choice("durability") == Some("strict"),
        replicas: read.count("redis_replicas"),
        timeout: read.duration("redis_timeout"),
        ca_file: read.optional_path("redis_ca_file"),
    }
}

fn postgres(read: &mut Reader<'_>) -> Postgres {
    Postgres {
        schema: read.identifier("schema").unwrap_or_default(),
        pgbouncer: read.choice("pgbouncer") == Some("yes"),
        connections_max: read.number("database_connections_max"),
        statement_timeout: read.duration("statement_timeout"),
        connect_timeout: read.duration("database_connect_timeout"),
    }
}

#[cfg(test)]
mod tests;
