//! Fuzzes requests, signed or not. `src/signature.rs` explains the input format.
#![no_main]

libfuzzer_sys::fuzz_target!(|spelled: &[u8]| rollbook_core_fuzz::signature::check(spelled));
