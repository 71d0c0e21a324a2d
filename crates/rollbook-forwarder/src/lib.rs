//! Forwarder: pushes the change feed to the team's own endpoints, as signed HTTP requests. ops/FORWARDS.md is its page.
//!
//! Constraints:
//!
//! * At least once: a change counts as delivered after an answer 2xx, and the position of a forward in the store never
//!   passes a change that is neither delivered nor recorded there. A process that is killed sends some changes again, with
//!   the same ids.
//! * One request at a time per subject, in the order of the feed. A change that keeps failing holds up its own subject, and
//!   no other one; at last it becomes a dead letter.
//! * While the endpoint accepts nothing at all, no attempt counts: an outage makes no dead letters.
//! * One process at a time has a forward. It stops sending before another one can take it.
//! * Memory is limited: pages, open changes (also of one subject), subjects that are blocked, requests at once, and the
//!   bytes of rows in requests of all forwards.
//! * A position belongs to one generation of the feed. A forward that meets another one stops and says so.
//!
//! How: `board` has the rules as a pure state machine: what is sent next, what a failure does, and which position may be
//! saved. `forward` reads pages, sends what the board names, and saves its progress; `turn` is what it knows meanwhile.
//! `forwarder` runs all forwards of a process. `request` makes one request: `push` signs it, `row_room` limits the memory for
//! its row, `http` sends it, `verdict` judges the answer.

mod board;
mod failure_log;
mod forward;
mod forwarder;
mod hold;
mod http;
mod limits;
mod metrics;
mod ports;
mod push;
mod request;
mod row_room;
mod settings;
mod steady;
mod turn;
mod url;
mod verdict;

pub use self::forwarder::Forwarder;
pub use self::http::HttpEndpoint;
pub use self::ports::{Endpoint, Ports, Push};
pub use self::settings::{
    CONCURRENCY_MAX, FORWARDS_MAX, ForwardSettings, NAME_LENGTH_MAX, SLOW_MAX, TIMEOUT_MAX,
};
pub use self::url::{ForwardUrl, ForwardUrlError};
pub use self::verdict::{RETRY_AFTER_MAX, Verdict};
