//! Defects that are planted in the clients, to see that the seeded suites can fail: `cargo xtask accept planted`.
//!
//! A site asks [`is`] with the name of its defect. That is `false`, and costs nothing, but in a build with `--cfg planted`; there
//! `MILENA_PLANTED` names the one defect that acts.
#![doc(hidden)]

/// Whether this defect acts.
#[inline(always)]
pub fn is(name: &str) -> bool {
    cfg!(planted) && acts(name)
}

#[cold]
fn acts(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("MILENA_PLANTED").ok()).as_deref() == Some(name)
}
