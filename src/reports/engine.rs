//! An engine: a process that the configuration names. It gets a script on standard input; what it writes are files.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use sooner_api::{Code, Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, Command};

use super::script::{Outputs, version_script};
use crate::priority::lower;

/// How much of what an engine says on standard error is kept: its end.
const TOLD_BYTES: usize = 2 << 10;
/// How long an engine may take to tell its version.
const TRIAL_LIMIT: Duration = Duration::from_secs(60);

/// Runs a script in a folder. `what` names the purpose, for errors.
pub async fn execute(engine: &[String], script: &str, folder: &Path, limit: Duration, what: &str) -> Result<()> {
    let Some((program, arguments)) = engine.split_first() else {
        return Err(failed(
            what,
            "no engine is named".to_owned(),
            "set engine of the [[report]], such as [\"duckdb\"]",
        ));
    };
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    lower(&mut command);
    let mut child = command.spawn().map_err(|error| {
        let remedy = "install it where this process finds it, or name another command in engine of the [[report]]";
        failed(what, format!("the engine '{program}' cannot be started: {error}"), remedy)
    })?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let ended = tokio::time::timeout(limit, async {
        let ((), told, status) = tokio::join!(hand_over(stdin, script), end_of(stderr), child.wait());
        (told, status)
    });
    let Ok((told, status)) = ended.await else {
        // It is killed when it is dropped.
        let why = format!("the engine took longer than {}", humantime::format_duration(limit));
        return Err(failed(what, why, "make the query cheaper, or raise time_limit of the [[report]]"));
    };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(what, said(status, &told), "correct the query or the engine's command")),
        Err(error) => Err(failed(what, format!("the engine was lost: {error}"), "see the log of the machine")),
    }
}

/// Version of an engine, as it says itself; an error if it does not run DuckDB's SQL from standard input.
pub async fn try_engine(engine: &[String], folder: &Path) -> Result<String> {
    let outputs = Outputs::of(folder);
    let what = "cannot use the engine";
    execute(engine, &version_script(&outputs), folder, TRIAL_LIMIT, what).await?;
    version(&outputs).map_err(|why| {
        failed(what, why, "name a command that runs DuckDB's SQL from standard input, such as [\"duckdb\"]")
    })
}

/// What the engine wrote of its version.
pub fn version(outputs: &Outputs) -> std::result::Result<String, String> {
    let read = std::fs::read_to_string(&outputs.version);
    let version = read.map_err(|error| format!("the engine has not written what it was told to: {error}"))?;
    Ok(version.trim().trim_matches('"').to_owned())
}

/// An error of a report.
pub fn failed(what: &str, why: String, remedy: &str) -> Error {
    Error::operator(Code::ReportFailed, what, why, remedy)
}

async fn hand_over(stdin: Option<ChildStdin>, script: &str) {
    let Some(mut stdin) = stdin else { return };
    // An engine that has ended reads no more; its status says why.
    let _ = stdin.write_all(script.as_bytes()).await;
    let _ = stdin.shutdown().await;
}

/// The end of what an engine says.
async fn end_of(stderr: Option<ChildStderr>) -> Vec<u8> {
    let (mut told, mut part) = (Vec::new(), [0; 4096]);
    let Some(mut stderr) = stderr else { return told };
    while let Ok(read) = stderr.read(&mut part).await {
        if read == 0 {
            break;
        }
        told.extend_from_slice(&part[..read]);
        told.drain(..told.len().saturating_sub(TOLD_BYTES));
    }
    told
}

fn said(status: ExitStatus, told: &[u8]) -> String {
    let told = String::from_utf8_lossy(told);
    match told.trim() {
        "" => format!("the engine ended with {status}, and said nothing"),
        told => format!("the engine ended with {status}: {told}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn tried(script: &str, limit: Duration) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        execute(&engine(script), "SELECT 1;", folder.path(), limit, "cannot make it").await
    }

    #[tokio::test]
    async fn an_engine_that_fails_is_told_with_its_own_words() {
        let minute = Duration::from_secs(60);
        tried("grep -q 'SELECT 1;'", minute).await.unwrap();
        let error = tried("echo first >&2; yes filler | head -c 100000 >&2; echo no such table >&2; exit 3", minute);
        let error = error.await.unwrap_err();
        assert_eq!(error.code, Code::ReportFailed);
        assert!(error.why.ends_with("no such table") && error.why.len() < 3000, "{}", error.why);
        assert!(error.why.contains("exit status: 3") && !error.why.contains("first"), "{}", error.why);
        assert!(tried("exit 1", minute).await.unwrap_err().why.contains("said nothing"));
        let missing = execute(&["no-such-engine".to_owned()], "", Path::new("/"), minute, "w").await.unwrap_err();
        assert!(missing.why.contains("cannot be started") && missing.remedy.contains("engine"), "{missing}");
    }

    #[tokio::test]
    async fn an_engine_that_takes_too_long_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let alive = folder.path().join("alive");
        let script = "while true; do touch alive; sleep 0.05; done";
        let error = execute(&engine(script), "", folder.path(), Duration::from_millis(300), "w").await.unwrap_err();
        assert!(error.why.contains("took longer than 300ms"), "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        std::fs::remove_file(&alive).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!alive.exists(), "it still runs");
    }
}
