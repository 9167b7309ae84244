//! Whether everything up to the end of a range is where it is read.

use std::time::{Duration, Instant};

use sooner_api::{Class, Clock, Error};
use sooner_delta::replaying::range::{Bound, DISORDER_MICROS, Range};
use sooner_delta::replaying::survey::refused;
use sooner_schemas::{Lsn, TableName};

use crate::clock::SystemClock;
use crate::commands::wait::{Standing, reached, source_end};
use crate::config::Config;

/// An error, with what to do, unless a table is complete up to the end of a range. `known` is up to where it is by its
/// own log, and the commit time of that; beyond, the pipeline's status is asked, as long as `patience`. `place` is
/// where events are read. What may pass by itself is a retriable error.
pub async fn completeness(
    config: &Config,
    table: &TableName,
    range: Range,
    (known, patience): (Option<(Lsn, i64)>, Duration),
    place: &str,
) -> Result<(), Error> {
    let is_known = known.is_some_and(|(lsn, micros)| match range.to {
        Bound::Lsn(to) => lsn >= to,
        Bound::Micros(to) => micros > to.saturating_add(DISORDER_MICROS),
    });
    if is_known {
        return Ok(());
    }
    let to = match range.to {
        Bound::Lsn(lsn) => Ok(lsn),
        Bound::Micros(micros) if micros > SystemClock.now_micros() => {
            return Err(refused(table, range, "that time has not come yet".to_owned(), "choose an earlier --to"));
        }
        // Whatever was committed before that time is before this.
        Bound::Micros(_) => source_end(config).await,
    };
    let asked = Instant::now();
    let standing = match to {
        Ok(lsn) => reached(config, table, lsn, || Some(patience.saturating_sub(asked.elapsed()))).await,
        Err(error) => Err(error),
    };
    let why = match standing {
        Ok(Standing::Complete) => return Ok(()),
        Ok(Standing::Stopped(why)) => format!("not all events up to there are in {place}, and none come: {why}"),
        Ok(Standing::Behind | Standing::Unknown) => match known {
            Some((lsn, _)) => format!("not all events up to there are known to be in {place} yet; it is at {lsn}"),
            None => format!("not all events up to there are known to be in {place} yet"),
        },
        Err(error) => format!("whether all events up to there are in {place} cannot be told: {error:#}"),
    };
    let remedy = format!(
        "`sooner wait {table} --until {}` waits for that, beside the process that writes it; or choose an earlier --to",
        range.to
    );
    Err(Error { class: Class::Retry, ..refused(table, range, why, &remedy) })
}
