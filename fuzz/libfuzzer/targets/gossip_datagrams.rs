//! See [`roomcast_fuzz::gossip_datagrams`].
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| roomcast_fuzz::gossip_datagrams::run(input));
