//! The record batch codec, side by side with the message crate's own: `cargo bench -p bench-codec` in `bench/`.
