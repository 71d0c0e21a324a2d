//! Fuzzes session tokens, their claims and keys. `src/token.rs` has the checks.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rollbook_core_fuzz::token::check(input));
