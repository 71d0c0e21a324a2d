//! Requests, signed or not. How one is spelled: `src/signature.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|spelled: &[u8]| rollbook_core_fuzz::signature::check(spelled));
