//! What a file's columns hold, as readers find it in the log.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int16Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use sooner_delta::rows::data_file::DataFileWriter;

/// The statistics of one file, written in these portions of one column.
fn text_of(portions: &[ArrayRef]) -> String {
    let batch = |column: &ArrayRef| RecordBatch::try_from_iter_with_nullable([("c", column.clone(), true)]).unwrap();
    let mut writer = DataFileWriter::for_rows_like(&batch(&portions[0])).unwrap();
    portions.iter().for_each(|column| writer.write(&batch(column)).unwrap());
    writer.finish().unwrap().statistics
}

fn of(column: impl Array + 'static) -> Value {
    serde_json::from_str(&text_of(&[Arc::new(column)])).unwrap()
}

fn bounds(column: impl Array + 'static) -> (Value, Value) {
    let statistics = of(column);
    let bound = |what: &str| statistics[what].get("c").cloned().unwrap_or(Value::Null);
    (bound("minValues"), bound("maxValues"))
}

#[test]
fn rows_and_nulls_are_counted() {
    let statistics = of(Int64Array::from(vec![Some(5), None, Some(-7), None]));
    let expected = json!({"numRecords": 4, "tightBounds": true, "nullCount": {"c": 2}, "minValues": {"c": -7},
                          "maxValues": {"c": 5}});
    assert_eq!(statistics, expected);
    let nothing = of(Int64Array::from(vec![None, None]));
    assert_eq!(nothing["minValues"], json!({}), "a column of NULLs has no bounds");
    assert_eq!(nothing["nullCount"], json!({"c": 2}));
}

#[test]
fn bounds_have_deltas_form() {
    assert_eq!(bounds(Int16Array::from(vec![3, -3])), (json!(-3), json!(3)));
    assert_eq!(bounds(StringArray::from(vec!["b", "ä", "a\"\\"])), (json!("a\"\\"), json!("ä")));
    let days = Date32Array::from(vec![-719_162, 0, 2_932_896]);
    assert_eq!(bounds(days), (json!("0001-01-01"), json!("9999-12-31")));
    let micros = || TimestampMicrosecondArray::from(vec![-1, 1_700_000_000_123_456]);
    let instants = micros().with_timezone("UTC");
    assert_eq!(bounds(instants), (json!("1969-12-31T23:59:59.999Z"), json!("2023-11-14T22:13:20.124Z")));
    assert_eq!(bounds(micros()), (json!("1969-12-31T23:59:59.999"), json!("2023-11-14T22:13:20.124")));
    assert_eq!(bounds(Float64Array::from(vec![1e300, -0.5])), (json!(-0.5), json!(1e300)));
}

#[test]
fn decimals_keep_all_their_digits() {
    let least = -12_345_678_901_234_567_890_123_456_789_012_345_678_i128;
    let wide = Decimal128Array::from(vec![least, 5]).with_precision_and_scale(38, 2).unwrap();
    let text = text_of(&[Arc::new(wide)]);
    assert!(text.contains("\"minValues\":{\"c\":-123456789012345678901234567890123456.78}"), "{text}");
    assert!(text.contains("\"maxValues\":{\"c\":0.05}"), "{text}");
    for (precision, scale, shown) in [(9, 2, "-1.50"), (18, 3, "-0.150"), (20, 0, "-150")] {
        let narrow = Decimal128Array::from(vec![-150]).with_precision_and_scale(precision, scale).unwrap();
        let text = text_of(&[Arc::new(narrow)]);
        assert!(text.contains(&format!("\"minValues\":{{\"c\":{shown}}}")), "{text}");
    }
}

#[test]
fn what_has_no_order_that_all_readers_share_has_no_bounds() {
    let none = (Value::Null, Value::Null);
    assert_eq!(bounds(Float64Array::from(vec![1.0, f64::NAN])), none);
    assert_eq!(bounds(Float32Array::from(vec![1.0, f32::INFINITY])), none);
    assert_eq!(bounds(BooleanArray::from(vec![true, false])), none);
    assert_eq!(bounds(BinaryArray::from(vec![b"a".as_slice()])), none);
    assert_eq!(bounds(Date32Array::from(vec![0, 2_932_897])), none, "the year 10000");
    let far = TimestampMicrosecondArray::from(vec![0, 253_402_300_800_000_000]);
    assert_eq!(bounds(far), none, "the year 10000");
}

#[test]
fn a_nan_in_any_portion_counts() {
    let portions: [ArrayRef; 2] =
        [Arc::new(Float64Array::from(vec![f64::NAN])), Arc::new(Float64Array::from(vec![1.0, 2.0]))];
    assert!(text_of(&portions).contains("\"maxValues\":{}"));
}

proptest! {
    /// However long a text is, its bounds are bounds, and short.
    #[test]
    fn bounds_of_texts_enclose_them(texts in prop::collection::vec("[a-cäß€😀\u{10FFFF}]{0,80}", 1..6)) {
        let (least, most) = bounds(StringArray::from_iter_values(&texts));
        let (least, most) = (least.as_str().map(str::to_owned), most.as_str().map(str::to_owned));
        if let (Some(least), Some(most)) = (least, most) {
            prop_assert!(texts.iter().all(|text| least.as_str() <= text.as_str() && text.as_str() <= most.as_str()));
            prop_assert!(least.chars().count() <= 32 && most.chars().count() <= 33);
        }
    }
}
