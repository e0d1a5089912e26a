#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gangway_oracles::place_requests(data));
