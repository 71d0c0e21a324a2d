//! The receiver over real sockets, against a queue that does as a test says.

mod answers;
mod attacks;
mod batching;
mod client;
mod garbage;
mod limits;
mod proxy;
mod queue;
mod refusals;
mod server;
mod shutdown;
