//! `top`: running processes on one screen, from `/metrics` and `/readyz` of their ops ports.
//!
//! * `scrape` asks the processes and reads the answers; `view` computes what is shown; `text` formats it as a pure function.
//! * A terminal gets a screen of its own, which is restored at the end, also after a signal. Anything else gets one snapshot.

mod forwards;
mod last_error;
mod scrape;
mod screen;
mod text;
mod view;

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::bail;
use futures_util::future::join_all;
use rollbook_core::time::Clock as _;
use tokio::time::Instant;

use self::last_error::LastError;
use self::scrape::{Process, Sample};
use self::screen::Screen;
use self::text::Long;
use self::view::View;
use super::healthcheck::reachable;
use super::on_all_cores;
use crate::cli::{Output, Top};
use crate::clock::SystemClock;
use crate::config::{Config, Environment};
use crate::output::{Style, is_terminal, print_as};
use crate::signals::Signals;

/// Time over which rates are computed.
const WINDOW: Duration = Duration::from_secs(30);
/// Maximum number of samples of that time: enough for the shortest interval.
const SAMPLES_MAX: usize = 151;
/// Size of the text elsewhere than on a terminal, in columns.
const COLUMNS: usize = 100;

/// Shows the processes.
///
/// # Errors
/// No process answers a snapshot.
pub(crate) fn run(config: &Config, arguments: &Top) -> anyhow::Result<()> {
    let addresses = if arguments.addresses.is_empty() {
        vec![reachable(config.ops_address())]
    } else {
        arguments.addresses.clone()
    };
    on_all_cores(async {
        let token = config.settings.ops_tokens.as_ref().map(|tokens| tokens.presented().to_owned());
        let process = |address| Process::new(address, token.clone());
        let mut watch = Watch::new(addresses.into_iter().map(process).collect());
        if arguments.once || arguments.output == Output::Json || !is_terminal() {
            return snapshot(&mut watch, arguments).await;
        }
        let signals = Signals::listen()?;
        // Dropping the screen restores the terminal, also if an error ends the loop.
        let mut screen = Screen::open()?;
        tokio::select! {
            () = signals.first() => Ok(()),
            ended = refresh(&mut watch, &mut screen, arguments.every) => ended,
        }
    })
}

/// Prints one snapshot: the rates are those of one interval.
async fn snapshot(watch: &mut Watch, arguments: &Top) -> anyhow::Result<()> {
    watch.turn().await;
    tokio::time::sleep(arguments.every).await;
    let view = watch.turn().await;
    print_as(arguments.output, &view, |view| {
        text::lines(view, Style::of(&Environment::read()), COLUMNS, Long::Continued).join("\n")
    })?;
    if view.processes.iter().all(|process| !process.answers) {
        bail!("no process answers; give the addresses of ops ports, or start rollbook serve");
    }
    Ok(())
}

async fn refresh(watch: &mut Watch, screen: &mut Screen, every: Duration) -> anyhow::Result<()> {
    let style = Style::of(&Environment::read());
    let mut turns = tokio::time::interval(every);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let view = watch.turn().await;
        screen.show(|columns| text::lines(&view, style, columns, Long::Cut))?;
    }
}

/// Processes, and their samples of the last [`WINDOW`].
struct Watch {
    processes: Vec<Process>,
    samples: VecDeque<Sample>,
    last_error: Option<LastError>,
}

impl Watch {
    fn new(processes: Vec<Process>) -> Self {
        Self { processes, samples: VecDeque::new(), last_error: None }
    }

    /// Asks all processes at once, and returns what is to be shown.
    async fn turn(&mut self) -> View {
        let asked = self.processes.iter_mut().map(Process::ask);
        let answers = join_all(asked).await;
        self.samples.push_back(Sample { at: Instant::now(), answers });
        let is_old = |sample: &Sample| sample.at.elapsed() > WINDOW;
        while self.samples.len() > SAMPLES_MAX
            || (self.samples.len() > 2 && self.samples.front().is_some_and(is_old))
        {
            self.samples.pop_front();
        }
        let view = View::of(&self.samples, SystemClock.now(), self.last_error.take());
        self.last_error.clone_from(&view.last_error);
        view
    }
}
