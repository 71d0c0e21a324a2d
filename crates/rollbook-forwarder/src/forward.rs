//! One forward: takes it, reads the feed, sends what the board names, and saves.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rollbook_core::store::{
    ChangeLine, ChangesError, ChangesPage, ChangesQuery, FORWARD_CHANGES_MAX, Forward as Taken,
    ForwardProgress, ForwardState, ForwardStop, Generation, Position, StoreError,
};
use rollbook_core::time::Timestamp;
use rollbook_operator::changes::generation_name;
use rollbook_operator::forwards::{FORWARD_FAILED_MAX, FORWARD_WAITING_MAX};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::board::Board;
use crate::hold::Hold;
use crate::limits::Limits;
use crate::metrics::Counters;
use crate::ports::Ports;
use crate::request::Requests;
use crate::settings::{BODY_PATIENCE, FRESH_MAX, FRESH_OF_SUBJECT_MAX, ForwardSettings, PAGE, TIMEOUT_MAX};
use crate::steady::SteadyClock;
use crate::turn::Turn;
use crate::verdict::Verdict;

/// Maximum time for which one call waits for a line of the feed.
const WAIT: Duration = Duration::from_secs(20);
/// Time after which a forward is taken, or looked at, again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Pause after a call to the store that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Maximum time for the last requests when the process stops.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Maximum time for the last save. Without it, what was delivered since the save before is sent again.
const LAST_SAVE: Duration = Duration::from_secs(2);

/// Read of the feed in progress.
type Reading = Pin<Box<dyn Future<Output = Result<ChangesPage, ChangesError>> + Send>>;

/// One forward of this process.
pub(crate) struct Forward {
    pub(crate) ports: Ports,
    pub(crate) settings: Arc<ForwardSettings>,
    pub(crate) requests: Requests,
    pub(crate) counters: Counters,
    /// Name under which this process takes forwards.
    pub(crate) holder: Arc<str>,
}

/// End of a turn.
enum End {
    /// The process stops.
    Stop,
    /// The forward has to be taken anew.
    TakeAnew,
    /// Another process has it, or it has stopped.
    LookAgain,
}

