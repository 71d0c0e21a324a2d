//! Cases, and the real worker between a queue in memory and the store under test.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prometheus::{Registry, TextEncoder};
use rollbook_core::catalog::{Resource, USERS};
use rollbook_core::change::Applied;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{Producer as _, QueueAdmin as _};
use rollbook_core::retry::{Reason, RetryPolicy};
use rollbook_core::sanitize::{NUMBER_DIGITS_MAX, sanitize};
use rollbook_core::store::FullStore;
use rollbook_core::time::{Clock, Timestamp};
use rollbook_testkit::clock::ManualClock;
use rollbook_testkit::memory::queue::MemoryQueue;
use rollbook_testkit::process::until;
use rollbook_testkit::queues::all_of;
use rollbook_worker::{Settings, Worker};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Time of all events.
const NOW: i64 = 1_790_000_000_000;

/// Messages in one batch.
const BATCH: usize = 100;

pub(super) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_millis(NOW)))
}

/// A body, and its expected result.
pub(super) struct Case {
    name: String,
    pub(super) body: Bytes,
    end: End,
    sanitized: usize,
    mismatched: usize,
}

enum End {
    /// A row with at least these columns, and with the sent object in `data`.
    Row { resource: &'static Resource, id: String, columns: Vec<(&'static str, Value)> },
    /// A ledger entry.
    Ignored,
    /// A dead letter, with the type that it shows.
    Parked(Reason, Option<String>),
}

impl Case {
    pub(super) fn row(
        name: impl Into<String>,
        body: impl Into<Bytes>,
        resource: &'static Resource,
        id: impl Into<String>,
    ) -> Self {
        Self::new(name, body, End::Row { resource, id: id.into(), columns: Vec::new() })
    }

    pub(super) fn ignored(name: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self::new(name, body, End::Ignored)
    }

    pub(super) fn parked(
        name: impl Into<String>,
        body: impl Into<Bytes>,
        reason: Reason,
        event_type: Option<&str>,
    ) -> Self {
        Self::new(name, body, End::Parked(reason, event_type.map(str::to_owned)))
    }

    fn new(name: impl Into<String>, body: impl Into<Bytes>, end: End) -> Self {
        Self { name: name.into(), body: body.into(), end, sanitized: 0, mismatched: 0 }
    }

    /// Expects this value in the row.
    pub(super) fn with(mut self, column: &'static str, value: Value) -> Self {
        let End::Row { columns, .. } = &mut self.end else { panic!("{}: no row", self.name) };
        columns.push((column, value));
        self
    }

    /// Expects this number of replaced characters.
    pub(super) fn sanitized(mut self, count: usize) -> Self {
        self.sanitized = count;
        self
    }

    /// Expects this number of fields that do not fit their columns.
    pub(super) fn mismatched(mut self, count: usize) -> Self {
        self.mismatched = count;
        self
    }

    /// Returns the differences from the expected result.
    async fn wrong(
        &self,
        id: &MessageId,
        store: &dyn FullStore,
        dead: &BTreeMap<MessageId, Dead>,
    ) -> Option<String> {
        let line = store.delivery(id).await.expect("the ledger");
        let outcome = line.as_ref().map(|line| line.outcome);
        let is_right = match (&self.end, dead.get(id)) {
            (End::Row { id, .. }, None) => {
                let of = line.as_ref().and_then(|line| line.subject_id.as_ref());
                outcome == Some(Applied::Inserted) && of == Some(id)
            }
            (End::Ignored, None) => outcome == Some(Applied::Ignored),
            (End::Parked(reason, event_type), Some(letter)) => {
                let expected = (*reason, event_type.clone(), self.body.clone());
                outcome.is_none() && *letter == expected
            }
            _ => false,
        };
        if !is_right {
            let dead = dead.get(id).map(|(reason, event_type, _)| (reason, event_type));
            return Some(format!("{}: dead letter {dead:?}, ledger {line:?}", self.name));
        }
        match &self.end {
            End::Row { resource, id, columns } => {
                let wrong = self.wrong_in_row(store, resource, id, columns).await?;
                Some(format!("{}: the row's {wrong}", self.name))
            }
            _ => None,
        }
    }

