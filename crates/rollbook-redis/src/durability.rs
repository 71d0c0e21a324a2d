//! Durability of acknowledged data under the server's settings.
//!
//! `appendfsync always` flushes the log before the replies of the same event-loop iteration are sent. All
//! other values are weaker than "on the disk". Some other settings also weaken it: `no-appendfsync-on-rewrite
//! yes` stops flushing during each rewrite, and a `maxmemory-policy` other than `noeviction` deletes
//! messages. Sources: redis.io, Persistence and WAITAOF; aof.c.
//!
//! Providers forbid CONFIG. INFO then still shows whether there is a log, whether its last write succeeded, the
//! eviction policy and the role. Whether the log is flushed is proved for each delivery by WAITAOF, if the
//! server has it. For the rest an operator may vouch (`durability = trusted`).

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue as _, RedisResult, ServerErrorKind, Value, cmd};
use rollbook_core::weakness::Weakness;

use crate::connection::Connection;

/// Oldest version with all features that the scripts use.
const VERSION_MIN: (u32, u32) = (7, 0);
/// First version with WAITAOF.
const VERSION_WAITAOF: (u32, u32) = (7, 2);

/// Confirmation required after a write before it may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// No confirmation: the reply itself is sufficient.
    None,
    /// WAIT: the number of replicas that must have the write.
    Wait { replicas: u32 },
    /// WAITAOF: the write must be on the local disk and on the disks of this number of replicas.
    WaitAof { replicas: u32 },
}

type AnswerCheck = Box<dyn Fn(&Value) -> Result<(), String> + Send>;

impl Confirm {
    /// Returns the command and the check of its answer.
    pub(crate) fn command(self, timeout: Duration) -> Option<(Cmd, AnswerCheck)> {
        // Shorter than the connection's own limit, so that the answer contains the counts reached.
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) / 4 * 3;
        let short = move |kind: &str, found: i64, wanted: u32, fix: &str| {
            if found >= i64::from(wanted) {
                Ok(())
            } else {
                Err(format!("{found} of {wanted} {kind} have the write after {millis} ms: {fix}"))
            }
        };
        match self {
            Self::None => None,
            Self::Wait { replicas } => {
                let mut command = cmd("WAIT");
                command.arg(replicas).arg(millis);
                let check = move |answer: &Value| short("replicas", number(answer), replicas, REPLICAS);
                Some((command, Box::new(check)))
            }
            Self::WaitAof { replicas } => {
                let mut command = cmd("WAITAOF");
                command.arg(1).arg(replicas).arg(millis);
                let check = move |answer: &Value| {
                    let Value::Array(counts) = answer else {
                        return Err("WAITAOF returned no counts".to_owned());
                    };
                    short("local disks", counts.first().map_or(0, number), 1, FLUSH)?;
                    short("replicas' disks", counts.get(1).map_or(0, number), replicas, REPLICAS)
                };
                Some((command, Box::new(check)))
            }
        }
    }
}

fn number(value: &Value) -> i64 {
    i64::from_redis_value_ref(value).unwrap_or_default()
}

/// Settings and state reported by a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts(HashMap<String, String>);

/// Reads the facts from the server of this connection.
pub(crate) async fn facts(connection: &mut Connection) -> RedisResult<Facts> {
    let mut facts = HashMap::new();
    let text: String = cmd("INFO").query_async(connection).await?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    facts.extend(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    // While loading, INFO reports that there is no log, which would be wrong about the settings.
    if facts.get("loading").is_some_and(|loading| loading == "1") {
        return Err((ErrorKind::Server(ServerErrorKind::BusyLoading), "the server is loading").into());
    }
    let mut command = cmd("CONFIG");
    command.arg("GET").arg(&["appendfsync", "no-appendfsync-on-rewrite"]);
    match command.query_async::<HashMap<String, String>>(connection).await {
        Ok(answer) => facts.extend(answer),
        // Some providers forbid CONFIG GET: the missing value is reported as a weakness.
        Err(error) if is_refusal(&error) => {
            // A server of a provider may have another version than it reports: only the command itself shows.
            let mut command = cmd("WAITAOF");
            command.arg(0).arg(0).arg(1);
            match command.query_async::<Value>(connection).await {
                Ok(_) => _ = facts.insert(HAS_WAITAOF.to_owned(), "1".to_owned()),
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    }
    Ok(Facts(facts))
}

/// Fix where too few replicas confirm a write.
const REPLICAS: &str = "start the replicas of this server, or lower redis_replicas";
/// Fix where the server itself does not confirm a write.
const FLUSH: &str = "set appendfsync always on the server";

/// Name of the fact that the server executes WAITAOF, although it forbids CONFIG.
const HAS_WAITAOF: &str = "waitaof";

/// Returns whether the server does not know or not allow a command.
fn is_refusal(error: &redis::RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError))
}

/// Assessment of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Assessment {
    pub(crate) weaknesses: Vec<Weakness>,
    /// Properties that the server does not prove, and for which the operator vouches.
    pub(crate) vouched: Vec<String>,
    /// Confirmation required after each write.
    pub(crate) confirm: Confirm,
}

