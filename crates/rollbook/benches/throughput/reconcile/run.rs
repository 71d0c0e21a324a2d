//! One run of `rollbook reconcile`.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rollbook_testkit::process::{self, Home};
use serde_json::Value;

use crate::cpu;

const POLL: Duration = Duration::from_millis(10);

/// Result of a run, and its cost.
pub(super) struct Ran {
    /// Objects read.
    pub(super) read: usize,
    /// Rows written.
    pub(super) written: usize,
    /// From the start of the process to its end.
    pub(super) elapsed: Duration,
    /// CPU seconds of the process.
    pub(super) cpu: f64,
    /// Peak of resident memory, in bytes.
    pub(super) memory_peak: u64,
}

/// Runs `rollbook reconcile` for these tables, to its end.
pub(super) async fn reconcile(home: &Home, tables: &[&str]) -> Ran {
    let only = tables.iter().flat_map(|table| ["--only", table]);
    let arguments: Vec<&str> = ["reconcile", "--output", "json"].into_iter().chain(only).collect();
    let (cpu_before, started) = (cpu::of_ended_children(), Instant::now());
    let child = home.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("the binary starts");
    let mut memory_peak = 0;
    let status = loop {
        // The peak only grows. The last look is at most a poll before the end.
        memory_peak = memory_peak.max(process::memory_peak(child.id()).unwrap_or_default());
        if let Some(status) = child.try_wait().expect("a process of ours") {
            break status;
        }
        tokio::time::sleep(POLL).await;
    };
    let elapsed = started.elapsed();
    let cpu = cpu::of_ended_children() - cpu_before;
    let mut text = String::new();
    child.stdout.take().expect("its output").read_to_string(&mut text).expect("text");
    let run: Value = serde_json::from_str(&text).unwrap_or_default();
    assert!(status.success(), "reconcile ended with {status}: {}", run["error"]);
    let sum = |key: &str| {
        let resources = run["resources"].as_array().expect("resources");
        let sum = resources.iter().filter_map(|of| of[key].as_u64()).sum::<u64>();
        usize::try_from(sum).expect("a small number")
    };
    Ran { read: sum("read"), written: sum("written"), elapsed, cpu, memory_peak }
}
