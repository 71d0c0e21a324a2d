//! What must hold for anything at all, checked on generated input.
//!
//! `PROPTEST_CASES` says how many inputs each property sees and `PROPTEST_RNG_SEED` which; a failure
//! prints its seed and the smallest input that shows it.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

pub mod convergence;
pub(crate) mod history;
#[cfg(test)]
mod mutants;
pub mod permutations;

/// What proptest takes where `PROPTEST_CASES` is not set.
const PROPTEST_CASES_DEFAULT: u32 = 256;
/// Enough to make an input of fifty actions small; each trial runs a whole engine.
const SHRINK_ITERS_MAX: u32 = 500;

/// Checks a property on `cases` inputs, or as many as `PROPTEST_CASES` says.
pub(crate) fn check<S: Strategy>(
    cases: u32,
    inputs: &S,
    property: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let mut config = Config::default();
    if config.cases == PROPTEST_CASES_DEFAULT {
        config.cases = cases;
    }
    if matches!(config.rng_seed, RngSeed::Random) {
        config.rng_seed = RngSeed::Fixed(fastrand::u64(..));
    }
    config.max_shrink_iters = SHRINK_ITERS_MAX;
    config.failure_persistence = None;
    let seed = config.rng_seed;
    if let Err(error) = TestRunner::new(config).run(inputs, property) {
        panic!("with PROPTEST_RNG_SEED={seed}: {error}");
    }
}
