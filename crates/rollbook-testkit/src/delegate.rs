//! Delegation of a large port to the store or queue inside.

/// Implements a port for a type: each call is that of the store or queue `$inner`, and `$done` awaits it.
macro_rules! delegate {
    (Rows, $($how:tt)+) => {
        const _: () = {
            use ::rollbook_core::catalog::Resource;
            use ::rollbook_core::store::{PendingCascades, ReadProgress, RowView, Rows, StoreError};

            $crate::delegate::delegate! { @calls Rows, StoreError, $($how)+; {}
                get(resource: &'static Resource, id: &str) -> Option<RowView>;
                rows(resource: &'static Resource, after: Option<&str>, limit: usize) -> Vec<RowView>;
                rows_where(resource: &'static Resource, column: &'static str, value: &str, limit: usize)
                    -> Vec<RowView>;
                ids_holding(resource: &'static Resource, texts: &[String], limit: usize, progress: &ReadProgress<'_>)
                    -> Vec<String>;
                cascades(about: Option<&str>, limit: usize) -> PendingCascades;
            }
        };
    };
    (Ledger, $($how:tt)+) => {
        const _: () = {
            use ::rollbook_core::delivery::MessageId;
            use ::rollbook_core::store::{Ledger, LedgerEntry, StoreError};

            $crate::delegate::delegate! { @calls Ledger, StoreError, $($how)+; {}
                delivery(id: &MessageId) -> Option<LedgerEntry>;
                deliveries(subject_id: &str, limit: usize) -> Vec<LedgerEntry>;
            }
        };
    };
    (Reconciliation, $($how:tt)+) => {
        const _: () = {
            use ::rollbook_core::catalog::Resource;
            use ::rollbook_core::merge::SubjectState;
            use ::rollbook_core::source::{Lookup, Window};
            use ::rollbook_core::store::{
                Freshness, Head, Held, HeldCount, HeldKey, HeldState, Living, Reconciliation, Reset, Run,
                StoreError,
            };
            use ::rollbook_core::time::Timestamp;

            $crate::delegate::delegate! { @calls Reconciliation, StoreError, $($how)+; {}
                check_records() -> ();
                heads(resource: &'static Resource, ids: &[&str]) -> Vec<Head>;
                contents(resource: &'static Resource, ids: &[&str]) -> Vec<(String, String)>;
                living(resource: &'static Resource, window: Window, untouched_since: Timestamp,
                       after: Option<&Living>, limit: usize) -> Vec<Living>;
                undated(resource: &'static Resource, untouched_since: Timestamp, after: Option<&str>, limit: usize)
                    -> Vec<Lookup>;
                count_living(resource: &'static Resource) -> u64;
                count_children(child: &'static Resource, parent: &'static Resource, ids: &[&str], limit: u64) -> u64;
                lock(name: &str, holder: &str, hold_for: ::std::time::Duration) -> bool;
                unlock(name: &str, holder: &str) -> ();
                save_run(run: &Run) -> ();
                run(id: &str) -> Option<Run>;
                runs(limit: usize) -> Vec<Run>;
                hold(run: &str, held: &[Held]) -> ();
                held(run: &str, state: HeldState, after: Option<&HeldKey>, limit: usize) -> Vec<Held>;
                count_held(run: Option<&str>) -> Vec<HeldCount>;
                settle_held(run: &str, keys: &[HeldKey], state: HeldState) -> ();
                save_freshness(freshness: &Freshness) -> ();
                freshness() -> Vec<Freshness>;
                reset(resource: &'static Resource, id: &str, expected: &SubjectState) -> Reset;
            }
        };
    };
    (Changes, $of:ty, $this:ident => $inner:expr, $call:ident => $done:expr) => {
        const _: () = {
            use ::rollbook_core::store::{
                Changes, ChangesError, ChangesPage, ChangesQuery, FeedState, Generation, Position, StoreError,
            };
            use ::rollbook_core::time::Timestamp;

            $crate::delegate::delegate! { @calls Changes, StoreError, $of, $this => $inner, $call => $done;
                {
                    async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
                        let $this = self;
                        let $call = async { Ok::<_, StoreError>($inner.changes(query).await) };
                        let answer: Result<_, StoreError> = $done;
                        answer?
                    }
                }
                feed() -> FeedState;
                position_before(at: Timestamp) -> Position;
                wait_for_change(after: Position, timeout: ::std::time::Duration) -> bool;
                renew_feed() -> Generation;
            }
        };
    };
    (Forwards, $($how:tt)+) => {
        const _: () = {
            use ::std::time::Duration;

            use ::rollbook_core::store::{
                Forward, ForwardChange, ForwardMove, ForwardProgress, ForwardState, Forwards, Position, StoreError,
            };
            use ::rollbook_core::time::Timestamp;

            $crate::delegate::delegate! { @calls Forwards, StoreError, $($how)+; {}
                check_forwards() -> ();
                take_forward(name: &str, holder: &str, hold_for: Duration, begin: Position) -> Option<Forward>;
                save_forward(name: &str, epoch: u64, hold_for: Duration, progress: &ForwardProgress) -> bool;
                release_forward(name: &str, epoch: u64) -> ();
                forwards() -> Vec<Forward>;
                forward_changes(name: &str, state: ForwardState, after: Position, limit: usize) -> Vec<ForwardChange>;
                move_forward(name: &str, to: ForwardMove) -> bool;
                redrive_forward(name: &str, positions: &[Position], now: Timestamp) -> u64;
                discard_forward(name: &str, positions: &[Position]) -> u64;
            }
        };
    };
    (Access, $($how:tt)+) => {
        const _: () = {
            use ::rollbook_core::store::{Access, ContextRows, Member, MembersOf, StoreError};

            $crate::delegate::delegate! { @calls Access, StoreError, $($how)+; {}
                context(user_id: &str, organization_id: Option<&str>) -> ContextRows;
                members(of: MembersOf<'_>, after: Option<&str>, limit: usize) -> Vec<Member>;
            }
        };
    };
    (QueueAdmin, $($how:tt)+) => {
        const _: () = {
            use ::rollbook_core::delivery::MessageId;
            use ::rollbook_core::queue::{
                Audit, BulkStep, DeadLetter, DeadLetterPage, Discard, Durability,
                MessagesCursor, MessagesPage, QueueAdmin, QueueError, QueueStats, QueuedMessage,
            };

            $crate::delegate::delegate! { @calls QueueAdmin, QueueError, $($how)+; {}
                stats() -> QueueStats;
                dead_letters(page: &DeadLetterPage) -> Vec<DeadLetter>;
                newest_dead_letters(page: &DeadLetterPage) -> Vec<DeadLetter>;
                discards(id: &MessageId) -> Vec<Discard>;
                redrive(page: &DeadLetterPage) -> BulkStep;
                discard(page: &DeadLetterPage) -> BulkStep;
                messages(after: Option<&MessagesCursor>, limit: usize) -> MessagesPage;
                message(id: &MessageId) -> Option<QueuedMessage>;
                remove_many(ids: &[MessageId]) -> usize;
                durability() -> Durability;
                count_dead_letters(page: &DeadLetterPage) -> BulkStep;
                audit(repair: bool) -> Audit;
            }
        };
    };
    (@calls $port:ident, $error:ty, $of:ty, $this:ident => $inner:expr, $call:ident => $done:expr;
        { $($others:tt)* }
        $($method:ident($($name:ident: $type:ty),*) -> $output:ty;)+) => {
        #[::async_trait::async_trait]
        impl $port for $of {
            $($others)*
            $(
                async fn $method(&self $(, $name: $type)*) -> Result<$output, $error> {
                    let $this = self;
                    let $call = $inner.$method($($name),*);
                    $done
                }
            )+
        }
    };
}

pub(crate) use delegate;
