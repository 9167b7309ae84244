//! The rule by which the rows of a history are chained: the hash of each is made of its values and of the hash of the
//! row before. Without I/O; `src/docs/audit.md` says the same in words.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_schema::{ArrowError, DataType};
use sha2::{Digest, Sha256};

use super::columns::ChainPlaces;
use crate::rows::column_mapping::shown_names;
use crate::rows::columns::LakeColumn;

/// First line of what is hashed, by which another rule can be told from this one.
const RULE: &[u8] = b"sooner-history-1\n";
/// What the first row has as the hash of the one before it.
pub const NO_HASH: [u8; 32] = [0; 32];

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Number of the last row.
    pub sequence: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// Hashes rows of one history.
pub struct RowHasher {
    /// Names that readers see, in the order of their bytes, with the columns' places.
    columns: Vec<(String, usize)>,
    text: Vec<u8>,
}

impl RowHasher {
    /// For rows with these columns of a chained history: all of them count, but `_hash` and `_erased`.
    pub fn new(columns: &[LakeColumn], places: ChainPlaces) -> RowHasher {
        let named = shown_names(columns).into_iter().zip(0..);
        let mut columns: Vec<_> = named.filter(|(_, place)| *place != places.hash && *place != places.erased).collect();
        columns.sort();
        RowHasher { columns, text: Vec::new() }
    }

    /// Hash of a row, given that of the row before.
    pub fn hash(&mut self, previous: &[u8; 32], rows: &RecordBatch, row: usize) -> [u8; 32] {
        self.text.clear();
        self.text.extend_from_slice(RULE);
        self.text.extend_from_slice(&digits(previous));
        self.text.push(b'\n');
        for (name, place) in &self.columns {
            let values = rows.column(*place);
            if values.is_valid(row) {
                put(&mut self.text, name.as_bytes());
                put(&mut self.text, &bytes_of(values.as_ref(), row));
            }
        }
        Sha256::digest(&self.text).into()
    }
}

/// Rows of a history with these columns, chained to an end; and the end that they make.
pub fn chained(
    rows: &RecordBatch,
    columns: &[LakeColumn],
    places: ChainPlaces,
    end: End,
) -> Result<(RecordBatch, End), ArrowError> {
    let sequences = (end.sequence + 1..).take(rows.num_rows());
    let rows = with_column(rows, places.sequence, Arc::new(Int64Array::from_iter_values(sequences)))?;
    let mut hashes = StringBuilder::with_capacity(rows.num_rows(), 64 * rows.num_rows());
    let (mut hasher, mut end) = (RowHasher::new(columns, places), end);
    for row in 0..rows.num_rows() {
        end = End { sequence: end.sequence + 1, hash: hasher.hash(&end.hash, &rows, row) };
        hashes.append_value(String::from_utf8_lossy(&digits(&end.hash)));
    }
    Ok((with_column(&rows, places.hash, Arc::new(hashes.finish()))?, end))
}

fn with_column(rows: &RecordBatch, place: usize, values: ArrayRef) -> Result<RecordBatch, ArrowError> {
    let columns = rows.columns().iter().enumerate();
    let columns = columns.map(|(at, column)| if at == place { values.clone() } else { column.clone() });
    RecordBatch::try_new(rows.schema(), columns.collect())
}

/// Appends bytes behind their number, and a line feed.
fn put(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend_from_slice(bytes.len().to_string().as_bytes());
    text.push(b':');
    text.extend_from_slice(bytes);
    text.push(b'\n');
}

fn digits(hash: &[u8; 32]) -> [u8; 64] {
    let mut digits = [0; 64];
    for (pair, byte) in digits.as_chunks_mut::<2>().0.iter_mut().zip(hash) {
        *pair = [byte >> 4, byte & 0xf].map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    digits
}

/// The one form of a value that is not NULL.
fn bytes_of(values: &dyn Array, row: usize) -> Cow<'_, [u8]> {
    let text = match values.data_type() {
        DataType::Utf8 => return Cow::Borrowed(values.as_string::<i32>().value(row).as_bytes()),
        DataType::Binary => return Cow::Borrowed(values.as_binary::<i32>().value(row)),
        DataType::List(_) => return Cow::Owned(items(values.as_list::<i32>().value(row).as_ref())),
        DataType::Boolean => values.as_boolean().value(row).to_string(),
        DataType::Int16 => values.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => values.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => values.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Date32 => values.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Timestamp(..) => values.as_primitive::<TimestampMicrosecondType>().value(row).to_string(),
        DataType::Float32 => match values.as_primitive::<Float32Type>().value(row) {
            value if value.is_nan() => "nan".to_owned(),
            value => format!("{:08x}", value.to_bits()),
        },
        DataType::Float64 => match values.as_primitive::<Float64Type>().value(row) {
            value if value.is_nan() => "nan".to_owned(),
            value => format!("{:016x}", value.to_bits()),
        },
        DataType::Decimal128(_, scale) => decimal(values.as_primitive::<Decimal128Type>().value(row), *scale),
        // No column of a lake's table has another type.
        _ => array_value_to_string(values, row).unwrap_or_default(),
    };
    Cow::Owned(text.into_bytes())
}

/// The items of an array, one after the other.
fn items(items: &dyn Array) -> Vec<u8> {
    let mut text = Vec::new();
    for item in 0..items.len() {
        match items.is_valid(item) {
            true => put(&mut text, &bytes_of(items, item)),
            false => text.extend_from_slice(b"-\n"),
        }
    }
    text
}

