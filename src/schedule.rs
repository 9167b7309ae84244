//! When something is due: a cron pattern by the clock of a time zone. Without I/O.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;

/// Form of a due time in names of folders: sorted as times are, and without colons.
const NAME: &str = "%Y-%m-%dT%H-%M-%SZ";

/// A moment at which something is due, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Due(pub i64);

impl Due {
    /// The last whole second at or before a time in microseconds since 1970.
    pub fn of_micros(micros: i64) -> Due {
        Due(micros.div_euclid(1_000_000))
    }

    /// In microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0.saturating_mul(1_000_000)
    }

    /// As the name of a folder, such as `2026-01-31T22-00-00Z`.
    pub fn name(self) -> String {
        self.utc().format(NAME).to_string()
    }

    /// The moment that a folder is named after.
    pub fn of_name(name: &str) -> Option<Due> {
        let parsed = NaiveDateTime::parse_from_str(name, NAME).ok()?;
        Some(Due(parsed.and_utc().timestamp()))
    }

    fn utc(self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0, 0).unwrap_or_default()
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.utc().format("%Y-%m-%dT%H:%M:%SZ"))
    }
}

/// What becomes of runs that were due while they could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// Each is made.
    All,
    /// Only the last one is.
    Last,
    /// None is that was due while the process did not run.
    Never,
}

/// A cron pattern by the clock of a time zone. Where that clock leaves an hour out, a pattern of fixed times is due
/// right after; where it repeats an hour, such a pattern is due once.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    cron: Cron,
    /// The pattern, as it was written.
    pub pattern: String,
    /// Time zone.
    pub zone: Tz,
}

impl Schedule {
    /// Reads a pattern of five fields, or of six with seconds first; the error says what is wrong with it.
    pub fn parse(pattern: &str, zone: Tz) -> Result<Schedule, String> {
        let cron = Cron::from_str(pattern).map_err(|error| {
            format!("expected minute, hour, day of month, month and day of week, such as \"0 6 * * *\" ({error})")
        })?;
        let schedule = Schedule { cron, pattern: pattern.to_owned(), zone };
        match schedule.next_after(Due(0)) {
            Some(_) => Ok(schedule),
            None => Err("it is never due".to_owned()),
        }
    }

    /// The first moment after another one at which it is due.
    pub fn next_after(&self, after: Due) -> Option<Due> {
        let found = self.cron.find_next_occurrence(&self.local(after), false).ok()?;
        Some(Due(found.timestamp())).filter(|found| *found > after)
    }

    /// The last moment, up to another one, at which it was due.
    pub fn last_until(&self, until: Due) -> Option<Due> {
        let found = self.cron.find_previous_occurrence(&self.local(until), true).ok()?;
        Some(Due(found.timestamp())).filter(|found| *found <= until)
    }

    /// What is to be made now, where everything up to `handled` has been.
    pub fn wanted(&self, handled: Due, now: Due, catch_up: CatchUp) -> Option<Due> {
        let wanted = match catch_up {
            CatchUp::All => self.next_after(handled),
            CatchUp::Last | CatchUp::Never => self.last_until(now),
        };
        wanted.filter(|due| *due > handled && *due <= now)
    }

    /// All moments from one to another, both included, at which it is due; `limit` of them at most.
    pub fn between(&self, from: Due, to: Due, limit: usize) -> Vec<Due> {
        let mut found = Vec::new();
        let mut after = Due(from.0.saturating_sub(1));
        while let Some(due) = self.next_after(after).filter(|due| *due <= to && found.len() < limit) {
            found.push(due);
            after = due;
        }
        found
    }

    fn local(&self, due: Due) -> DateTime<Tz> {
        due.utc().with_timezone(&self.zone)
    }
}

/// Parses the name of a time zone in the IANA's data base.
pub fn parse_zone(name: &str) -> Result<Tz, String> {
    name.parse().map_err(|_| "expected a time zone of the IANA's, such as \"Europe/Berlin\" or \"UTC\"".to_owned())
}

