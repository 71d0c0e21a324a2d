//! Lua scripts. Each is one atomic step on one shard, and one call for a complete batch: Redis flushes its
//! log once per event-loop iteration, so a pipeline of small commands costs several flushes and one large
//! command costs one.
//!
//! Scripts that free memory or are needed for that may also run when memory is exhausted (`allow-oom`);
//! enqueue may not.

use redis::Script;

/// All scripts with their checksums.
pub(crate) struct Scripts {
    pub(crate) set_up: Script,
    pub(crate) enqueue: Script,
    pub(crate) lease: Script,
    pub(crate) count: Script,
    pub(crate) settle: Script,
    pub(crate) stats: Script,
    pub(crate) redrive: Script,
    pub(crate) discard: Script,
    pub(crate) list: Script,
    pub(crate) bodies: Script,
    pub(crate) audit: Script,
    pub(crate) remove: Script,
    pub(crate) reap: Script,
}

macro_rules! script {
    ($flags:literal, $name:literal) => {
        Script::new(concat!(
            "#!lua ",
            $flags,
            "\n",
            include_str!("scripts/prelude.lua"),
            include_str!(concat!("scripts/", $name, ".lua"))
        ))
    };
}

impl Scripts {
    pub(crate) fn new() -> Self {
        Self {
            set_up: script!("flags=allow-oom", "set_up"),
            enqueue: script!("", "enqueue"),
            lease: script!("flags=allow-oom", "lease"),
            count: script!("flags=allow-oom", "count"),
            settle: script!("flags=allow-oom", "settle"),
            stats: script!("flags=no-writes", "stats"),
            redrive: script!("flags=allow-oom", "redrive"),
            discard: script!("flags=allow-oom", "discard"),
            list: script!("flags=no-writes", "list"),
            bodies: script!("flags=no-writes", "bodies"),
            audit: script!("flags=allow-oom", "audit"),
            remove: script!("flags=allow-oom", "remove"),
            reap: script!("flags=allow-oom", "reap"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(scripts: &Scripts) -> [&Script; 13] {
        let Scripts {
            set_up,
            enqueue,
            lease,
            count,
            settle,
            stats,
            redrive,
            discard,
            list,
            bodies,
            audit,
            remove,
            reap,
        } = scripts;
        [set_up, enqueue, lease, count, settle, stats, redrive, discard, list, bodies, audit, remove, reap]
    }

    #[test]
    fn all_scripts_differ() {
        let scripts = Scripts::new();
        let hashes = all(&scripts).map(Script::get_hash);
        assert_eq!(std::collections::BTreeSet::from(hashes).len(), 13);
    }

    #[test]
    fn no_script_contains_a_key_name() {
        let sources = [
            include_str!("scripts/prelude.lua"),
            include_str!("scripts/set_up.lua"),
            include_str!("scripts/enqueue.lua"),
            include_str!("scripts/lease.lua"),
            include_str!("scripts/count.lua"),
            include_str!("scripts/settle.lua"),
            include_str!("scripts/stats.lua"),
            include_str!("scripts/redrive.lua"),
            include_str!("scripts/discard.lua"),
            include_str!("scripts/list.lua"),
            include_str!("scripts/bodies.lua"),
            include_str!("scripts/audit.lua"),
            include_str!("scripts/remove.lua"),
            include_str!("scripts/reap.lua"),
        ];
        for source in sources {
            let code = source.lines().filter(|line| !line.trim_start().starts_with("--"));
            assert!(
                code.clone().all(|line| !line.contains("rollbook")),
                "keys are passed as KEYS of one shard"
            );
        }
    }
}
