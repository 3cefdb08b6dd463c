//! See [`roomcast_fuzz::config_files`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::config_files::run(input));
