//! The section `[verify]` of the configuration: the running pipeline compares its tables with their source.

use std::time::Duration;

use chrono_tz::Tz;
use sooner_schemas::TableName;

use super::reader::Section;
use crate::schedule::{Schedule, parse_zone};
use crate::verify_settings::VerifySettings;

/// How long the lake may take to get to where the source was looked at, unless configured.
const PATIENCE: Duration = Duration::from_secs(120);
/// The least rate at which the database is read.
const LEAST_RATE: usize = 64 << 10;

/// Reads `[verify]`; none if something of it is refused.
pub fn read_verify(section: &mut Section) -> Option<VerifySettings> {
    let zone = section.optional("time_zone", parse_zone).unwrap_or(Tz::UTC);
    let schedule = section.text("schedule", |pattern| Schedule::parse(pattern, zone));
    let tables = section.list("tables", |table| table.parse::<TableName>().map_err(|_| "expected schema.table".into()));
    let rate = section.optional_size("rate", LEAST_RATE);
    let patience = section.duration("timeout", PATIENCE, Duration::from_secs(1));
    let repairs = section.flag("repair", false);
    let bytes_per_second = rate.map(|rate| rate as u64);
    Some(VerifySettings {
        schedule: schedule?,
        tables: tables.unwrap_or_default(),
        bytes_per_second,
        patience,
        repairs,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const SMALLEST: &str = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n";

    fn read(text: &str) -> Result<Option<VerifySettings>, String> {
        let config = Config::parse(text, Path::new("."));
        config.map(|config| config.verify).map_err(|problems| problems.join("\n"))
    }

    #[test]
    fn it_needs_a_schedule_and_both_sides() {
        assert_eq!(read(SMALLEST).unwrap(), None);
        let settings = read(&format!("{SMALLEST}[verify]\nschedule = '0 3 * * *'")).unwrap().unwrap();
        assert_eq!((settings.repairs, settings.bytes_per_second, settings.patience), (false, None, PATIENCE));
        let filled = "[verify]\nschedule = '0 3 * * *'\ntime_zone = 'Europe/Berlin'\ntables = ['public.a']\n\
                      rate = '10MiB'\ntimeout = '5m'\nrepair = true";
        let settings = read(&format!("{SMALLEST}{filled}")).unwrap().unwrap();
        assert_eq!((settings.tables.len(), settings.bytes_per_second), (1, Some(10 << 20)));
        assert!(settings.repairs && settings.schedule.zone == Tz::Europe__Berlin);
        let found = read(&format!("{SMALLEST}[verify]\ntables = ['a']")).unwrap_err();
        assert!(found.contains("verify.schedule: is missing") && found.contains("verify.tables[0]: 'a'"), "{found}");
        let no_source = "name = 's'\n[lake]\nurl = '/l'\n[kafka]\nbrokers = 'b:9092'\n[registry]\nurl = 'http://r:8081'\n\
                         [verify]\nschedule = '0 3 * * *'";
        assert!(read(no_source).unwrap_err().contains("verify: "));
    }
}