impl Forward {
    /// Runs until `stop`. Failures of the store are logged once, and tried again.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut is_failing = false;
        loop {
            let result = self.turn(&stop, &mut is_failing).await;
            let wait = match &result {
                Ok(End::Stop) => return,
                Ok(End::TakeAnew) => Duration::ZERO,
                Ok(End::LookAgain) => LOOK_AGAIN,
                Err(_) => AFTER_FAILURE,
            };
            if let Err(error) = &result
                && !std::mem::replace(&mut is_failing, true)
            {
                warn!(forward = self.settings.name, %error, "the forward can't use the store now; trying again");
            }
            let wait = wait.mul_f64(f64::midpoint(1.0, fastrand::f64()));
            if stop.run_until_cancelled(sleep(wait)).await.is_none() {
                return;
            }
        }
    }

    /// Takes the forward, and sends until something ends the turn. Notes in `is_failing` that the store can be used.
    async fn turn(&self, stop: &CancellationToken, is_failing: &mut bool) -> Result<End, StoreError> {
        // A hold that is dropped here ends by itself.
        let Some(taken) = stop.run_until_cancelled(self.take()).await else { return Ok(End::Stop) };
        let taken = taken?;
        if std::mem::take(is_failing) {
            info!(forward = self.settings.name, "the forward uses the store again");
        }
        let Some(mut turn) = taken else { return Ok(End::LookAgain) };
        let end = self.send(&mut turn, stop).await;
        if let Ok(End::Stop | End::LookAgain) = end {
            self.finish(&mut turn).await;
        } else {
            // The next turn sends these changes again, and never two of one subject at once.
            let ended = async { while turn.requests.join_next().await.is_some() {} };
            stop.run_until_cancelled(ended).await;
        }
        end
    }

    /// Takes the forward, and reads what the store has recorded. `None` if another process has it, or it has stopped.
    async fn take(&self) -> Result<Option<Turn>, StoreError> {
        let (name, forwards) = (self.settings.name.as_str(), &self.ports.forwards);
        let known = forwards.forwards().await?.into_iter().find(|known| known.name == name);
        if known.as_ref().is_some_and(|known| known.stopped.is_some()) {
            return Ok(None);
        }
        let begin = if known.is_none() { self.ports.changes.feed().await?.last } else { 0 };
        let (asked_at, hold_for) = (Instant::now(), self.settings.hold_for());
        let Some(taken) = forwards.take_forward(name, &self.holder, hold_for, begin).await? else {
            return Ok(None);
        };
        if known.is_none() {
            info!(forward = name, position = taken.position, "the forward begins with the next change");
        }
        let generation = self.ports.changes.feed().await?.generation;
        let clock = SteadyClock::starting_at(self.ports.clock.now());
        let board = self.board(&taken, clock.now()).await?;
        let before = taken.generation.unwrap_or(generation);
        let mut turn = Turn::new(board, Hold::new(asked_at, hold_for), (taken.epoch, before), clock);
        if before != generation {
            self.halt(&mut turn, other_feed(before, generation)).await?;
            self.finish(&mut turn).await;
            return Ok(None);
        }
        Ok(Some(turn))
    }

    /// Makes the board of a forward that was just taken.
    async fn board(&self, taken: &Taken, now: Timestamp) -> Result<Board, StoreError> {
        let limits = Limits {
            retry: self.settings.retry,
            give_up_after: self.settings.give_up_after,
            concurrency: self.settings.concurrency,
            slow_max: self.settings.slow_max,
            blocked_max: self.settings.blocked_max,
            waiting_max: FORWARD_WAITING_MAX,
            failed_max: FORWARD_FAILED_MAX,
            fresh_max: FRESH_MAX,
            fresh_of_subject_max: FRESH_OF_SUBJECT_MAX,
        };
        let mut board = Board::new(limits, taken, now);
        for (state, from) in [(ForwardState::Waiting, 0), (ForwardState::Failed, taken.position)] {
            let mut after = from;
            loop {
                let forwards = &self.ports.forwards;
                let page = forwards.forward_changes(&taken.name, state, after, FORWARD_CHANGES_MAX).await?;
                let Some(last) = page.last() else { break };
                after = last.line.position;
                for change in page {
                    board.restore(change, now);
                }
            }
        }
        Ok(board)
    }

    /// Sends until the process stops, the forward stops, or the hold is lost.
    async fn send(&self, turn: &mut Turn, stop: &CancellationToken) -> Result<End, StoreError> {
        let mut reading: Option<Reading> = None;
        loop {
            self.start_requests(turn);
            self.note_full(turn);
            if reading.is_none() && turn.board.wants_more() {
                reading = Some(self.read(turn.board.read_through()));
            }
            let wake = turn.wake();
            tokio::select! {
                () = stop.cancelled() => return Ok(End::Stop),
                Some(done) = turn.requests.join_next() => {
                    if let Some(end) = self.answered(turn, done).await? {
                        return Ok(end);
                    }
                }
                page = page_of(&mut reading) => {
                    reading = None;
                    if let Some(end) = self.take_page(turn, page).await? {
                        return Ok(end);
                    }
                }
                () = sleep_until(wake) => {}
            }
            if turn.is_save_due() {
                let Some(saved) = stop.run_until_cancelled(self.save(turn, None)).await else {
                    return Ok(End::Stop);
                };
                if !saved? {
                    let forward = &self.settings.name;
                    info!(forward, "the forward was moved by a command, or taken over; taking it anew");
                    return Ok(End::TakeAnew);
                }
            }
            if turn.hold.is_over() {
                return Ok(End::TakeAnew);
            }
        }
    }

    fn start_requests(&self, turn: &mut Turn) {
        let limit = self.settings.timeout.min(TIMEOUT_MAX);
        turn.board.set_tight(self.settings.expand && self.requests.room.is_tight());
        while turn.hold.covers(limit + BODY_PATIENCE) {
            let Some(line) = turn.board.next(turn.now()) else { return };
            let (requests, generation) = (self.requests.clone(), turn.generation);
            turn.requests.spawn(async move {
                let verdict = requests.send(&line, generation, limit).await;
                (line, verdict)
            });
        }
    }

    /// Notes the answers that are there.
    async fn answered(
        &self,
        turn: &mut Turn,
        first: Result<(ChangeLine, Verdict), tokio::task::JoinError>,
    ) -> Result<Option<End>, StoreError> {
        let mut next = Some(first);
        while let Some(done) = next {
            // A request that panicked has no answer. Its change is sent again with the next turn.
            let Ok((line, verdict)) = done else { return Ok(Some(End::TakeAnew)) };
            self.counters.count(&verdict);
            turn.board.answered(&line, &verdict, turn.clock.now(), fastrand::f64());
            turn.failures.note(&self.settings.name, &verdict, turn.board.dead_letters());
            if verdict == Verdict::Gone {
                let reason = "the endpoint answered 410: it wants no more changes".to_owned();
                return self.halt(turn, reason).await.map(Some);
            }
            next = turn.requests.try_join_next();
        }
        Ok(None)
    }

    /// Starts to read the feed after a position: at once if there is more, or when there is.
    fn read(&self, after: Position) -> Reading {
        let changes = Arc::clone(&self.ports.changes);
        let (resources, kinds) = (self.settings.resources.clone(), self.settings.kinds.clone());
        let query = ChangesQuery { after, resources, kinds, limit: PAGE };
        Box::pin(async move {
            let page = changes.changes(&query).await?;
            if page.through > after || !page.lines.is_empty() {
                return Ok(page);
            }
            changes.wait_for_change(after, WAIT).await?;
            changes.changes(&query).await
        })
    }

    async fn take_page(
        &self,
        turn: &mut Turn,
        page: Result<ChangesPage, ChangesError>,
    ) -> Result<Option<End>, StoreError> {
        match page {
            Ok(page) if page.generation != turn.generation => {
                let reason = other_feed(turn.generation, page.generation);
                self.halt(turn, reason).await.map(Some)
            }
            Ok(page) => {
                let selected = page.lines.into_iter().filter(|line| self.settings.selects(line));
                turn.board.read(selected, page.through, turn.clock.now());
                Ok(None)
            }
            Err(ChangesError::Store(error)) => Err(error),
            Err(error) => self.halt(turn, error.to_string()).await.map(Some),
        }
    }

    /// Stops the forward until an operator starts it again.
    async fn halt(&self, turn: &mut Turn, reason: String) -> Result<End, StoreError> {
        error!(
            forward = self.settings.name,
            reason, "the forward stopped; start it again: rollbook changes resume, or replay"
        );
        let stop = ForwardStop { at: self.ports.clock.now(), reason };
        let is_saved = self.save(turn, Some(stop)).await?;
        Ok(if is_saved { End::LookAgain } else { End::TakeAnew })
    }

    /// Saves the progress. Returns `false` if the forward is not this process's any more.
    async fn save(&self, turn: &mut Turn, stopped: Option<ForwardStop>) -> Result<bool, StoreError> {
        turn.board.end_pause(turn.clock.now());
        let progress = turn.board.progress(self.ports.clock.now());
        let progress = ForwardProgress { stopped, generation: Some(turn.generation), ..progress };
        let asked_at = Instant::now();
        let (name, hold_for) = (&self.settings.name, self.settings.hold_for());
        let saving = self.ports.forwards.save_forward(name, turn.epoch, hold_for, &progress);
        if !saving.await? {
            return Ok(false);
        }
        turn.saved(asked_at, progress.position);
        Ok(true)
    }

    /// Waits for the last answers for a short time, saves, and gives the forward back. What has no answer then is sent again.
    async fn finish(&self, turn: &mut Turn) {
        let last = async {
            while let Some(done) = turn.requests.join_next().await {
                if let Ok((line, verdict)) = done {
                    self.counters.count(&verdict);
                    turn.board.answered(&line, &verdict, turn.clock.now(), fastrand::f64());
                }
            }
        };
        _ = timeout(LAST_REQUESTS.min(self.settings.timeout), last).await;
        turn.requests.shutdown().await;
        let epoch = turn.epoch;
        let last = async {
            if let Ok(true) = self.save(turn, None).await {
                drop(self.ports.forwards.release_forward(&self.settings.name, epoch).await);
            }
        };
        _ = timeout(LAST_SAVE, last).await;
    }

    /// Logs that the forward waits, and that it goes on.
    fn note_full(&self, turn: &mut Turn) {
        let full = turn.board.full();
        if !turn.note_full(full.is_some()) {
            return;
        }
        if let Some(reason) = full {
            warn!(
                forward = self.settings.name,
                reason,
                fix = "rollbook changes status, failed, redrive, discard",
                "the forward is full: it reads no more changes until some are delivered, redriven or discarded"
            );
        } else {
            info!(forward = self.settings.name, "the forward reads changes again");
        }
    }
}

/// Reason of a stop at another feed than the one of the position.
fn other_feed(before: Generation, now: Generation) -> String {
    format!(
        "the feed is another one ({}, before {}): the store was restored, or the feed was made anew. Later changes have ids that \
         the endpoint may know",
        generation_name(now),
        generation_name(before),
    )
}

/// Waits for a read of the feed; without one, for ever.
async fn page_of(reading: &mut Option<Reading>) -> Result<ChangesPage, ChangesError> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}
