//! The units of `ops/systemd` name existing settings, commands and credentials. `ops/deploy-check` checks
//! them with systemd itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::crashes::BINARY;

/// Beginning of the part that is the same in all units.
const SAME: &str = "# Restrictions: ";

/// Returns the lines of every unit of a service, by its name.
fn units() -> BTreeMap<String, String> {
    let mut units = files();
    units.retain(|name, _| name.ends_with(".service"));
    units
}

fn files() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/systemd");
    let files = std::fs::read_dir(folder).expect("the units").flatten();
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a plain name");
        (name, std::fs::read_to_string(entry.path()).expect("a unit"))
    };
    files.map(read).collect()
}

fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
}

fn rollbook(arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    let folder = tempfile::tempdir().expect("a folder");
    let ran = command.args(arguments).env_clear().current_dir(folder.path()).output().expect("it runs");
    assert!(ran.status.success(), "rollbook {arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("it prints UTF-8")
}

fn settings() -> Value {
    serde_json::from_str(&rollbook(&["config", "--output", "json"])).expect("JSON")
}

#[test]
fn every_variable_of_a_unit_is_a_setting_and_every_secret_comes_as_a_credential() {
    let settings = settings();
    let settings = settings.as_object().expect("an object");
    let is_setting = |name: &str| settings.values().any(|setting| setting["environment"] == name);
    for (unit, text) in units() {
        // Commented settings must be valid, too.
        let text: String = text.lines().map(|line| line.trim_start_matches('#').to_owned() + "\n").collect();
        let credentials = values(&text, "LoadCredential");
        assert!(!values(&text, "Environment").is_empty(), "{unit}");
        for variable in values(&text, "Environment") {
            let (name, value) = variable.split_once('=').expect("a name and a value");
            let Some(credential) = value.strip_prefix("%d/") else {
                assert!(is_setting(name), "{unit}: there is no setting {name}");
                continue;
            };
            let setting = name.strip_suffix("_FILE").unwrap_or_default();
            assert!(is_setting(setting), "{unit}: there is no setting {setting}");
            let from = format!("{credential}:/etc/rollbook/{credential}");
            assert!(credentials.contains(&from.as_str()), "{unit}: no credential {credential}");
        }
        assert!(values(&text, "SetCredential").is_empty(), "{unit} holds a secret");
    }
}

#[test]
fn every_timer_starts_a_unit_that_runs_once_and_ends() {
    let files = files();
    let timers: Vec<_> = files.keys().filter_map(|name| name.strip_suffix(".timer")).collect();
    assert_eq!(timers, ["rollbook-reconcile"]);
    for name in timers {
        let service = &files[&format!("{name}.service")];
        assert_eq!(values(service, "Type"), ["oneshot"], "{name}");
        assert_eq!(values(service, "Restart"), [""; 0], "{name}: its timer starts it again");
    }
}

#[test]
fn every_unit_runs_an_existing_command_with_the_same_restraints_and_enough_time() {
    let units = units();
    let names: Vec<&str> = units.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "rollbook-migrate.service",
            "rollbook-receive.service",
            "rollbook-reconcile.service",
            "rollbook-work@.service",
            "rollbook.service"
        ]
    );
    let settings = settings();
    let seconds = |key: &str| {
        let default = settings[key]["default"].as_str().and_then(|text| text.strip_suffix('s'));
        Duration::from_secs(default.expect("seconds").parse().expect("a number"))
    };
    let mut restraints = Vec::new();
    for (unit, text) in &units {
        let command = values(text, "ExecStart")[0];
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        rollbook(&[&arguments[..], &["--help"]].concat());
        if values(text, "Type") == ["notify"] {
            let stop = values(text, "TimeoutStopSec")[0].strip_suffix('s').expect("seconds");
            let stop = Duration::from_secs(stop.parse().expect("a number"));
            assert!(stop > seconds("stop_delay") + seconds("drain_timeout"), "{unit}: killed too early");
            assert_eq!(values(text, "WatchdogSec").len(), 1, "{unit}");
        }
        let (_, same) = text.split_once(SAME).unwrap_or_else(|| panic!("{unit} has no restraints"));
        restraints.push(same.split("\n\n").next().map(str::trim_end));
    }
    restraints.dedup();
    assert_eq!(restraints.len(), 1, "not the same in every unit");
}
