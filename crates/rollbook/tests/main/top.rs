//! `top`: snapshots of a real process, and the screen on a pseudo-terminal.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::rollbook::{Home, SECRET, Server, until};

const SIGNED: [(&str, &str); 1] = [("CLERK_WEBHOOK_SIGNING_SECRET", SECRET)];
/// Sequences that open the second screen and close it.
const OPEN: &str = "\u{1b}[?1049h\u{1b}[?25l";
const CLOSE: &str = "\u{1b}[?25h\u{1b}[?1049l";

#[test]
fn a_snapshot_of_a_process_has_its_rates_its_queue_its_parts_and_its_dead_letters() {
    let home = Home::new().with("torn.json", "no JSON");
    let server = Server::start(&home);
    let top =
        |more: &[&str]| home.run(&[&["top", "--every", "200ms", server.ops.as_str()], more].concat(), &[]);
    home.run(&["send", "--file", "torn.json", "--url", &server.receiver], &SIGNED).ended(0);
    let parked = || top(&["--output", "json"]).ended(0).json();
    let shown = until(|| Some(parked()).filter(|shown| shown["dead_letters"] == 1.0));
    assert_eq!(shown["processes"][0]["answers"], true, "{shown}");
    assert_eq!(shown["processes"][0]["parts"]["queue"], "ok", "{shown}");
    assert_eq!((&shown["queue"]["depth"], &shown["queue"]["seconds_to_empty"]), (&0.0.into(), &0.0.into()));
    assert!(shown["over_seconds"].as_f64().is_some_and(|seconds| seconds >= 0.2), "{shown}");
    assert!(shown["last_error"].is_null(), "{shown}");
    // Without a terminal, text is one snapshot too.
    let text = top(&[]).ended(0).out;
    for part in
        ["queue depth   0 of 1,000,000", "time to empty empty", "dead letters  1", "last error    none since"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let both = top(&["--once", "127.0.0.1:1"]).ended(0).out;
    assert!(both.contains("127.0.0.1:1  no answer") && both.contains("last error    since 2"), "{both}");
}

#[test]
fn a_snapshot_without_any_answer_ends_with_1() {
    // No process listens at port 1.
    let ran = Home::new().run(&["top", "--every", "200ms", "127.0.0.1:1"], &[]).ended(1);
    assert!(
        ran.out.contains("no answer") && ran.err.contains("no process answers"),
        "{}{}",
        ran.out,
        ran.err
    );
    Home::new().run(&["top", "--every", "200ms", "127.0.0.1"], &[]).ended(2);
}

/// Opens a pseudo-terminal of this size. Returns both ends.
fn terminal(columns: u16, rows: u16) -> (OwnedFd, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&master).expect("it is ours");
    unlockpt(&master).expect("it can be opened");
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&master, size).expect("it takes a size");
    let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
    (master, File::options().read(true).write(true).open(name).expect("the other end"))
}

#[test]
fn a_terminal_gets_a_screen_that_is_refreshed_in_place_and_restored_at_the_end() {
    let home = Home::new();
    let server = Server::start(&home);
    let (master, slave) = terminal(60, 8);
    let mut command = home.command(&["top", "--every", "200ms", &server.ops], &[]);
    command.stdout(slave.try_clone().expect("another handle")).stderr(slave);
    let mut child = command.spawn().expect("it starts");
    // The command holds handles of the other end, which would keep the terminal open.
    drop(command);
    let seen = Arc::new(Mutex::new(String::new()));
    let written = seen.clone();
    let reader = std::thread::spawn(move || {
        let mut master = File::from(master);
        let mut buffer = [0; 4096];
        // Reading fails when the last process has closed the other end.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            written.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    let frames = || seen.lock().expect("no panic").matches("rollbook top").count();
    until(|| (frames() >= 3).then_some(()));
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
    let status = until(|| child.try_wait().expect("it can be waited for"));
    assert!(status.success(), "{status:?}");
    reader.join().expect("it ends with the terminal");
    let text = seen.lock().expect("no panic").clone();
    assert!(text.starts_with(OPEN) && text.ends_with(CLOSE), "{text:?}");
    assert_eq!((text.matches(OPEN).count(), text.matches(CLOSE).count()), (1, 1));
    for frame in text.split("\u{1b}[H").skip(1) {
        let lines: Vec<&str> = frame.split("\r\n").collect();
        assert!(lines.len() <= 8, "as many rows as the terminal has: {frame:?}");
    }
    assert!(text.contains("queue depth"), "{text:?}");
}
