//! Spark as another writer of a lake table, which does something when it is asked to.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{python, root};

/// A session of Spark that writes one table.
pub struct SparkWriter {
    process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl SparkWriter {
    /// Starts a session for the table at a location, and waits until it is ready.
    pub fn start(table: &str) -> SparkWriter {
        let script = root().join("integration-tests/readers/spark_writer.py");
        let mut process = Command::new(python())
            .arg(script)
            .args(["--table", table])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Spark is installed");
        let commands = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        let mut writer = SparkWriter { process, commands, answers };
        writer.wait_until_done("start");
        writer
    }

    /// Compacts the table's files, and returns once that is committed.
    pub fn optimize(&mut self) {
        self.ask("optimize");
    }

    /// Appends a row, given as the SQL of its values, and returns once that is committed.
    pub fn append(&mut self, row: &str) {
        self.ask(&format!("append {row}"));
    }

    fn ask(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("Spark listens");
        self.wait_until_done(command);
    }

    fn wait_until_done(&mut self, what: &str) {
        let mut line = String::new();
        while line.trim() != "done" {
            line.clear();
            let read = self.answers.read_line(&mut line).expect("Spark answers");
            assert!(read > 0, "Spark ended during: {what}");
        }
    }
}

impl Drop for SparkWriter {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
