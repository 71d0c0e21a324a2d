//! Typed settings, and the macro that declares them.
//!
//! [`settings!`] makes a struct with one typed field per setting, and the declaration under the same name:
//! `settings.lanes` is the value, `Settings::lanes()` the declaration. The compiler reports a field that
//! nothing reads: a setting without a use does not build.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::url::{self, Place, Role};
use super::values::{self, OpsListen, Wrong};
use crate::nearest::nearest;

/// Setting with a value of type `T`.
pub(crate) struct Setting<T> {
    /// Name, form, default and meaning.
    pub(crate) about: About,
    /// Reads the text of a value.
    pub(super) parse: Parse<T>,
    /// Value if no source gives one; `None` if a source must give one.
    pub(super) unset: Option<fn() -> T>,
}

/// Reads the text of a value.
pub(super) type Parse<T> = Box<dyn Fn(&str) -> Result<T, Wrong> + Send + Sync>;

/// Name, form, default and meaning of a setting, whatever its type.
pub(crate) struct About {
    /// Key in the file. The other names are derived from it.
    pub(crate) key: &'static str,
    /// Title and introduction of the setting's section in the reference.
    pub(crate) section: (&'static str, &'static str),
    /// Form of the text.
    pub(crate) kind: Kind,
    /// Text if no source gives one. `None`: not set.
    pub(crate) default: Option<&'static str>,
    /// Sample text for a setting without a default.
    pub(crate) example: &'static str,
    /// Meaning, in one line.
    pub(crate) help: &'static str,
    /// Whether a running process takes a changed value into use. The others need a restart.
    pub(crate) is_live: bool,
    /// Whether Clerk's or other programs use the name too. Then it has no prefix in the environment.
    is_shared: bool,
}

/// Form of a setting's text.
#[derive(Clone, PartialEq)]
pub(crate) enum Kind {
    /// Any text.
    Text,
    /// A secret: never shown, never a flag; may be read from a file.
    Secret,
    /// Public keys in PEM: too long to be shown or to be a flag; may be read from a file.
    PublicKeys,
    /// URL of a system. May hold a password: shown without it, may be read from a file.
    Url,
    /// URL of an endpoint. Its path may be a secret: shown without it, may be read from a file.
    Endpoint,
    /// A path.
    Path,
    /// `HOST:PORT`.
    Address,
    /// Address of an IP socket, or `same`.
    AddressOrSame,
    /// One of these words.
    Choice(Vec<&'static str>),
    /// A duration, at most this long.
    Duration(Duration),
    /// A duration, at most this long, or zero.
    Pause(Duration),
    /// A duration, at most this long, or `off`.
    Interval(Duration),
    /// A number above zero, at most one.
    Share,
    /// A number of bytes, at most this many.
    Size(u64),
    /// A whole number from one, at most this.
    Number(u64),
    /// A whole number from zero, at most this.
    Count(u64),
}

impl About {
    /// Returns the name in the environment.
    pub(crate) fn environment(&self) -> String {
        let name = self.key.to_ascii_uppercase();
        if self.is_shared { name } else { format!("ROLLBOOK_{name}") }
    }

    /// Returns the flag. A secret has none: every user of a machine reads the process list. A public key has several lines.
    pub(crate) fn flag(&self) -> Option<String> {
        (!matches!(self.kind, Kind::Secret | Kind::PublicKeys)).then(|| self.dashed())
    }

    /// Returns the key as the name of a flag, with its dashes.
    pub(crate) fn dashed(&self) -> String {
        format!("--{}", self.key.replace('_', "-"))
    }

    /// Returns the meaning with a capital at its start.
    pub(crate) fn sentence(&self) -> String {
        let mut chars = self.help.chars();
        let first = chars.next().map(char::to_uppercase);
        first.into_iter().flatten().chain(chars).collect()
    }

    /// Returns whether the value may be the content of a file (`X_FILE`).
    pub(crate) fn may_be_in_file(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::PublicKeys | Kind::Url | Kind::Endpoint)
    }
}

