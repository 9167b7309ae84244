//! `sooner wait`: until a table in the lake is complete up to a moment or a position, as schedulers of reports need it.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use sooner_api::TableState;
use sooner_postgres::Client;
use sooner_postgres::client::Mode;
use sooner_postgres::log_end::log_end;
use sooner_schemas::{Lsn, TableName};

use super::status::is_running;
use super::{parse_name, print};
use crate::config::Config;
use crate::status::{Status, load};
pub use crate::until::{Until, parse_until};

/// How often the status is read.
const INTERVAL: Duration = Duration::from_millis(250);

/// Waits until a table is complete; false if it is not within the limit, or has stopped. Of a time the source is asked
/// what its log's position is by then, so the clocks of the machines matter only as far as they differ.
pub async fn run(
    config: &Config,
    table: &str,
    until: Until,
    limit: Option<Duration>,
    as_json: bool,
) -> anyhow::Result<bool> {
    let (table, asked) = (parse_name(table)?, Instant::now());
    let left = || limit.map(|limit| limit.saturating_sub(asked.elapsed()));
    let tell = |until: Option<Lsn>, is_complete: bool, text: String| {
        let told =
            json!({"table": table, "lsn": until, "complete": is_complete, "told": text.trim_start_matches([':', ' '])});
        print(&if as_json { format!("{told}\n") } else { format!("{table}{text}\n") });
        Ok(is_complete)
    };
    let target = match until {
        Until::Lsn(lsn) => lsn,
        Until::Time(time) => {
            let ahead = time.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::time::sleep(left().map_or(ahead, |left| left.min(ahead))).await;
            if SystemTime::now() < time {
                return tell(None, false, ": the time has not come yet".to_owned());
            }
            source_end(config).await?
        }
    };
    match reached(config, &table, target, left).await? {
        Standing::Complete => tell(Some(target), true, format!(" is complete up to {target}")),
        Standing::Stopped(why) => tell(Some(target), false, format!(" is not complete up to {target}: {why}")),
        Standing::Behind | Standing::Unknown => {
            tell(Some(target), false, format!(" is not complete up to {target} yet"))
        }
    }
}

/// Waits until a table is complete up to a position, has stopped, or no time is `left`. A table that a running pipeline
/// does not know is an error.
pub async fn reached(
    config: &Config,
    table: &TableName,
    target: Lsn,
    left: impl Fn() -> Option<Duration>,
) -> anyhow::Result<Standing> {
    loop {
        let status = load(&config.state_dir)?;
        let standing = status.as_ref().map_or(Standing::Unknown, |status| standing(status, table, target));
        match standing {
            Standing::Complete | Standing::Stopped(_) => return Ok(standing),
            Standing::Unknown if status.is_some_and(|status| is_running(&status) && !status.tables.is_empty()) => {
                anyhow::bail!("there is no table '{table}' in this pipeline. To do: see `sooner status`");
            }
            Standing::Unknown | Standing::Behind => {}
        }
        if left().is_some_and(|left| left.is_zero()) {
            return Ok(standing);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Position of the source's log by now.
pub async fn source_end(config: &Config) -> anyhow::Result<Lsn> {
    let mut client = Client::connect(&config.source()?.connect, Mode::Sql).await?;
    Ok(log_end(&mut client).await?)
}

/// How far a table is, compared with a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has got there.
    Complete,
    /// It has not.
    Behind,
    /// It does not go on, for this reason.
    Stopped(String),
    /// Nothing is known of it.
    Unknown,
}

fn standing(status: &Status, table: &TableName, target: Lsn) -> Standing {
    let Some(known) = status.tables.get(table) else { return Standing::Unknown };
    match &known.state {
        TableState::Parked { error, .. } => Standing::Stopped(error.to_string()),
        TableState::Gone => Standing::Stopped("it takes no part any more".to_owned()),
        TableState::Waiting { .. } | TableState::Copying => Standing::Behind,
        TableState::Streaming { .. } => {
            if known.complete_lsn.is_some_and(|lsn| lsn >= target) {
                Standing::Complete
            } else {
                Standing::Behind
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error};

    use super::*;
    use crate::status::TableStatus;

    #[test]
    fn moments_and_positions_are_told_apart() {
        assert_eq!(parse_until("1/A0"), Ok(Until::Lsn(Lsn(0x1_0000_00A0))));
        assert!(matches!(parse_until("2026-01-31T22:00:00Z"), Ok(Until::Time(_))));
        assert!(parse_until("tomorrow").unwrap_err().contains("UTC"));
    }

    #[test]
    fn a_table_is_complete_up_to_its_own_position_and_not_to_that_of_the_log() {
        let name = TableName::new("public", "t");
        let mut table = TableStatus::new(TableState::Streaming { copied_lsn: None });
        let mut status = Status { server_end_lsn: Lsn(100), ..Status::default() };
        let mut of = |table: &TableStatus, target| {
            status.tables.insert(name.clone(), table.clone());
            standing(&status, &name, Lsn(target))
        };
        assert_eq!(of(&table, 1), Standing::Behind, "nothing is known yet");
        // The lag is from a moment when the log ended there.
        (table.lag_bytes, table.complete_lsn) = (Some(0), Some(Lsn(60)));
        assert_eq!((of(&table, 60), of(&table, 61)), (Standing::Complete, Standing::Behind));
        let error = Error::operator(Code::ShapeChanged, "cannot follow", "no key", "give it one");
        let parked = TableStatus::new(TableState::Parked { error, copied_lsn: None });
        assert!(matches!(of(&parked, 1), Standing::Stopped(why) if why.contains("give it one")));
        assert_eq!(standing(&Status::default(), &name, Lsn(1)), Standing::Unknown);
    }
}
