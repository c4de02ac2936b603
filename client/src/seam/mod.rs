//! The seams: everything through which the world outside reaches a client, so that a test can put another world there.
//!
//! Sockets ([`connector`]), names ([`resolver`]), tasks and threads ([`spawner`]), the wall clock ([`clock`]) and randomness
//! ([`Seed`]). All have defaults that nobody needs to know.

pub(crate) mod clock;
pub(crate) mod connector;
pub(crate) mod resolver;
pub(crate) mod spawner;

use std::hash::Hasher;

/// The root of all randomness in one client: jitter, ids, sticky partitions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(pub(crate) u64);

impl Seed {
    /// A seed of its own for every client that was given none.
    #[expect(clippy::disallowed_methods, reason = "the seam itself: the one place where randomness enters")]
    pub(crate) fn from_entropy() -> Self {
        Self(fastrand::u64(..))
    }

    /// A generator of its own for each `label`, so that one part drawing more numbers does not change another part's.
    pub(crate) fn rng(self, label: &str) -> fastrand::Rng {
        use std::hash::BuildHasher;
        let mut hasher = foldhash::quality::FixedState::with_seed(self.0).build_hasher();
        hasher.write(label.as_bytes());
        fastrand::Rng::with_seed(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_the_same_numbers_every_time_and_its_own() {
        let draw = |seed: u64, label: &str| Seed(seed).rng(label).u64(..);
        assert_eq!(draw(1, "a"), draw(1, "a"));
        assert_ne!(draw(1, "a"), draw(1, "b"));
        assert_ne!(draw(1, "a"), draw(2, "a"));
    }
}