/// Finds the setting of this name. Also returns whether the name is that of a file which holds the value.
///
/// # Errors
/// No setting has this name; the text says what to do.
pub(super) fn find(
    settings: &[&'static About],
    name: &str,
    file_suffix: &str,
    name_of: impl Fn(&About) -> String,
    otherwise: &str,
) -> Result<(&'static About, bool), String> {
    let named = |wanted: &str| settings.iter().copied().find(|setting| name_of(setting) == wanted);
    let of_file = || named(name.strip_suffix(file_suffix)?).filter(|setting| setting.may_be_in_file());
    let found = named(name).map(|setting| (setting, false)).or_else(|| Some((of_file()?, true)));
    found.ok_or_else(|| {
        let known_names = settings.iter().flat_map(|setting| {
            let of_file = setting.may_be_in_file().then(|| format!("{}{file_suffix}", name_of(setting)));
            std::iter::once(name_of(setting)).chain(of_file)
        });
        // A name that differs in its prefix only is meant, whatever else is similar.
        let is_meant = |known: &String| without_prefix(known) == without_prefix(name);
        // The prefix would make every name similar to every other.
        let similar = || {
            let found =
                nearest(&without_prefix(name), known_names.clone().map(|known| without_prefix(&known)))?;
            known_names.clone().find(|known| without_prefix(known) == found)
        };
        let meant = known_names.clone().find(is_meant).or_else(similar);
        let fix = meant.map_or_else(|| otherwise.to_owned(), |meant| format!("did you mean {meant}?"));
        format!("{fix} (rollbook config lists every setting)")
    })
}

/// Returns the name of a setting without its prefix, in lower case: some variables begin with `ROLLBOOK_`, some with `CLERK_`,
/// some with neither.
fn without_prefix(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let mut rest = name.as_str();
    while let Some(shorter) = rest.strip_prefix("rollbook_").or_else(|| rest.strip_prefix("clerk_")) {
        rest = shorter;
    }
    rest.to_owned()
}

/// Declares settings, by sections of the reference: `name: type = form, "meaning";`, with as many
/// `must(scope, "what it must be", condition, "what is wrong")` behind the meaning as there are relations to others.
macro_rules! settings {
    ($(#[$attribute:meta])* $name:ident {
        $($section:expr => { $(
            $key:ident: $type:ty = $setting:expr, $help:expr
            $(, must($scope:expr, $fix:expr, $condition:expr, $wrong:expr))*;
        )* })*
    }) => {
        $(#[$attribute])*
        pub(crate) struct $name { $($(pub(crate) $key: $type,)*)* }

        impl $name {
            $($(pub(crate) fn $key() -> &'static Setting<$type> {
                static SETTING: LazyLock<Setting<$type>> =
                    LazyLock::new(|| $setting.declared(stringify!($key), $section, $help));
                &SETTING
            })*)*
        }

        impl Declared for $name {
            fn declarations() -> Vec<&'static About> {
                vec![$($(&Self::$key().about,)*)*]
            }

            fn relations() -> Vec<Relation<Self>> {
                vec![$($($(Relation {
                    setting: &Self::$key().about,
                    scope: $scope,
                    fix: $fix,
                    condition: $condition,
                    wrong: $wrong,
                },)*)*)*]
            }

            fn read(reader: &mut Reader<'_>) -> Option<Self> {
                $($(let $key = reader.read(Self::$key());)*)*
                Some(Self { $($($key: $key?,)*)* })
            }
        }
    };
}
pub(super) use settings;

impl<T: 'static> Setting<T> {
    fn new(kind: Kind, parse: impl Fn(&str) -> Result<T, Wrong> + Send + Sync + 'static) -> Self {
        let about = About {
            key: "",
            section: ("", ""),
            kind,
            default: None,
            example: "",
            help: "",
            is_live: false,
            is_shared: false,
        };
        Self { about, parse: Box::new(parse), unset: None }
    }

    /// Sets the default.
    pub(super) fn or(mut self, default: &'static str) -> Self {
        self.about.default = Some(default);
        self
    }

    /// Makes the setting optional. The sample file shows the example.
    pub(super) fn optional(mut self, example: &'static str) -> Setting<Option<T>> {
        self.about.example = example;
        let parse = self.parse;
        Setting {
            about: self.about,
            parse: Box::new(move |text| parse(text).map(Some)),
            unset: Some(|| None),
        }
    }

    /// Sets the text that the sample file shows for a setting that a source must give.
    pub(super) fn such_as(mut self, example: &'static str) -> Self {
        self.about.example = example;
        self
    }

    /// Lets a running process take a changed value into use: see `live_secrets.rs`.
    pub(super) fn live(mut self) -> Self {
        self.about.is_live = true;
        self
    }

    /// Removes the prefix `ROLLBOOK_` in the environment.
    pub(super) fn shared(mut self) -> Self {
        self.about.is_shared = true;
        self
    }

    /// Sets name, section and meaning.
    pub(super) fn declared(
        mut self,
        key: &'static str,
        section: (&'static str, &'static str),
        help: &'static str,
    ) -> Self {
        self.about = About { key, section, help, ..self.about };
        self
    }
}

