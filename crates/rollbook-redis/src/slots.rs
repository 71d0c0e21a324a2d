//! Slots of a Redis cluster: which node holds which keys.

use redis::{RedisError, RedisResult, Value};

/// Number of slots in a cluster.
const SLOTS: u16 = 16_384;

/// Host and port of a node.
pub(crate) type Node = (String, u16);

/// Slots of one master, inclusive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Range {
    first: u16,
    last: u16,
    node: Node,
}

/// Returns the slot of a key: CRC16 (XMODEM) of its hash tag, or of the complete key without one.
pub(crate) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % SLOTS
}

/// Returns the master of a slot.
pub(crate) fn owner_of(slot: u16, ranges: &[Range]) -> Option<&Node> {
    ranges.iter().find(|range| (range.first..=range.last).contains(&slot)).map(|range| &range.node)
}

/// Parses the answer to CLUSTER SLOTS from the node `asked`.
pub(crate) fn parse(answer: &Value, asked: &Node) -> RedisResult<Vec<Range>> {
    let Value::Array(ranges) = answer else { return Err(unreadable()) };
    ranges.iter().map(|range| parse_range(range, asked).ok_or_else(unreadable)).collect()
}

fn parse_range(range: &Value, asked: &Node) -> Option<Range> {
    // First slot, last slot, master, replicas. A node is a host, a port, and more fields.
    let Value::Array(parts) = range else { return None };
    let [first, last, Value::Array(master), ..] = &parts[..] else { return None };
    let [host, port, ..] = &master[..] else { return None };
    let number =
        |value: &Value| if let Value::Int(number) = value { u16::try_from(*number).ok() } else { None };
    let host = match host {
        Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
        Value::SimpleString(host) => host.clone(),
        Value::Nil => String::new(),
        _ => return None,
    };
    // A node that does not know its own address omits it: use the address at which it was asked.
    let host = if host.is_empty() || host == "?" { asked.0.clone() } else { host };
    Some(Range { first: number(first)?, last: number(last)?, node: (host, number(port)?) })
}

fn unreadable() -> RedisError {
    (redis::ErrorKind::UnexpectedReturnType, "the answer to CLUSTER SLOTS cannot be read").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_follows_from_the_hash_tag() {
        // From the specification of Redis Cluster and from a server's CLUSTER KEYSLOT.
        assert_eq!(slot_of("123456789"), 0x31C3);
        assert_eq!(slot_of("{user1000}.following"), slot_of("{user1000}.followers"));
        assert_eq!(slot_of("foo{}{bar}"), 8363, "an empty tag does not count");
        assert_eq!(slot_of("foo"), 12_182);
        assert_eq!(slot_of("{foo}:messages"), 12_182);
    }

    #[test]
    fn the_owner_of_every_slot_is_read_and_a_missing_address_is_that_of_the_asked_node() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let node =
            |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        let range = |first, last, nodes: Vec<Value>| {
            Value::Array([vec![Value::Int(first), Value::Int(last)], nodes].concat())
        };
        let answer = Value::Array(vec![
            range(0, 99, vec![node(text("10.0.0.1"), 7000), node(text("10.0.0.9"), 7009)]),
            range(100, 100, vec![node(Value::Nil, 7001)]),
            range(101, 16_382, vec![node(text(""), 7002)]),
        ]);
        let ranges = parse(&answer, &("asked".to_owned(), 1)).expect("an answer");
        let owner = |slot| owner_of(slot, &ranges).map(|(host, port)| format!("{host}:{port}"));
        for (slot, expected) in [
            (0, Some("10.0.0.1:7000")),
            (99, Some("10.0.0.1:7000")),
            (100, Some("asked:7001")),
            (101, Some("asked:7002")),
            (16_382, Some("asked:7002")),
            (16_383, None),
        ] {
            assert_eq!(owner(slot).as_deref(), expected, "{slot}");
        }
        for answer in [Value::Nil, Value::Array(vec![Value::Int(1)]), Value::Array(vec![range(0, 1, vec![])])]
        {
            assert!(parse(&answer, &("asked".to_owned(), 1)).is_err());
        }
    }
}
