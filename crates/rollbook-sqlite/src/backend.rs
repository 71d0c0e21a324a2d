//! Set-up of the file of a queue or a store.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rollbook_core::backend::{Backend, Pending, PendingError, Stopped};

use crate::feed::Feed;
use crate::migrations::{Schema, apply_migrations_until, newer_migrations, pending_migrations};
use crate::rewrite::rewrite;

/// Identity of a file that does not exist.
const ABSENT: &str = "no file";

/// File of a queue or a store.
#[derive(Clone, Debug)]
pub struct SqliteFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Schema of the file.
    pub schema: Schema,
    /// Whether rows of a store record their changes.
    pub feed: Feed,
}

impl SqliteFile {
    fn error(&self, why: &str) -> String {
        let part = match self.schema {
            Schema::Queue => "queue",
            Schema::Store => "store",
        };
        format!("the {part} in {}: {why}", self.path.display())
    }
}

#[async_trait]
impl Backend for SqliteFile {
    fn describe(&self) -> String {
        format!("SQLite {}, WAL, synchronous=FULL", self.path.display())
    }

    async fn pending(&self) -> Result<Pending, PendingError> {
        let names = pending_migrations(&self.path, self.schema).map_err(|why| self.error(&why))?;
        let newer = newer_migrations(&self.path, self.schema).map_err(|why| self.error(&why))?;
        Ok(Pending { names, refusal: None, newer })
    }

    async fn migrate(&self, stopped: Stopped) -> Result<Vec<&'static str>, String> {
        make_folder_of(&self.path)?;
        let Self { path, schema, feed } = self.clone();
        // A migration may take minutes, during which signals and clients must be answered.
        let applying = tokio::task::spawn_blocking(move || {
            apply_migrations_until(&path, schema, feed, move || stopped())
        });
        let applied = applying.await.map_err(|error| error.to_string())?;
        applied.map_err(|why| self.error(&why))
    }

    async fn exists(&self) -> Result<bool, String> {
        Ok(self.path.exists())
    }

    /// Device and number of the file: a path may lead to another file in another container, or after a move.
    async fn identity(&self) -> Result<Option<String>, String> {
        match std::fs::metadata(&self.path) {
            Ok(found) => Ok(Some(format!("file {}:{}", found.dev(), found.ino()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(ABSENT.to_owned())),
            Err(error) => Err(self.error(&error.to_string())),
        }
    }

    fn rewrite(&self) -> Result<bool, String> {
        rewrite(&self.path).map(|()| true).map_err(|why| self.error(&why))
    }
}

/// Creates the folder of a file. Only its owner may read it: the file will hold personal data.
fn make_folder_of(path: &Path) -> Result<(), String> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| format!("the folder {} can't be created: {error}", folder.display()))
}