impl Facts {
    /// Returns a fact, or nothing where the server does not report it.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn version(&self) -> (u32, u32) {
        let mut parts = self.get("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// Assesses the server; with `trusted` the operator vouches for what concerns the disk. Fails if the server
    /// can't be used at all.
    pub(crate) fn assess(&self, replicas: u32, trusted: bool) -> Result<Assessment, String> {
        let version = self.version();
        if version < VERSION_MIN {
            return Err(format!(
                "the server has version {} and Rollbook needs 7.0 or newer",
                self.get("redis_version")
            ));
        }
        let has_waitaof = version >= VERSION_WAITAOF;
        let (appends, fsync) = (self.appends(), self.get("appendfsync"));
        // Without CONFIG, each delivery waits for the disk, unless the operator vouches for it.
        let is_proved = fsync.is_empty() && self.get(HAS_WAITAOF) == "1" && !trusted;
        let confirm = match (appends, fsync) {
            (true, "") if is_proved => Confirm::WaitAof { replicas },
            (true, "everysec") if has_waitaof => Confirm::WaitAof { replicas },
            (true, _) if has_waitaof && replicas > 0 => Confirm::WaitAof { replicas },
            _ if replicas > 0 => Confirm::Wait { replicas },
            _ => Confirm::None,
        };
        let of_the_disk = self.of_the_disk(is_proved, has_waitaof);
        let others = self.of_the_server();
        let (weaknesses, vouched) = if trusted {
            (others, of_the_disk.into_iter().map(|weakness| weakness.what).collect())
        } else {
            (of_the_disk.into_iter().chain(others).collect(), Vec::new())
        };
        Ok(Assessment { weaknesses, vouched, confirm })
    }

    fn appends(&self) -> bool {
        self.get("aof_enabled") == "1"
    }

    /// Weaknesses for which an operator may vouch. `is_proved`: each delivery waits for WAITAOF because CONFIG is
    /// forbidden.
    fn of_the_disk(&self, is_proved: bool, has_waitaof: bool) -> Vec<Weakness> {
        let (appends, fsync) = (self.appends(), self.get("appendfsync"));
        // WAITAOF is called under everysec, but it proves nothing: Valkey 8 and 9 and Redis 7.4.0 and 7.4.1
        // answer before the flush (redis PR 13793). Version numbers are not reliable, and a probe is valid
        // only for one server.
        let flushed = fsync == "always";
        let is_confirmed = fsync == "everysec" && has_waitaof;
        let waitaof = if is_confirmed { ", and not every server's WAITAOF waits for the disk" } else { "" };
        let found = [
            weak(
                !appends,
                "appendonly is no: a restart loses acknowledged messages",
                "CONFIG SET appendonly yes",
            ),
            weak(
                fsync.is_empty(),
                if is_proved && appends {
                    "appendfsync can't be read because CONFIG GET is forbidden; each delivery waits until WAITAOF confirms the \
                     disk, and not every server's WAITAOF does"
                } else {
                    "appendfsync can't be read because CONFIG GET is forbidden"
                },
                "grant the user +config|get; if the provider forbids it and promises to keep acknowledged writes, set durability \
                 to trusted",
            ),
            // Without a log too: whoever switches it on would meet this weakness next.
            weak(
                !fsync.is_empty() && !flushed,
                &format!("appendfsync is {fsync}: a crash loses the last acknowledged messages{waitaof}"),
                "CONFIG SET appendfsync always",
            ),
            weak(
                self.get("no-appendfsync-on-rewrite") == "yes",
                "no-appendfsync-on-rewrite is yes: during a rewrite nothing is flushed",
                "CONFIG SET no-appendfsync-on-rewrite no",
            ),
        ];
        found.into_iter().flatten().collect()
    }

    /// Other weaknesses, which INFO proves.
    fn of_the_server(&self) -> Vec<Weakness> {
        let (role, eviction) = (self.get("role"), self.get("maxmemory_policy"));
        let writes = self.get("aof_last_write_status");
        let found = [
            weak(
                role != "master",
                &format!("role is {role}: this server accepts no writes"),
                "point the URL at the master",
            ),
            weak(
                eviction != "noeviction",
                &format!(
                    "maxmemory-policy is {}: Redis may delete messages",
                    if eviction.is_empty() { "unknown" } else { eviction }
                ),
                "CONFIG SET maxmemory-policy noeviction",
            ),
            weak(
                self.appends() && !matches!(writes, "ok" | ""),
                "the last write of the log failed",
                "check whether the disk is full; the server's own log has the reason",
            ),
        ];
        found.into_iter().flatten().collect()
    }
}

fn weak(is: bool, what: &str, fix: &str) -> Option<Weakness> {
    is.then(|| Weakness::new(what, fix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(changed: &[(&str, &str)]) -> Facts {
        let good = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("aof_enabled", "1"),
            ("appendfsync", "always"),
            ("no-appendfsync-on-rewrite", "no"),
            ("maxmemory_policy", "noeviction"),
            ("aof_last_write_status", "ok"),
        ];
        let all = good.iter().chain(changed).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Facts(all.collect())
    }

    fn assess(changed: &[(&str, &str)], replicas: u32) -> (Vec<Weakness>, Confirm) {
        let assessed = facts(changed).assess(replicas, false).expect("a usable server");
        assert_eq!(assessed.vouched, [""; 0]);
        (assessed.weaknesses, assessed.confirm)
    }

    #[test]
    fn an_operator_vouches_for_the_disk_and_for_nothing_else() {
        for (name, value, text) in [
            ("aof_enabled", "0", "appendonly is no"),
            ("appendfsync", "everysec", "appendfsync is everysec"),
            ("appendfsync", "", "appendfsync can't be read"),
            ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite is yes"),
        ] {
            let assessed = facts(&[(name, value)]).assess(0, true).expect("a usable server");
            assert_eq!(assessed.weaknesses, []);
            let [vouched] = &assessed.vouched[..] else { panic!("{assessed:?}") };
            assert!(vouched.starts_with(text), "{vouched}");
        }
        for (name, value, text) in [
            ("role", "slave", "role is slave"),
            ("maxmemory_policy", "volatile-lru", "maxmemory-policy is volatile-lru"),
            ("maxmemory_policy", "", "maxmemory-policy is unknown"),
            ("aof_last_write_status", "err", "the last write of the log failed"),
        ] {
            let assessed = facts(&[(name, value)]).assess(0, true).expect("a usable server");
            let [weakness] = &assessed.weaknesses[..] else { panic!("{assessed:?}") };
            assert!(weakness.what.starts_with(text) && assessed.vouched.is_empty(), "{assessed:?}");
        }
        let good = facts(&[]).assess(0, true).expect("a usable server");
        assert_eq!((good.weaknesses, good.vouched), (vec![], vec![]), "nothing is left to vouch for");
    }

    #[test]
    fn without_config_each_delivery_waits_for_waitaof_unless_the_operator_vouches() {
        let hidden = [("appendfsync", ""), ("waitaof", "1")];
        let (weaknesses, confirm) = assess(&hidden, 0);
        assert_eq!((weaknesses.len(), confirm), (1, Confirm::WaitAof { replicas: 0 }));
        assert!(weaknesses[0].what.contains("waits until WAITAOF confirms"), "{weaknesses:?}");
        let trusted = facts(&hidden).assess(0, true).expect("a usable server");
        assert_eq!((trusted.confirm, trusted.vouched.len()), (Confirm::None, 1));
        assert_eq!(assess(&[("appendfsync", "")], 0).1, Confirm::None, "the server has no WAITAOF");
        assert_eq!(
            assess(&[("appendfsync", ""), ("waitaof", "1"), ("aof_enabled", "0")], 0).1,
            Confirm::None
        );
    }

    #[test]
    fn a_server_that_flushes_before_answering_is_not_degraded() {
        assert_eq!(assess(&[], 0), (vec![], Confirm::None));
    }

    #[test]
    fn each_weakness_is_named_with_its_fix() {
        for (name, value, text) in [
            ("role", "slave", "role is slave"),
            ("aof_enabled", "0", "appendonly is no"),
            ("appendfsync", "everysec", "appendfsync is everysec"),
            ("appendfsync", "no", "appendfsync is no"),
            ("appendfsync", "", "appendfsync can't be read"),
            ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite is yes"),
            ("maxmemory_policy", "volatile-lru", "maxmemory-policy is volatile-lru"),
            ("aof_last_write_status", "err", "the last write of the log failed"),
        ] {
            let (weaknesses, _) = assess(&[(name, value)], 0);
            assert_eq!(weaknesses.len(), 1, "{weaknesses:?}");
            assert!(weaknesses[0].what.starts_with(text), "{weaknesses:?}");
        }
    }

    #[test]
    fn all_weaknesses_are_listed_at_once_also_those_that_count_only_after_another_fix() {
        let weak = [
            ("role", "slave", "point the URL at the master"),
            ("aof_enabled", "0", "CONFIG SET appendonly yes"),
            ("appendfsync", "everysec", "CONFIG SET appendfsync always"),
            ("no-appendfsync-on-rewrite", "yes", "CONFIG SET no-appendfsync-on-rewrite no"),
            ("maxmemory_policy", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
        ];
        let (found, _) = assess(&weak.map(|(name, value, _)| (name, value)), 0);
        for (name, _, fix) in weak {
            assert!(found.iter().any(|weakness| weakness.fix == fix), "{name}: {found:?}");
        }
        assert_eq!(found.len(), weak.len());
    }

    #[test]
    fn everysec_is_weak_on_every_server_although_waitaof_is_called() {
        for version in ["7.2.0", "7.4.1", "8.0.1", "9.0.0"] {
            let everysec = [("redis_version", version), ("appendfsync", "everysec")];
            for replicas in [0, 1] {
                let (weaknesses, confirm) = assess(&everysec, replicas);
                assert_eq!(confirm, Confirm::WaitAof { replicas });
                let [weakness] = &weaknesses[..] else { panic!("{weaknesses:?}") };
                assert!(
                    weakness.what.contains("not every server's WAITAOF waits for the disk"),
                    "{weakness}"
                );
                assert_eq!(weakness.fix, "CONFIG SET appendfsync always");
            }
        }
        assert_eq!(assess(&[], 2), (vec![], Confirm::Wait { replicas: 2 }));
        assert_eq!(assess(&[("redis_version", "8.0.1")], 1), (vec![], Confirm::WaitAof { replicas: 1 }));
    }

    #[test]
    fn a_server_older_than_7_0_is_refused() {
        let refusal = facts(&[("redis_version", "6.2.14")]).assess(0, false).expect_err("too old");
        assert!(refusal.contains("6.2.14"), "{refusal}");
    }

    #[test]
    fn an_answer_below_the_required_counts_confirms_nothing() {
        let timeout = Duration::from_secs(4);
        let (_, check) = Confirm::WaitAof { replicas: 1 }.command(timeout).expect("a command");
        let counts = |local, remote| Value::Array(vec![Value::Int(local), Value::Int(remote)]);
        assert_eq!(check(&counts(1, 1)), Ok(()));
        assert!(
            check(&counts(0, 1)).is_err() && check(&counts(1, 0)).is_err() && check(&Value::Nil).is_err()
        );
        let (command, check) = Confirm::Wait { replicas: 2 }.command(timeout).expect("a command");
        assert!(String::from_utf8_lossy(&command.get_packed_command()).contains("3000"));
        assert!(check(&Value::Int(2)).is_ok() && check(&Value::Int(1)).is_err());
        assert!(Confirm::None.command(timeout).is_none());
    }
}
