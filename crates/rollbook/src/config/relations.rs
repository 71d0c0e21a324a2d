//! What must hold between settings, each of which reads well by itself.

use std::time::Duration;

use super::{Config, Problems};

/// Svix gives up on an answer after this long: what we answer later is lost on it.
const SVIX_TIMEOUT: Duration = Duration::from_secs(15);
/// The contract: 503 where the queue has not answered within this.
const ENQUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// A second of lag is the most that saving commits can be worth.
const LEASE_LINGER_MAX: Duration = Duration::from_secs(1);
/// A batch must have ended well before another worker may take it.
const LEASE_FOR_MIN: Duration = Duration::from_secs(5);

/// One thing that must hold.
pub(crate) struct Relation {
    /// The setting that is to be changed where it does not.
    pub(crate) key: &'static str,
    /// Where it means anything.
    pub(crate) scope: Scope,
    holds: fn(&Config) -> bool,
    wrong: &'static str,
    /// What the setting must be.
    pub(crate) mend: &'static str,
}

/// Where a relation means anything.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everywhere.
    Any,
    /// Where the queue is on Redis.
    Redis,
    /// Where the store is on Postgres.
    Postgres,
}

impl Scope {
    fn covers(self, config: &Config) -> bool {
        match self {
            Self::Any => true,
            Self::Redis => config.queue.server().is_some(),
            Self::Postgres => config.store.server().is_some(),
        }
    }
}

/// What does not fit together.
pub(crate) fn check(config: &Config) -> Problems {
    let broken = RELATIONS.iter().filter(|one| one.scope.covers(config) && !(one.holds)(config));
    Problems(broken.map(|one| config.problem(one.key, one.wrong, one.mend)).collect())
}

/// Everything that must hold.
pub(crate) static RELATIONS: &[Relation] = &[
    Relation {
        key: "request_timeout",
        scope: Scope::Any,
        holds: |config| config.receiver.request_timeout < SVIX_TIMEOUT,
        wrong: "Svix gives up after 15s",
        mend: "less than 15s",
    },
    Relation {
        key: "enqueue_timeout",
        scope: Scope::Any,
        holds: |config| config.receiver.enqueue_timeout <= ENQUEUE_TIMEOUT_MAX,
        wrong: "the contract promises an answer within 10s",
        mend: "at most 10s",
    },
    Relation {
        key: "enqueue_timeout",
        scope: Scope::Any,
        holds: |config| config.receiver.enqueue_timeout <= config.receiver.request_timeout,
        wrong: "is longer than request_timeout, which would end it",
        mend: "at most request_timeout",
    },
    Relation {
        key: "body_timeout",
        scope: Scope::Any,
        holds: |config| config.receiver.body_timeout <= config.receiver.request_timeout,
        wrong: "is longer than request_timeout, which would end it",
        mend: "at most request_timeout",
    },
    Relation {
        key: "body_max",
        scope: Scope::Any,
        holds: |config| config.receiver.body_max <= config.receiver.buffered_max,
        wrong: "is more than buffered_max, so that a body of this size would never be taken",
        mend: "at most buffered_max",
    },
    Relation {
        key: "lease_for",
        scope: Scope::Any,
        holds: |config| config.worker.lease_for >= LEASE_FOR_MIN,
        wrong: "is so short that a slow batch would be worked on twice",
        mend: "at least 5s",
    },
    Relation {
        key: "backoff",
        scope: Scope::Any,
        holds: |config| config.worker.retry.backoff <= config.worker.retry.backoff_max,
        wrong: "is longer than backoff_max",
        mend: "at most backoff_max",
    },
    Relation {
        key: "gate_backoff",
        scope: Scope::Any,
        holds: |config| config.worker.gate_backoff <= config.worker.gate_backoff_max,
        wrong: "is longer than gate_backoff_max",
        mend: "at most gate_backoff_max",
    },
    Relation {
        key: "lease_wait",
        scope: Scope::Any,
        holds: |config| config.worker.lease_wait < config.drain_timeout,
        wrong: "is no shorter than drain_timeout, so that an idle worker could not stop in time",
        mend: "less than drain_timeout",
    },
    Relation {
        key: "lease_linger",
        scope: Scope::Any,
        holds: |config| config.worker.lease_linger <= LEASE_LINGER_MAX,
        wrong: "would make every row late",
        mend: "at most 1s",
    },
    Relation {
        key: "ops_listen",
        scope: Scope::Any,
        holds: |config| config.listen != config.ops_listen || config.listen.port() == 0,
        wrong: "is the same address as listen; health and metrics must not be where the internet comes in",
        mend: "another port than that of listen",
    },
    Relation {
        key: "queue_url",
        scope: Scope::Any,
        holds: |config| config.queue.file().is_none() || config.queue != config.store,
        wrong: "is the same file as database_url",
        mend: "another file than that of database_url",
    },
    Relation {
        key: "redis_timeout",
        scope: Scope::Redis,
        holds: |config| config.redis.timeout < config.receiver.enqueue_timeout,
        wrong: "is no shorter than enqueue_timeout, so that a call to a Redis that hangs would outlast the 503 \
                and keep the next delivery waiting",
        mend: "less than enqueue_timeout",
    },
    Relation {
        key: "redis_ca_file",
        scope: Scope::Redis,
        holds: |config| {
            config.redis.ca_file.is_none()
                || config.queue.server().is_some_and(super::ServerUrl::is_redis_tls)
        },
        wrong: "is set, and the way to Redis is not encrypted",
        mend: "left out, or queue_url a rediss://",
    },
    Relation {
        key: "statement_timeout",
        scope: Scope::Postgres,
        holds: |config| config.postgres.statement_timeout <= config.worker.lease_for / 2,
        wrong: "is more than half of lease_for: a statement that hangs would use up the lease, and another \
                worker would send the same to a database in trouble",
        mend: "at most half of lease_for",
    },
    Relation {
        key: "database_connect_timeout",
        scope: Scope::Postgres,
        holds: |config| {
            config.postgres.connect_timeout + config.postgres.statement_timeout < config.worker.lease_for
        },
        wrong: "and statement_timeout together are no shorter than lease_for, which a batch may need both of",
        mend: "less than what statement_timeout leaves of lease_for",
    },
    Relation {
        key: "database_connections_max",
        scope: Scope::Postgres,
        holds: |config| config.worker.lanes < config.postgres.connections_max,
        wrong: "is not more than lanes: each lane holds a connection, and the health check needs one",
        mend: "at least lanes + 1",
    },
];