/// A decimal with as many digits behind its point as its type has.
fn decimal(unscaled: i128, scale: i8) -> String {
    let Some(scale) = usize::try_from(scale).ok().filter(|scale| *scale > 0) else { return unscaled.to_string() };
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if unscaled < 0 { "-" } else { "" };
    format!("{sign}{whole}.{fraction}")
}

#[cfg(test)]
mod tests {
    use arrow_array::builder::{Int32Builder, ListBuilder};
    use arrow_array::{
        BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array, StringArray,
        new_null_array,
    };
    use sooner_schemas::TableName;

    use super::*;
    use crate::history::columns::{extended, fact_columns};
    use crate::rows::columns::arrow_schema;
    use crate::rows::lake_type::{LakeType, arrow_type};

    fn column(name: &str, lake_type: LakeType) -> LakeColumn {
        LakeColumn { name: name.to_owned(), lake_type, ..fact_columns().remove(1) }
    }

    fn columns(source: &[LakeColumn]) -> Vec<LakeColumn> {
        extended(&TableName::new("public", "t"), &[], source, true).unwrap().0
    }

    /// Rows with these values of the source's columns, which are the last ones, and no facts.
    fn rows(columns: &[LakeColumn], values: Vec<ArrayRef>) -> RecordBatch {
        let count = values[0].len();
        let own = columns[..columns.len() - values.len()].iter();
        let own = own.map(|column| new_null_array(&arrow_type(&column.lake_type), count));
        RecordBatch::try_new(arrow_schema(columns), own.chain(values).collect()).unwrap()
    }

    fn chain(columns: &[LakeColumn], rows: &RecordBatch, end: End) -> (RecordBatch, End) {
        chained(rows, columns, ChainPlaces::of(columns).unwrap(), end).unwrap()
    }

    const START: End = End { sequence: 0, hash: NO_HASH };

    #[test]
    fn the_hash_is_that_of_the_text_that_the_page_describes() {
        let columns = columns(&[column("né", LakeType::String), column("id", LakeType::Integer)]);
        let values: Vec<ArrayRef> = vec![Arc::new(StringArray::from(vec!["ä"])), Arc::new(Int32Array::from(vec![-7]))];
        let (rows, end) = chain(&columns, &rows(&columns, values), START);
        let zeros = "0".repeat(64);
        let text = format!("sooner-history-1\n{zeros}\n9:_sequence\n1:1\n2:id\n2:-7\n3:né\n2:ä\n");
        let expected: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        assert_eq!(end, End { sequence: 1, hash: expected });
        let places = ChainPlaces::of(&columns).unwrap();
        assert_eq!(rows.column(places.hash).as_string::<i32>().value(0).as_bytes(), digits(&expected));
        assert!(rows.column(places.erased).is_null(0));
    }

    #[test]
    fn columns_that_come_later_change_no_hash_and_a_chain_may_be_written_in_parts() {
        let before = columns(&[column("id", LakeType::Integer)]);
        let after = columns(&[column("id", LakeType::Integer), column("a", LakeType::String)]);
        let ids = |ids: Vec<i32>| Arc::new(Int32Array::from(ids)) as ArrayRef;
        let (_, end) = chain(&before, &rows(&before, vec![ids(vec![1, 2])]), START);
        let none = new_null_array(&DataType::Utf8, 2);
        assert_eq!(chain(&after, &rows(&after, vec![ids(vec![1, 2]), none]), START).1, end);
        let (_, first) = chain(&before, &rows(&before, vec![ids(vec![1])]), START);
        assert_eq!(chain(&before, &rows(&before, vec![ids(vec![2])]), first).1, end);
        assert_ne!(chain(&before, &rows(&before, vec![ids(vec![2])]), START).1.hash, first.hash);
    }

    #[test]
    fn each_type_has_one_form() {
        let mut list = ListBuilder::new(Int32Builder::new());
        list.append_value([Some(12), None]);
        let forms: [(ArrayRef, &[u8]); 11] = [
            (Arc::new(BooleanArray::from(vec![true])), b"true"),
            (Arc::new(Int64Array::from(vec![i64::MIN])), b"-9223372036854775808"),
            (Arc::new(Float32Array::from(vec![-0.0])), b"80000000"),
            (Arc::new(Float64Array::from(vec![1.5])), b"3ff8000000000000"),
            (Arc::new(Float64Array::from(vec![-f64::NAN])), b"nan"),
            (Arc::new(Date32Array::from(vec![-1])), b"-1"),
            (Arc::new(BinaryArray::from(vec![&[0u8, 255][..]])), &[0, 255]),
            (Arc::new(list.finish()), b"2:12\n-\n"),
            (Arc::new(Decimal128Array::from(vec![-50]).with_precision_and_scale(5, 2).unwrap()), b"-0.50"),
            (Arc::new(Decimal128Array::from(vec![12345]).with_precision_and_scale(5, 2).unwrap()), b"123.45"),
            (Arc::new(Decimal128Array::from(vec![7]).with_precision_and_scale(5, 0).unwrap()), b"7"),
        ];
        for (values, form) in forms {
            assert_eq!(&*bytes_of(values.as_ref(), 0), form, "{:?}", values.data_type());
        }
    }
}
