//! The `process_*` metrics of Prometheus' standard clients, read from `/proc/self` at each scrape.
//!
//! Constraints:
//!
//! * The units of the kernel's figures are read from the kernel too (`auxv`), never guessed. Where they can't
//!   be read (not Linux, no `/proc`), these metrics are absent.
//! * If a file can't be read later, its gauges keep their values.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

use prometheus::{Counter, Gauge, Registry, register_counter_with_registry, register_gauge_with_registry};

/// `AT_CLKTCK` of the auxiliary vector: kernel ticks per second.
const TICKS_PER_SECOND: usize = 17;
/// `AT_PAGESZ` of the auxiliary vector: bytes per memory page.
const PAGE_SIZE: usize = 6;

/// Metrics of the process.
pub(crate) struct Process {
    units: Units,
    /// Locked during an update: two concurrent scrapes would add the same time twice.
    cpu_seconds: Mutex<Counter>,
    open_fds: Gauge,
    max_fds: Gauge,
    virtual_memory_bytes: Gauge,
    resident_memory_bytes: Gauge,
    threads: Gauge,
}

impl Process {
    /// Registers the metrics; `None` where the system does not report the units.
    pub(crate) fn new(registry: &Registry) -> Result<Option<Self>, prometheus::Error> {
        let (Ok(units), Ok(stat)) = (Units::read(), Stat::read()) else { return Ok(None) };
        let gauge = |name: &str, help: &str| register_gauge_with_registry!(name, help, registry);
        let (name, help) = ("process_cpu_seconds_total", "Processor time of the process.");
        let cpu_seconds = register_counter_with_registry!(name, help, registry)?;
        gauge("process_start_time_seconds", "Start time of the process.")?.set(units.started_at(&stat));
        let process = Self {
            units,
            cpu_seconds: Mutex::new(cpu_seconds),
            open_fds: gauge("process_open_fds", "Open file descriptors.")?,
            max_fds: gauge("process_max_fds", "Maximum number of open file descriptors.")?,
            virtual_memory_bytes: gauge("process_virtual_memory_bytes", "Address space in use.")?,
            resident_memory_bytes: gauge("process_resident_memory_bytes", "Memory in use.")?,
            threads: gauge("process_threads", "Threads of the process.")?,
        };
        Ok(Some(process))
    }

    /// Updates the metrics.
    pub(crate) fn update(&self) {
        if let Ok(stat) = Stat::read() {
            let cpu = self.cpu_seconds.lock().unwrap_or_else(PoisonError::into_inner);
            cpu.inc_by((self.units.seconds(stat.cpu_ticks) - cpu.get()).max(0.0));
            self.virtual_memory_bytes.set(float(stat.virtual_bytes));
            self.resident_memory_bytes.set(float(stat.resident_pages * self.units.page_bytes));
            self.threads.set(float(stat.threads));
        }
        if let Ok(folder) = fs::read_dir("/proc/self/fd") {
            // Reading the folder opens one more descriptor.
            self.open_fds.set(float(folder.count() as u64).max(1.0) - 1.0);
        }
        if let Some(max) = fs::read_to_string("/proc/self/limits").ok().as_deref().and_then(max_fds) {
            self.max_fds.set(max);
        }
    }
}

/// Units of the kernel's figures.
struct Units {
    ticks_per_second: u64,
    page_bytes: u64,
    /// Boot time in seconds since 1970.
    booted_at: u64,
}

impl Units {
    fn read() -> io::Result<Self> {
        let vector = fs::read("/proc/self/auxv")?;
        let unit = |key| auxiliary(&vector, key).filter(|unit| *unit > 0).ok_or(io::ErrorKind::InvalidData);
        let system = fs::read_to_string("/proc/stat")?;
        let booted_at = system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
        Ok(Self {
            ticks_per_second: unit(TICKS_PER_SECOND)?,
            page_bytes: unit(PAGE_SIZE)?,
            booted_at: booted_at.ok_or(io::ErrorKind::InvalidData)?,
        })
    }

    fn seconds(&self, ticks: u64) -> f64 {
        float(ticks) / float(self.ticks_per_second)
    }

    fn started_at(&self, stat: &Stat) -> f64 {
        float(self.booted_at) + self.seconds(stat.started_ticks)
    }
}

/// Value of a key in the auxiliary vector, a list of pairs of machine words.
fn auxiliary(vector: &[u8], key: usize) -> Option<u64> {
    let (words, _) = vector.as_chunks::<{ size_of::<usize>() }>();
    let (pairs, _) = words.as_chunks::<2>();
    let [_, value] = pairs.iter().find(|[name, _]| usize::from_ne_bytes(*name) == key)?;
    u64::try_from(usize::from_ne_bytes(*value)).ok()
}

/// Fields of `/proc/self/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    /// Start of the process in ticks after boot.
    started_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/self/stat")?;
        Self::parse(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Parses the fields, numbered from one as in proc(5). The second field is the name in parentheses and
    /// may contain any character: the third field follows the last closing parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            started_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

/// The soft limit of open files in `/proc/self/limits`.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53, and a metric is a float")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line =
            "7 (a) 1 ) S 1 7 7 0 -1 4194304 9 0 0 0 120 30 0 0 20 0 5 0 4711 8192 3 18446744073709551615";
        let expected =
            Stat { cpu_ticks: 150, threads: 5, started_ticks: 4711, virtual_bytes: 8192, resident_pages: 3 };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("7 (short) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }

    #[test]
    fn the_limit_of_files_is_the_soft_one() {
        let limits = "Limit          Soft Limit   Hard Limit   Units\nMax open files            1024                 524288               files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files  unlimited unlimited files"), Some(f64::INFINITY));
        assert_eq!(max_fds("Max processes 1 1 processes"), None);
    }

    #[test]
    fn a_key_of_the_vector_is_found_wherever_it_stands_and_a_torn_vector_has_none() {
        let words = [6, 4096, 17, 100, 0, 0_usize];
        let vector: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(auxiliary(&vector, PAGE_SIZE), Some(4096));
        assert_eq!(auxiliary(&vector, TICKS_PER_SECOND), Some(100));
        assert_eq!(auxiliary(&vector[..24], TICKS_PER_SECOND), None);
    }

    #[test]
    fn this_process_has_memory_threads_files_and_has_used_time() {
        let registry = Registry::new();
        let process = Process::new(&registry).expect("free names").expect("Linux");
        process.update();
        assert!(process.resident_memory_bytes.get() > 1e5);
        assert!(process.virtual_memory_bytes.get() >= process.resident_memory_bytes.get());
        assert!(process.threads.get() >= 1.0);
        assert!(process.open_fds.get() >= 3.0 && process.open_fds.get() < process.max_fds.get());
        let mut seen = 0.0;
        while seen <= 0.0 {
            process.update();
            seen = process.cpu_seconds.lock().expect("no test panics with it").get();
        }
        assert!(seen < 600.0, "{seen} s of processor time");
    }
}
