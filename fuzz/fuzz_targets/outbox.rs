#![no_main]

use std::sync::Once;

static HOOK: Once = Once::new();

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // A damaged index makes redb panic, which the outbox catches; libFuzzer's hook would end the
    // process before. One that nobody catches still ends it.
    HOOK.call_once(|| drop(std::panic::take_hook()));
    pantelegraph_fuzz::outbox::run(data);
});
