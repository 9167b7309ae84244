//! What a data file's columns hold, so that readers can leave the file out: the number of NULLs of each, and its
//! smallest and largest value. Taken from what the Parquet writer has found out, but for texts: of those it would keep
//! whole values, however large.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#per-file-statistics>

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions::{date32_to_datetime, timestamp_us_to_datetime};
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

/// Columns that statistics are kept of, as by `delta.dataSkippingNumIndexedCols`.
pub const COLUMNS: usize = 32;
/// Characters of a text's bound.
const TEXT_CHARS: usize = 32;
/// Days since 1970 that four digits of a year can express: 0001-01-01 to 9999-12-31.
const DAYS: std::ops::RangeInclusive<i64> = -719_162..=2_932_896;
const DAY_MICROS: i64 = 86_400_000_000;

/// What the Parquet writer does not find out of the columns, or not so that it can be told.
#[derive(Debug, Default)]
pub struct ColumnNotes {
    /// Columns that hold a NaN: the Parquet writer leaves it out of its bounds, and readers order it in their ways.
    nans: HashSet<usize>,
    texts: BTreeMap<usize, TextNotes>,
}

/// What is known of a column of texts or bytes.
#[derive(Debug, Default)]
struct TextNotes {
    nulls: usize,
    /// Beginnings of the smallest and the largest text, one character longer than a bound; none without texts.
    bounds: Option<(String, String)>,
}

/// The number of a column's NULLs, and its bounds, as far as they are known.
type Facts = (Option<u64>, Option<(Bound, Bound)>);

/// A bound of a column's values, comparable with others of the same column.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
enum Bound {
    /// Integers, days, microseconds, and decimals without their point.
    Whole(i128),
    Float(f32),
    Double(f64),
    Text(String),
}

impl ColumnNotes {
    /// Whether columns of this type are noted here, and the Parquet writer does not have to know of them.
    pub fn cover(data_type: &DataType) -> bool {
        matches!(data_type, DataType::Utf8 | DataType::Binary)
    }

    /// Takes note of rows.
    pub fn note(&mut self, batch: &RecordBatch) {
        for (index, column) in batch.columns().iter().enumerate().take(COLUMNS) {
            if Self::cover(column.data_type()) {
                self.texts.entry(index).or_default().note(column);
                continue;
            }
            let has_nan = match column.data_type() {
                DataType::Float32 => column.as_primitive::<Float32Type>().iter().flatten().any(f32::is_nan),
                DataType::Float64 => column.as_primitive::<Float64Type>().iter().flatten().any(f64::is_nan),
                _ => continue,
            };
            if has_nan {
                self.nans.insert(index);
            }
        }
    }

    /// NULLs and bounds of a column of texts, or NULLs of one of bytes; none of any other column.
    fn of_text(&self, index: usize) -> Option<Facts> {
        let TextNotes { nulls, bounds } = self.texts.get(&index)?;
        let bounds = bounds.clone().map(|(least, most)| (Bound::Text(least), Bound::Text(most)));
        Some((Some(*nulls as u64), bounds))
    }
}

impl TextNotes {
    fn note(&mut self, column: &dyn Array) {
        self.nulls += column.null_count();
        let Some(texts) = column.as_string_opt::<i32>() else { return };
        for text in texts.iter().flatten() {
            match &mut self.bounds {
                None => self.bounds = Some((beginning(text).to_owned(), beginning(text).to_owned())),
                // Most texts lie between.
                Some((least, most)) if text < least.as_str() => {
                    beginning(text).clone_into(least);
                    debug_assert!(*least <= *most, "what is smaller has a smaller beginning, or the same");
                }
                Some((_, most)) if text > most.as_str() && beginning(text) != most => beginning(text).clone_into(most),
                Some(_) => {}
            }
        }
    }
}

/// As much of a text as says what its bounds are.
fn beginning(text: &str) -> &str {
    text.char_indices().nth(TEXT_CHARS + 1).map_or(text, |(end, _)| &text[..end])
}

/// The statistics of a file as JSON. Bounds are tight until a deletion vector is put on the file.
pub fn of_file(metadata: &ParquetMetaData, schema: &Schema, notes: &ColumnNotes) -> String {
    let (mut minima, mut maxima, mut nulls) = (Vec::new(), Vec::new(), Vec::new());
    for (index, field) in schema.fields().iter().enumerate().take(COLUMNS) {
        let name = serde_json::Value::from(field.name().as_str()).to_string();
        let Some((count, bounds)) = notes.of_text(index).or_else(|| of_column(metadata, field)) else { continue };
        nulls.extend(count.map(|count| format!("{name}:{count}")));
        let Some((least, most)) = bounds.filter(|_| !notes.nans.contains(&index)) else { continue };
        if let Some((least, most)) = shown(&least, field.data_type(), false).zip(shown(&most, field.data_type(), true))
        {
            minima.push(format!("{name}:{least}"));
            maxima.push(format!("{name}:{most}"));
        }
    }
    let rows = metadata.file_metadata().num_rows();
    let mut text = format!("{{\"numRecords\":{rows},\"tightBounds\":true");
    for (what, columns) in [("minValues", minima), ("maxValues", maxima), ("nullCount", nulls)] {
        // Writing to a string cannot fail.
        let _ = write!(text, ",\"{what}\":{{{}}}", columns.join(","));
    }
    text.push('}');
    text
}

/// NULLs and bounds of a column, as the Parquet writer has them; nothing of arrays.
fn of_column(metadata: &ParquetMetaData, field: &Field) -> Option<Facts> {
    let leaf = leaf_of(metadata, field.name())?;
    let groups: Vec<_> =
        metadata.row_groups().iter().map(|group| group.column(leaf).statistics()).collect::<Option<_>>()?;
    let nulls = groups.iter().map(|group| group.null_count_opt()).sum();
    Some((nulls, bounds(&groups, field.data_type())))
}

