//! The installation of a process: the queue and the store that it uses, by place and by identity.
//!
//! A running process shows this at `/about` of its ops port, and `doctor` compares it with its own configuration: ports and
//! secrets may be those of another installation. Nothing here is a secret: places have no user and no password.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::OptionFuture;
use rollbook_core::backend::Backend;
use rollbook_ops::{About, CHECK_TIMEOUT};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::config::{Config, Place};
use crate::faces::Faces;
use crate::wire::{self, Component};

/// Time for which an answer holds. Each makes a connection to each server, and anyone who reaches the port can ask.
const HOLDS_FOR: Duration = Duration::from_secs(1);

/// A queue or a store, as its process names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// `file` or `server`.
    pub(crate) kind: String,
    /// Kind and place, without user and password.
    pub(crate) place: String,
    /// Identity of the data ([`Backend::identity`]); `None` if it is unknown.
    pub(crate) identity: Option<String>,
}

/// A part of the installation, which can be asked for its identity.
struct Part {
    kind: &'static str,
    place: String,
    backend: Box<dyn Backend>,
}

impl Part {
    fn of(config: &Config, component: Component) -> Self {
        let backend = wire::backend(config, component);
        let (kind, place) = match component.place(config) {
            Place::Sqlite(path) => {
                let whole = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                ("file", format!("SQLite {}", whole.display()))
            }
            Place::Server(_) if component == Component::Queue => {
                let prefix = &config.settings.redis_key_prefix;
                ("server", format!("{}, key prefix {prefix}", backend.describe()))
            }
            Place::Server(_) => ("server", backend.describe()),
        };
        Self { kind, place, backend }
    }

    async fn used(&self) -> Used {
        let identity = tokio::time::timeout(CHECK_TIMEOUT, self.backend.identity()).await;
        let identity = identity.ok().and_then(Result::ok).flatten();
        Used { kind: self.kind.to_owned(), place: self.place.clone(), identity }
    }
}

/// Returns a part of a configuration, with its identity if it can be asked.
pub(crate) async fn used(config: &Config, component: Component) -> Used {
    Part::of(config, component).used().await
}

/// Description of this process.
pub(crate) struct Installation {
    command: &'static str,
    instance_id: Option<String>,
    api_listen: Option<String>,
    queue: Part,
    /// `None` for a receiver, which opens no store.
    store: Option<Part>,
    last: Mutex<Option<(Instant, Value)>>,
}

impl Installation {
    /// Returns the description of a process with these faces.
    pub(crate) fn of(config: &Config, faces: Faces) -> Arc<Self> {
        Arc::new(Self {
            command: faces.command(),
            instance_id: config.settings.clerk_instance_id.clone(),
            api_listen: config
                .settings
                .api_listen
                .filter(|_| faces.worker)
                .map(|address| address.to_string()),
            queue: Part::of(config, Component::Queue),
            store: faces.worker.then(|| Part::of(config, Component::Store)),
            last: Mutex::default(),
        })
    }
}

#[async_trait]
impl About for Installation {
    async fn about(&self) -> Value {
        // Held while the servers are asked: requests at the same time share one answer.
        let mut last = self.last.lock().await;
        if let Some((_, known)) = last.as_ref().filter(|(at, _)| at.elapsed() < HOLDS_FOR) {
            return known.clone();
        }
        let store = OptionFuture::from(self.store.as_ref().map(Part::used));
        let (queue, store) = tokio::join!(self.queue.used(), store);
        let found = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "command": self.command,
            "clerk_instance_id": self.instance_id,
            "api_listen": self.api_listen,
            "queue": queue,
            "store": store,
        });
        *last = Some((Instant::now(), found.clone()));
        found
    }
}
