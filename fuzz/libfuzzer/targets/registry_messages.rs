//! See [`roomcast_fuzz::registry_messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::registry_messages::run(input));
