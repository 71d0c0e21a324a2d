//! Reading again, while a process runs, what may change without a restart.

use std::collections::BTreeSet;

use super::problem::{Origin, Problem, Problems};
use super::source::{Given, Values};
use super::values::wrong;
use super::{Config, Sources};

/// Result of reading the files again that hold values of live settings.
pub(crate) struct Reread {
    /// Configuration with the new contents; `None` if nothing has changed, or nothing that can be used.
    pub(crate) config: Option<Config>,
    /// Files that can't be used. Their settings keep the values from before.
    pub(crate) problems: Vec<Problem>,
}

impl Reread {
    /// Returns whether nothing has changed, and nothing is wrong.
    pub(crate) fn is_quiet(&self) -> bool {
        self.config.is_none() && self.problems.is_empty()
    }

    /// Returns whether both found the same contents.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        match (&self.config, &other.config) {
            (Some(one), Some(other)) => one.differences(other).is_empty(),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

/// Difference of a setting between two configurations.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// Key of the setting; in a group `GROUP.NAME.KEY`.
    pub(crate) key: String,
    /// Whether a running process can take the new value into use.
    pub(crate) is_live: bool,
}

impl Config {
    /// Reads all sources again, while the process runs.
    ///
    /// # Errors
    /// The result can't be used.
    pub(crate) fn load_again(&self, sources: &Sources<'_>) -> Result<Self, Problems> {
        Self::load_from(sources, &self.values.empty_again())
    }

    /// Reads the files again that hold values of live settings. Each file is judged alone: a wrong one keeps no other one
    /// from being used.
    pub(crate) fn reread(&self) -> Reread {
        let (mut values, mut config, mut problems) = (self.values.clone(), None, Vec::new());
        let mut contents = self.values.contents.again();
        let live = self.values.all().filter(|(_, given)| given.setting.is_live);
        for (key, given) in live {
            let Origin::Content { path, .. } = &given.origin else { continue };
            let text = match contents.value(path) {
                Ok(text) if text != given.text => text,
                Ok(_) => continue,
                Err(what) => {
                    let wrong = wrong(what, "make it readable, with the value and nothing else");
                    problems.push(Problem::of(key, Some(&given.origin), wrong));
                    continue;
                }
            };
            let mut candidate = values.clone();
            candidate.set(key, Given { text, ..given.clone() });
            match Self::read(candidate.clone(), Vec::new()).and_then(Self::checked) {
                Ok(read) => (values, config) = (candidate, Some(read)),
                Err(found) => problems.extend(found.0),
            }
        }
        Reread { config, problems }
    }

