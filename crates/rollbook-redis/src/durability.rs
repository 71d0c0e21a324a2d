//! What a server's settings make of an acknowledgement.
//!
//! `appendfsync always` flushes the log before the replies of the same turn of the event loop leave. All
//! less than that is weaker than "on the disk", and so are settings that take it back now and then:
//! `no-appendfsync-on-rewrite yes` stops the flushes during every rewrite, `maxmemory-policy` other than
//! `noeviction` deletes messages. Sources: redis.io, Persistence and WAITAOF; aof.c.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue as _, RedisResult, ServerErrorKind, Value, cmd};
use rollbook_core::weakness::Weakness;

/// The oldest version that has what the scripts use.
const VERSION_MIN: (u32, u32) = (7, 0);
/// The first with WAITAOF.
const VERSION_WAITAOF: (u32, u32) = (7, 2);

/// What must be asked after a write before it may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirm {
    /// Nothing: the reply itself says it.
    None,
    /// Whether so many replicas have it.
    Wait { replicas: u32 },
    /// Whether it is on the disk here, and on the disk of so many replicas.
    WaitAof { replicas: u32 },
}

type Enough = Box<dyn Fn(&Value) -> Result<(), String> + Send>;

impl Confirm {
    /// The command, and what its answer must be.
    pub(crate) fn command(self, timeout: Duration) -> Option<(Cmd, Enough)> {
        // Less than the connection's own limit, so that the answer tells how far it came.
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX) / 4 * 3;
        let short = move |kind: &str, found: i64, wanted: u32| {
            if found >= i64::from(wanted) {
                Ok(())
            } else {
                Err(format!("{found} of {wanted} {kind} have what was written after {millis} ms"))
            }
        };
        match self {
            Self::None => None,
            Self::Wait { replicas } => {
                let mut command = cmd("WAIT");
                command.arg(replicas).arg(millis);
                let enough = move |answer: &Value| short("replicas", number(answer), replicas);
                Some((command, Box::new(enough)))
            }
            Self::WaitAof { replicas } => {
                let mut command = cmd("WAITAOF");
                command.arg(1).arg(replicas).arg(millis);
                let enough = move |answer: &Value| {
                    let Value::Array(counts) = answer else { return Err("WAITAOF has no answer".to_owned()) };
                    short("local disks", counts.first().map_or(0, number), 1)?;
                    short("replicas' disks", counts.get(1).map_or(0, number), replicas)
                };
                Some((command, Box::new(enough)))
            }
        }
    }
}

fn number(value: &Value) -> i64 {
    i64::from_redis_value_ref(value).unwrap_or_default()
}

/// What a server says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts(HashMap<String, String>);

/// Asks the server at the end of this connection.
pub(crate) async fn facts(connection: &mut MultiplexedConnection) -> RedisResult<Facts> {
    let mut facts = HashMap::new();
    let text: String = cmd("INFO").query_async(connection).await?;
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    facts.extend(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
    // Until the log is read INFO says that there is none, which would be a lie about the settings.
    if facts.get("loading").is_some_and(|loading| loading == "1") {
        return Err((ErrorKind::Server(ServerErrorKind::BusyLoading), "it is loading").into());
    }
    let mut command = cmd("CONFIG");
    command.arg("GET").arg(&["appendfsync", "no-appendfsync-on-rewrite"]);
    match command.query_async::<HashMap<String, String>>(connection).await {
        Ok(answer) => facts.extend(answer),
        // Some hosters forbid it: then it is told as a weakness, since nobody can see.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)
            ) => {}
        Err(error) => return Err(error),
    }
    Ok(Facts(facts))
}

