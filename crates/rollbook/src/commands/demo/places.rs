//! Queue and store of the demo: files that are removed afterwards, or empty servers, from which the demo
//! removes everything that it wrote.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use rollbook_core::queue::Durability;
use rollbook_core::time::Clock;
use tempfile::TempDir;

use tokio_util::sync::CancellationToken;

use crate::cli::Demo;
use crate::config::{Config, Place, Problems, Role, environment, has_password, place};
use crate::output::say;
use crate::startup::refuse_if_strict;
use crate::wire::{self, Component, Queue};

/// Places of queue and store.
pub(crate) struct Places {
    home: Home,
    queue: Option<Place>,
    store: Option<Place>,
    schema: String,
    /// Parts on servers that the demo made.
    made: Vec<Component>,
}

impl Places {
    /// Returns the servers that the arguments name, and a folder for the other parts.
    ///
    /// # Errors
    /// A URL is not valid, or the folder holds databases already.
    pub(crate) fn new(arguments: &Demo, folder: Option<&Path>, seed: u64) -> anyhow::Result<Self> {
        let queue = server("--queue", arguments.queue.as_deref(), Role::Queue)?;
        let store = server("--store", arguments.store.as_deref(), Role::Store)?;
        let schema = format!("rollbook_demo_{seed}");
        Ok(Self { home: Home::new(folder)?, queue, store, schema, made: Vec::new() })
    }

    /// Returns the place of the queue.
    pub(crate) fn queue(&self) -> Place {
        self.queue.clone().unwrap_or_else(|| Place::Sqlite(self.home.path().join("queue.db")))
    }

    /// Returns the place of the store.
    pub(crate) fn store(&self) -> Place {
        self.store.clone().unwrap_or_else(|| Place::Sqlite(self.home.path().join("store.db")))
    }

    /// Schema of the rows on a server.
    pub(crate) fn schema(&self) -> String {
        self.schema.clone()
    }

    /// Returns the folder of the files, if they stay.
    pub(crate) fn kept_folder(&self, keep: bool) -> Option<PathBuf> {
        let has_files = self.queue.is_none() || self.store.is_none();
        let stays = keep || matches!(self.home, Home::Given(_));
        (has_files && stays).then(|| self.home.path().to_owned())
    }

    /// Checks that queue and store are empty, then creates what is needed.
    ///
    /// # Errors
    /// A server holds data already or is unreachable; or durability is strict and the queue is not durable.
    pub(crate) async fn make(
        &mut self,
        config: &Config,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<(Queue, Durability)> {
        for (flag, part) in [("--queue", Component::Queue), ("--store", Component::Store)] {
            if let Err(wrong) = wire::backend(config, part).check() {
                return Err(Problems::one(flag, wrong, "fix it, or leave it out").into());
            }
        }
        if self.queue.is_some() {
            // A worker of another deployment may wait at an empty queue, and would take the demo's messages.
            if wire::backend(config, Component::Queue).exists().await.map_err(|why| anyhow!(why))? {
                let wrong = format!("{} holds a queue already", wire::describe(config, Component::Queue));
                let fix = "name an empty database of it, such as redis://HOST:6379/9";
                return Err(Problems::one("--queue", wrong, fix).into());
            }
            self.made.push(Component::Queue);
        }
        wire::apply_migrations(config, Component::Queue, &CancellationToken::new())
            .await
            .map_err(|why| anyhow!(why))?;
        let queue = wire::open_queue(config, clock)?;
        let durability = queue.admin.durability().await?;
        refuse_if_strict(config, &durability)?;
        if self.store.is_some() {
            if wire::backend(config, Component::Store).exists().await.map_err(|why| anyhow!(why))? {
                let wrong = format!("{} exists already", wire::describe(config, Component::Store));
                let fix = format!("give another --seed, or drop it: DROP SCHEMA {} CASCADE", self.schema);
                return Err(Problems::one("--store", wrong, fix).into());
            }
            self.made.push(Component::Store);
        }
        wire::apply_migrations(config, Component::Store, &CancellationToken::new())
            .await
            .map_err(|why| anyhow!(why))?;
        Ok((queue, durability))
    }

    /// Removes what the demo made, or keeps it all.
    pub(crate) async fn leave(self, config: &Config, keep: bool) {
        if keep {
            return self.home.keep();
        }
        for part in self.made {
            if let Err(why) = wire::backend(config, part).remove().await {
                say(&format!("rollbook: {} is left behind: {why}", wire::describe(config, part)));
            }
        }
    }
}

/// Returns the server that a flag names. A password in a flag is accepted: the demo has no other source of settings.
fn server(flag: &str, url: Option<&str>, role: Role) -> Result<Option<Place>, Problems> {
    let Some(url) = url else {
        return Ok(None);
    };
    match place(url, role) {
        Ok(place @ Place::Server(_)) => {
            if has_password(url) {
                say(&format!(
                    "rollbook: every user of this machine can read the password of {flag} while this runs"
                ));
            }
            Ok(Some(place))
        }
        Ok(Place::Sqlite(_)) => {
            Err(Problems::one(flag, "names a file", "leave it out: files are made by the demo itself"))
        }
        Err(wrong) => Err(Problems::one(flag, wrong.what, wrong.fix)),
    }
}

/// Folder of the files.
enum Home {
    /// Removed when the demo ends.
    Temporary(TempDir),
    /// Named by the user.
    Given(PathBuf),
}

impl Home {
    fn new(given: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = given else {
            let folder = tempfile::Builder::new()
                .prefix("rollbook-demo-")
                .permissions(Permissions::from_mode(0o700))
                .tempdir_in(environment::temporary_folder())
                .context("a temporary folder can't be created; name one by --data-dir")?;
            return Ok(Self::Temporary(folder));
        };
        if ["queue.db", "store.db"].iter().any(|file| path.join(file).exists()) {
            let wrong = format!("{} holds databases already", path.display());
            return Err(Problems::one("--data-dir", wrong, "name an empty folder, or leave it out").into());
        }
        Ok(Self::Given(path.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Given(path) => path,
        }
    }

    /// Keeps the folder.
    fn keep(self) {
        if let Self::Temporary(folder) = self {
            let _ = folder.keep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_databases_is_not_filled_with_invented_people() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(Home::new(Some(folder.path())).is_ok());
        std::fs::write(folder.path().join("store.db"), "").expect("a file");
        assert!(Home::new(Some(folder.path())).is_err());
    }

    #[test]
    fn a_flag_names_a_server_of_its_own_kind() {
        assert_eq!(server("--queue", None, Role::Queue), Ok(None));
        assert!(matches!(server("--queue", Some("redis://h"), Role::Queue), Ok(Some(Place::Server(_)))));
        for (url, role) in [("sqlite://x.db", Role::Queue), ("redis://me:ImASecret@h", Role::Store)] {
            let refusal = server("--x", Some(url), role).expect_err(url).to_string();
            assert!(refusal.starts_with("--x: ") && !refusal.contains("ImASecret"), "{refusal}");
        }
    }
}
