//! Arguments of the command line: what the values of ids and addresses must look like, and errors without secrets.
//!
//! clap repeats an argument in its error. An argument in the wrong place may be a URL with a password or a
//! key, so every error of the command line passes through [`without_secrets`].

use std::ffi::OsString;

use clap::error::ErrorKind;
use rollbook_operator::lookup::is_phone_number;

use crate::secrets::{self, looks_secret};

/// Shown in place of a secret.
const REDACTED: &str = "[redacted]";
/// Maximum length of an address or phone number, in bytes: RFC 5321 allows an address 254.
const ADDRESS_LENGTH_MAX: usize = 320;

/// The text of an error of the command line, if it must be shown without a URL or key that the user gave.
/// `None` if the error repeats none; help texts have URLs of their own, and are shown as they are.
pub(crate) fn without_secrets(
    error: &clap::Error,
    arguments: impl IntoIterator<Item = OsString>,
) -> Option<String> {
    let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand || !error.use_stderr();
    let text = error.render().to_string();
    let hidden = redacted(&text, arguments);
    (!is_help && hidden != text).then_some(hidden)
}

/// An error of the command line, without any argument that may be a secret.
fn redacted(error: &str, arguments: impl IntoIterator<Item = OsString>) -> String {
    let mut values: Vec<String> = Vec::new();
    for argument in arguments {
        let argument = argument.to_string_lossy().into_owned();
        if looks_secret(&argument) {
            // clap may show a flag's value by itself.
            values.extend(argument.split_once('=').map(|(_, value)| value.to_owned()));
            values.push(argument);
        }
    }
    values.retain(|value| looks_secret(value));
    // The longest first: one may be part of another.
    values.sort_by_key(|value| std::cmp::Reverse(value.len()));
    let mut text = error.to_owned();
    for value in &values {
        text = text.replace(value.as_str(), REDACTED);
    }
    text.split_inclusive(char::is_whitespace).map(word).collect()
}

/// Returns a word of an error without the URL or key in it: clap may show a secret in another form than its argument.
fn word(word: &str) -> String {
    let Some(from) = secrets::start(word) else { return word.to_owned() };
    let end = word.trim_end().len();
    let quote = if word[..end].ends_with('\'') { "'" } else { "" };
    format!("{}{REDACTED}{quote}{}", &word[..from], &word[end..])
}

