//! Conformance suite of a store.
//!
//! ```text
//! async fn open() -> MyHarness { … }
//! rollbook_testkit::store_conformance!(open);
//! rollbook_testkit::store_converges!(open);
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use rollbook_core::catalog::Resource;
use rollbook_core::change::{Applied, Change};
use rollbook_core::delivery::MessageId;
use rollbook_core::json::Document;
use rollbook_core::store::{CascadeStep, FullStore, LedgerEntry, RetentionChoices, RowText, RowView};
use serde_json::{Map, Value};

use crate::clock::ManualClock;
use crate::events::change_of;

#[doc(hidden)]
pub mod access;
#[doc(hidden)]
pub mod cascades;
#[doc(hidden)]
pub mod changes;
#[doc(hidden)]
pub mod deleting;
#[doc(hidden)]
pub mod feed;
#[doc(hidden)]
pub mod forwards;
#[doc(hidden)]
pub mod ledger;
#[doc(hidden)]
pub mod living;
#[doc(hidden)]
pub mod merging;
#[doc(hidden)]
pub mod reconciling;
#[doc(hidden)]
pub mod refusals;
#[doc(hidden)]
pub mod resetting;
#[doc(hidden)]
pub mod rows;
#[doc(hidden)]
pub mod upkeep;

/// Behaviour of a team's trigger that refuses the effect of a parent's deletion: every change of a row that
/// no delivery of its own makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The trigger raises an error.
    Raise,
    /// The trigger skips the change without an error.
    Swallow,
}

/// An engine under test.
#[async_trait]
pub trait StoreHarness: Send {
    /// Returns the store.
    fn store(&self) -> Arc<dyn FullStore>;

    /// Returns the clock that the store reads.
    fn clock(&self) -> Arc<ManualClock>;

    /// Crashes and restarts the engine: data that was not flushed is lost, and the store is new.
    async fn reopen(&mut self);

    /// Restarts the engine with these retention choices. An engine starts with the default.
    async fn keep(&mut self, retention: RetentionChoices);

    /// Makes triggers refuse, from now on, the effect of a parent's deletion on child rows with this prefix
    /// of their id. `None`: they refuse nothing. An engine that works it out when rows are read has nothing
    /// that could be refused.
    async fn refuse_cascades(&mut self, _refusal: Option<(Refusal, &str)>) {}

    /// Makes due all that waits for its next try.
    async fn make_due(&mut self) {}
}

/// Store under test, with the steps that the properties use.
#[doc(hidden)]
pub struct Mirror<H> {
    harness: H,
}

impl<H: StoreHarness> Mirror<H> {
    pub fn new(harness: H) -> Self {
        Self { harness }
    }

    async fn apply_changes(&self, changes: &[Change]) -> Vec<Applied> {
        let outcomes = self.harness.store().apply_many(changes).await.expect("the store applies changes");
        assert_eq!(outcomes.len(), changes.len());
        outcomes
    }

    /// Applies events, each with its `svix-id`, as one batch.
    async fn apply(&self, events: &[(&str, Value)]) -> Vec<Applied> {
        let changes: Vec<Change> = events.iter().map(|(id, event)| change_of(id, event)).collect();
        self.apply_changes(&changes).await
    }

    async fn apply_one(&self, id: &str, event: Value) -> Applied {
        self.apply(&[(id, event)]).await[0]
    }

    async fn find(&self, resource: &'static Resource, id: &str) -> Option<RowView> {
        let store = self.harness.store();
        let row = store.get(resource, id).await.expect("the store reads a row");
        let text = store.get_text(resource, id).await.expect("the store reads a row as a text");
        let expected = row.clone().map(|row| Document::from(row.columns));
        assert_eq!(text.map(RowText::into_json), expected, "the text shows the same row");
        row
    }

    /// Returns the columns of a row that must exist.
    async fn row(&self, resource: &'static Resource, id: &str) -> Map<String, Value> {
        let row = self.find(resource, id).await.expect("there is a row");
        assert_eq!(row.id, id);
        row.columns
    }

    async fn rows(&self, resource: &'static Resource, after: Option<&str>, limit: usize) -> Vec<RowView> {
        self.harness.store().rows(resource, after, limit).await.expect("the store lists rows")
    }

    /// Works on what is left of cascades until nothing of it is due.
    async fn work_off(&self) -> CascadeStep {
        work_off(&*self.harness.store()).await
    }

    async fn ledger(&self, id: &str) -> Option<LedgerEntry> {
        self.harness.store().delivery(&MessageId::new(id)).await.expect("the store reads its ledger")
    }
}

