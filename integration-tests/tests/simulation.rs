//! The real loops over simulated worlds, hundreds of seeds.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use integration_tests::simulation;

/// A failing seed is printed; `SOONER_SEED=7` runs that one alone.
#[test]
fn every_seed_ends_with_the_lake_equal_to_the_database() {
    let only = std::env::var("SOONER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = only.map_or(0..400, |seed: u64| seed..seed + 1);
    let (mut kills, mut failures) = (0, 0);
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let summary = runtime.block_on(simulation::run(seed));
        kills += summary.kills;
        failures += summary.failures;
    }
    assert!(
        only.is_some() || (kills > 100 && failures > 100),
        "the worlds were too calm: {kills} kills, {failures} failures"
    );
}
