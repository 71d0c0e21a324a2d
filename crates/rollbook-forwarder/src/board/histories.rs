//! Random histories of a forward, with any answers and with kills.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;
use rollbook_core::store::{ForwardProgress, OpenChanges};

use super::tests::{LIMITS as MANY, at, forward, line, refused};
use super::*;

/// Limits that random histories reach.
const LIMITS: Limits = Limits {
    concurrency: 4,
    slow_max: 3,
    blocked_max: 3,
    waiting_max: 9,
    failed_max: 4,
    fresh_max: 8,
    fresh_of_subject_max: 2,
    ..MANY
};

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    /// The feed grows by changes of these subjects.
    Write(Vec<u8>),
    /// The forward reads at most so many lines.
    Read(usize),
    /// Requests begin, at most so many.
    Send(usize),
    /// One of the requests is answered.
    Answer(usize, Verdict),
    /// Time passes.
    Pass(u64),
    /// The progress is saved.
    Save,
    /// The process is killed, and another one begins from what was saved.
    Kill,
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        6 => Just(Verdict::Accepted),
        1 => Just(refused(500)),
        1 => Just(refused(302)),
        1 => Just(Verdict::TimedOut),
        1 => Just(Verdict::Unreadable),
        1 => Just(Verdict::Postponed),
        1 => Just(Verdict::Unreachable("down".to_owned())),
        1 => (0_u64..900).prop_map(|pause| Verdict::Refused { status: 429, pause: Some(Duration::from_secs(pause)) }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => prop::collection::vec(0_u8..6, 1..8).prop_map(Step::Write),
        3 => (1_usize..6).prop_map(Step::Read),
        4 => (1_usize..6).prop_map(Step::Send),
        8 => (0_usize..6, verdicts()).prop_map(|(which, verdict)| Step::Answer(which, verdict)),
        2 => (0_u64..100_000).prop_map(Step::Pass),
        2 => Just(Step::Pass(1)),
        3 => Just(Step::Save),
        1 => Just(Step::Kill),
    ];
    prop::collection::vec(step, 1..250)
}

/// The world around a board: the feed, the store, and what the endpoint saw.
struct World {
    feed: Vec<ChangeLine>,
    board: Board,
    now: Timestamp,
    /// Position and changes that the store has.
    position: Position,
    open_changes: Option<OpenChanges>,
    paused_until: Option<Timestamp>,
    stored: BTreeMap<Position, ForwardChange>,
    sending: Vec<ChangeLine>,
    accepted: HashSet<Position>,
    /// Changes that this process has sent and the endpoint has accepted.
    accepted_here: HashSet<Position>,
    /// Changes that the store does not know as accepted since the last kill: they may be sent again.
    may_repeat: HashSet<Position>,
    /// Whether the test saves wrong positions on purpose.
    is_control: bool,
    /// Greatest accepted position of each subject.
    newest: HashMap<String, Position>,
}

impl World {
    fn new() -> Self {
        Self {
            feed: Vec::new(),
            board: Board::new(LIMITS, &forward(0, 0), at(0)),
            now: at(0),
            position: 0,
            open_changes: None,
            paused_until: None,
            stored: BTreeMap::new(),
            sending: Vec::new(),
            accepted: HashSet::new(),
            accepted_here: HashSet::new(),
            may_repeat: HashSet::new(),
            is_control: false,
            newest: HashMap::new(),
        }
    }

    fn read(&mut self, most: usize) {
        let from = usize::try_from(self.board.read_through()).expect("a position");
        let lines: Vec<ChangeLine> = self.feed.iter().skip(from).take(most).cloned().collect();
        let through = (from + lines.len()) as Position;
        self.board.read(lines, through, self.now);
    }

    fn send(&mut self, most: usize) {
        for _ in 0..most {
            let Some(line) = self.board.next(self.now) else { return };
            let busy = self.sending.iter().any(|other| other.subject_id == line.subject_id);
            assert!(!busy, "two changes of {} at once", line.subject_id);
            let is_known =
                self.accepted.contains(&line.position) && !self.may_repeat.contains(&line.position);
            assert!(!is_known, "{} is sent again", line.position);
            self.sending.push(line);
            let Limits { concurrency, slow_max, .. } = LIMITS;
            assert!(self.sending.len() <= concurrency + slow_max, "{} at once", self.sending.len());
        }
    }

    fn answer(&mut self, which: usize, verdict: &Verdict) {
        if self.sending.is_empty() {
            return;
        }
        let line = self.sending.swap_remove(which % self.sending.len());
        if *verdict == Verdict::Accepted {
            self.accepted_here.insert(line.position);
        }
        if *verdict == Verdict::Accepted && self.accepted.insert(line.position) {
            let newest = self.newest.entry(line.subject_id.clone()).or_default();
            assert!(*newest < line.position, "{} of {} after {newest}", line.position, line.subject_id);
            *newest = line.position;
        }
        self.board.answered(&line, verdict, self.now, 0.5);
    }

