//! One run: a load, faults, an audit.

use std::fmt;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::audit::{Audit, audit};
use crate::chaos::{self, Done};
use crate::fleet::Fleet;
use crate::load::Load;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Outage,
    Everything,
    AllAtOnce,
    Control,
}

#[derive(Clone, Copy)]
pub(crate) struct Experiment {
    pub(crate) kind: Kind,
    pub(crate) send_for: Duration,
    pub(crate) seed: u64,
}

impl Experiment {
    pub(crate) async fn run(self) -> Outcome {
        // Redis runs as another user and must be able to read it.
        let anyone = Permissions::from_mode(0o755);
        let folder = tempfile::Builder::new().permissions(anyone).tempdir().expect("a folder");
        let library = (self.kind == Kind::Control).then(|| slow_flush(folder.path()));
        let mut fleet = Fleet::start(library).await;
        let load = Load::new(self.send_for, self.seed);
        let mut random = Rng::with_seed(self.seed);
        let addresses = fleet.addresses();
        let until = Instant::now() + self.send_for;
        let wreck = async {
            match self.kind {
                Kind::Outage => chaos::outages(&mut fleet, until, &mut random).await,
                Kind::Everything => chaos::everything(&mut fleet, until, &mut random).await,
                Kind::AllAtOnce => chaos::all_at_once(&mut fleet, until, &mut random).await,
                Kind::Control => chaos::crashes_of_redis(&mut fleet, until, &mut random).await,
            }
        };
        let (sent, done) = tokio::join!(load.send(addresses), wreck);
        fleet.until_quiet().await;
        let stopped_in_order = fleet.stop().await;
        let audit = audit(&fleet, &load, &sent).await;
        let outcome = Outcome {
            kind: self.kind,
            acknowledged: sent.acknowledged.len(),
            retries: sent.retries,
            failed: sent.failed,
            done,
            stopped_in_order,
            audit,
        };
        if !outcome.passed() {
            eprintln!("{}", fleet.logs());
        }
        outcome
    }
}

/// A library that makes every flush take seconds, like a slow disk.
fn slow_flush(folder: &Path) -> PathBuf {
    const SOURCE: &str = "#include <unistd.h>\n\
        #include <sys/syscall.h>\n\
        int fdatasync(int file) { sleep(3); return (int) syscall(SYS_fdatasync, file); }\n\
        int fsync(int file) { return fdatasync(file); }\n";
    let (source, library) = (folder.join("slow_flush.c"), folder.join("slow_flush.so"));
    std::fs::write(&source, SOURCE).expect("a file");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    assert!(built.expect("a C compiler, which ops/test installs").success());
    library
}

pub(crate) struct Outcome {
    kind: Kind,
    acknowledged: usize,
    retries: u64,
    failed: usize,
    done: Done,
    stopped_in_order: bool,
    audit: Audit,
}

impl Outcome {
    pub(crate) const HEADER: &str = "experiment   acknowledged  sent again   lost  unexpected  stuck  poison parked  rows    attempts  killed";

    pub(crate) fn passed(&self) -> bool {
        let Audit { lost, unexpected, stuck, .. } = self.audit;
        if self.kind == Kind::Control {
            return lost > 0 && unexpected == 0 && stuck == 0;
        }
        let whole =
            self.audit.dead_is_poison && self.audit.rows_equal && self.failed == 0 && self.stopped_in_order;
        // An outage of the store counts against no message; a killed or paused worker does cost an attempt.
        let attempts = self.kind != Kind::Outage || self.audit.attempts_max == 1;
        (lost, unexpected, stuck) == (0, 0, 0) && whole && attempts
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let audit = &self.audit;
        let name = match self.kind {
            Kind::Outage => "outage",
            Kind::Everything => "everything",
            Kind::AllAtOnce => "all at once",
            Kind::Control => "control",
        };
        let rows = if audit.rows_equal { "equal" } else { "differ" };
        let parked = format!("{}{}", audit.dead, if audit.dead_is_poison { " all" } else { " not all" });
        let attempts = format!("≤ {} ({})", audit.attempts_max, audit.again);
        write!(
            f,
            "{name:<12} {:>12}  {:>10}  {:>5}  {:>10}  {:>5}  {parked:>13}  {rows:<6}  {attempts:<8}  {}",
            self.acknowledged, self.retries, audit.lost, audit.unexpected, audit.stuck, self.done
        )?;
        if self.failed > 0 {
            write!(f, "; {} deliveries never acknowledged", self.failed)?;
        }
        if !self.stopped_in_order {
            f.write_str("; not stopped in order")?;
        }
        write!(f, "; {} applied", audit.applied)
    }
}
