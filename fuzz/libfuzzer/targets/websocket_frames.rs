//! See [`roomcast_fuzz::websocket_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::websocket_frames::run(input));
