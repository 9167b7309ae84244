//! Tells the program which commit it is built from: by `SOONER_COMMIT`, or by git where there is a repository.

use std::process::Command;

#[allow(clippy::print_stdout, reason = "how a build script talks to cargo")]
fn main() {
    println!("cargo::rerun-if-env-changed=SOONER_COMMIT");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let commit = std::env::var("SOONER_COMMIT").ok().or_else(by_git).unwrap_or_else(|| "unknown commit".to_owned());
    println!("cargo::rustc-env=SOONER_COMMIT={commit}");
}

fn by_git() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=9", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(commit.trim().to_owned())
}
