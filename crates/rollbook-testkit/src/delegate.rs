//! Delegation of a large port to the store inside.

/// Implements `Reconciliation` for a type: each call is that of the store `$inner`, and `$done` awaits it.
macro_rules! delegate_reconciliation {
    ($of:ty, $this:ident => $inner:expr, $call:ident => $done:expr) => {
        const _: () = {
            use ::rollbook_core::catalog::Resource;
            use ::rollbook_core::merge::SubjectState;
            use ::rollbook_core::source::{Lookup, Window};
            use ::rollbook_core::store::{
                Freshness, Head, Held, HeldCount, HeldKey, HeldState, Living, Reconciliation, Reset, Run,
                StoreError,
            };
            use ::rollbook_core::time::Timestamp;

            $crate::delegate::delegate_reconciliation! { @calls $of, $this => $inner, $call => $done;
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
    (@calls $of:ty, $this:ident => $inner:expr, $call:ident => $done:expr;
        $($method:ident($($name:ident: $type:ty),*) -> $output:ty;)+) => {
        #[::async_trait::async_trait]
        impl Reconciliation for $of {
            $(
                async fn $method(&self $(, $name: $type)*) -> Result<$output, StoreError> {
                    let $this = self;
                    let $call = $inner.$method($($name),*);
                    $done
                }
            )+
        }
    };
}

/// Implements `Changes` for a type, likewise.
macro_rules! delegate_changes {
    ($of:ty, $this:ident => $inner:expr, $call:ident => $done:expr) => {
        const _: () = {
            use ::std::time::Duration;

            use ::rollbook_core::store::{
                Changes, ChangesError, ChangesPage, ChangesQuery, FeedState, Position, StoreError,
            };
            use ::rollbook_core::time::Timestamp;

            #[::async_trait::async_trait]
            impl Changes for $of {
                async fn changes(&self, query: &ChangesQuery) -> Result<ChangesPage, ChangesError> {
                    let $this = self;
                    let $call = async { Ok::<_, StoreError>($inner.changes(query).await) };
                    let answer: Result<_, StoreError> = $done;
                    answer?
                }

                async fn feed(&self) -> Result<FeedState, StoreError> {
                    let $this = self;
                    let $call = $inner.feed();
                    $done
                }

                async fn position_before(&self, at: Timestamp) -> Result<Position, StoreError> {
                    let $this = self;
                    let $call = $inner.position_before(at);
                    $done
                }

                async fn wait_for_change(
                    &self,
                    after: Position,
                    timeout: Duration,
                ) -> Result<bool, StoreError> {
                    let $this = self;
                    let $call = $inner.wait_for_change(after, timeout);
                    $done
                }
            }
        };
    };
}

/// Implements `Forwards` for a type, likewise.
macro_rules! delegate_forwards {
    ($of:ty, $this:ident => $inner:expr, $call:ident => $done:expr) => {
        const _: () = {
            use ::std::time::Duration;

            use ::rollbook_core::store::{
                Forward, ForwardChange, ForwardMove, ForwardProgress, ForwardState, Forwards, Position, StoreError,
            };
            use ::rollbook_core::time::Timestamp;

            $crate::delegate::delegate_forwards! { @calls $of, $this => $inner, $call => $done;
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
    (@calls $of:ty, $this:ident => $inner:expr, $call:ident => $done:expr;
        $($method:ident($($name:ident: $type:ty),*) -> $output:ty;)+) => {
        #[::async_trait::async_trait]
        impl Forwards for $of {
            $(
                async fn $method(&self $(, $name: $type)*) -> Result<$output, StoreError> {
                    let $this = self;
                    let $call = $inner.$method($($name),*);
                    $done
                }
            )+
        }
    };
}

/// Implements `Access` for a type, likewise.
macro_rules! delegate_access {
    ($of:ty, $this:ident => $inner:expr, $call:ident => $done:expr) => {
        const _: () = {
            use ::rollbook_core::store::{Access, ContextRows, Member, MembersOf, StoreError};

            #[::async_trait::async_trait]
            impl Access for $of {
                async fn context(
                    &self,
                    user_id: &str,
                    organization_id: Option<&str>,
                ) -> Result<ContextRows, StoreError> {
                    let $this = self;
                    let $call = $inner.context(user_id, organization_id);
                    $done
                }

                async fn members(
                    &self,
                    of: MembersOf<'_>,
                    after: Option<&str>,
                    limit: usize,
                ) -> Result<Vec<Member>, StoreError> {
                    let $this = self;
                    let $call = $inner.members(of, after, limit);
                    $done
                }
            }
        };
    };
}

pub(crate) use delegate_access;
pub(crate) use delegate_changes;
pub(crate) use delegate_forwards;
pub(crate) use delegate_reconciliation;
