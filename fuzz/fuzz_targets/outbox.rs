#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pantelegraph_fuzz::outbox::run(data));