/// Declares a text that `parse` reads.
pub(super) fn text<T: 'static>(parse: fn(&str) -> Result<T, Wrong>) -> Setting<T> {
    Setting::new(Kind::Text, parse)
}

/// Declares any text but a URL or a secret.
pub(super) fn plain() -> Setting<String> {
    Setting::new(Kind::Text, values::plain)
}

/// Declares a secret that `parse` reads.
pub(super) fn secret<T: 'static>(parse: fn(&str) -> Result<T, Wrong>) -> Setting<T> {
    Setting::new(Kind::Secret, parse)
}

/// Declares public keys that `parse` reads.
pub(super) fn public_keys<T: 'static>(parse: fn(&str) -> Result<T, Wrong>) -> Setting<T> {
    Setting::new(Kind::PublicKeys, parse)
}

/// Declares a URL of the queue or the store.
pub(super) fn url(role: Role) -> Setting<Place> {
    Setting::new(Kind::Url, move |text| url::place(text, role))
}

/// Declares the URL of an endpoint that `parse` reads.
pub(super) fn endpoint<T: 'static>(parse: fn(&str) -> Result<T, Wrong>) -> Setting<T> {
    Setting::new(Kind::Endpoint, parse)
}

/// Declares the path of a folder.
pub(super) fn folder() -> Setting<PathBuf> {
    Setting::new(Kind::Path, |text| values::path(text, "folder"))
}

/// Declares the path of a file.
pub(super) fn file() -> Setting<PathBuf> {
    Setting::new(Kind::Path, |text| values::path(text, "file"))
}

/// Declares an IP address and a port.
pub(super) fn address() -> Setting<SocketAddr> {
    Setting::new(Kind::Address, values::address)
}

/// Declares an address of its own, or `same`.
pub(super) fn ops_address() -> Setting<OpsListen> {
    Setting::new(Kind::AddressOrSame, values::ops_listen)
}

/// Declares one of these words, each with its value.
pub(super) fn choice<T: Copy + Sync + 'static>(words: &'static [(&'static str, T)]) -> Setting<T> {
    let kind = Kind::Choice(words.iter().map(|(word, _)| *word).collect());
    Setting::new(kind, move |text| values::choice(text, words))
}

/// Declares `yes` or `no`; other common words for them are accepted too.
pub(super) fn yes_or_no() -> Setting<bool> {
    Setting::new(Kind::Choice(vec!["yes", "no"]), values::yes_or_no)
}

/// A duration, at most this long.
pub(super) fn duration(max: Duration) -> Setting<Duration> {
    Setting::new(Kind::Duration(max), move |text| values::duration(text, max))
}

/// A duration, at most this long, or zero.
pub(super) fn pause(max: Duration) -> Setting<Duration> {
    Setting::new(Kind::Pause(max), move |text| values::pause(text, max))
}

/// Declares an age at which something is removed, at most this; zero, which is `None`, keeps it without limit.
pub(super) fn age(max: Duration) -> Setting<Option<Duration>> {
    let parse = move |text: &str| Ok(Some(values::pause(text, max)?).filter(|age| !age.is_zero()));
    Setting::new(Kind::Pause(max), parse)
}

/// Declares the time between two runs of something, at most this; `off`, which is `None`, means never.
pub(super) fn interval(max: Duration) -> Setting<Option<Duration>> {
    Setting::new(Kind::Interval(max), move |text| values::interval(text, max))
}

/// A number above zero, at most one.
pub(super) fn share() -> Setting<f64> {
    Setting::new(Kind::Share, values::share)
}

/// A number of bytes, at most this many.
pub(super) fn size(max: u64) -> Setting<usize> {
    Setting::new(Kind::Size(max), move |text| values::size(text, max))
}

/// A whole number from one, at most this.
pub(super) fn number<N: TryFrom<u64> + 'static>(max: u64) -> Setting<N> {
    Setting::new(Kind::Number(max), move |text| values::number(text, max))
}

/// A whole number from zero, at most this.
pub(super) fn count<N: TryFrom<u64> + 'static>(max: u64) -> Setting<N> {
    Setting::new(Kind::Count(max), move |text| values::count(text, max))
}
