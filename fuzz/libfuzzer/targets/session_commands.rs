//! See [`roomcast_fuzz::session_commands`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::session_commands::run(input));
