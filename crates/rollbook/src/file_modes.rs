//! Checks at the start and in `doctor`: whether other users of this machine may read or replace Rollbook's files.
//!
//! Rollbook creates files that only their owner may read. A configuration or a secret that existed before has
//! the mode that its creator gave it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rollbook_core::weakness::Weakness;

use crate::config::Config;
use crate::wire::Component;

const OTHERS_WRITE: u32 = 0o002;
const OTHERS_READ: u32 = 0o004;
const GROUP: u32 = 0o070;
const ALL_BUT_OWNER: u32 = 0o077;
/// Mode bit of a folder in which only the owner of a file may replace or remove it, such as /tmp.
const STICKY: u32 = 0o1000;

/// Folder in which container engines mount secrets. Only the container sees them, whatever their mode.
const SECRET_MOUNTS: [&str; 2] = ["/run/secrets", "/var/run/secrets"];
/// Link in a folder that Kubernetes has mounted as a secret.
const KUBERNETES_LINK: &str = "..data";

/// Returns the weaknesses of all files of these parts and of the configuration on this machine.
pub(crate) fn weaknesses(config: &Config, parts: &[Component]) -> Vec<Weakness> {
    let kept = || parts.iter().filter_map(|part| part.place(config).file());
    let mut folders: Vec<PathBuf> = kept().map(folder_of).collect();
    folders.dedup();
    let mut found: Vec<Weakness> = folders
        .iter()
        .filter_map(|folder| others_may(folder, OTHERS_WRITE, "put files and links into it", "o-w"))
        .collect();
    // A user who may write to a folder may replace a file or folder in it.
    let mut holding: Vec<PathBuf> = folders.iter().flat_map(|folder| above(folder)).collect();
    for file in config.files_read().iter().filter(|file| !is_mounted(&file.path)) {
        holding.extend(above(&file.path));
    }
    holding.sort();
    holding.dedup();
    found.extend(holding.iter().filter_map(|folder| replaceable_weakness(folder)));
    let data = kept().flat_map(with_companions);
    found.extend(data.filter_map(|path| others_may(&path, ALL_BUT_OWNER, "read it", "600")));
    for file in config.files_read() {
        found.extend(if file.is_secret {
            secret_weakness(&file.path)
        } else {
            others_may(&file.path, OTHERS_WRITE, "change the settings", "o-w")
        });
    }
    found
}

/// Returns the folder of a file.
pub(crate) fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns an SQLite file, its log and its index of the log.
pub(crate) fn with_companions(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Returns the folders above a file or folder, up to the root.
fn above(path: &Path) -> Vec<PathBuf> {
    let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
    whole.map(|path| path.ancestors().skip(1).map(Path::to_owned).collect()).unwrap_or_default()
}

/// Returns the permissions at this path, with the sticky bit; `None` if nothing exists there.
fn mode(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|found| found.mode() & (0o777 | STICKY))
}

fn weakness(path: &Path, mode: u32, what: &str, change: &str) -> Weakness {
    let path = path.display();
    let what = format!("{path} has mode {mode:04o}: others on this machine may {what}");
    Weakness::new(what, format!("chmod {change} {path}"))
}

/// Checks a file or folder that others may do this with if it has one of these permissions.
fn others_may(path: &Path, unwanted: u32, what: &str, change: &str) -> Option<Weakness> {
    let mode = mode(path).filter(|mode| mode & unwanted != 0)?;
    Some(weakness(path, mode, what, change))
}

/// Checks a folder that holds a file or folder of Rollbook's.
fn replaceable_weakness(folder: &Path) -> Option<Weakness> {
    let mode = mode(folder).filter(|mode| mode & OTHERS_WRITE != 0 && mode & STICKY == 0)?;
    Some(weakness(folder, mode, "replace what Rollbook has in it", "o-w"))
}

/// Returns whether a container engine has mounted this file as a secret.
fn is_mounted(path: &Path) -> bool {
    SECRET_MOUNTS.iter().any(|mount| path.starts_with(mount))
        || folder_of(path).join(KUBERNETES_LINK).exists()
}

