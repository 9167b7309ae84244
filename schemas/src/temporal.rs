//! Converts dates and times from Postgres' ISO text (`datestyle = ISO`, `timezone = UTC`) to numbers, and back.
//!
//! Postgres counts years without a zero and marks the era (`0044-03-15 BC`); numbers and ISO 8601 count through zero.

use std::fmt::Write;

use crate::unholdable::Unholdable;

/// Microseconds in a day.
const DAY_MICROS: i64 = 86_400_000_000;

const BAD: Unholdable = Unholdable("it is not in Postgres' ISO form");
const INFINITE: Unholdable = Unholdable("infinity has no place in a date or a timestamp");
const TOO_FAR: Unholdable = Unholdable("it lies outside what 64 bits of microseconds reach");

/// Days since 1970-01-01 of a Postgres `date`.
pub fn date_days(text: &[u8]) -> Result<i32, Unholdable> {
    let (year, month, day, rest) = parse_date(text)?;
    match rest {
        b"" => days_from_civil(year, month, day),
        b" BC" => days_from_civil(1 - year, month, day),
        _ => Err(BAD),
    }
}

/// Microseconds since midnight of a Postgres `time`; 24:00:00 is allowed.
pub fn time_micros(text: &[u8]) -> Result<i64, Unholdable> {
    match parse_time(text)? {
        (micros, b"") => Ok(micros),
        _ => Err(BAD),
    }
}

/// Microseconds since 1970-01-01 00:00:00 of a Postgres `timestamp`, or of a `timestamptz` shown in UTC.
pub fn timestamp_micros(text: &[u8]) -> Result<i64, Unholdable> {
    let (year, month, day, rest) = parse_date(text)?;
    let (micros, rest) = parse_time(rest.strip_prefix(b" ").ok_or(BAD)?)?;
    let rest = rest.strip_prefix(b"+00").unwrap_or(rest);
    let year = match rest {
        b"" => year,
        b" BC" => 1 - year,
        _ => return Err(BAD),
    };
    let days = i64::from(days_from_civil(year, month, day)?);
    days.checked_mul(DAY_MICROS).and_then(|start| start.checked_add(micros)).ok_or(TOO_FAR)
}

/// Appends microseconds since 1970 as ISO 8601 in UTC (`2024-02-29T12:34:56.789Z`), with this many fraction digits.
pub fn push_zoned(out: &mut Vec<u8>, micros: i64, digits: u8) {
    let (year, month, day) = civil_from_days(micros.div_euclid(DAY_MICROS));
    let within = micros.rem_euclid(DAY_MICROS);
    let mut text = ArrayText::default();
    let year_written = match year {
        0..=9999 => write!(text, "{year:04}"),
        10_000.. => write!(text, "+{year}"),
        _ => write!(text, "-{:04}", -year),
    };
    let seconds = within / 1_000_000;
    let rest_written = write!(
        text,
        "-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        within % 1_000_000
    );
    debug_assert!(year_written.is_ok() && rest_written.is_ok(), "32 bytes hold every timestamp of 64 bits");
    let dropped = if digits == 0 { 7 } else { 6 - usize::from(digits.min(6)) };
    out.extend_from_slice(&text.as_bytes()[..text.used.saturating_sub(dropped)]);
    out.push(b'Z');
}

/// Microseconds since 1970 of an ISO 8601 instant with `Z` or an offset.
pub fn zoned_micros(text: &str) -> Result<i64, Unholdable> {
    let bytes = text.as_bytes();
    let (negative, unsigned) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (year, month, day, rest) = parse_date(unsigned)?;
    let (micros, zone) = parse_time(rest.strip_prefix(b"T").ok_or(BAD)?)?;
    let days = i64::from(days_from_civil(if negative { -year } else { year }, month, day)?);
    let offset = parse_offset(zone)?;
    days.checked_mul(DAY_MICROS).and_then(|start| start.checked_add(micros - offset)).ok_or(TOO_FAR)
}

/// Postgres' text for microseconds since midnight: `HH:MM:SS`, then as many fraction digits as are needed.
pub fn time_text(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction != 0 {
        let digits = format!(".{fraction:06}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text
}

fn parse_date(text: &[u8]) -> Result<(i64, u32, u32, &[u8]), Unholdable> {
    if text == b"infinity" || text == b"-infinity" {
        return Err(INFINITE);
    }
    let year_digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(4..=7).contains(&year_digits) {
        return Err(BAD);
    }
    let (year, rest) = text.split_at(year_digits);
    let (month, rest) = two_digits(rest.strip_prefix(b"-").ok_or(BAD)?)?;
    let (day, rest) = two_digits(rest.strip_prefix(b"-").ok_or(BAD)?)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return Err(BAD);
    }
    Ok((number(year), month, day, rest))
}

fn parse_time(text: &[u8]) -> Result<(i64, &[u8]), Unholdable> {
    let (hour, rest) = two_digits(text)?;
    let (minute, rest) = two_digits(rest.strip_prefix(b":").ok_or(BAD)?)?;
    let (second, rest) = match rest.strip_prefix(b":") {
        Some(rest) => two_digits(rest)?,
        None => (0, rest),
    };
    let (fraction, rest) = match rest.strip_prefix(b".") {
        Some(rest) => fraction_micros(rest)?,
        None => (0, rest),
    };
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Ok((seconds * 1_000_000 + fraction, rest))
}

fn fraction_micros(text: &[u8]) -> Result<(i64, &[u8]), Unholdable> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(count);
    let (micros, beyond) = digits.split_at(count.min(6));
    if count == 0 || beyond.iter().any(|&digit| digit != b'0') {
        return Err(Unholdable("its fraction of a second is not whole microseconds"));
    }
    Ok((number(micros) * 10i64.pow(6 - micros.len() as u32), rest))
}

