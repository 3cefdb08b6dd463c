//! See [`roomcast_fuzz::log_files`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::log_files::run(input));
