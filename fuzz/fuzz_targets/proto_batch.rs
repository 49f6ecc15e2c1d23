//! See `weir_fuzz::proto_batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    weir_fuzz::proto_batch(input);
});
