//! Events of a range, written as they come: as JSON lines, or as rows of one Parquet file with the history's columns.
//! What was written is counted and hashed.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_schema::{Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};
use sooner_api::{Code, Error, Result};

use super::envelope::{Envelopes, Origin};
use super::facts::FactColumns;
use super::range::{Bound, Start};
use crate::export::hexadecimal;
use crate::history::change_type::ChangeType;
use crate::history::columns::ChainPlaces;
use crate::rows::column_mapping::shown_names;
use crate::rows::columns::LakeColumn;
use crate::rows::lake_type::arrow_type;

/// Bytes of rows that wait in memory to be written to a Parquet file.
const GROUP_BYTES: usize = 32 << 20;
/// Rows of a row group of a Parquet file, at most.
const GROUP_ROWS: usize = 128 << 10;

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line, in Debezium's envelope.
    JsonLines,
    /// A Parquet file with the columns of a history.
    Parquet,
}

/// What was written.
#[derive(Debug)]
pub struct Written<W> {
    /// Number of events.
    pub events: u64,
    /// Number of rows that were read: an update may have two.
    pub rows: u64,
    /// Rows of them that were not written, since their values were erased.
    pub erased: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes, as hexadecimal digits.
    pub sha256: String,
    /// Where it was written to.
    pub writer: W,
}

/// Writes the events of a range.
pub struct Output<W: Write + Send> {
    start: Start,
    to: Bound,
    form: Writing<W>,
    events: u64,
    rows: u64,
    erased: u64,
    /// Place of the column that names the erasure which has taken a row's values, in a chained history.
    erased_by: Option<usize>,
}

enum Writing<W: Write + Send> {
    Lines(Hashed<W>, Box<Envelopes>),
    Parquet(Box<ArrowWriter<Hashed<W>>>, SchemaRef),
}

/// Counts and hashes what is written.
struct Hashed<W> {
    writer: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write + Send> Output<W> {
    /// Begins to write rows with these columns in a form.
    pub fn new(
        form: Form,
        (start, to): (Start, Bound),
        origin: Origin,
        columns: &[LakeColumn],
        writer: W,
    ) -> Result<Output<W>> {
        let hashed = Hashed { writer, hash: Sha256::new(), bytes: 0 };
        let form = match form {
            Form::JsonLines => Writing::Lines(hashed, Box::new(Envelopes::new(origin, columns))),
            Form::Parquet => {
                let fields = columns.iter().zip(shown_names(columns));
                let fields = fields.map(|(column, name)| Field::new(name, arrow_type(&column.lake_type), true));
                let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                let properties = WriterProperties::builder()
                    .set_compression(Compression::SNAPPY)
                    .set_max_row_group_row_count(Some(GROUP_ROWS))
                    .set_created_by(concat!("sooner ", env!("CARGO_PKG_VERSION")).to_owned());
                let writer = ArrowWriter::try_new(hashed, schema.clone(), Some(properties.build()));
                Writing::Parquet(Box::new(writer.map_err(unwritable)?), schema)
            }
        };
        let erased_by = ChainPlaces::of(columns).map(|places| places.erased);
        Ok(Output { start, to, form, events: 0, rows: 0, erased: 0, erased_by })
    }

    /// Writes those of some rows, which come in commit order, that are of the range; false once no later ones are.
    pub fn take(&mut self, rows: &RecordBatch) -> Result<bool> {
        let facts = FactColumns::of(rows)?;
        let (mut run, mut goes_on) = (0..0, true);
        for row in 0..facts.len() {
            let at = facts.at(row)?;
            goes_on = !self.to.is_passed_by(&at);
            if !goes_on {
                break;
            }
            if !self.start.admits(&at) || !self.to.covers(&at) {
                continue;
            }
            self.rows += 1;
            if self.erased_by.is_some_and(|place| rows.column(place).is_valid(row)) {
                self.erased += 1;
                continue;
            }
            self.events += u64::from(at.change != ChangeType::Preimage);
            if run.end != row {
                self.write(rows, &facts, run)?;
                run = row..row;
            }
            run.end = row + 1;
        }
        self.write(rows, &facts, run)?;
        Ok(goes_on)
    }

    fn write(&mut self, rows: &RecordBatch, facts: &FactColumns, run: std::ops::Range<usize>) -> Result<()> {
        match &mut self.form {
            _ if run.is_empty() => Ok(()),
            Writing::Lines(writer, envelopes) => {
                for row in run {
                    let Some(event) = envelopes.take(rows, facts, row)? else { continue };
                    serde_json::to_writer(&mut *writer, &event).map_err(unwritable)?;
                    writer.write_all(b"\n").map_err(unwritable)?;
                }
                Ok(())
            }
            Writing::Parquet(writer, schema) => {
                let columns = rows.slice(run.start, run.len()).columns().to_vec();
                let rows = RecordBatch::try_new(schema.clone(), columns);
                writer.write(&rows.map_err(unwritable)?).map_err(unwritable)?;
                if writer.in_progress_size() >= GROUP_BYTES {
                    writer.flush().map_err(unwritable)?;
                }
                Ok(())
            }
        }
    }

    /// Completes what is written.
    pub fn finish(self) -> Result<Written<W>> {
        let mut hashed = match self.form {
            Writing::Lines(hashed, _) => hashed,
            Writing::Parquet(writer, _) => writer.into_inner().map_err(unwritable)?,
        };
        hashed.flush().map_err(unwritable)?;
        let Hashed { writer, hash, bytes } = hashed;
        let (events, rows, erased, sha256) = (self.events, self.rows, self.erased, hexadecimal(&hash.finalize()));
        Ok(Written { events, rows, erased, bytes, sha256, writer })
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn unwritable(error: impl std::fmt::Display) -> Error {
    let remedy = "see that there is room, and that whoever reads the output goes on; then begin again";
    Error::operator(Code::ReplayImpossible, "cannot write the events", error, remedy)
}
