//! CPU time of the processes in seconds, user and system, as the kernel counts it.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

/// The kernel's clock ticks a second, the same on every Linux.
const TICKS: f64 = 100.0;

/// One of those who share the cores, by name.
pub(crate) type Sharer = (&'static str, Who);

/// Owner of CPU time.
#[derive(Clone)]
pub(crate) enum Who {
    Processes(Vec<u32>),
    /// A process and all its children, those that have ended included.
    Family(u32),
}

impl Who {
    /// This process: the load generator, or a bare client.
    pub(crate) fn this() -> Self {
        Self::Processes(vec![std::process::id()])
    }

    /// Children of this process with this argument in the command line.
    pub(crate) fn children_with(argument: &str) -> Self {
        let has_argument = |id: &u32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())
        };
        Self::Processes(children(std::process::id()).into_iter().filter(has_argument).collect())
    }

    fn seconds(&self) -> f64 {
        match self {
            Self::Processes(ids) => ids.iter().map(|id| of(*id)).sum(),
            Self::Family(id) => {
                let children = children(*id).into_iter();
                let children: f64 = children.filter_map(|child| Some(ticks(&stat(child)?, 11..13))).sum();
                ticks(&stat(*id).expect("a living process"), 11..15) + children
            }
        }
    }
}

/// Looks who has the cores from now on.
pub(crate) struct Watch {
    started: Instant,
    idle_before: f64,
    sharers: Vec<(&'static str, Who, f64)>,
}

impl Watch {
    pub(crate) fn start(sharers: &[Sharer]) -> Self {
        let sharers = sharers.iter().map(|(name, who)| (*name, who.clone(), who.seconds()));
        Self { sharers: sharers.collect(), idle_before: idle(), started: Instant::now() }
    }

    /// Since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn split(&self) -> Split {
        let seconds = self.elapsed().as_secs_f64();
        let idle = idle() - self.idle_before;
        let mut sum = 0.0;
        let mut text = "CPU".to_owned();
        for (name, who, before) in &self.sharers {
            let share = who.seconds() - before;
            sum += share;
            write!(text, " {name} {share:.1},").expect("text has room");
        }
        let others = (cores() * seconds - idle - sum).max(0.0);
        write!(text, " others {others:.1}, idle {idle:.1} of {} × {seconds:.1} s", cores())
            .expect("text has room");
        Split { text, seconds: sum }
    }
}

/// CPU time by owner.
pub(crate) struct Split {
    /// CPU seconds of each, of who else is on this machine, and of nobody.
    pub(crate) text: String,
    /// CPU seconds of all that were looked at.
    pub(crate) seconds: f64,
}

/// Returns the number of cores.
#[expect(clippy::cast_precision_loss, reason = "a small number")]
pub(crate) fn cores() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64)
}

/// Seconds in which cores had nothing to do, or waited for the disk.
fn idle() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let fields: Vec<String> =
        stat.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    ticks(&fields, 4..6)
}

/// CPU seconds that this process has had so far.
fn of(id: u32) -> f64 {
    ticks(&stat(id).expect("a living process"), 11..13)
}

/// CPU seconds of the children of this process that have ended and were waited for.
pub(crate) fn of_ended_children() -> f64 {
    ticks(&stat(std::process::id()).expect("this process"), 13..15)
}

fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|stat| stat[1] == parent.to_string())).collect()
}

/// The fields of a process's `stat` behind its name: state, parent, …
fn stat(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn ticks(stat: &[String], fields: std::ops::Range<usize>) -> f64 {
    stat[fields].iter().map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / TICKS
}