    async fn wrong_in_row(
        &self,
        store: &dyn FullStore,
        resource: &'static Resource,
        id: &str,
        columns: &[(&str, Value)],
    ) -> Option<String> {
        let row = match store.get(resource, id).await {
            Ok(row) => row.expect("the ledger says that there is one"),
            Err(error) => return Some(format!("values can't be read: {error}")),
        };
        let mut sent: Value = serde_json::from_slice(&sanitize(&self.body).0).expect("JSON");
        replace_long_numbers(&mut sent);
        let mut data = sent["data"].take();
        resource.secrets.iter().for_each(|path| remove(&mut data, path));
        let data = ("data", data);
        let mut expected = columns.iter().chain([&data]);
        let (name, _) = expected.find(|(name, value)| !same(&row.columns[*name], value))?;
        Some(format!("{name} is {:.200}", row.columns[*name].to_string()))
    }
}

/// Reason, type and bytes of a dead letter.
type Dead = (Reason, Option<String>, Bytes);

/// Replaces each number that has too many digits, written out, by its text.
fn replace_long_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let number = number.to_string();
            let (digits, zeros) = number.split_once('e').unwrap_or((&number, "0"));
            let zeros = zeros.trim_start_matches(['+', '-']).parse().unwrap_or(usize::MAX);
            if zeros.saturating_add(digits.len()) > NUMBER_DIGITS_MAX {
                *value = Value::String(number);
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(replace_long_numbers),
        Value::Object(members) => members.values_mut().for_each(replace_long_numbers),
        _ => {}
    }
}

fn remove(value: &mut Value, path: &[&str]) {
    match path {
        [key] => drop(value.as_object_mut().and_then(|object| object.remove(*key))),
        [first, rest @ ..] => value.get_mut(*first).into_iter().for_each(|inner| remove(inner, rest)),
        [] => {}
    }
}

/// Returns whether both values are equal: a store may write a number in another form.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            decimal(&left.to_string()) == decimal(&right.to_string())
        }
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        _ => left == right,
    }
}

/// Returns sign, digits without zeros around them, and the power of ten of the last digit. A zero has no
/// sign.
fn decimal(number: &str) -> (bool, String, i64) {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{}{fraction}", whole.trim_start_matches('-'));
    let digits = all.trim_end_matches('0');
    if digits.is_empty() {
        return (false, String::new(), 0);
    }
    let count = |text: &str| i64::try_from(text.len()).expect("a length");
    let zeros = count(&all) - count(digits) - count(fraction);
    let exponent = exponent.parse::<i64>().expect("an exponent") + zeros;
    (whole.starts_with('-'), digits.trim_start_matches('0').to_owned(), exponent)
}

struct Played {
    queue: Arc<MemoryQueue>,
    registry: Registry,
}

impl Played {
    /// Returns the sum of a counter over the samples with this text in their labels.
    fn counted(&self, name: &str, labels: &str) -> usize {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).expect("metrics are text");
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
    }
}

