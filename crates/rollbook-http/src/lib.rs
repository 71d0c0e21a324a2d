//! Connections of an HTTP/1 port: maximum number, time limits, and which connection is dropped when the port
//! is full.
//!
//! Constraints:
//!
//! * A port holds at most `connections_max` connections. When it is full, a new client does not wait: the
//!   port drops the oldest connection that has no accepted request in progress.
//! * An authenticated connection ([`Connection::authenticated`]) is dropped only after all unauthenticated ones. A
//!   connection with a request that the handler accepted ([`Connection::answer_begins`]) is never dropped.
//! * A connection can't be held open forever: a head, an idle connection and an unread response each have a
//!   time limit.
//! * A connection that has reached its maximum age closes with its next response, never between two requests:
//!   the client sees `connection: close` and can't lose a request.
//! * A client that closes its sending side after its request (`shutdown(SHUT_WR)`) still gets its response.
//!
//! * A response that lasts ([`Lasting`]) counts as a request in progress until its last byte; its connection closes
//!   after it.
//!
//! `serve` runs one connection until it closes, `stream` watches its bytes, `connection` is its state, and
//! `table` holds all connections: it decides which one to drop and which ones are overdue. `accept` is the accept
//! loop of the private ports; the receiver has its own.
//!
//! The other side: `client` is one connection that sends requests, `pool` a client with TLS for servers elsewhere.

mod accept;
pub mod client;
mod connection;
mod discards;
pub mod pool;
mod serve;
mod stream;
mod table;

pub use accept::Port;
pub use connection::{Connection, State};
pub use serve::{Lasting, Serving};
pub use table::{CloseReason, Connections, Counts, HEAD_LENGTH_MAX, Limits, Slot};
