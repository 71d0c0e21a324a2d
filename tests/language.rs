//! Words that the project's texts do not use. A reader on call searches for standard terms, so each has one
//! name here.

use std::path::{Path, PathBuf};

use crate::architecture::root;

/// Banned words and phrases, in lower case, each with its replacement. Identifiers and file names are
/// searched with spaces for `_` and `-`.
const BANNED: [(&str, &str); 33] = [
    ("mend", "fix, repair"),
    ("mends", "fixes, repairs"),
    ("mended", "fixed, repaired"),
    ("mending", "fixing, repairing"),
    ("away", "unreachable, down; removed"),
    ("told", "reported, logged, shown"),
    ("tell", "report, say, show"),
    ("tells", "reports, says, shows"),
    ("telling", "reporting, showing"),
    ("whose", "with, of which; name the subject"),
    ("beside", "next to, in addition to, with"),
    ("besides", "in addition"),
    ("is no", "is not a"),
    ("are no", "are not"),
    ("was no", "was not a"),
    ("were no", "were not"),
    ("untried", "without counting an attempt"),
    ("hands back", "releases"),
    ("handed back", "released"),
    ("doubts", "candidate rows"),
    ("hangs on", "is a child row of, depends on, waits for"),
    ("hang on", "are child rows of, depend on, wait for"),
    ("hung on", "was a child row of"),
    ("what hangs", "child rows"),
    ("came back", "is reachable again, was restored"),
    ("what time brings about", "retention"),
    ("a person must", "manual action needed"),
    ("by a person", "manual action needed"),
    ("what it was like", "its content"),
    ("true to clerk", "in sync with Clerk"),
    ("lines of the ledger", "ledger entries"),
    ("line of the ledger", "ledger entry"),
    ("ledger line", "ledger entry"),
];

/// Proper uses of banned words, in lower case: they are left out of the search.
const PROPER: [&str; 10] = [
    "there is no",
    "there are no",
    "there was no",
    "there were no",
    "is no longer",
    "are no longer",
    // Settings of Redis with the value `no`.
    "appendonly is no",
    "appendfsync is no",
    "full-coverage is no",
    // A key of the benchmark's JSON.
    "\"beside\": line",
];

/// First words of a doc comment that hide its subject: hover text has no previous sentence to refer to.
const OPENINGS: [&str; 17] = [
    "its", "it", "their", "they", "those", "whose", "what", "which", "who", "whoever", "where", "how", "so",
    "of", "such", "likewise", "here",
];

/// Endings of the files that hold the project's own texts.
const ENDINGS: [&str; 7] = ["rs", "md", "txt", "toml", "yml", "yaml", "service"];

/// Paths that keep older words: this list, history that is quoted or must not change, and files of other
/// tools.
const EXCEPT: [&str; 5] =
    ["tests/language.rs", "CHANGELOG.md", "target/", ".git/", "crates/rollbook-core/fuzz/target/"];

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

/// Returns a line in lower case, with spaces in identifiers, and without proper uses of banned words.
fn searched(line: &str) -> String {
    let line = line.to_lowercase().replace('_', " ");
    PROPER.into_iter().fold(line, |line, proper| line.replace(proper, ""))
}

/// Returns the banned words in a line, each with its replacement.
fn banned(line: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let line = searched(line);
    BANNED.into_iter().filter(move |(word, _)| {
        line.match_indices(word).any(|(start, word)| {
            let is_border = |letter: Option<char>| letter.is_none_or(|letter| !letter.is_alphanumeric());
            is_border(line[..start].chars().next_back())
                && is_border(line[start + word.len()..].chars().next())
        })
    })
}

/// Returns the first word of a line that begins a doc comment, if it hides the subject. `before` is the line
/// above.
fn hidden_subject(before: &str, line: &str) -> Option<&'static str> {
    let doc = |line: &str| {
        let line = line.trim_start();
        let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"))?;
        Some(text.trim().to_lowercase())
    };
    let first = doc(line).filter(|_| doc(before).is_none())?;
    let first = first.split(|letter: char| !letter.is_alphanumeric()).next()?;
    OPENINGS.into_iter().find(|opening| *opening == first)
}

#[test]
fn no_text_uses_a_banned_word() {
    let mut files = Vec::new();
    texts(&root(), &mut files);
    let mut found = Vec::new();
    for path in files {
        let name = path.file_stem().expect("a name").to_string_lossy().replace('-', " ");
        let words =
            banned(&name).map(|(word, instead)| format!("{}: \"{word}\": write {instead}", path.display()));
        found.extend(words);
        let text = std::fs::read_to_string(&path).expect("a text");
        let is_code = path.extension().is_some_and(|ending| ending == "rs");
        let mut before = "";
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            found.extend(banned(line).map(|(word, instead)| format!("{place}: \"{word}\": write {instead}")));
            if let Some(word) = hidden_subject(before, line).filter(|_| is_code) {
                found.push(format!("{place}: \"{word}\": begin with the subject"));
            }
            before = line;
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_banned_word_is_found_as_a_whole_word_only() {
    let words = |line: &str| banned(line).map(|(word, _)| word).collect::<Vec<_>>();
    assert_eq!(words("The store is away, and must be Mended."), ["mended", "away"]);
    assert_eq!(words("amend, mendacious, recommended, tellers"), [""; 0]);
    assert_eq!(words("fn a_queue_that_is_away_is_mended() {"), ["mended", "away"], "identifiers too");
    assert_eq!(words("there is no file; that is no URL"), ["is no"], "a proper use is allowed");
}

#[test]
fn a_doc_comment_begins_with_its_subject() {
    assert_eq!(hidden_subject("", "    /// What is removed."), Some("what"));
    assert_eq!(hidden_subject("use std::io;", "//! Its name."), Some("its"));
    assert_eq!(
        hidden_subject("/// Returns the id.", "/// It is unique."),
        None,
        "the sentence before has the subject"
    );
    assert_eq!(hidden_subject("", "/// Items of the list."), None);
    assert_eq!(hidden_subject("", "// What is removed."), None, "no hover text");
}
