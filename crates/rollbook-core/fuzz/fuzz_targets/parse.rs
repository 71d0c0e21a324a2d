//! Fuzzes event bodies. `src/event.rs` has the checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| rollbook_core_fuzz::event::check(body));
