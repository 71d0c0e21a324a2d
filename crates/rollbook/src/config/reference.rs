//! Reference of all settings, as a page. A test compares `ops/CONFIG.md` with it.

use std::fmt::Write as _;

use super::forward::ForwardGroup;
use super::reader::Declared as _;
use super::relations::Scope;
use super::setting::{About, Kind};
use super::settings::{SETTINGS, Settings};
use super::values::longest;

const HEAD: &str = "\
# Settings

Every setting of Rollbook, made from the table in the code by `rollbook config --reference`; a test holds this page
against it (`UPDATE=1 cargo test -p rollbook reference` writes it anew).

- A flag comes before the environment, the environment before the file, the file before the default. The file is
  `rollbook.toml` in the working folder, or what `--config` names; [rollbook.toml](rollbook.toml) is one with every
  setting at its default. `rollbook config` shows the effective values and where each came from.
- Every flag works with every command. A secret or a public key has no flag, and a URL with a password is refused in one: every user of
  a machine reads its process list.
- Where a setting says *or a file*, the name with `_FILE` (in the file: `_file`) gives the path of a file that holds the value.
  Both at once are refused.
- Where a setting says *without a restart*, a running process takes a changed value into use: it reads the file that holds the
  value every 10 s, and everything on SIGHUP. A value that can't be read or is wrong changes nothing. All other settings
  are read at the start. [Keys](RUNBOOK.md#keys) has the steps.
- An unknown `ROLLBOOK_…` and an unknown key are refused, and so is an empty value. All problems are reported together,
  before a port is bound; exit code 2.
- A duration is a whole number and `ms`, `s`, `m`, `h` or `d`. A size is a whole number of bytes, or of `KiB`, `MiB`, `GiB`.
- `yes` may also be written `true`, `on` or `1`, and `no` as `false`, `off` or `0`.
";

/// Returns the page.
pub(crate) fn page() -> String {
    let (mut page, mut section) = (HEAD.to_owned(), "");
    let alone = SETTINGS.iter().map(|setting| (*setting, "", facts(setting)));
    let of_forwards = ForwardGroup::declarations().into_iter();
    let of_forwards = of_forwards.map(|setting| (setting, " of a forward", group_facts(setting)));
    for (setting, of, facts) in alone.chain(of_forwards) {
        let (title, about) = setting.section;
        if std::mem::replace(&mut section, title) != title {
            // Writing to a String can't fail.
            let _ = write!(page, "\n## {title}\n\n{about}\n");
        }
        let _ = write!(page, "\n### `{}`{of}\n\n{}.\n\n{facts}", setting.key, setting.sentence());
    }
    page
}

/// Returns the facts of a setting of a group: its names are in the file only.
fn group_facts(setting: &About) -> String {
    let default =
        setting.default.map_or_else(|| "none, must be set".to_owned(), |default| format!("`{default}`"));
    let file = if setting.may_be_in_file() {
        format!("- or a file: `{}_file`, with its path\n", setting.key)
    } else {
        String::new()
    };
    let mut facts =
        format!("- default: {default}\n- value: {}\n{file}{}", form(&setting.kind), change(setting));
    for relation in ForwardGroup::relations().iter().filter(|relation| relation.setting.key == setting.key) {
        let _ = writeln!(facts, "- must be: {}", relation.fix);
    }
    facts
}

fn facts(setting: &About) -> String {
    let environment = setting.environment();
    let mut names = vec![format!("environment `{environment}`")];
    if setting.may_be_in_file() {
        names.push(format!("or a file: `{environment}_FILE`"));
    }
    names.push(setting.flag().map_or_else(|| "no flag".to_owned(), |flag| format!("flag `{flag}`")));
    let default = setting.default.map_or_else(|| "not set".to_owned(), |default| format!("`{default}`"));
    let mut facts = format!(
        "- default: {default}\n- value: {}\n- {}\n{}",
        form(&setting.kind),
        names.join(", "),
        change(setting)
    );
    for relation in Settings::relations().iter().filter(|relation| relation.setting.key == setting.key) {
        let scope = match relation.scope {
            Scope::Any => "",
            Scope::Redis => "with Redis, ",
            Scope::Postgres => "with Postgres, ",
        };
        let _ = writeln!(facts, "- must be: {scope}{}", relation.fix);
    }
    facts
}

/// Returns the line about a change of the value while a process runs; empty if it needs a restart.
const fn change(setting: &About) -> &'static str {
    if setting.is_live { "- a change takes effect without a restart\n" } else { "" }
}

fn form(kind: &Kind) -> String {
    match kind {
        Kind::Text => "text".to_owned(),
        Kind::Secret => "text, never shown".to_owned(),
        Kind::PublicKeys => "public keys in PEM, shown as their number".to_owned(),
        Kind::Url => "a URL, shown without its password".to_owned(),
        Kind::Endpoint => "a URL, shown without its path".to_owned(),
        Kind::Path => "a path".to_owned(),
        Kind::Address => "`IP:PORT`, or `localhost:PORT`".to_owned(),
        Kind::AddressOrSame => "`IP:PORT`, `localhost:PORT`, or `same`".to_owned(),
        Kind::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or "),
        Kind::Duration(max) => format!("a duration, `1ms` to `{}`", longest(*max)),
        Kind::Pause(max) => format!("a duration, `0s` to `{}`", longest(*max)),
        Kind::Interval(max) => {
            format!("`off`, or a duration, `1ms` to `{}`", longest(*max))
        }
        Kind::Share => "a number above 0, at most 1".to_owned(),
        Kind::Size(max) => format!("a size, 1 byte to `{}GiB`", max >> 30),
        Kind::Number(max) => format!("a whole number, 1 to {max}"),
        Kind::Count(max) => format!("a whole number, 0 to {max}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Environment;

    #[test]
    fn the_reference_of_the_repository_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/CONFIG.md");
        let page = page();
        if Environment::read().is_set("UPDATE") {
            std::fs::write(&path, &page).expect("it is written");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == page, "ops/CONFIG.md is not current: UPDATE=1 cargo test -p rollbook reference");
    }

    #[test]
    fn the_page_has_the_names_the_default_the_range_and_the_conditions_of_a_setting() {
        let page = page();
        for setting in SETTINGS.iter() {
            assert!(page.contains(&format!("\n### `{}`\n", setting.key)), "{}", setting.key);
            assert!(page.contains(&format!("environment `{}`", setting.environment())), "{}", setting.key);
        }
        let about = |key: &str| {
            let rest = page.split_once(&format!("### `{key}`\n")).expect("it is there").1;
            rest.split("\n###").next().unwrap_or_default().to_owned()
        };
        let secret = about("clerk_webhook_signing_secret");
        assert!(secret.contains("or a file: `CLERK_WEBHOOK_SIGNING_SECRET_FILE`, no flag"), "{secret}");
        let timeout = about("statement_timeout");
        for part in
            ["default: `20s`", "`1ms` to `24h`", "`--statement-timeout`", "with Postgres, at most half"]
        {
            assert!(timeout.contains(part), "{part} in {timeout}");
        }
    }
}
