//! See `weir_fuzz::json_batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    weir_fuzz::json_batch(input);
});