/// Parses a moment as a person writes it: a time in UTC, or a day, which stands for its first or its last second by the
/// clock of a time zone.
pub fn parse_moment(text: &str, zone: Tz, is_end: bool) -> Result<Due, String> {
    let expected = "expected a day such as 2026-01-31, or a UTC time such as 2026-01-31T22:00:00Z";
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(Due(time.timestamp()));
    }
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| expected.to_owned())?;
    let day = if is_end { day.succ_opt() } else { Some(day) };
    // A clock may leave midnight out; then the day begins within the hours after.
    let begins = day.into_iter().flat_map(|day| (0..24).filter_map(move |hour| day.and_hms_opt(hour, 0, 0)));
    let begins = begins.filter_map(|time| zone.from_local_datetime(&time).earliest()).next();
    let begins = begins.ok_or_else(|| expected.to_owned())?.timestamp();
    Ok(Due(if is_end { begins - 1 } else { begins }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(text: &str) -> Due {
        parse_moment(text, Tz::UTC, false).unwrap()
    }

    fn schedule(pattern: &str, zone: &str) -> Schedule {
        Schedule::parse(pattern, parse_zone(zone).unwrap()).unwrap()
    }

    fn told(dues: Vec<Due>) -> Vec<String> {
        dues.into_iter().map(|due| due.to_string()).collect()
    }

    #[test]
    fn clocks_that_are_changed_neither_lose_nor_repeat_a_daily_run() {
        let daily = schedule("30 2 * * *", "Europe/Berlin");
        let spring = daily.between(due("2026-03-28"), due("2026-03-31"), 10);
        // On the 29th the clock goes from 2:00 to 3:00, which is 1:00 in UTC.
        assert_eq!(told(spring), ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let autumn = daily.between(due("2026-10-24"), due("2026-10-27"), 10);
        assert_eq!(told(autumn), ["2026-10-24T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    }

    #[test]
    fn an_interval_goes_on_through_a_repeated_hour() {
        let hourly = schedule("0 * * * *", "Europe/Berlin");
        let night = hourly.between(due("2026-10-24T23:00:00Z"), due("2026-10-25T03:00:00Z"), 10);
        assert_eq!(night.len(), 5, "{night:?}");
        assert!(night.windows(2).all(|pair| pair[1].0 - pair[0].0 == 3600), "{night:?}");
    }

    #[test]
    fn missed_runs_are_made_all_or_the_last_one() {
        let hourly = schedule("0 * * * *", "UTC");
        let (handled, now) = (due("2026-01-01T05:00:00Z"), due("2026-01-01T08:30:00Z"));
        let wanted = |catch_up| hourly.wanted(handled, now, catch_up).map(|due| due.to_string());
        assert_eq!(wanted(CatchUp::All).as_deref(), Some("2026-01-01T06:00:00Z"));
        assert_eq!(wanted(CatchUp::Last).as_deref(), Some("2026-01-01T08:00:00Z"));
        assert_eq!(hourly.wanted(due("2026-01-01T08:00:00Z"), now, CatchUp::All), None);
        assert_eq!(hourly.wanted(due("2026-01-01T08:00:00Z"), now, CatchUp::Last), None);
        let at = due("2026-01-01T09:00:00Z");
        assert_eq!(hourly.wanted(due("2026-01-01T08:00:00Z"), at, CatchUp::Last), Some(at), "it is due this second");
    }

    #[test]
    fn seconds_may_come_first_and_what_is_no_pattern_is_refused() {
        let often = schedule("*/20 * * * * *", "UTC");
        assert_eq!(often.between(due("2026-01-01"), due("2026-01-01T00:00:59Z"), 10).len(), 3);
        assert_eq!(often.between(due("2026-01-01"), due("2026-02-01"), 10).len(), 10, "it is bounded");
        for pattern in ["", "* * *", "61 * * * *", "0 0 31 2 *"] {
            assert!(Schedule::parse(pattern, Tz::UTC).is_err(), "{pattern}");
        }
        assert!(parse_zone("Mars/Olympus").unwrap_err().contains("IANA"));
    }

    #[test]
    fn a_day_is_one_by_the_clock_of_its_zone_and_names_are_read_back() {
        let berlin = parse_zone("Europe/Berlin").unwrap();
        assert_eq!(parse_moment("2026-01-31", berlin, false).unwrap().to_string(), "2026-01-30T23:00:00Z");
        assert_eq!(parse_moment("2026-01-31", berlin, true).unwrap().to_string(), "2026-01-31T22:59:59Z");
        assert!(parse_moment("yesterday", berlin, true).is_err());
        let at = due("2026-01-31T22:00:05Z");
        assert_eq!((at.name().as_str(), Due::of_name(&at.name())), ("2026-01-31T22-00-05Z", Some(at)));
        assert_eq!(Due::of_name("asked-2026-01-31T22-00-05Z"), None);
        assert_eq!(Due::of_micros(at.micros() + 999_999), at);
    }
}
