//! Values as the sources give them, before anyone has read what they say.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::problem::{Origin, Problem};
use super::settings::{Kind, Setting};
use super::values::looks_secret;

/// The longest value that is read from a file of its own, in bytes. Sixteen secrets take less.
const CONTENT_MAX: u64 = 64 * 1024;

/// A value and where it came from. No `Debug`: it may be a secret.
#[derive(Clone)]
pub(crate) struct Given {
    /// The text.
    pub(crate) text: String,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// Values by the key of their setting.
#[derive(Clone, Default)]
pub(crate) struct Values(BTreeMap<&'static str, Given>);

impl Values {
    /// The value of a setting, if there is one.
    pub(crate) fn get(&self, key: &str) -> Option<&Given> {
        self.0.get(key)
    }

    /// All values, each with the key of its setting.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &Given)> {
        self.0.iter().map(|(key, given)| (*key, given))
    }

    /// Takes over everything that a stronger source says.
    pub(crate) fn override_by(&mut self, stronger: Self) {
        self.0.extend(stronger.0);
    }

    /// Takes a value, or the name of the file that holds it. One source must not give both.
    pub(crate) fn give(
        &mut self,
        setting: &'static Setting,
        is_file: bool,
        given: Given,
        problems: &mut Vec<Problem>,
    ) {
        let origin = given.origin.clone();
        let mut refuse = |wrong: &str, mend: &str| {
            problems.push(Problem {
                name: setting.key.to_owned(),
                origin: Some(origin.clone()),
                wrong: wrong.to_owned(),
                mend: mend.to_owned(),
            });
        };
        if given.text.trim().is_empty() {
            return refuse("is empty", "give it a value, or leave it out");
        }
        let given = if is_file {
            match content(Path::new(&given.text)) {
                Ok(text) => Given {
                    text,
                    origin: Origin::Content {
                        path: PathBuf::from(given.text),
                        named_by: Box::new(given.origin),
                    },
                },
                Err(why) => {
                    return refuse(&why, "name a readable file that holds the value and nothing else");
                }
            }
        } else {
            given
        };
        let by_flag = matches!(given.origin, Origin::Flag(_));
        if by_flag && setting.kind == Kind::Url && super::url::has_password(&given.text) {
            return refuse(
                "holds a password, which every user of this machine can read in the process list",
                &format!("set {} or {0}_FILE instead", setting.environment()),
            );
        }
        if self.0.insert(setting.key, given).is_some() {
            refuse("is set directly and by a file", "keep one of the two");
        }
    }
}

/// The content of a file, without white space around it.
fn content(path: &Path) -> Result<String, String> {
    let name = path.display().to_string();
    // Where the value itself is given in place of a path.
    let name = if looks_secret(&name) {
        "a file of that name (it looks like a URL or a secret itself)"
    } else {
        &name
    };
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(CONTENT_MAX + 1).read_to_string(&mut text))
        .map_err(|error| format!("{name} can't be read ({error})"))?;
    match text.trim() {
        "" => Err(format!("{name} is empty")),
        _ if text.len() as u64 > CONTENT_MAX => Err(format!("{name} is longer than {CONTENT_MAX} bytes")),
        value => Ok(value.to_owned()),
    }
}
