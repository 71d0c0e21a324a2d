//! Memory use of the queue's servers, and their limit.

use std::collections::BTreeSet;

use redis::cmd;
use rollbook_core::queue::{QueueError, StorageSpace};

use super::RedisQueue;

impl RedisQueue {
    /// Returns the memory of the server that is nearest to its limit, because it refuses deliveries first.
    /// Servers that do not answer or forbid the command are skipped.
    pub(super) async fn read_space(&self) -> Result<StorageSpace, QueueError> {
        let (mut asked, mut fullest) = (BTreeSet::new(), StorageSpace::default());
        for shard in &*self.shards {
            let Ok(server) = self.servers.server_of(shard.index).await else { continue };
            if !asked.insert(server.node().cloned()) {
                continue;
            }
            let mut command = cmd("INFO");
            command.arg("memory");
            if let Ok(text) = self.command_on::<String>(shard, &command).await {
                fullest = fuller_of(fullest, room_of(&text));
            }
        }
        Ok(fullest)
    }
}

/// Parses `INFO memory`, in which 0 means no limit.
fn room_of(info: &str) -> StorageSpace {
    let value = |name: &str| {
        let line = |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok();
        info.lines().find_map(line)
    };
    StorageSpace {
        memory_used: value("used_memory"),
        memory_limit: value("maxmemory").filter(|limit| *limit > 0),
        ..StorageSpace::default()
    }
}

fn fuller_of(one: StorageSpace, other: StorageSpace) -> StorageSpace {
    let percent = |room: &StorageSpace| Some(room.memory_used?.saturating_mul(100) / room.memory_limit?);
    // A server with a limit comes before those without: only it can be full.
    if (percent(&other), other.memory_used) > (percent(&one), one.memory_used) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(used: u64, limit: u64) -> StorageSpace {
        room_of(&format!(
            "# Memory\r\nused_memory:{used}\r\nused_memory_rss:9\r\nmaxmemory:{limit}\r\nmaxmemory_human:1B\r\n"
        ))
    }

    #[test]
    fn memory_and_limit_are_read_and_no_limit_is_none() {
        let found = server(1_000, 4_000);
        assert_eq!((found.memory_used, found.memory_limit), (Some(1_000), Some(4_000)));
        assert_eq!(server(1_000, 0).memory_limit, None);
        assert_eq!(room_of("-NOPERM"), StorageSpace::default());
    }

    #[test]
    fn of_several_servers_the_one_nearest_to_its_limit_counts() {
        let nearest = server(900, 1_000);
        for other in [server(5_000, 0), server(8_000, 10_000), StorageSpace::default()] {
            assert_eq!((fuller_of(nearest, other), fuller_of(other, nearest)), (nearest, nearest));
        }
    }
}
