//! The ops port from both sides: the pages on the port for deliveries, and the requests of this program to a running process.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rollbook_api::Tokens;
use rollbook_http::client::{Connection, RequestError};
use rollbook_ops::{Guard, Ops, Pages};
use rollbook_receiver::OtherPages;

use crate::config::Config;

/// Opens a connection to an ops port. It presents the token of this configuration, if that has one.
pub(crate) async fn connect(
    config: &Config,
    address: SocketAddr,
    timeout: Duration,
) -> Result<Connection, RequestError> {
    let connection = Connection::connect(address, timeout).await?;
    match &config.settings.ops_tokens {
        Some(tokens) => connection.with_bearer(tokens.presented()),
        None => Ok(connection),
    }
}

/// Returns the ops port with the guard of this configuration, if it needs one.
pub(crate) fn guarded(config: &Config, ops: Ops) -> Ops {
    match &config.settings.ops_tokens {
        Some(tokens) => ops.guarded_by(Arc::new(TokenGuard(tokens.accepted.clone()))),
        None => ops,
    }
}

struct TokenGuard(Tokens);

impl Guard for TokenGuard {
    fn admits(&self, authorization: &[u8]) -> bool {
        self.0.admit(authorization)
    }
}

/// Pages in addition to deliveries. The receiver starts before they are there, and answers 404 until then.
#[derive(Clone, Default)]
pub(crate) struct LatePages(Arc<OnceLock<Pages>>);

impl LatePages {
    /// Shows the pages of this port.
    pub(crate) fn show(&self, ops: Ops) {
        // A second port would be a bug of the caller; the first one goes on.
        drop(self.0.set(ops.pages()));
    }

    /// Returns the pages for a receiver.
    pub(crate) fn for_receiver(&self) -> OtherPages {
        let late = self.clone();
        Arc::new(move |head| {
            let pages = late.0.get().filter(|_| Pages::has(head.uri.path()))?.clone();
            let head = head.clone();
            Some(Box::pin(async move { pages.answer(head).await }))
        })
    }
}
