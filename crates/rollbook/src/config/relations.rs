//! What must hold between settings, each of which reads well by itself.

use std::time::Duration;

use super::{Config, Problem, Problems};

/// Svix gives up on an answer after this long: what we answer later is lost on it.
const SVIX_TIMEOUT: Duration = Duration::from_secs(15);
/// The contract: 503 where the queue has not answered within this.
const ENQUEUE_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// A second of lag is the most that saving commits can be worth.
const LEASE_LINGER_MAX: Duration = Duration::from_secs(1);
/// A batch must have ended well before another worker may take it.
const LEASE_FOR_MIN: Duration = Duration::from_secs(5);

/// What does not fit together.
pub(crate) fn check(config: &Config) -> Problems {
    let (receiver, worker) = (&config.receiver, &config.worker);
    let must =
        |holds: bool, key: &str, wrong: &str, mend: &str| (!holds).then(|| config.problem(key, wrong, mend));
    let in_one_file = config.queue.file().is_some() && config.queue == config.store;
    let same_port = config.listen == config.ops_listen && config.listen.port() != 0;
    let mut checked: Vec<Option<Problem>> = vec![
        must(
            receiver.request_timeout < SVIX_TIMEOUT,
            "request_timeout",
            "Svix gives up after 15s",
            "less than 15s",
        ),
        must(
            receiver.enqueue_timeout <= ENQUEUE_TIMEOUT_MAX,
            "enqueue_timeout",
            "the contract promises an answer within 10s",
            "at most 10s",
        ),
        must(
            receiver.enqueue_timeout <= receiver.request_timeout,
            "enqueue_timeout",
            "is longer than request_timeout, which would end it",
            "at most request_timeout",
        ),
        must(
            receiver.body_timeout <= receiver.request_timeout,
            "body_timeout",
            "is longer than request_timeout, which would end it",
            "at most request_timeout",
        ),
        must(
            receiver.body_max <= receiver.buffered_max,
            "body_max",
            "is more than buffered_max, so that a body of this size would never be taken",
            "at most buffered_max",
        ),
        must(
            worker.lease_for >= LEASE_FOR_MIN,
            "lease_for",
            "is so short that a slow batch would be worked on twice",
            "at least 5s",
        ),
        must(
            worker.retry.backoff <= worker.retry.backoff_max,
            "backoff",
            "is longer than backoff_max",
            "at most backoff_max",
        ),
        must(
            worker.gate_backoff <= worker.gate_backoff_max,
            "gate_backoff",
            "is longer than gate_backoff_max",
            "at most gate_backoff_max",
        ),
        must(
            worker.lease_wait < config.drain_timeout,
            "lease_wait",
            "is no shorter than drain_timeout, so that an idle worker could not stop in time",
            "less than drain_timeout",
        ),
        must(
            worker.lease_linger <= LEASE_LINGER_MAX,
            "lease_linger",
            "would make every row late",
            "at most 1s",
        ),
        must(
            !same_port,
            "ops_listen",
            "is the same address as listen; health and metrics must not be where the internet comes in",
            "give it another port",
        ),
        must(
            !in_one_file,
            "queue_url",
            "is the same file as database_url",
            "give queue and store a file each",
        ),
    ];
    checked.extend(with_redis(config));
    checked.extend(with_postgres(config));
    Problems(checked.into_iter().flatten().collect())
}

/// What must hold where the queue is on Redis; elsewhere these settings mean nothing.
fn with_redis(config: &Config) -> Vec<Option<Problem>> {
    let Some(url) = config.queue.server() else {
        return Vec::new();
    };
    let is_trusted_for_nothing = config.redis.ca_file.is_some() && !url.is_redis_tls();
    vec![
        (config.redis.timeout >= config.receiver.enqueue_timeout).then(|| {
            config.problem(
                "redis_timeout",
                "is no shorter than enqueue_timeout, so that a call to a Redis that hangs would outlast the 503 \
                 and keep the next delivery waiting",
                "less than enqueue_timeout",
            )
        }),
        is_trusted_for_nothing.then(|| {
            config.problem(
                "redis_ca_file",
                "is set, and the way to Redis is not encrypted",
                "write rediss:// in queue_url, or leave redis_ca_file out",
            )
        }),
    ]
}

/// What must hold where the store is on Postgres.
fn with_postgres(config: &Config) -> Vec<Option<Problem>> {
    let (postgres, worker) = (&config.postgres, &config.worker);
    if config.store.server().is_none() {
        return Vec::new();
    }
    vec![
        (postgres.statement_timeout > worker.lease_for / 2).then(|| {
            config.problem(
                "statement_timeout",
                "is more than half of lease_for: a statement that hangs would use up the lease, and another \
                 worker would send the same to a database in trouble",
                "at most half of lease_for",
            )
        }),
        (postgres.connect_timeout + postgres.statement_timeout >= worker.lease_for).then(|| {
            config.problem(
                "database_connect_timeout",
                "and statement_timeout together are no shorter than lease_for, which a batch may need both of",
                "less than lease_for without statement_timeout",
            )
        }),
        (worker.lanes >= postgres.connections_max).then(|| {
            config.problem(
                "database_connections_max",
                "is not more than lanes: each lane holds a connection, and the health check needs one",
                "at least lanes + 1",
            )
        }),
    ]
}
