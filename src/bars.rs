//! Progress bars of the copies that run, on a terminal, below the log.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sooner_schemas::TableName;

use crate::commands::status::copy_line;
use crate::status::StatusBoard;

/// How often the bars are drawn.
const INTERVAL: Duration = Duration::from_millis(250);
/// Bars of more tables than these would not fit on the terminal.
const BARS: usize = 10;

/// The bars. Clones share them.
#[derive(Clone)]
pub struct CopyBars(MultiProgress);

impl CopyBars {
    /// Bars on standard error, of which there are none yet.
    pub fn new() -> CopyBars {
        CopyBars(MultiProgress::new())
    }

    /// A writer to standard error whose lines stand above the bars.
    pub fn writer(&self) -> impl Fn() -> LinesAbove + Send + Sync + use<> {
        let bars = self.clone();
        move || LinesAbove(bars.clone())
    }

    /// Draws the bars until it is dropped.
    pub async fn draw(self, board: StatusBoard) {
        let mut bars: HashMap<TableName, ProgressBar> = HashMap::new();
        loop {
            let copies = board.copies();
            bars.retain(|name, bar| {
                let goes_on = copies.iter().any(|(copied, _)| copied == name);
                if !goes_on {
                    bar.finish_and_clear();
                }
                goes_on
            });
            for (name, table) in &copies {
                if !bars.contains_key(name) && bars.len() < BARS {
                    bars.insert(name.clone(), self.0.add(bar(name)));
                }
                if let Some((bar, copy)) = bars.get(name).zip(table.copy.as_ref()) {
                    let estimated = table.rows_estimated.unwrap_or(table.rows_copied);
                    bar.set_length(estimated.max(table.rows_copied).max(1));
                    bar.set_position(table.rows_copied);
                    bar.set_message(copy_line(table, copy));
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl Default for CopyBars {
    fn default() -> CopyBars {
        CopyBars::new()
    }
}

fn bar(name: &TableName) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:24!} {bar:24} {percent:>3} %  {msg}");
    // The template is a constant; without it there is a plainer bar.
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(1).with_style(style).with_prefix(name.to_string())
}

/// Writes whole lines above the bars.
pub struct LinesAbove(CopyBars);

impl Write for LinesAbove {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
