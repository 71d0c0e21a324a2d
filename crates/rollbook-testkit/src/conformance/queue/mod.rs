//! Conformance suite of a queue.
//!
//! ```text
//! async fn open(depth_max: u64) -> MyHarness { … }
//! rollbook_testkit::queue_conformance!(open);
//! rollbook_testkit::queue_agrees_with_model!(open);
//! ```

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rollbook_core::delivery::{Delivery, MessageId};
use rollbook_core::queue::{
    Consumer, DeadLetter, DeadLetterFilter, Enqueued, Lease, Producer, QueueAdmin, QueueError, QueueStats,
    Settled, Settlement,
};
use rollbook_core::retry::{Failure, Reason};
use rollbook_core::time::{Clock as _, Timestamp};

use crate::clock::ManualClock;
use crate::queues::{all_of, request};

#[doc(hidden)]
pub mod admission;
#[doc(hidden)]
pub mod clocks;
#[doc(hidden)]
pub mod dead_letters;
#[doc(hidden)]
pub mod leases;
#[doc(hidden)]
pub mod messages;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod traces;

/// Limit of queued messages that the suite uses.
pub const DEPTH_MAX: u64 = 100;
/// Maximum distance of a due time in an engine under test: further than any lease or backoff in the suite.
pub const DUE_WITHIN: Duration = Duration::from_secs(600);
const LEASE_FOR: Duration = Duration::from_secs(60);
const RETRY_AFTER: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(1);

/// An engine under test.
#[async_trait]
pub trait QueueHarness: Send {
    /// Returns the receiver's port.
    fn producer(&self) -> Arc<dyn Producer>;

    /// Returns the worker's port.
    fn consumer(&self) -> Arc<dyn Consumer>;

    /// Returns the operator's port.
    fn admin(&self) -> Arc<dyn QueueAdmin>;

    /// Returns the clock that the engine reads.
    fn clock(&self) -> Arc<ManualClock>;

    /// Advances the engine's clock.
    fn advance(&self, span: Duration) {
        self.clock().advance(span);
    }

    /// Sets the engine's clock back, as when a clock that was ahead is corrected.
    fn step_back(&self, span: Duration) {
        let clock = self.clock();
        clock.set(clock.now().minus(span));
    }

    /// Damages the entry of a queued message so that it cannot be read completely. Its id and body are still
    /// readable.
    async fn corrupt(&mut self, id: &MessageId);

    /// Crashes and restarts the engine: data that was not flushed is lost, and the three ports are new.
    async fn reopen(&mut self);
}

/// Queue under test, with the steps that the properties use.
#[doc(hidden)]
pub struct Queue<H> {
    harness: H,
}

impl<H: QueueHarness> Queue<H> {
    pub fn new(harness: H) -> Self {
        Self { harness }
    }

    fn now(&self) -> Timestamp {
        self.harness.clock().now()
    }

    fn delivery(&self, id: &str) -> Delivery {
        let body = Bytes::from(format!("the body of {id}"));
        Delivery { id: MessageId::new(id), received_at: self.now(), traceparent: None, body }
    }

    async fn answers(&self, ids: &[&str]) -> Vec<Result<Enqueued, QueueError>> {
        let deliveries: Vec<Delivery> = ids.iter().map(|id| self.delivery(id)).collect();
        self.harness.producer().enqueue_many(&deliveries).await
    }

    async fn try_enqueue(&self, ids: &[&str]) -> Result<Vec<Enqueued>, QueueError> {
        all_of(self.answers(ids).await)
    }

    async fn enqueue(&self, ids: &[&str]) -> Vec<Enqueued> {
        self.try_enqueue(ids).await.expect("the queue takes deliveries")
    }

    async fn lease(&self, max: usize) -> Vec<Lease> {
        let request = request(max, LEASE_FOR, Duration::ZERO);
        self.harness.consumer().lease(request).await.expect("the queue gives leases")
    }

    /// Leases the only message that is due.
    async fn lease_one(&self) -> Lease {
        let mut leases = self.lease(10).await;
        assert_eq!(leases.len(), 1, "one message is due: {leases:?}");
        leases.remove(0)
    }

