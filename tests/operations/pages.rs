//! Pages: the binary accepts their commands, and the metrics, settings, files and chapters that they name
//! exist.

use std::path::Path;

use rollbook_testkit::process::Home;

use super::{assert_readable, listed_series, names_in, ops, read};
use crate::crashes::BINARY;

/// Pages, by their path from the folder `ops`.
const PAGES: [&str; 24] = [
    "../README.md",
    "../SECURITY.md",
    "../crates/README.md",
    "../migrations/README.md",
    "../migrations/queries.md",
    "ACCESS.md",
    "API.md",
    "CONFIG.md",
    "FIGURES.md",
    "FIRST-HOUR.md",
    "FORWARDS.md",
    "HOSTING.md",
    "INSTALL.md",
    "JSON.md",
    "LOCAL.md",
    "METRICS.md",
    "MOVING-IN.md",
    "PRODUCTION.md",
    "REACTING.md",
    "RELIABILITY.md",
    "RUNBOOK.md",
    "SERVERS.md",
    "TWO-INSTANCES.md",
    "integrations/README.md",
];

/// Whether a file's name has this extension.
fn is_of(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

#[test]
fn every_page_is_checked() {
    let pages = std::fs::read_dir(ops()).expect("a folder").flatten();
    let names = pages.map(|entry| entry.file_name().into_string().expect("a plain name"));
    let unchecked: Vec<String> =
        names.filter(|name| is_of(name, "md") && !PAGES.contains(&name.as_str())).collect();
    assert_eq!(unchecked, [""; 0]);
}

#[test]
fn the_time_for_which_svix_retries_is_the_same_text_everywhere() {
    // Svix's pauses are 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 10 h: 27 h 35 min 5 s.
    let texts = PAGES.iter().chain(&["prometheus/rules/alerts.yml"]).map(|page| (page, read(page)));
    for (page, text) in texts {
        for (at, _) in text.match_indices("27 h").chain(text.match_indices("28 h")) {
            let words: String = text[at..].chars().take(20).collect();
            assert!(words.starts_with("27 h 35 min"), "{page}: {words}");
        }
    }
}

/// Returns the versions of Postgres that a page calls the oldest supported one: `Postgres 12 or newer`, `Postgres (12 or
/// newer)`, `Postgres 12 and newer`, `older than Postgres 12`. A feature of a newer server is written `Postgres 14 and later`.
fn oldest_postgres(page: &str) -> Vec<&str> {
    const NAME: &str = "Postgres ";
    let version = |at: usize| {
        let rest = page[at + NAME.len()..].trim_start_matches('(');
        let number = &rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len())];
        let after = &rest[number.len()..];
        let is_oldest =
            [" or newer", " and newer", " is the oldest"].iter().any(|words| after.starts_with(words))
                || page[..at].ends_with("older than ");
        (is_oldest && !number.is_empty()).then_some(number)
    };
    page.match_indices(NAME).map(|(at, _)| at).filter_map(version).collect()
}

#[test]
fn the_oldest_supported_postgres_is_the_same_in_the_code_and_on_every_page() {
    let oldest = (rollbook_postgres::OLDEST_VERSION / 10_000).to_string();
    for (page, text) in PAGES.iter().map(|page| (page, read(page))) {
        let named = oldest_postgres(&text);
        assert!(
            named.iter().all(|version| *version == oldest),
            "{page}: {named:?}, and the code supports {oldest}"
        );
        let must_name = ["../README.md", "PRODUCTION.md", "RUNBOOK.md", "SERVERS.md"].contains(page);
        assert!(!must_name || !named.is_empty(), "{page} names the oldest supported Postgres");
    }
    let texts = [
        "Postgres (13 or newer)",
        "Postgres 13 and newer (UTF8)",
        "older than Postgres 13:",
        "Postgres 13 or newer",
    ];
    assert!(texts.iter().all(|text| oldest_postgres(text) == ["13"]), "the test reads every form");
    assert_eq!(oldest_postgres("Postgres 14 and later, on Postgres 15, in Postgres"), Vec::<&str>::new());
}

/// Returns the fenced blocks of a page, each with its language in its first line, and the text between them.
fn fenced_and_text(page: &str) -> (Vec<&str>, Vec<&str>) {
    let (mut fenced, mut text) = (Vec::new(), Vec::new());
    for (number, part) in page.split("\n```").enumerate() {
        if number % 2 == 1 { fenced.push(part) } else { text.push(part) }
    }
    (fenced, text)
}

/// Returns the texts in `code`.
fn code_in<'a>(text: &[&'a str]) -> impl Iterator<Item = &'a str> {
    text.iter().flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// Returns the words after `rollbook` if a piece of shell runs it.
fn arguments(piece: &str) -> Option<Vec<&str>> {
    let piece = piece.trim().trim_start_matches("do ");
    let mut words = piece.split_whitespace().skip_while(|word| word.contains('='));
    let program = words.next()?;
    if program != "rollbook" && !program.ends_with("/rollbook") {
        return None;
    }
    let mut arguments = Vec::new();
    let is_redirection = |word: &str| word.starts_with('<') && !word.starts_with("<(");
    for word in words.take_while(|word| !word.starts_with(['>', '#']) && !is_redirection(word)) {
        if word.starts_with("<(") {
            arguments.push("FILE");
            break;
        }
        // The value of a variable: any number.
        arguments.push(if word.starts_with("\"$") { "1" } else { word });
    }
    Some(arguments)
}

