//! The disk's own time: append a page, fdatasync, again.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::Scale;

/// Bytes that a commit of one delivery appends to the write-ahead log, about.
const APPEND: [u8; 8192] = [0x5a; 8192];

/// Sorted fdatasync times.
pub(crate) struct Disk(Vec<Duration>);

impl Disk {
    pub(crate) fn at(&self, per_mille: usize) -> Duration {
        let last = self.0.len() - 1;
        self.0[(last * per_mille).div_ceil(1000).min(last)]
    }
}

/// Measures on the file system of the temporary folder, where the benchmark's data lies too.
pub(crate) fn measure(scale: Scale) -> Disk {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("probe");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("a file");
    let mut times: Vec<Duration> = (0..2_000 / scale.divisor)
        .map(|_| {
            file.write_all(&APPEND).expect("room on the disk");
            let started = Instant::now();
            file.sync_data().expect("a disk");
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    Disk(times)
}
