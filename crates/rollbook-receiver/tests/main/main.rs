//! The receiver over real sockets, with a fake queue that each test controls.

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
