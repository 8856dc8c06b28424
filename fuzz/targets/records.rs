#![no_main]

// The check is in the library, where the schema is: `cargo fuzz` compiles that with `cfg(fuzzing)`.
libfuzzer_sys::fuzz_target!(|input: &[u8]| sledge::store::sled::check_schema(input));
