//! See [`roomcast_fuzz::mesh_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::mesh_frames::run(input));
