//! See `weir_fuzz::proto`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    weir_fuzz::proto(input);
});