impl Facts {
    fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    fn version(&self) -> (u32, u32) {
        let mut parts = self.get("redis_version").split('.').map(|part| part.parse().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    }

    /// What is weak, and what must be asked after each write. An error where nothing can be done with
    /// this server.
    pub(crate) fn judge(&self, replicas: u32) -> Result<(Vec<Weakness>, Confirm), String> {
        let version = self.version();
        if version < VERSION_MIN {
            return Err(format!(
                "it is version {} and Rollbook needs 7.0 or newer",
                self.get("redis_version")
            ));
        }
        let has_waitaof = version >= VERSION_WAITAOF;
        let appends = self.get("aof_enabled") == "1";
        let fsync = self.get("appendfsync");
        let confirm = match (appends, fsync) {
            (true, "everysec") if has_waitaof => Confirm::WaitAof { replicas },
            (true, _) if has_waitaof && replicas > 0 => Confirm::WaitAof { replicas },
            _ if replicas > 0 => Confirm::Wait { replicas },
            _ => Confirm::None,
        };
        // WAITAOF is asked under everysec, but it proves nothing: Valkey 8 and 9 and Redis 7.4.0 and 7.4.1 answer before
        // the flush (redis PR 13793). Versions are not to be trusted, and a probe is right only until the next server.
        let flushed = fsync == "always";
        let eviction = self.get("maxmemory_policy");
        let is_confirmed = fsync == "everysec" && has_waitaof;
        let waitaof = if is_confirmed { ", and not every server's WAITAOF waits for the disk" } else { "" };
        let role = self.get("role");
        let writes = self.get("aof_last_write_status");
        let weak = |is: bool, what: &str, fix: &str| is.then(|| Weakness::new(what, fix));
        let found = [
            weak(
                role != "master",
                &format!("role is {role}: writes go elsewhere"),
                "point the URL at the master",
            ),
            weak(
                !appends,
                "appendonly is no: a restart loses what was acknowledged",
                "CONFIG SET appendonly yes",
            ),
            weak(
                appends && fsync.is_empty(),
                "appendfsync can't be seen, since CONFIG GET is forbidden",
                "allow the user +config|get",
            ),
            weak(
                appends && !fsync.is_empty() && !flushed,
                &format!("appendfsync is {fsync}: a crash loses what was acknowledged last{waitaof}"),
                "CONFIG SET appendfsync always",
            ),
            weak(
                self.get("no-appendfsync-on-rewrite") == "yes",
                "no-appendfsync-on-rewrite is yes: during a rewrite nothing is flushed",
                "CONFIG SET no-appendfsync-on-rewrite no",
            ),
            weak(
                eviction != "noeviction",
                &format!("maxmemory-policy is {eviction}: Redis may delete messages"),
                "CONFIG SET maxmemory-policy noeviction",
            ),
            weak(
                appends && !matches!(writes, "ok" | ""),
                "the last write of the log failed",
                "is the disk full? The server's own log says why",
            ),
        ];
        Ok((found.into_iter().flatten().collect(), confirm))
    }
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

    #[test]
    fn a_server_that_flushes_before_it_answers_is_not_degraded() {
        assert_eq!(facts(&[]).judge(0), Ok((vec![], Confirm::None)));
    }

    #[test]
    fn each_weakness_is_named_with_its_mend() {
        for (name, value, told) in [
            ("role", "slave", "role is slave"),
            ("aof_enabled", "0", "appendonly is no"),
            ("appendfsync", "everysec", "appendfsync is everysec"),
            ("appendfsync", "no", "appendfsync is no"),
            ("appendfsync", "", "appendfsync can't be seen"),
            ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite is yes"),
            ("maxmemory_policy", "volatile-lru", "maxmemory-policy is volatile-lru"),
            ("aof_last_write_status", "err", "the last write of the log failed"),
        ] {
            let (weaknesses, _) = facts(&[(name, value)]).judge(0).expect("a server to work with");
            assert_eq!(weaknesses.len(), 1, "{weaknesses:?}");
            assert!(weaknesses[0].what.starts_with(told), "{weaknesses:?}");
        }
    }

    #[test]
    fn everysec_is_weak_on_every_server_and_waitaof_is_asked_all_the_same() {
        for version in ["7.2.0", "7.4.1", "8.0.1", "9.0.0"] {
            let everysec = [("redis_version", version), ("appendfsync", "everysec")];
            for replicas in [0, 1] {
                let (weaknesses, confirm) = facts(&everysec).judge(replicas).expect("a server to work with");
                assert_eq!(confirm, Confirm::WaitAof { replicas });
                let [weakness] = &weaknesses[..] else { panic!("{weaknesses:?}") };
                assert!(
                    weakness.what.contains("not every server's WAITAOF waits for the disk"),
                    "{weakness}"
                );
                assert_eq!(weakness.fix, "CONFIG SET appendfsync always");
            }
        }
        assert_eq!(facts(&[]).judge(2), Ok((vec![], Confirm::Wait { replicas: 2 })));
        assert_eq!(
            facts(&[("redis_version", "8.0.1")]).judge(1),
            Ok((vec![], Confirm::WaitAof { replicas: 1 }))
        );
    }

    #[test]
    fn too_old_a_server_can_not_be_worked_with() {
        let refusal = facts(&[("redis_version", "6.2.14")]).judge(0).expect_err("too old");
        assert!(refusal.contains("6.2.14"), "{refusal}");
    }

    #[test]
    fn an_answer_that_falls_short_confirms_nothing() {
        let timeout = Duration::from_secs(4);
        let (_, enough) = Confirm::WaitAof { replicas: 1 }.command(timeout).expect("a command");
        let counts = |local, remote| Value::Array(vec![Value::Int(local), Value::Int(remote)]);
        assert_eq!(enough(&counts(1, 1)), Ok(()));
        assert!(
            enough(&counts(0, 1)).is_err() && enough(&counts(1, 0)).is_err() && enough(&Value::Nil).is_err()
        );
        let (command, enough) = Confirm::Wait { replicas: 2 }.command(timeout).expect("a command");
        assert!(String::from_utf8_lossy(&command.get_packed_command()).contains("3000"));
        assert!(enough(&Value::Int(2)).is_ok() && enough(&Value::Int(1)).is_err());
        assert!(Confirm::None.command(timeout).is_none());
    }
}
