#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| sledge_fuzz::old::tar_sum(input));
