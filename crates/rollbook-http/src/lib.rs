//! Connections of an HTTP/1 port: how many, how long each may do nothing, and which one yields when the port is full.
//!
//! Constraints:
//!
//! * A port holds at most `connections_max` connections. When it is full, a new client does not wait: the
//!   oldest connection that has nothing of value under way is dropped for it.
//! * A connection that has proven itself ([`Connection::trust`]) yields only after all those that have not.
//!   A request that its handler found worth an answer ([`Connection::answering`]) never yields.
//! * Nobody holds a connection for ever: a head, an idle connection and an unread answer have a time limit each.
//! * A connection that has reached its maximum age ends with its next answer, never between two requests: the
//!   client learns of it by `connection: close` and cannot lose a request.
//! * A client may close its sending side after its request (`shutdown(SHUT_WR)`) and still gets its answer.
//!
//! `serve` runs one connection to its end, `stream` watches its bytes, `connection` is its state, and `table`
//! knows them all: it decides who yields and who is overdue. The accept loop belongs to the port.

mod connection;
mod serve;
mod stream;
mod table;

pub use connection::{Connection, State};
pub use serve::Serving;
pub use table::{Closed, Connections, Counts, Limits, Place};