    fn save(&mut self) {
        self.save_at(self.board.position());
        for line in self.feed.iter().take(usize::try_from(self.position).expect("a position")) {
            let is_settled =
                self.accepted.contains(&line.position) || self.stored.contains_key(&line.position);
            assert!(is_settled || self.is_control, "a kill would lose {}", line.position);
        }
    }

    fn save_at(&mut self, position: Position) {
        let progress = ForwardProgress { position, ..self.board.progress(self.now) };
        assert!(progress.position >= self.position, "the position moves back");
        self.position = progress.position;
        self.open_changes = progress.open_changes.filter(|_| !self.is_control);
        self.paused_until = progress.paused_until;
        for position in progress.removed {
            self.stored.remove(&position);
        }
        for change in progress.recorded {
            self.stored.insert(change.line.position, change);
        }
        self.board.saved();
        let is_known = |position: &Position| self.is_control || self.is_saved_as_settled(*position);
        assert!(
            self.accepted_here.iter().all(is_known),
            "a kill would repeat what was delivered before the save"
        );
        let Board { blocked, waiting, failed, .. } = self.board;
        let Limits { blocked_max, waiting_max, failed_max, .. } = LIMITS;
        let is_exact = blocked <= blocked_max && waiting <= waiting_max && failed <= failed_max;
        assert!(is_exact, "{blocked} {waiting} {failed}");
    }

    fn is_saved_as_settled(&self, position: Position) -> bool {
        let is_recorded = self.stored.get(&position).is_some_and(|of| of.state == ForwardState::Waiting);
        let is_above = self.open_changes.as_ref().is_some_and(|open_changes| {
            position <= open_changes.through && !open_changes.open.contains(&position)
        });
        !is_recorded && (position <= self.position || is_above)
    }

    fn kill(&mut self) {
        self.sending.clear();
        let failed = self.stored.values().filter(|of| of.state == ForwardState::Failed).count() as u64;
        let (open_changes, paused_until) = (self.open_changes.clone(), self.paused_until);
        let known = Forward { open_changes, paused_until, ..forward(self.position, failed) };
        self.board = Board::new(LIMITS, &known, self.now);
        for change in self.stored.values() {
            self.board.restore(change.clone(), self.now);
        }
        // What was accepted and saved is not sent again.
        self.accepted_here.clear();
        self.may_repeat =
            self.accepted.iter().copied().filter(|position| !self.is_saved_as_settled(*position)).collect();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Write(subjects) => {
                for subject in subjects {
                    let position = self.feed.len() as Position + 1;
                    self.feed.push(line(position, &format!("subject_{subject}")));
                }
            }
            Step::Read(most) if self.board.wants_more() => self.read(*most),
            Step::Read(_) => {}
            Step::Send(most) => self.send(*most),
            Step::Answer(which, verdict) => self.answer(*which, verdict),
            Step::Pass(seconds) => self.now = self.now.plus(Duration::from_secs(*seconds)),
            Step::Save => self.save(),
            Step::Kill => self.kill(),
        }
    }

    /// Lets the endpoint accept everything until nothing is left.
    fn finish(&mut self) {
        // At the maximum of dead letters nothing is read until an operator acts.
        self.board.limits.failed_max = u64::MAX;
        for _ in 0..10_000 {
            if self.board.wants_more() {
                self.read(5);
            }
            self.save();
            self.send(1_000);
            while !self.sending.is_empty() {
                self.answer(0, &Verdict::Accepted);
            }
            match self.board.next_at() {
                Some(next) => self.now = self.now.max(next),
                None if self.board.read_through() < self.feed.len() as Position => {}
                None => break,
            }
        }
        self.save();
    }
}

proptest! {
    /// Each change is accepted or a dead letter at the end, and the first acceptances of a subject are in the order of the
    /// feed, whatever the endpoint answers and whenever the process is killed.
    #[test]
    fn nothing_is_lost_and_each_subject_is_in_order(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.finish();
        prop_assert_eq!(world.board.position(), world.feed.len() as Position);
        for line in &world.feed {
            let is_failed = world.stored.get(&line.position).is_some_and(|of| of.state == ForwardState::Failed);
            prop_assert!(world.accepted.contains(&line.position) || is_failed, "{}", line.position);
        }
        let waiting = world.stored.values().filter(|of| of.state == ForwardState::Waiting).count();
        prop_assert_eq!((waiting, world.board.blocked), (0, 0));
    }
}

/// The control: a pusher that saves the position that it has read loses changes in such histories.
#[test]
fn a_position_that_passes_changes_in_hand_is_seen_to_lose_them() {
    let mut world = World { is_control: true, ..World::new() };
    for step in [Step::Write(vec![1, 2]), Step::Read(5), Step::Send(5)] {
        world.step(&step);
    }
    world.save_at(world.board.read_through());
    world.kill();
    world.finish();
    assert_eq!(world.accepted.len(), 0, "both are lost");
    let mut world = World::new();
    for step in [Step::Write(vec![1, 2]), Step::Read(5), Step::Send(5), Step::Save, Step::Kill] {
        world.step(&step);
    }
    world.finish();
    assert_eq!(world.accepted.len(), 2);
}
