#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pantelegraph_fuzz::tus::run(data));
