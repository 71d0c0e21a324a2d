//! Help of every command, compared with a file. Run with UPDATE=1 to write the files again.

use std::path::Path;

use crate::rollbook::Home;

const COMMANDS: [&[&str]; 34] = [
    &[],
    &["serve"],
    &["receive"],
    &["work"],
    &["demo"],
    &["send"],
    &["migrate"],
    &["reconcile"],
    &["reconcile", "status"],
    &["reconcile", "approve"],
    &["resync"],
    &["ready"],
    &["dead-letters"],
    &["dead-letters", "list"],
    &["dead-letters", "show"],
    &["dead-letters", "redrive"],
    &["dead-letters", "discard"],
    &["changes"],
    &["changes", "list"],
    &["changes", "tail"],
    &["changes", "status"],
    &["changes", "failed"],
    &["changes", "redrive"],
    &["changes", "discard"],
    &["changes", "replay"],
    &["changes", "resume"],
    &["token"],
    &["token", "inspect"],
    &["explain"],
    &["erase"],
    &["doctor"],
    &["config"],
    &["healthcheck"],
    &["completions"],
];

#[test]
fn the_help_of_every_command_is_as_its_file_says_and_has_an_example() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/help");
    let update = std::env::var_os("UPDATE").is_some();
    let mut stale = Vec::new();
    for command in COMMANDS {
        let arguments: Vec<&str> = command.iter().copied().chain(["--help"]).collect();
        let help = Home::new().run(&arguments, &[]).ended(0).out;
        assert!(help.contains("\nExample"), "no example in\n{help}");
        let name = if command.is_empty() { "rollbook".to_owned() } else { command.join("-") };
        let file = folder.join(format!("{name}.txt"));
        if update {
            std::fs::write(&file, &help).expect("it is written");
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != help {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "not as tests/help says (UPDATE=1 writes it anew): {stale:?}");
}

#[test]
fn every_command_that_the_help_lists_has_its_help_checked() {
    let help = Home::new().run(&["--help"], &[]).ended(0).out;
    let listed = help.split("Commands:\n").nth(1).expect("a list of commands").split("\n\n").next();
    for line in listed
        .expect("it is not empty")
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
    {
        let name = line.split_whitespace().next().expect("a name");
        assert!(name == "help" || COMMANDS.contains(&[name].as_slice()), "{name} is not checked");
    }
}
