//! Encryption of the connections to queue and store: logged once, and again after each change.

use std::sync::Arc;

use rollbook_core::protection::Protection;
use rollbook_core::queue::QueueAdmin;
use rollbook_core::store::FullStore;

use crate::config::Config;
use crate::wire::{Component, Queue};

/// Connections to the servers of queue and store, with the last logged state of each.
pub(crate) struct Links(Vec<Link>);

/// Returns the protection of a connection; `None` before the first.
type Asked = Box<dyn Fn() -> Option<Protection> + Send + Sync>;

struct Link {
    part: Component,
    protection: Asked,
    logged: Option<Protection>,
}

impl Links {
    /// Returns the connections of this process. A file has none.
    pub(crate) fn of(config: &Config, queue: &Queue, store: Option<&Arc<dyn FullStore>>) -> Self {
        let admin: Arc<dyn QueueAdmin> = queue.admin.clone();
        let mut links = vec![Link::new(Component::Queue, Box::new(move || admin.protection()))];
        if let Some(store) = store.cloned() {
            links.push(Link::new(Component::Store, Box::new(move || store.protection())));
        }
        links.retain(|link| link.part.place(config).server().is_some());
        Self(links)
    }

    /// Logs changes since the last call.
    pub(crate) fn log_changes(&mut self) {
        for link in &mut self.0 {
            link.log_change();
        }
    }
}

impl Link {
    const fn new(part: Component, protection: Asked) -> Self {
        Self { part, protection, logged: None }
    }

    fn log_change(&mut self) {
        let found = (self.protection)();
        let Some(protection) = found.filter(|_| found != self.logged) else { return };
        self.logged = found;
        let part = self.part.name();
        if protection == Protection::Clear {
            tracing::warn!("the connection to the {part} is {protection}: {CLEAR}");
        } else {
            tracing::info!("the connection to the {part} is {protection}");
        }
    }
}

/// Consequence of a connection in clear text.
pub(crate) const CLEAR: &str = "anyone on the network between can read passwords and personal data";
