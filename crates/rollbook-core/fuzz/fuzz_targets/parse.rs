//! Bodies of events. What is held of them: `src/event.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| rollbook_core_fuzz::event::check(body));
