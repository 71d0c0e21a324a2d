//! A private Prometheus that scrapes a test's process and evaluates the rules of `ops/prometheus`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rollbook_http::client::Connection;
use serde_json::Value;

use super::{Guard, as_user, free_port, give_to, new_folder};

/// System user of the server, if the tests run as root. The package creates it.
const USER: &str = "prometheus";
/// Timeout of one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A Prometheus on a free port of 127.0.0.1 that scrapes and evaluates every second.
#[derive(Debug)]
pub struct PrometheusServer {
    guard: Guard,
    address: SocketAddr,
}

impl PrometheusServer {
    /// Starts a Prometheus that scrapes `target` as the job `rollbook`, with these rule files, and waits
    /// until it answers. The waiting time of the rules (`for:`) is set to zero; the rest is unchanged.
    pub async fn start(target: SocketAddr, rules: &[PathBuf]) -> Self {
        let folder = new_folder("rollbook-prometheus-");
        for file in rules {
            let text = std::fs::read_to_string(file).expect("a file of rules");
            let place = folder.join("rules").join(file.file_name().expect("a file name"));
            write(&place, &without_waiting(&text));
        }
        let config = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: [rules/*.yml]\n\
             scrape_configs:\n  - job_name: rollbook\n    static_configs: [{{ targets: [\"{target}\"] }}]\n"
        );
        write(&folder.join("prometheus.yml"), &config);
        give_to(USER, &folder);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = as_user(USER);
        command.push("prometheus".to_owned());
        command.push(format!("--config.file={}", folder.join("prometheus.yml").display()));
        command.push(format!("--storage.tsdb.path={}", folder.join("data").display()));
        command.push(format!("--web.listen-address={address}"));
        let guard = Guard::start(folder, &command);
        let answers = || std::net::TcpStream::connect(address).is_ok();
        guard.until_it_answers("Prometheus answers (ops/test installs it)", answers).await;
        Self { guard, address }
    }

    /// Returns the `data` of an answer of the API under `/api/v1`, or `None` if it is not ready yet.
    pub async fn api(&self, path: &str) -> Option<Value> {
        let mut connection = Connection::connect(self.address, ANSWER_TIMEOUT).await.ok()?;
        let answer = connection.get(&format!("/api/v1{path}")).await.ok()?;
        let mut answer: Value = serde_json::from_str(&answer.body).ok()?;
        (answer["status"] == "success").then(|| answer["data"].take())
    }

    /// Returns everything that the server has printed.
    pub fn log(&self) -> String {
        self.guard.log()
    }
}

fn write(place: &Path, text: &str) {
    std::fs::create_dir_all(place.parent().expect("a folder")).expect("a folder");
    std::fs::write(place, text).expect("a written file");
}

/// Replaces every `for: 5m` and the like in the rules by `for: 0s`.
fn without_waiting(rules: &str) -> String {
    let cut = |line: &str| match line.split_once("for: ") {
        Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 0s\n"),
        _ => format!("{line}\n"),
    };
    rules.lines().map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_wait_of_a_rule_is_cut() {
        let rules = "  - alert: A\n    expr: x # for: 5m\n    for: 10m\n    summary: waits for: ever\n";
        let cut = "  - alert: A\n    expr: x # for: 5m\n    for: 0s\n    summary: waits for: ever\n";
        assert_eq!(without_waiting(rules), cut);
    }
}