/// Checks a secret. A group may read a secret of another owner: this process may read it through its group.
fn secret_weakness(path: &Path) -> Option<Weakness> {
    let found = path.metadata().ok().filter(|_| !is_mounted(path))?;
    let mode = found.mode() & 0o777;
    // The owner of this path is the user of this process.
    let is_ours = Path::new("/proc/self").metadata().is_ok_and(|own| own.uid() == found.uid());
    let unwanted = OTHERS_READ | OTHERS_WRITE | if is_ours { GROUP } else { 0o020 };
    (mode & unwanted != 0).then(|| {
        let change = if is_ours { "600" } else { "640" };
        weakness(path, mode, "read or change a secret in it", change)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::config::{Environment, FileSource, Settings, Sources};

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn new() -> Self {
            let files = Self { folder: tempfile::tempdir().expect("a folder") };
            files.put("data", 0o700, None);
            let database = files.path("database_url").display().to_string();
            files.put("database_url", 0o600, Some("postgres://u:p@127.0.0.1/app"));
            files.put(
                "rollbook.toml",
                0o600,
                Some(&format!("database_url_file = \"{database}\"\nlanes = 2\n")),
            );
            files.put("data/queue.db", 0o600, Some(""));
            files.put("data/queue.db-wal", 0o600, Some(""));
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn put(&self, name: &str, mode: u32, content: Option<&str>) {
            let path = self.path(name);
            match content {
                Some(text) => std::fs::write(&path, text).expect("it is written"),
                None => std::fs::create_dir(&path).expect("it is made"),
            }
            self.set(name, mode);
        }

        fn set(&self, name: &str, mode: u32) {
            std::fs::set_permissions(self.path(name), Permissions::from_mode(mode)).expect("a mode");
        }

        fn weaknesses(&self) -> Vec<Weakness> {
            let flags = [(&Settings::data_dir().about, self.path("data").display().to_string())];
            let path = self.path("rollbook.toml");
            let (environment, file) = (Environment::of(&[]), FileSource::Named(&path));
            let config = Config::load(&Sources { flags: &flags, environment, file });
            weaknesses(&config.unwrap_or_else(|problems| panic!("{problems}")), &Component::ALL)
        }
    }

    #[test]
    fn files_that_only_their_owner_may_read_are_not_a_weakness() {
        assert_eq!(Files::new().weaknesses(), []);
    }

    #[test]
    fn each_file_and_folder_that_others_may_change_or_read_is_named_with_its_fix() {
        for (name, mode, fix) in [
            ("data", 0o777, "chmod o-w"),
            ("data", 0o703, "chmod o-w"),
            ("data/queue.db", 0o640, "chmod 600"),
            ("data/queue.db-wal", 0o604, "chmod 600"),
            ("rollbook.toml", 0o602, "chmod o-w"),
            ("database_url", 0o604, "chmod 600"),
            ("database_url", 0o640, "chmod 600"),
        ] {
            let files = Files::new();
            files.set(name, mode);
            let [found] = &files.weaknesses()[..] else { panic!("{name} {mode:o}: one weakness") };
            let path = files.path(name).display().to_string();
            assert!(found.what.contains(&path) && found.what.contains(&format!("{mode:04o}")), "{found:?}");
            assert_eq!(found.fix, format!("{fix} {path}"));
        }
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_named_where_it_holds_the_configuration_a_secret_or_our_folder() {
        for (name, mode, is_named) in [
            ("", 0o777, true),
            ("", 0o703, true),
            ("", 0o1777, false),
            ("", 0o775, false),
            ("sub", 0o777, true),
        ] {
            let files = Files::new();
            files.put("sub", 0o755, None);
            files.put("sub/key", 0o600, Some("postgres://u:p@127.0.0.1/app"));
            let key = files.path("sub/key").display().to_string();
            files.put("rollbook.toml", 0o600, Some(&format!("database_url_file = \"{key}\"\n")));
            files.set(name, mode);
            let found = files.weaknesses();
            files.set(name, 0o755);
            assert_eq!(found.len(), usize::from(is_named), "{name} {mode:o}: {found:?}");
            for weakness in found {
                let path = files.path(name).canonicalize().expect("a path").display().to_string();
                assert!(weakness.what.starts_with(&format!("{path} has mode {mode:04o}: ")), "{weakness:?}");
                assert_eq!(weakness.fix, format!("chmod o-w {path}"));
            }
        }
    }

    #[test]
    fn a_configuration_with_a_password_in_it_is_a_secret_and_one_without_may_be_read() {
        let files = Files::new();
        files.set("rollbook.toml", 0o644);
        assert_eq!(files.weaknesses(), [], "it names a file, and no secret");
        files.put("rollbook.toml", 0o644, Some("database_url = \"postgres://u:p@127.0.0.1/app\"\n"));
        assert_eq!(files.weaknesses().len(), 1);
    }

    #[test]
    fn a_public_key_may_be_read_and_only_its_change_is_a_weakness() {
        let files = Files::new();
        let pem = rollbook_testkit::tokens::Signer::of_the_instance().pem();
        for (mode, named) in [(0o644, 0), (0o646, 1)] {
            files.put("key", mode, Some(&pem));
            let key = files.path("key").display().to_string();
            let text =
                format!("clerk_issuer = \"https://clerk.example.com\"\nclerk_jwt_key_file = \"{key}\"\n");
            files.put("rollbook.toml", 0o600, Some(&text));
            let found = files.weaknesses();
            assert_eq!(found.len(), named, "{found:?}");
            assert!(found.iter().all(|one| one.fix == format!("chmod o-w {key}")), "{found:?}");
        }
    }

    #[test]
    fn a_secret_that_kubernetes_has_mounted_has_the_mode_that_it_gives() {
        let files = Files::new();
        files.set("database_url", 0o644);
        files.put(KUBERNETES_LINK, 0o755, None);
        assert_eq!(files.weaknesses(), []);
    }
}