/// Parses an id or the name of a type: never a URL or a key.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("it is empty".to_owned());
    }
    if looks_secret(text) {
        return Err("it looks like a URL, a key or a password, not like an id or a name".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses an e-mail address or a phone number, without spaces around it.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let address = text.trim();
    if looks_secret(address) {
        return Err("it looks like a URL, a key or a password, not like an address".to_owned());
    }
    if address.contains(|c: char| matches!(c, ',' | ';') || c.is_whitespace()) {
        return Err(
            "it has a comma, a semicolon or white space in it: write one --also for each address".to_owned()
        );
    }
    if is_email(address) || is_phone_number(address) {
        return Ok(address.to_owned());
    }
    Err("it is neither an e-mail address (name@host.example) nor a phone number with its country code (+447700900113)"
        .to_owned())
}

fn is_email(text: &str) -> bool {
    let has_other = |c: char| c.is_whitespace() || c.is_control();
    let Some((name, host)) = text.rsplit_once('@') else { return false };
    !name.is_empty() && !host.is_empty() && text.len() <= ADDRESS_LENGTH_MAX && !text.contains(has_other)
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::*;
    use crate::cli::Cli;

    const SECRETS: [&str; 9] = [
        "postgres://u:hunter2@h/db",
        "whsec_hunter2",
        "sk_live_hunter2",
        "rediss://:hunter 2@h",
        "u:hunter2@h/db",
        "host=h password=hunter2",
        "password=hunter2",
        "PGPASSWORD=hunter2",
        "postgres:/u:hunter2@h/db",
    ];

    /// Returns the words of each command, the program's own included.
    fn commands(command: &Command, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        for inner in command.get_subcommands() {
            commands(inner, &[path, &[inner.get_name().to_owned()]].concat(), found);
        }
    }

    fn at<'a>(command: &'a Command, path: &[String]) -> &'a Command {
        path.iter().skip(1).fold(command, |command, name| command.find_subcommand(name).expect("a command"))
    }

    fn error_of(arguments: &[String]) -> Option<String> {
        error_of_command(Cli::command(), arguments)
    }

    fn error_of_command(cli: Command, arguments: &[String]) -> Option<String> {
        let error = cli.try_get_matches_from(arguments).err()?;
        let hidden = without_secrets(&error, arguments.iter().map(OsString::from));
        Some(hidden.unwrap_or_else(|| error.render().to_string()))
    }

    #[test]
    fn the_help_for_a_missing_subcommand_is_shown_as_it_is() {
        for arguments in [&["rollbook"][..], &["rollbook", "dead-letters"]] {
            let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            let text = error_of(&arguments).expect("a subcommand is missing");
            assert!(text.contains("Usage:") && !text.contains(REDACTED), "{text}");
        }
    }

    #[test]
    fn no_command_repeats_a_url_or_a_key_that_stands_in_the_wrong_place_or_is_an_invalid_value() {
        let mut cli = Cli::command();
        cli.build();
        let mut paths = Vec::new();
        commands(&cli, &["rollbook".to_owned()], &mut paths);
        assert!(paths.len() > 15, "{paths:?}");
        let mut seen = 0;
        for path in paths {
            let flags: Vec<&str> =
                at(&cli, &path).get_arguments().filter_map(|argument| argument.get_long()).collect();
            let mut tries: Vec<Vec<String>> = Vec::new();
            for secret in SECRETS {
                let secret = secret.to_owned();
                tries.push(vec![secret.clone()]);
                tries.push(vec!["one".to_owned(), secret.clone(), "two".to_owned()]);
                tries.push(vec![format!("--unknown={secret}")]);
                tries.push(vec![format!("-x{secret}")]);
                for flag in &flags {
                    tries.push(vec![format!("--{flag}={secret}")]);
                    tries.push(vec![format!("--{flag}"), secret.clone(), "one".to_owned(), secret.clone()]);
                }
            }
            for arguments in tries {
                let all = [path.clone(), arguments].concat();
                if let Some(text) = error_of_command(cli.clone(), &all) {
                    seen += 1;
                    assert!(!text.contains("hunter"), "{all:?}\n{text}");
                }
            }
        }
        assert!(seen > 1_000, "{seen}");
    }

    #[test]
    fn an_error_without_a_secret_is_shown_as_it_is() {
        let text = error_of(&["rollbook", "migrate", "--frobnicate"].map(str::to_owned)).expect("an error");
        assert!(text.contains("unexpected argument '--frobnicate' found"), "{text}");
        let text =
            error_of(&["rollbook", "migrate", "postgres://u:p@h"].map(str::to_owned)).expect("an error");
        assert!(text.contains("unexpected argument '[redacted]' found"), "{text}");
    }

    #[test]
    fn a_secret_that_clap_shows_in_another_form_is_not_shown_either() {
        for (text, expected) in [
            ("value 'postgres://u:p@h' for", "value '[redacted]' for"),
            ("(redis://h) whsec_abc\n", "([redacted] [redacted]\n"),
            ("nothing: //here", "nothing: //here"),
        ] {
            assert_eq!(redacted(text, []), expected);
        }
    }

    #[test]
    fn an_address_is_one_of_mail_or_a_phone_number() {
        for right in ["ann@x.example", " Ann+1@X.example ", "+447700900113", "\"a@b\"@x.example"] {
            assert_eq!(address(right), Ok(right.trim().to_owned()));
        }
        for wrong in
            ["", " ", "ann", "@x.example", "ann@", "a nn@x.example", "447700900113", "+44", "+44x7700900113"]
        {
            assert!(address(wrong).is_err(), "{wrong:?}");
        }
        for several in [
            "a@b.example,c@d.example",
            "a@b.example; c@d.example",
            "a@b.example c@d.example",
            "+447700900113,+447700900114",
        ] {
            let refusal = address(several).expect_err("they are two");
            assert!(refusal.contains("one --also for each address"), "{refusal}");
        }
        assert!(address("u:hunter2@h").is_err());
        assert!(address(&format!("{}@x.example", "a".repeat(ADDRESS_LENGTH_MAX - 9))).is_err());
        assert!(address(&format!("{}@x.example", "a".repeat(ADDRESS_LENGTH_MAX - 10))).is_ok());
    }
}
