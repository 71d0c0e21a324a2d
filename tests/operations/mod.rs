//! Material for operators: the list of metrics, the rules, the dashboard, the pages. Each is compared
//! with the others and with the output of the real binary.

mod alerts;
mod dashboard;
mod metrics;
mod package;
mod pages;
mod prometheus;
mod refusing;
mod supply;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn ops() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops").canonicalize().expect("the folder ops")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(ops().join(path)).unwrap_or_else(|error| panic!("ops/{path}: {error}"))
}

/// Runs promtool with this standard input, and fails with its output if it reports an error.
fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is no promtool here: ops/test installs it (on Debian: apt-get install prometheus)");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(
        output.status.success() && err.is_empty(),
        "promtool {arguments:?}: {}\n{out}{err}",
        output.status
    );
}

/// Checks expressions with promtool, as rules, because it does not read plain expressions.
fn assert_readable(expressions: &[String]) {
    let mut rules = "groups:\n  - name: expressions\n    rules:\n".to_owned();
    for (number, expression) in expressions.iter().enumerate() {
        // A JSON string is also a YAML string.
        let expression = serde_json::Value::from(&**expression);
        _ = writeln!(rules, "      - record: expression_{number}\n        expr: {expression}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("expressions.yml");
    std::fs::write(&file, rules).expect("it is written");
    promtool(&["check", "rules", file.to_str().expect("UTF-8")], "");
}

/// Returns the files of rules.
fn rules() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(ops().join("prometheus/rules")).expect("the rules").flatten();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.path()).collect();
    files.sort_unstable();
    files
}

/// Returns the names of metrics (`rollbook_…`) and of recorded series (`rollbook:…`) in a text.
fn names_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.starts_with("rollbook_") || word.starts_with("rollbook:")).collect()
}

/// Returns the metrics of ops/METRICS.md, with the parts that Prometheus sees of a histogram.
fn listed_series() -> BTreeSet<String> {
    let page = read("METRICS.md");
    let mut names: BTreeSet<String> = metrics::listed(&page).into_iter().map(|metric| metric.name).collect();
    for metric in metrics::listed(&page).into_iter().filter(|metric| metric.kind == "histogram") {
        names.extend(["bucket", "count", "sum"].map(|part| format!("{}_{part}", metric.name)));
    }
    names.extend(names_in(&page).into_iter().filter(|name| name.contains(':')).map(str::to_owned));
    names
}