    /// Returns whether a source gives the setting with this key a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.values.get(key).is_some()
    }

    /// Returns the settings with another value than in `other`, or with a value in only one of both.
    pub(crate) fn differences(&self, other: &Self) -> BTreeSet<Difference> {
        let missing_or_other = |values: &Values, key: &str, given: &Given| {
            values.get(key).is_none_or(|known| known.text != given.text)
        };
        let of = |one: &Self, other: &Self| {
            let differing =
                one.values.all().filter(|(key, given)| missing_or_other(&other.values, key, given));
            let difference = |(key, given): (&str, &Given)| Difference {
                key: key.to_owned(),
                is_live: given.setting.is_live,
            };
            differing.map(difference).collect::<Vec<_>>()
        };
        of(self, other).into_iter().chain(of(other, self)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::process::Command;
    use std::sync::mpsc;

    use rollbook_testkit::process::DEADLINE;

    use super::*;
    use crate::config::{Environment, FileSource};

    const OLD: &str = "whsec_b2xkb2xkb2xkb2xkb2xkb2xkb2xkb2xk";
    const NEW: &str = "whsec_bmV3bmV3bmV3bmV3bmV3bmV3bmV3bmV3";
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn load(folder: &Path, listen: &str) -> Result<Config, Problems> {
        Config::load(&sources(folder, listen))
    }

    fn sources(folder: &Path, listen: &str) -> Sources<'static> {
        let path = |name: &str| folder.join(name).display().to_string();
        let (secret, tokens) = (path("secret"), path("tokens"));
        let environment = Environment::of(&[
            ("CLERK_WEBHOOK_SIGNING_SECRET_FILE", &secret),
            ("ROLLBOOK_API_TOKENS_FILE", &tokens),
            ("ROLLBOOK_LISTEN", listen),
        ]);
        Sources { flags: &[], environment, file: FileSource::None }
    }

    fn stage() -> (tempfile::TempDir, Config) {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "secret", OLD);
        write(folder.path(), "tokens", TOKEN);
        let config = load(folder.path(), "127.0.0.1:1").unwrap_or_else(|problems| panic!("{problems}"));
        (folder, config)
    }

    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::write(folder.join(name), text).expect("it is written");
    }

    fn secrets(config: &Config) -> usize {
        config.signing_secrets().expect("they are set").len()
    }

    #[test]
    fn a_changed_file_is_taken_and_a_wrong_or_missing_one_keeps_its_value_and_no_other_one() {
        let (folder, config) = stage();
        assert!(config.reread().is_quiet());
        write(folder.path(), "secret", &format!("{OLD}\n{NEW}\n"));
        for (text, what) in [("short", "32 to 512"), (" \n", "is empty")] {
            write(folder.path(), "tokens", text);
            let Reread { config: Some(read), problems } = config.reread() else { panic!("it has changed") };
            assert_eq!(secrets(&read), 2);
            assert_eq!(problems.len(), 1);
            let text = problems[0].to_string();
            assert!(text.starts_with("api_tokens (file ") && text.contains(what), "{text}");
            assert!(read.reread().config.is_none(), "the change is known, and the wrong file is still wrong");
        }
        std::fs::remove_file(folder.path().join("tokens")).expect("it is removed");
        let reread = config.reread();
        assert!(reread.problems[0].to_string().contains("can't be read"), "{}", reread.problems[0]);
    }

    /// Reads everything again in a thread of its own: what waits for a pipe fails the test.
    fn loaded_again(folder: &Path, config: Config) -> Result<Config, String> {
        let (sender, receiver) = mpsc::channel();
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            let sources = sources(&folder, "127.0.0.1:1");
            let again = config.load_again(&sources).map_err(|problems| problems.to_string());
            // An error means that the test has failed already.
            drop(sender.send(again));
        });
        receiver.recv_timeout(DEADLINE).expect("it does not wait")
    }

    fn make_pipe(path: &Path) {
        let made = Command::new("mkfifo").arg(path).status().expect("mkfifo runs");
        assert!(made.success());
    }

    #[test]
    fn a_file_that_became_a_folder_a_device_or_a_pipe_is_a_problem_and_is_not_opened() {
        let make: [&dyn Fn(&Path); 3] = [
            &|path| std::fs::create_dir(path).expect("a folder"),
            &|path| symlink("/dev/zero", path).expect("a link"),
            &make_pipe,
        ];
        for make in make {
            let (folder, config) = stage();
            let path = folder.path().join("secret");
            std::fs::remove_file(&path).expect("it is removed");
            make(&path);
            let Reread { config: None, problems } = config.reread() else { panic!("nothing has changed") };
            let expected = format!("{} can't be read (it is not a regular file any more)", path.display());
            assert!(problems.len() == 1 && problems[0].wrong == expected, "{problems:?}");
            let error = loaded_again(folder.path(), config).err().expect("it is refused");
            assert!(error.contains(&expected), "{error}");
        }
    }

    #[test]
    fn a_pipe_is_read_once_and_its_value_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        write(folder.path(), "tokens", TOKEN);
        make_pipe(&path);
        let writing = {
            let path = path.clone();
            std::thread::spawn(move || std::fs::write(path, OLD))
        };
        let config = load(folder.path(), "127.0.0.1:1").unwrap_or_else(|problems| panic!("{problems}"));
        writing.join().expect("no panic").expect("it is written");
        assert!(config.reread().is_quiet());
        let again = loaded_again(folder.path(), config).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(secrets(&again), 1);
        std::fs::remove_file(&path).expect("it is removed");
        assert!(again.reread().is_quiet(), "there is nothing to read");
        write(folder.path(), "secret", &format!("{NEW} {OLD}"));
        let read = again.reread().config.expect("a regular file is read");
        assert_eq!(secrets(&read), 2);
    }

    #[test]
    fn differences_say_which_settings_need_a_restart() {
        let (folder, config) = stage();
        write(folder.path(), "secret", NEW);
        let other = load(folder.path(), "127.0.0.1:2").unwrap_or_else(|problems| panic!("{problems}"));
        let found: Vec<_> =
            config.differences(&other).into_iter().map(|one| (one.key, one.is_live)).collect();
        assert_eq!(found, [("clerk_webhook_signing_secret".to_owned(), true), ("listen".to_owned(), false)]);
        assert!(config.differences(&config).is_empty());
    }

    #[test]
    fn two_readings_agree_only_if_they_found_the_same_contents() {
        let (folder, config) = stage();
        write(folder.path(), "secret", NEW);
        let (one, same) = (config.reread(), config.reread());
        write(folder.path(), "secret", &format!("{NEW} {OLD}"));
        let other = config.reread();
        assert!(one.agrees_with(&same) && !one.agrees_with(&other));
        write(folder.path(), "secret", OLD);
        assert!(!one.agrees_with(&config.reread()));
    }
}