    async fn assert_nothing_is_due(&self) {
        assert_eq!(ids(&self.lease(10).await), Vec::<String>::new());
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) -> Settled {
        let settled = self.harness.consumer().settle_many(&[(lease.clone(), settlement)]).await;
        let settled = all_of(settled).expect("the queue settles");
        assert_eq!(settled.len(), 1);
        settled[0]
    }

    /// Enqueues, leases and parks these messages, one after the other.
    async fn park(&self, ids: &[&str]) {
        for id in ids {
            self.enqueue(&[id]).await;
            let lease = self.lease_one().await;
            assert_eq!(self.settle(&lease, dead_letter()).await, Settled::Done);
        }
    }

    async fn dead_letters(&self, filter: &DeadLetterFilter) -> Vec<DeadLetter> {
        let letters = self.harness.admin().dead_letters(&filter.page(None, 1000)).await;
        letters.expect("the queue lists dead letters")
    }

    async fn dead_ids(&self, filter: &DeadLetterFilter) -> Vec<String> {
        self.dead_letters(filter).await.iter().map(|letter| letter.id.to_string()).collect()
    }

    /// Redrives in one step from the beginning.
    async fn redrive(&self, filter: &DeadLetterFilter, limit: usize) -> usize {
        self.harness.admin().redrive(&filter.page(None, limit)).await.expect("the queue redrives").changed
    }

    /// Discards in one step from the beginning.
    async fn discard(&self, filter: &DeadLetterFilter, limit: usize) -> usize {
        self.harness.admin().discard(&filter.page(None, limit)).await.expect("the queue discards").changed
    }

    async fn stats(&self) -> QueueStats {
        self.harness.admin().stats().await.expect("the queue counts")
    }
}

/// Returns the longest duration below `span`.
fn almost(span: Duration) -> Duration {
    span.saturating_sub(TICK)
}

fn ids(leases: &[Lease]) -> Vec<String> {
    leases.iter().map(|lease| lease.id.to_string()).collect()
}

fn numbered(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("msg_{number:04}")).collect()
}

fn failure() -> Failure {
    Failure {
        reason: Reason::StoreRefused,
        detail: "a \"detail\" with 🎉".into(),
        event_type: Some("user.created".into()),
    }
}

fn retry() -> Settlement {
    Settlement::Retry { after: RETRY_AFTER, failure: failure() }
}

fn dead_letter() -> Settlement {
    Settlement::DeadLetter { failure: failure() }
}

/// Every way to settle a lease.
fn settlements() -> [Settlement; 5] {
    let postpone = Settlement::Postpone { after: RETRY_AFTER };
    [Settlement::Ack, retry(), dead_letter(), Settlement::Release, postpone]
}

