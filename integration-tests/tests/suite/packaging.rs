//! What ships to run the program elsewhere is whole: chart, compose file, unit, image.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use integration_tests::pipeline::program;
use integration_tests::{python, root};

#[test]
fn the_chart_the_compose_file_and_the_unit_are_whole() {
    let output = Command::new(python()).arg(root().join("packaging/check.py")).arg(program()).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
}

#[test]
fn the_chart_ships_the_alerts_that_are_tested() {
    let shipped = std::fs::read(root().join("packaging/helm/sooner/alerts.yml")).unwrap();
    assert_eq!(shipped, std::fs::read(root().join("monitoring/alerts.yml")).unwrap());
}
