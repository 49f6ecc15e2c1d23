//! See `weir_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    weir_fuzz::frame(input);
});