/// Generates one test for each property of a queue. Takes a function of a depth limit that returns a future
/// of a [`QueueHarness`] over an empty queue. The crate that uses it needs tokio.
#[macro_export]
macro_rules! queue_conformance {
    ($open:expr) => {
        $crate::queue_conformance! { @tests $open;
            admission: enqueue_is_idempotent_while_a_message_lives
            admission: the_same_id_twice_in_one_batch_waits_once
            admission: an_acknowledged_id_may_come_again
            admission: a_full_queue_takes_what_fits_and_refuses_the_rest
            admission: exactly_as_many_as_the_limit_fit
            admission: a_full_queue_still_answers_duplicates
            admission: dead_and_finished_messages_leave_room
            admission: empty_batches_are_fine
            admission: answers_come_in_the_order_asked
            admission: bodies_are_kept_byte_for_byte
            admission: enqueued_messages_survive_a_reopen
            admission: one_id_from_many_at_once_waits_once
            leases: lease_returns_at_most_max
            leases: the_message_due_longest_comes_first
            leases: a_leased_message_is_invisible
            leases: an_expired_lease_is_offered_again
            leases: an_expired_lease_may_be_settled_until_another_worker_takes_the_message
            leases: a_lost_lease_can_not_settle
            leases: a_lease_ends_once
            leases: an_attempt_is_counted_by_a_settlement_or_when_its_worker_says_so
            leases: counting_an_attempt_twice_counts_it_once
            leases: an_attempt_of_a_lost_lease_is_not_counted
            leases: a_lease_holds_no_more_bytes_than_asked_for
            leases: a_message_larger_than_the_limit_in_bytes_is_leased_alone
            leases: attempts_and_leases_survive_a_reopen
            leases: release_does_not_count
            leases: a_postponed_message_is_invisible_until_due_and_counts_no_attempt
            leases: retry_is_invisible_until_due
            leases: the_unsettled_count_grows_by_expiry_is_kept_by_release_and_reset_by_retry
            leases: two_workers_never_hold_one_message
            leases: lease_waits_for_a_message_and_wakes_when_one_comes
            leases: lease_wakes_when_a_message_is_released
            leases: lease_on_an_empty_queue_ends_after_the_wait
            dead_letters: a_dead_letter_keeps_id_body_and_failure
            dead_letters: a_dead_letter_is_not_leased
            dead_letters: dead_letters_survive_a_reopen
            dead_letters: redrive_resets_attempts_and_keeps_the_id
            dead_letters: redrive_stops_where_the_queue_is_full
            dead_letters: discard_is_final
            dead_letters: redrive_and_discard_take_the_oldest_up_to_the_limit
            dead_letters: redrive_and_discard_continue_after_a_step
            dead_letters: a_corrupt_entry_is_leased_with_its_damage_and_does_not_block_others
            dead_letters: a_redelivered_dead_letter_runs_again
            dead_letters: dead_letters_are_found_by_id_type_reason_and_time
            dead_letters: dead_letters_are_listed_page_by_page_oldest_first
            dead_letters: the_newest_dead_letters_are_listed_page_by_page_backwards
            dead_letters: dead_letters_are_summed_by_reason_and_type_in_steps
            dead_letters: a_discard_leaves_a_record_without_the_body
            dead_letters: statistics_add_up
            messages: a_message_is_listed_with_its_body_in_every_state
            messages: a_released_message_waits_without_a_counted_attempt
            messages: done_and_dead_messages_are_not_listed_and_a_redriven_one_is
            messages: listing_messages_changes_nothing
            messages: pages_show_every_message_once_whatever_their_size
            messages: messages_that_stay_are_listed_while_others_come_and_go
            messages: a_damaged_message_is_listed_with_what_is_left_of_it
            messages: no_debug_of_a_message_shows_its_body
            messages: removing_a_waiting_message_is_final
            messages: removing_a_delayed_message_is_final
            messages: removing_a_dead_letter_is_final
            messages: removing_a_leased_message_is_final_and_its_lease_is_lost
            messages: removing_a_message_with_an_expired_lease_is_final
            messages: a_removed_id_may_come_again_as_new
            messages: missing_messages_are_not_counted_as_removed
            messages: a_removed_message_leaves_its_neighbours_and_makes_room
            messages: the_oldest_message_is_the_oldest_that_was_not_removed
            clocks: a_retry_is_due_although_the_clock_was_ahead_when_it_began
            clocks: a_redriven_message_is_due_although_the_clock_was_ahead
            clocks: a_lease_ends_in_time_although_the_clock_was_ahead_when_it_began
            clocks: a_small_correction_of_the_clock_changes_no_due_time
            clocks: an_audit_of_a_sound_queue_finds_nothing
            traces: a_message_has_the_trace_that_it_came_in_or_none
            traces: a_trace_is_kept_by_every_return_to_the_queue
            traces: a_dead_letter_keeps_its_trace_and_a_redriven_one_too
            traces: a_duplicate_brings_no_trace_and_a_redelivered_dead_letter_its_own
        }
    };
    (@tests $open:expr; $($module:ident: $property:ident)+) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                use $crate::conformance::queue;
                let queue = queue::Queue::new($open(queue::DEPTH_MAX).await);
                queue::$module::$property(queue).await;
            }
        )+
    };
}

/// Generates a test that performs the same random actions on a queue and on the model in memory, and compares
/// every answer. Takes the same function as [`queue_conformance!`](crate::queue_conformance).
#[macro_export]
macro_rules! queue_agrees_with_model {
    ($open:expr) => {
        #[test]
        fn the_queue_agrees_with_the_model() {
            $crate::conformance::queue::model::check($open);
        }
    };
}