/// Returns the arguments of each `rollbook …` of a page, in its blocks of shell and in its text.
fn commands(page: &str) -> Vec<Vec<&str>> {
    let (fenced, text) = fenced_and_text(page);
    let shell = fenced.iter().filter_map(|block| block.strip_prefix("sh\n"));
    let in_blocks = shell.flat_map(str::lines).flat_map(|line| line.split(['|', ';']));
    let in_text = code_in(&text).filter(|code| code.starts_with("rollbook "));
    in_blocks.chain(in_text).filter_map(arguments).collect()
}

/// Returns the words of a text that could be names of files or of settings.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || "_-./".contains(c)));
    parts.map(|word| word.trim_end_matches(['.', '/']))
}

/// Returns the fragment that links to a heading.
fn fragment(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

/// Returns whether a page has a heading for this fragment.
fn has_heading(page: &Path, wanted: &str) -> bool {
    let page = std::fs::read_to_string(page).expect("a page");
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| fragment(line.trim_start_matches('#'))).any(|fragment| fragment == wanted)
}

#[test]
fn every_command_of_the_pages_is_one_that_the_binary_reads() {
    let home = Home::new(BINARY);
    for page in PAGES {
        let text = read(page);
        let commands = commands(&text);
        let least = if page.ends_with("RUNBOOK.md") || page.ends_with("PRODUCTION.md") { 15 } else { 0 };
        assert!(commands.len() >= least, "{page}: {commands:?}");
        for mut arguments in commands {
            // With this last argument the words are parsed, and nothing is done.
            arguments.push("--help");
            let output = home.command(&arguments).output().expect("the binary starts");
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{page}: rollbook {arguments:?}: {complaint}");
        }
    }
}

#[test]
fn every_metric_that_the_pages_name_exists_and_prometheus_reads_every_query() {
    let listed = listed_series();
    let mut queries = Vec::new();
    for page in PAGES {
        let text = read(page);
        // All have a `_`; the login in a URL and the keys in Redis have none. Names of tables, triggers and channels look alike.
        let others = ["rollbook_migrations", "rollbook_cascades", "rollbook_changes", "rollbook_changes_"];
        // The last one is the beginning of a package's name.
        let exact = ["rollbook_changes_insert", "rollbook_changes_update", "rollbook_0"];
        let is_other = |name: &&str| !name.contains('_') || others.contains(name) || exact.contains(name);
        let named = names_in(&text).into_iter().filter(|name| !is_other(name));
        // A name with `_` at its end stands for all metrics that begin so.
        let exists = |name: &str| {
            listed.contains(name) || name.ends_with('_') && listed.iter().any(|known| known.starts_with(name))
        };
        let unknown: Vec<&str> = named.filter(|name| !exists(name)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{page}");
        let asked = text.lines().filter(|line| line.starts_with("promtool query instant "));
        queries
            .extend(asked.map(|line| line.split('\'').nth(1).expect("an expression in quotes").to_owned()));
    }
    assert!(queries.len() > 15, "{queries:?}");
    assert_readable(&queries);
}

#[test]
fn every_setting_that_the_pages_name_exists() {
    let reference = read("CONFIG.md");
    // Variables of the script that makes roles.
    let script = read("postgres/roles.sh");
    let of_script = ["ROLLBOOK_WORKER", "ROLLBOOK_WORKER_PASSWORD"];
    assert!(of_script.iter().all(|name| script.contains(name)));
    // A variable of the build, not of the program.
    let of_build = "ROLLBOOK_COMMIT";
    for page in PAGES {
        let text = read(page);
        let named = words(&text).filter(|word| !of_script.contains(word) && *word != of_build);
        for name in named.filter(|word| word.starts_with("ROLLBOOK_") && !word.ends_with('_')) {
            let name = name.strip_suffix("_FILE").filter(|_| !reference.contains(name)).unwrap_or(name);
            assert!(reference.contains(&format!("`{name}`")), "{page}: {name}");
        }
    }
}

#[test]
fn every_file_and_chapter_that_the_pages_name_is_there() {
    let root = ops().parent().expect("the root").to_owned();
    for page in PAGES {
        let path = ops().join(page);
        let text = read(page);
        let named = words(&text).filter(|word| {
            ["ops/", "tests/", "crates/", "migrations/"].iter().any(|folder| word.starts_with(folder))
        });
        for name in named {
            assert!(root.join(name).exists(), "{page} names {name}");
        }
        // The page of the architecture leaves `crates/` out.
        let sources = words(&text).filter(|word| word.starts_with("rollbook") && is_of(word, "rs"));
        for name in sources.filter(|word| word.contains('/')) {
            assert!(root.join("crates").join(name).exists(), "{page} names {name}");
        }
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.starts_with("https://")) {
            let (file, chapter) = link.split_once('#').unwrap_or((link, ""));
            let file =
                if file.is_empty() { path.clone() } else { path.parent().expect("a folder").join(file) };
            assert!(file.exists(), "{page} leads to {link}");
            assert!(chapter.is_empty() || has_heading(&file, chapter), "{page} leads to {link}");
        }
    }
}
