//! Runs the faces of one process. If one ends without a request to stop, all end, and the process reports why.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Running faces, in the order in which they are stopped.
#[derive(Default)]
pub(crate) struct Supervisor {
    running: JoinSet<anyhow::Result<()>>,
    faces: Vec<Face>,
    stopping: CancellationToken,
}

struct Face {
    name: &'static str,
    task: Id,
    stop: CancellationToken,
    ended: bool,
}

impl Supervisor {
    /// Cancelled when the stop begins, before the first face is stopped.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Starts a face. It runs until its token is cancelled.
    pub(crate) fn start<Run>(&mut self, name: &'static str, run: impl FnOnce(CancellationToken) -> Run)
    where
        Run: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = self.running.spawn(run(stop.clone())).id();
        self.faces.push(Face { name, task, stop, ended: false });
    }

    /// Waits for `stop` or for a face that ends by itself, then stops the faces one after the other, in the
    /// order of their start, all within `drain_timeout`.
    ///
    /// # Errors
    /// The first failure: a face ended by itself, failed while it stopped, or did not stop.
    pub(crate) async fn run(
        mut self,
        stop: CancellationToken,
        drain_timeout: Duration,
    ) -> anyhow::Result<()> {
        let mut outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            Some(ended) = self.running.join_next_with_id() => {
                let (name, result) = self.note(ended);
                result.and_then(|()| Err(anyhow!("it ended without a request to stop")))
                    .with_context(|| format!("the {name} stopped"))
            }
        };
        if let Err(error) = &outcome {
            tracing::error!("{error:#}: stopping the others");
        }
        self.stopping.cancel();
        let deadline = Instant::now() + drain_timeout;
        for index in 0..self.faces.len() {
            self.faces[index].stop.cancel();
            let stopped = self.until_ended(index, deadline).await;
            outcome = outcome.and(stopped);
        }
        outcome
    }

    async fn until_ended(&mut self, index: usize, deadline: Instant) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        while !self.faces[index].ended {
            let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.running.join_next_with_id()).await
            else {
                let name = self.faces[index].name;
                return outcome.and(Err(anyhow!("the {name} did not stop in time and is cut off")));
            };
            let (name, result) = self.note(ended);
            let result = result.with_context(|| format!("the {name} failed while it stopped"));
            outcome = outcome.and(result);
        }
        outcome
    }

    /// Name of the face that ended, and its result.
    fn note(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), JoinError>,
    ) -> (&'static str, anyhow::Result<()>) {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            // The message of a panic is on standard error already, and may contain data that no log should hold.
            Err(error) => (error.id(), Err(anyhow!("it panicked"))),
        };
        let face = self.faces.iter_mut().find(|face| face.task == id);
        let name = face.map_or("unknown face", |face| {
            face.ended = true;
            face.name
        });
        (name, result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    const DRAIN: Duration = Duration::from_secs(25);

    type Log = Arc<Mutex<Vec<&'static str>>>;

    fn well_behaved(supervisor: &mut Supervisor, name: &'static str, log: &Log) {
        let log = Arc::clone(log);
        supervisor.start(name, |stop| async move {
            stop.cancelled().await;
            log.lock().expect("no test panics with it").push(name);
            Ok(())
        });
    }

    #[tokio::test(start_paused = true)]
    async fn faces_are_stopped_one_after_the_other_in_the_order_of_their_start() {
        let (mut supervisor, log, stop) = (Supervisor::default(), Log::default(), CancellationToken::new());
        for name in ["receiver", "worker", "ops"] {
            well_behaved(&mut supervisor, name, &log);
        }
        stop.cancel();
        supervisor.run(stop, DRAIN).await.expect("all stop well");
        assert_eq!(*log.lock().expect("no test panics with it"), ["receiver", "worker", "ops"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_face_that_ends_by_itself_stops_the_others_and_is_reported() {
        for (how, reason) in [(0, "without a request"), (1, "the disk is gone"), (2, "it panicked")] {
            let (mut supervisor, log) = (Supervisor::default(), Log::default());
            well_behaved(&mut supervisor, "receiver", &log);
            supervisor.start("worker", move |_| async move {
                assert_ne!(how, 2, "this panic is meant");
                if how == 0 { Ok(()) } else { Err(anyhow!("the disk is gone")) }
            });
            let error = supervisor.run(CancellationToken::new(), DRAIN).await.expect_err("a face ended");
            let error = format!("{error:#}");
            assert!(error.starts_with("the worker stopped: ") && error.contains(reason), "{error}");
            assert_eq!(*log.lock().expect("no test panics with it"), ["receiver"]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_face_that_does_not_stop_is_cut_off_and_costs_the_others_nothing_more_than_the_time() {
        let (mut supervisor, stop) = (Supervisor::default(), CancellationToken::new());
        supervisor.start("receiver", |_| std::future::pending());
        let began_at = Instant::now();
        stop.cancel();
        let error = supervisor.run(stop, DRAIN).await.expect_err("it hangs");
        assert_eq!(format!("{error:#}"), "the receiver did not stop in time and is cut off");
        assert_eq!(began_at.elapsed(), DRAIN);
    }
}