/// Works on pending cascades until none is due. Returns what is left, and the rows of all turns.
///
/// # Panics
/// Panics if a turn fails.
pub async fn work_off(store: &dyn FullStore) -> CascadeStep {
    let mut all = CascadeStep::default();
    loop {
        let turn = store.cascade().await.expect("the store works on pending cascades");
        all = CascadeStep { rows: all.rows + turn.rows, refused: all.refused + turn.refused, ..turn };
        if turn.due_in.is_none_or(|due_in| !due_in.is_zero()) {
            return all;
        }
    }
}

/// Generates one test for each property of a store. Takes a function that returns a future of a
/// [`StoreHarness`] over an empty store. The crate that uses it needs tokio.
#[macro_export]
macro_rules! store_conformance {
    ($open:expr) => {
        $crate::store_conformance! { @tests $open;
            rows: a_user_becomes_a_row_with_the_columns_of_the_contract
            rows: an_organization_becomes_a_row_with_the_columns_of_the_contract
            rows: a_membership_becomes_a_row_with_the_columns_of_the_contract
            rows: a_missing_or_unfitting_value_is_null
            rows: the_primary_address_is_the_one_that_is_named
            rows: text_is_kept_exactly
            rows: extreme_times_and_integers_are_kept
            rows: rows_are_paged_by_id_in_the_order_of_bytes
            rows: a_row_that_was_never_written_is_missing
            rows: rows_survive_a_reopen
            merging: the_first_is_inserted_and_a_newer_one_updates
            merging: an_older_one_is_stale_and_changes_nothing
            merging: the_same_again_is_unchanged_and_writes_nothing
            merging: an_equal_updated_at_is_decided_by_the_event_and_then_by_the_content
            merging: a_removed_value_becomes_null
            merging: a_membership_may_come_before_its_user_and_organization
            merging: a_user_who_rejoins_gets_a_new_membership
            merging: an_address_may_move_between_users_in_any_order
            merging: one_subject_many_times_in_one_batch_is_one_row
            merging: one_change_from_many_at_once_is_inserted_once
            merging: a_big_batch_is_applied_as_a_whole
            deleting: a_deleted_row_keeps_its_content
            deleting: a_row_of_every_resource_can_be_deleted_in_the_batch_of_a_new_membership
            deleting: nothing_revives_a_deleted_row
            deleting: a_late_event_fills_in_the_content_of_a_row_that_was_deleted_first
            deleting: the_latest_of_several_deletions_sets_the_time
            deleting: an_erased_row_keeps_only_its_id_and_the_time
            deleting: erased_content_is_never_restored
            cascades: child_rows_of_a_user_are_deleted_with_it
            cascades: child_rows_of_an_organization_are_deleted_with_it
            cascades: a_child_that_arrives_after_its_parents_deletion_is_deleted_too
            cascades: parents_and_children_may_come_in_one_batch
            cascades: a_newer_child_does_not_undo_its_parents_deletion
            cascades: a_newer_child_that_names_no_parents_keeps_those_that_are_known_whichever_comes_first
            cascades: a_childs_own_end_says_when
            cascades: a_redelivered_deletion_of_a_parent_changes_no_child
            cascades: child_rows_of_the_erased_keep_only_the_ids_of_their_parents
            cascades: an_earlier_deletion_that_comes_late_is_shown_with_a_redelivered_later_one
            refusals: a_child_that_refuses_blocks_no_sibling_and_is_retried
            refusals: a_repeated_delivery_of_a_child_under_an_erased_parent_removes_left_over_content
            refusals: a_repeated_deletion_reaches_the_children_that_it_missed
            refusals: an_erasure_that_a_child_refuses_fails_with_its_id_and_is_finished_later
            refusals: however_many_children_refuse_all_others_show_the_deletion_without_a_wait
            refusals: an_erasure_erases_all_that_do_not_refuse_and_says_how_many_do
            upkeep: the_ledger_returns_all_fields_of_an_entry
            upkeep: the_history_of_a_subject_is_in_order_and_ends_with_the_latest_entry
            upkeep: rows_are_found_by_the_ids_of_their_parents
            upkeep: rows_are_found_by_a_text_of_their_content_in_any_case_and_through_many_pages
            upkeep: a_ledger_that_is_switched_off_has_no_entries
            upkeep: old_ledger_entries_are_removed_in_small_steps
            upkeep: the_content_of_old_deleted_rows_is_removed_and_never_restored
            upkeep: a_subject_that_an_operator_erased_is_never_restored
            upkeep: an_unknown_subject_can_be_erased_before_any_delivery
            ledger: the_ledger_has_the_outcome_of_each_delivery
            ledger: a_redelivery_keeps_the_first_ledger_entry
            ledger: a_delivery_twice_in_one_batch_has_one_entry
            ledger: ignored_events_are_in_the_ledger_and_nowhere_else
            ledger: an_empty_batch_is_fine
            ledger: a_store_that_is_there_answers_a_ping
            living: the_states_of_subjects_are_those_of_the_merge_and_the_unknown_have_none
            living: the_states_of_a_whole_page_are_read_at_once
            living: contents_are_the_stored_objects_and_rows_without_content_have_none
            living: living_rows_are_in_the_order_of_their_creation_and_ties_in_that_of_their_ids
            living: a_window_contains_its_beginning_and_not_its_end
            living: rows_of_extreme_times_are_in_the_window_of_all_times
            living: rows_that_were_written_since_are_not_listed
            living: a_living_row_names_its_parents_and_a_deleted_one_is_not_listed
            living: every_reconciled_resource_lists_and_counts_its_living_rows
            living: living_rows_without_a_time_are_in_the_order_of_their_ids
            reconciling: a_reading_is_a_change_and_the_ledger_gives_its_run_and_reason
            reconciling: a_lock_has_one_holder_who_may_renew_it_and_give_it_back
            reconciling: a_lock_ends_by_itself
            reconciling: one_of_many_processes_that_take_a_lock_at_once_gets_it
            reconciling: a_run_is_recorded_replaced_and_kept_exactly
            reconciling: held_objects_are_listed_by_table_and_id_and_a_known_one_stays
            reconciling: held_objects_are_counted_by_run_table_kind_and_state
            reconciling: old_records_leave_with_a_finished_run_and_the_latest_and_the_waiting_stay
            reconciling: the_last_walk_of_each_resource_is_kept
            reconciling: instances_are_remembered_for_good
            resetting: a_row_that_was_reset_is_empty_and_a_fresh_reading_revives_it
            resetting: a_row_that_has_changed_since_it_was_read_is_not_reset
            resetting: the_living_children_of_parents_are_counted_up_to_a_limit
            resetting: a_row_that_a_deletion_alone_has_made_can_be_reset
            resetting: child_rows_no_longer_show_the_deletion_of_a_parent_that_was_reset
            resetting: a_child_that_was_reset_keeps_the_ids_of_its_parents_and_shows_their_deletion
            resetting: children_that_lost_their_content_with_a_parent_get_it_from_a_fresh_reading
            resetting: a_row_that_an_operator_erased_stays_erased_after_a_reset
            resetting: child_rows_of_a_reset_parent_that_are_many_are_revived_too
            resetting: a_deletion_after_a_reset_erases_no_more_than_any_deletion
            changes: a_new_row_has_a_line_with_every_column_that_has_a_value
            changes: an_update_names_the_columns_that_differ_and_the_content
            changes: a_delivery_that_changes_nothing_has_no_line
            changes: several_deliveries_that_are_applied_at_once_are_one_change
            changes: a_deletion_has_a_line_and_one_more_for_each_child_row
            changes: a_deletion_that_comes_first_is_filled_by_an_update
            changes: a_row_that_begins_under_a_deleted_parent_begins_deleted
            changes: a_deletion_that_erases_is_one_line
            changes: an_erasure_by_an_operator_leaves_lines_with_ids_only
            changes: the_content_that_retention_removes_has_a_line
            changes: a_reading_has_its_run_and_whether_it_is_part_of_a_backfill
            changes: child_rows_of_a_reading_are_a_cascade
            changes: a_reset_row_is_created_again_and_its_child_rows_live_again
            feed: a_page_selects_by_position_resource_and_kind
            feed: a_reader_at_a_position_that_was_removed_or_is_unknown_gets_an_error
            feed: a_reader_begins_at_a_time
            feed: a_reader_waits_until_there_is_a_line
            access: a_context_has_the_current_rows_of_a_user_and_an_organization
            access: a_deleted_row_and_one_without_content_are_not_current
            access: the_latest_of_several_current_memberships_counts
            access: a_context_has_the_subscription_of_its_payer_and_the_items_that_are_not_over
            access: members_and_organizations_are_paged_by_the_ids_of_the_other_side
            forwards: a_forward_has_one_holder_at_a_time_and_begins_where_it_first_ran
            forwards: the_hold_of_a_forward_ends_by_itself_and_a_save_renews_it
            forwards: one_of_many_processes_that_take_a_forward_at_once_gets_it
            forwards: whoever_lost_a_forward_can_save_nothing
            forwards: a_save_moves_the_position_and_records_and_removes_changes_at_once
            forwards: a_recorded_change_comes_back_with_all_its_fields
            forwards: a_stop_stays_until_an_operator_moves_the_forward
            forwards: a_replay_removes_what_is_read_again_and_a_resume_keeps_everything
            forwards: open_changes_generation_and_pause_are_saved_with_the_position
            forwards: a_feed_has_one_generation_until_it_is_renewed
            forwards: dead_letters_are_redriven_or_discarded_and_others_are_left_alone
            forwards: recorded_changes_are_listed_in_pages_by_position
        }
    };
    (@tests $open:expr; $($module:ident: $property:ident)+) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                use $crate::conformance::store;
                let mirror = store::Mirror::new($open().await);
                store::$module::$property(mirror).await;
            }
        )+
    };
}