/// Lets a worker with one lane work on these messages, until no more than `left` of them are left.
async fn play(
    store: &Arc<dyn FullStore>,
    messages: &[(MessageId, Bytes)],
    retry: RetryPolicy,
    left: usize,
) -> Played {
    let clock: Arc<dyn Clock> = clock();
    let played = Played {
        queue: Arc::new(
            MemoryQueue::new(messages.len() as u64, Arc::clone(&clock)).with_due_within(retry.backoff_max),
        ),
        registry: Registry::new(),
    };
    let received_at = clock.now();
    let deliveries: Vec<Delivery> = messages
        .iter()
        .map(|(id, body)| Delivery { id: id.clone(), received_at, traceparent: None, body: body.clone() })
        .collect();
    all_of(played.queue.enqueue_many(&deliveries).await).expect("there is room");
    let settings = Settings {
        lanes: 1,
        batch_max: BATCH,
        lease_linger: Duration::ZERO,
        lease_wait: Duration::from_millis(10),
        retry,
        ..Settings::default()
    };
    let stop = CancellationToken::new();
    let worker =
        Worker::new(settings, played.queue.clone(), store.clone(), clock, &played.registry).expect("metrics");
    let ended = async {
        until("they are settled", || async {
            let stats = played.queue.stats().await.expect("the queue answers");
            stats.ready + stats.leased == 0 && played.queue.message_ids().len() <= left
        })
        .await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(worker.run(stop.clone()), ended);
    result.expect("the worker ends well");
    assert_eq!(
        played.counted("rollbook_settlements_total", r#"settlement="release""#),
        0,
        "the gate stayed open"
    );
    played
}

fn good(id: &str) -> Bytes {
    let data = json!({ "id": id, "first_name": "Ada", "updated_at": NOW });
    json!({ "type": "user.updated", "timestamp": NOW, "data": data }).to_string().into()
}

/// Asserts that a good message was applied at its first lease.
async fn assert_applied(store: &dyn FullStore, id: &str) {
    let line = store.delivery(&MessageId::new(id)).await.expect("the ledger");
    assert_eq!(line.map(|line| (line.outcome, line.attempts)), Some((Applied::Inserted, 1)), "{id}");
    let row = store.get(&USERS, id).await.expect("rows").expect("a row");
    assert_eq!(row.columns["first_name"], "Ada");
}

/// Plays the cases, with a good message before and after each, and asserts each result and the counters. A
/// message that the store refuses becomes a dead letter at its first attempt.
pub(super) async fn check(store: Arc<dyn FullStore>, cases: impl IntoIterator<Item = Case>) {
    let cases: Vec<Case> = cases.into_iter().collect();
    let case_id = |number: usize| MessageId::new(format!("case_{number}"));
    let good_message = |number: usize| {
        let id = format!("good_{number}");
        (MessageId::new(&*id), good(&id))
    };
    let mut messages = vec![good_message(0)];
    for (number, case) in cases.iter().enumerate() {
        messages.extend([(case_id(number), case.body.clone()), good_message(number + 1)]);
    }
    let once = RetryPolicy { attempts_max: 1, ..Settings::default().retry };
    let played = play(&store, &messages, once, 0).await;

    let dead = played.queue.dead().into_iter();
    let dead =
        dead.map(|letter| (letter.id, (letter.failure.reason, letter.failure.event_type, letter.body)));
    let dead: BTreeMap<MessageId, Dead> = dead.collect();
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        wrong.extend(case.wrong(&case_id(number), &*store, &dead).await);
    }
    assert!(wrong.is_empty(), "{} of {} ended otherwise:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    for number in 0..=cases.len() {
        assert_applied(&*store, &format!("good_{number}")).await;
    }
    let sum = |count: fn(&Case) -> usize| cases.iter().map(count).sum::<usize>();
    assert_eq!(played.counted("rollbook_sanitized_total", ""), sum(|case| case.sanitized));
    assert_eq!(played.counted("rollbook_field_mismatches_total", ""), sum(|case| case.mismatched));
}

/// Plays the case in the middle of one batch of good messages, with the default retries: the case waits for
/// its backoff, and the good messages do not.
pub(super) async fn neighbours_of_one_that_is_refused_do_not_wait(store: Arc<dyn FullStore>, case: Case) {
    let name =
        |number: usize| format!("{} {number}", case.name).replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut messages: Vec<(MessageId, Bytes)> =
        (1..BATCH).map(|number| (MessageId::new(name(number)), good(&name(number)))).collect();
    let bad = MessageId::new(name(0));
    messages.insert(BATCH / 2, (bad.clone(), case.body.clone()));
    // Long enough that it is not due again at this time.
    let backoff = Duration::from_secs(1 << 40);
    let patient = RetryPolicy { backoff, backoff_max: backoff, ..Settings::default().retry };
    let played = play(&store, &messages, patient, 1).await;

    assert_eq!(played.queue.message_ids(), [bad], "{}", case.name);
    assert_eq!(
        played.counted("rollbook_batch_size_count", r#"stage="lease""#),
        1,
        "{}: in one batch",
        case.name
    );
    for number in 1..BATCH {
        assert_applied(&*store, &name(number)).await;
    }
}
