//! See `weir_fuzz::filter`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    weir_fuzz::filter(input);
});
