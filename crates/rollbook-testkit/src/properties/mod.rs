//! Properties that hold for any input, checked on generated input.
//!
//! `PROPTEST_CASES` sets the number of inputs per property, and `PROPTEST_RNG_SEED` selects them. A failure
//! prints its seed and the smallest input that shows it.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

pub mod convergence;
pub(crate) mod history;
#[cfg(test)]
mod mutants;
pub mod permutations;

/// Number of cases that proptest uses if `PROPTEST_CASES` is not set.
const PROPTEST_CASES_DEFAULT: u32 = 256;
/// Enough to shrink an input of fifty actions; each trial runs a whole engine.
const SHRINK_ITERS_MAX: u32 = 500;

/// Checks a property on `cases` inputs, or on as many as `PROPTEST_CASES` says.
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
