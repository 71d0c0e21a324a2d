//! Words that the project's texts do not use. A reader on call searches for standard terms, so each has one name here.

use std::path::{Path, PathBuf};

use crate::architecture::root;

/// Banned words and phrases, in lower case, each with its replacement.
const BANNED: [(&str, &str); 22] = [
    ("mend", "fix, repair"),
    ("mends", "fixes, repairs"),
    ("mended", "fixed, repaired"),
    ("mending", "fixing, repairing"),
    ("is away", "is unreachable"),
    ("are away", "are unreachable"),
    ("was away", "was unreachable"),
    ("untried", "without counting an attempt"),
    ("hands back", "releases"),
    ("handed back", "released"),
    ("doubts", "candidate rows"),
    ("hangs on", "is a child row of, depends on, waits for"),
    ("hang on", "are child rows of, depend on, wait for"),
    ("a person must", "manual action needed"),
    ("by a person", "manual action needed"),
    ("what it was like", "its content"),
    ("true to clerk", "in sync with Clerk"),
    ("is no url", "is not a valid URL"),
    ("is no toml", "is not valid TOML"),
    ("is no json", "is not valid JSON"),
    ("is no utf-8", "is not valid UTF-8"),
    ("what hangs", "child rows"),
];

/// Endings of the files that hold the project's own texts.
const ENDINGS: [&str; 7] = ["rs", "md", "txt", "toml", "yml", "yaml", "service"];

/// Paths that keep older words: this list, history that is quoted or must not change, and files of other tools.
const EXCEPT: [&str; 6] = [
    "tests/language.rs",
    "CHANGELOG.md",
    "crates/decisions/",
    "target/",
    ".git/",
    "crates/rollbook-core/fuzz/target/",
];

fn texts(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        let name = if path.is_dir() { format!("{name}/") } else { name };
        if EXCEPT.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            texts(&path, found);
        } else if path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)) {
            found.push(path);
        }
    }
}

/// Returns the banned words in a line, each with its replacement.
fn banned(line: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let line = line.to_lowercase().replace('_', " ");
    BANNED.into_iter().filter(move |(word, _)| {
        line.match_indices(word).any(|(start, word)| {
            let is_border = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_alphanumeric());
            is_border(line[..start].chars().next_back())
                && is_border(line[start + word.len()..].chars().next())
        })
    })
}

#[test]
fn no_text_uses_a_banned_word() {
    let mut files = Vec::new();
    texts(&root(), &mut files);
    let mut found = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a text");
        for (number, line) in text.lines().enumerate() {
            let words = banned(line).map(|(word, instead)| {
                format!("{}:{}: \"{word}\": write {instead}", path.display(), number + 1)
            });
            found.extend(words);
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_banned_word_is_found_as_a_whole_word_only() {
    let words = |line: &str| banned(line).map(|(word, _)| word).collect::<Vec<_>>();
    assert_eq!(words("The store is away, and must be Mended."), ["mended", "is away"]);
    assert_eq!(words("amend, mendacious, recommended"), [""; 0]);
    assert_eq!(words("fn a_queue_that_is_away_is_mended() {"), ["mended", "is away"], "identifiers too");
}
