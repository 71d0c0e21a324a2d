//! Faults of the fleet while it works.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep};

use crate::fleet::{Fleet, LEASE_SECONDS, Member};

/// Number of faults of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) redis: u32,
    pub(crate) postgres: u32,
    pub(crate) workers: u32,
    pub(crate) receivers: u32,
    pub(crate) pauses: u32,
    pub(crate) everything: u32,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = [
            (self.redis, "redis"),
            (self.postgres, "postgres"),
            (self.workers, "workers"),
            (self.receivers, "receivers"),
            (self.pauses, "paused"),
            (self.everything, "all at once"),
        ];
        let named =
            named.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{what} {count}"));
        f.write_str(&named.collect::<Vec<_>>().join(", "))
    }
}

fn soon(random: &mut Rng, millis: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(millis))
}

/// Postgres is stopped for up to a second.
pub(crate) async fn outages(fleet: &mut Fleet, until: Instant, random: &mut Rng) -> Done {
    let mut done = Done::default();
    while Instant::now() < until {
        sleep(soon(random, 300..1_500)).await;
        fleet.postgres.kill();
        sleep(soon(random, 0..1_000)).await;
        fleet.postgres.restart().await;
        done.postgres += 1;
    }
    done
}

/// Causes random faults; a paused worker continues long after its leases have expired.
pub(crate) async fn everything(fleet: &mut Fleet, until: Instant, random: &mut Rng) -> Done {
    let mut done = Done::default();
    let mut paused: Option<(usize, Instant)> = None;
    // In turn at first, so that a short run includes all of them.
    for turn in 0.. {
        sleep(soon(random, 200..900)).await;
        if let Some((worker, _)) = paused.take_if(|(_, wakes_at)| *wakes_at <= Instant::now()) {
            fleet.workers[worker].process.signal("CONT");
        }
        if Instant::now() >= until {
            break;
        }
        match if turn < 5 { turn } else { random.u32(0..5) } {
            0 if paused.is_none() => {
                let worker = random.usize(0..fleet.workers.len());
                fleet.workers[worker].process.signal("STOP");
                paused = Some((worker, Instant::now() + Duration::from_millis(LEASE_SECONDS * 1_400)));
                done.pauses += 1;
            }
            1 => {
                fleet.redis.kill();
                sleep(soon(random, 0..700)).await;
                fleet.redis.restart().await;
                done.redis += 1;
            }
            2 => {
                fleet.postgres.kill();
                sleep(soon(random, 0..700)).await;
                fleet.postgres.restart().await;
                done.postgres += 1;
            }
            3 => {
                let receiver = random.usize(0..fleet.receivers.len());
                fleet.receivers[receiver].replace("receive");
                done.receivers += 1;
            }
            _ => {
                let worker = random.usize(0..fleet.workers.len());
                if paused.is_none_or(|(asleep, _)| asleep != worker) {
                    fleet.workers[worker].replace("work");
                    done.workers += 1;
                }
            }
        }
    }
    if let Some((worker, wakes_at)) = paused {
        tokio::time::sleep_until(wakes_at).await;
        fleet.workers[worker].process.signal("CONT");
    }
    done
}

/// Kills everything at once and restarts it in random order: servers, receivers and workers.
pub(crate) async fn all_at_once(fleet: &mut Fleet, until: Instant, random: &mut Rng) -> Done {
    let mut done = Done::default();
    while Instant::now() < until {
        sleep(soon(random, 500..2_000)).await;
        fleet.redis.kill();
        fleet.postgres.kill();
        fleet.receivers.iter_mut().chain(&mut fleet.workers).for_each(Member::kill);
        let mut order: Vec<usize> = (0..2 + fleet.receivers.len() + fleet.workers.len()).collect();
        random.shuffle(&mut order);
        for place in order {
            match place.checked_sub(2) {
                None if place == 0 => fleet.redis.restart().await,
                None => fleet.postgres.restart().await,
                Some(member) => match member.checked_sub(fleet.receivers.len()) {
                    None => fleet.receivers[member].start_again("receive"),
                    Some(worker) => fleet.workers[worker].start_again("work"),
                },
            }
        }
        done.everything += 1;
    }
    done
}

/// Kills only Redis, while workers are paused, so that the acknowledged deliveries are still in Redis.
pub(crate) async fn crashes_of_redis(fleet: &mut Fleet, until: Instant, random: &mut Rng) -> Done {
    let mut done = Done::default();
    while Instant::now() < until {
        for worker in &fleet.workers {
            worker.process.signal("STOP");
        }
        sleep(soon(random, 1_500..2_500)).await;
        fleet.redis.kill();
        fleet.redis.restart().await;
        for worker in &fleet.workers {
            worker.process.signal("CONT");
        }
        done.redis += 1;
    }
    done
}