fn parse_offset(zone: &[u8]) -> Result<i64, Unholdable> {
    let (sign, rest) = match zone {
        b"Z" => return Ok(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(BAD),
    };
    match parse_time(rest)? {
        (micros, b"") => Ok(sign * micros),
        _ => Err(BAD),
    }
}

fn two_digits(text: &[u8]) -> Result<(u32, &[u8]), Unholdable> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', rest @ ..] => {
            Ok((u32::from(tens - b'0') * 10 + u32::from(ones - b'0'), rest))
        }
        _ => Err(BAD),
    }
}

fn number(digits: &[u8]) -> i64 {
    digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in 400-year eras that start in March.
fn days_from_civil(year: i64, month: u32, day: u32) -> Result<i32, Unholdable> {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let months_since_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * months_since_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i32::try_from(era * 146_097 + day_of_era - 719_468).map_err(|_| TOO_FAR)
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let months_since_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * months_since_march + 2) / 5 + 1) as u32;
    let month = if months_since_march < 10 { months_since_march + 3 } else { months_since_march - 9 } as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Buffer for a text of at most 32 bytes, built without allocating.
#[derive(Default)]
struct ArrayText {
    bytes: [u8; 32],
    used: usize,
}

impl ArrayText {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Write for ArrayText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let target = self.bytes.get_mut(self.used..self.used + text.len()).ok_or(std::fmt::Error)?;
        target.copy_from_slice(text.as_bytes());
        self.used += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zoned(micros: i64) -> String {
        let mut out = Vec::new();
        push_zoned(&mut out, micros, 6);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn dates_known_from_elsewhere() {
        assert_eq!(date_days(b"1970-01-01"), Ok(0));
        assert_eq!(date_days(b"2000-03-01"), Ok(11017));
        assert_eq!(date_days(b"1969-12-31"), Ok(-1));
        assert_eq!(date_days(b"0001-01-01"), Ok(-719_162));
        assert_eq!(date_days(b"0001-12-31 BC"), Ok(-719_163));
        assert_eq!(date_days(b"4713-01-01 BC"), Ok(-2_440_550));
        assert_eq!(date_days(b"5874897-12-31"), Ok(2_145_042_905));
    }

    #[test]
    fn what_has_no_number_is_refused() {
        assert_eq!(date_days(b"infinity"), Err(INFINITE));
        assert_eq!(timestamp_micros(b"-infinity"), Err(INFINITE));
        assert_eq!(timestamp_micros(b"294276-12-31 23:59:59.999999"), Err(TOO_FAR));
        for text in ["", "2024", "2024-13-01", "2024-1-1", "2024-01-01x"] {
            assert!(date_days(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn times_with_and_without_fraction() {
        assert_eq!(time_micros(b"24:00:00"), Ok(DAY_MICROS));
        assert_eq!(time_micros(b"00:00:00.5"), Ok(500_000));
        assert_eq!(time_text(45_296_789_000), "12:34:56.789");
        assert_eq!(time_text(0), "00:00:00");
    }

    #[test]
    fn fraction_digits_are_those_of_the_column() {
        let with = |digits| {
            let mut out = Vec::new();
            push_zoned(&mut out, 1_500_000, digits);
            String::from_utf8(out).expect("ASCII")
        };
        assert_eq!(with(0), "1970-01-01T00:00:01Z");
        assert_eq!(with(3), "1970-01-01T00:00:01.500Z");
        assert_eq!(with(6), "1970-01-01T00:00:01.500000Z");
    }

    #[test]
    fn instants_with_era_and_offset() {
        assert_eq!(timestamp_micros(b"1970-01-01 00:00:01+00"), Ok(1_000_000));
        assert_eq!(
            zoned(timestamp_micros(b"0044-03-15 12:00:00+00 BC").expect("valid")),
            "-0043-03-15T12:00:00.000000Z"
        );
        assert_eq!(zoned_micros("1970-01-01T02:00:00+02:00"), Ok(0));
        assert_eq!(zoned_micros("1970-01-01T00:00:00.1234560Z"), Ok(123_456));
        assert!(zoned_micros("1970-01-01T00:00:00.1234567Z").is_err());
    }

    proptest! {
        #[test]
        fn instants_survive(micros in -200_000_000_000_000_000i64..9_000_000_000_000_000_000) {
            prop_assert_eq!(zoned_micros(&zoned(micros)), Ok(micros));
        }

        #[test]
        fn times_survive(micros in 0..=DAY_MICROS) {
            prop_assert_eq!(time_micros(time_text(micros).as_bytes()), Ok(micros));
        }
    }
}