/// Index of the Parquet column that is a whole column of the table; none for arrays, whose leaves are their items.
fn leaf_of(metadata: &ParquetMetaData, name: &str) -> Option<usize> {
    let leaves = metadata.file_metadata().schema_descr();
    leaves.columns().iter().position(|leaf| matches!(leaf.path().parts(), [only] if only == name))
}

/// The smallest and the largest value over all row groups; none if there is no value, or its type has no bounds.
fn bounds(groups: &[&Statistics], data_type: &DataType) -> Option<(Bound, Bound)> {
    let mut all: Option<(Bound, Bound)> = None;
    for group in groups {
        let Some((least, most)) = bounds_of(group, data_type) else {
            // A group of NULLs has none.
            if group.min_bytes_opt().is_none() && group.null_count_opt().is_some() {
                continue;
            }
            return None;
        };
        all = Some(match all {
            None => (least, most),
            Some((known_least, known_most)) => (smaller(known_least, least), larger(known_most, most)),
        });
    }
    all
}

fn smaller(a: Bound, b: Bound) -> Bound {
    if a.partial_cmp(&b) == Some(Ordering::Greater) { b } else { a }
}

fn larger(a: Bound, b: Bound) -> Bound {
    if a.partial_cmp(&b) == Some(Ordering::Less) { b } else { a }
}

fn bounds_of(group: &Statistics, data_type: &DataType) -> Option<(Bound, Bound)> {
    let pair = |least: Option<Bound>, most: Option<Bound>| least.zip(most);
    match (group, data_type) {
        (_, DataType::Boolean | DataType::List(_)) => None,
        (Statistics::Int32(values), _) => {
            let whole = |value: &i32| Bound::Whole((*value).into());
            pair(values.min_opt().map(whole), values.max_opt().map(whole))
        }
        (Statistics::Int64(values), _) => {
            let whole = |value: &i64| Bound::Whole((*value).into());
            pair(values.min_opt().map(whole), values.max_opt().map(whole))
        }
        (Statistics::Float(values), _) => {
            let float = |value: &f32| value.is_finite().then_some(Bound::Float(*value));
            pair(values.min_opt().and_then(float), values.max_opt().and_then(float))
        }
        (Statistics::Double(values), _) => {
            let double = |value: &f64| value.is_finite().then_some(Bound::Double(*value));
            pair(values.min_opt().and_then(double), values.max_opt().and_then(double))
        }
        (Statistics::FixedLenByteArray(_), DataType::Decimal128(..)) => {
            pair(group.min_bytes_opt().and_then(whole_of), group.max_bytes_opt().and_then(whole_of))
        }
        _ => None,
    }
}

/// A two's complement number, its highest byte first.
fn whole_of(bytes: &[u8]) -> Option<Bound> {
    let first = *bytes.first().filter(|_| bytes.len() <= 16)?;
    let sign = if first & 0x80 == 0 { 0 } else { u8::MAX };
    let mut wide = [sign; 16];
    wide[16 - bytes.len()..].copy_from_slice(bytes);
    Some(Bound::Whole(i128::from_be_bytes(wide)))
}

/// A bound as JSON; none if there is no form for it. What has to be shortened stays a bound.
fn shown(bound: &Bound, data_type: &DataType, is_most: bool) -> Option<String> {
    match (bound, data_type) {
        (Bound::Whole(days), DataType::Date32) => {
            let days = i64::try_from(*days).ok().filter(|days| DAYS.contains(days))?;
            let date = date32_to_datetime(i32::try_from(days).ok()?)?;
            Some(format!("\"{}\"", date.format("%Y-%m-%d")))
        }
        (Bound::Whole(micros), DataType::Timestamp(TimeUnit::Microsecond, zone)) => {
            let micros = i64::try_from(*micros).ok()?;
            let rounded = if is_most { micros.checked_add(999)? } else { micros };
            let millis = rounded.div_euclid(1000);
            DAYS.contains(&micros.div_euclid(DAY_MICROS)).then_some(())?;
            let moment = timestamp_us_to_datetime(millis * 1000)?;
            let zone = if zone.is_some() { "Z" } else { "" };
            Some(format!("\"{}{zone}\"", moment.format("%Y-%m-%dT%H:%M:%S%.3f")))
        }
        (Bound::Whole(unscaled), DataType::Decimal128(_, scale)) => Some(decimal(*unscaled, *scale)),
        (Bound::Whole(whole), _) => Some(whole.to_string()),
        (Bound::Float(float), _) => Some(format!("{float:?}")),
        (Bound::Double(double), _) => Some(format!("{double:?}")),
        (Bound::Text(text), _) => Some(serde_json::Value::from(shortened(text, is_most)?).to_string()),
    }
}

fn decimal(unscaled: i128, scale: i8) -> String {
    let Some(scale) = usize::try_from(scale).ok().filter(|scale| *scale > 0) else { return unscaled.to_string() };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    format!("{sign}{whole}.{fraction}")
}

/// The beginning of a text; of the largest one with the highest character at its end, so that it is not smaller. None
/// if it would be.
fn shortened(text: &str, is_most: bool) -> Option<String> {
    match text.char_indices().nth(TEXT_CHARS) {
        None => Some(text.to_owned()),
        Some((_, char::MAX)) if is_most => None,
        Some((end, _)) if is_most => Some(format!("{}{}", &text[..end], char::MAX)),
        Some((end, _)) => Some(text[..end].to_owned()),
    }
}
