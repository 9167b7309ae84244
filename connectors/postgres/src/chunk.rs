//! Reads one chunk of a table, in a transaction of its own that is as short as the chunk.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sooner_api::{Code, Error, Reservation, Result, SchemaRegistry, SourceTable};
use sooner_schemas::encode::{Encoder, Images, RowChange, UNEXPECTED_NULL};
use sooner_schemas::event::{Event, Op};
use sooner_schemas::{Lsn, Relation, TableName};

use crate::catalog;
use crate::chunk_statement::{Conditions, Leaf, select};
use crate::client::{Client, Mode};
use crate::clock::now_micros;
use crate::copy_text::CopyRow;
use crate::encoders::EncoderFactory;
use crate::errors::unholdable;
use crate::log_end::before_page_header;
use crate::memory::{ReadLimits, row_too_large};
use crate::options::ConnectOptions;
use crate::publication::{Members, Selection, quote_table};
use crate::row::{number, text};
use crate::schedule::{KeyTexts, Part};
use crate::tracked::key_texts;
use crate::types::Types;
use crate::visibility::Visibility;

/// Size of a batch of copied rows, in bytes.
const BATCH_BYTES: usize = 1 << 20;
/// What finishing adds to a row's images, about: its envelope's fields.
pub const HEAD_BYTES: usize = 120;
/// How often a row is in memory while it is read: as it comes, as values, and as images.
const ROW_COPIES: usize = 3;
/// What a row's images have beside its values, about.
const ENVELOPE_BYTES: usize = 1 << 10;
/// How long the server works on one statement of a chunk. Parts are made much smaller than this.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(120);
/// Whether rows of a relation `c` in a schema `n` can be read without the partitioned table above it.
const MAY_READ: &str = "pg_catalog.has_table_privilege(c.oid, 'SELECT') \
    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND NOT pg_catalog.row_security_active(c.oid)";
/// First version that reads a range of blocks without reading the whole table.
const READS_RANGES: u32 = 140_000;

/// A table that is being copied.
#[derive(Debug)]
pub struct CopiedTable {
    /// The table, as it was when the copy began.
    pub table: SourceTable,
    /// How its rows become events.
    pub encoder: Encoder,
    /// Only rows that satisfy this SQL expression are copied.
    pub condition: Option<String>,
    /// Transactions that have to end first; none while it is not known which.
    writers: Mutex<Option<HashSet<String>>>,
    /// Partitions whose blocks are read one after the other, as if they were those of one table; none before it is
    /// known how many they have.
    pub leaves: Mutex<Vec<Leaf>>,
}

/// What a chunk was read under.
#[derive(Debug)]
pub struct ChunkSnapshot {
    /// The transactions that it sees.
    pub sees: Visibility,
    /// Each of those has its commit record before this LSN.
    pub lsn: Lsn,
    /// When it was taken, in microseconds since 1970.
    pub taken_micros: i64,
}

/// Rows whose events are finished when it is known where they stand in the stream.
#[derive(Debug, Default)]
pub struct CopiedRows {
    /// Keys and images, back to back.
    pub bytes: Vec<u8>,
    /// Each row's part of the bytes.
    pub rows: Vec<Images>,
    /// Texts of each row's key, where they are asked for.
    pub keys: Vec<KeyTexts>,
    /// Room in the memory that they hold.
    pub reservation: Reservation,
}

impl CopiedRows {
    /// Memory that their events will take, in bytes.
    pub fn finished_bytes(&self) -> usize {
        self.bytes.len() + self.rows.len() * (HEAD_BYTES + size_of::<Event>())
    }
}

/// A connection that reads chunks, one after the other.
pub struct ChunkReader {
    client: Client,
    types: Option<Types>,
}

/// A chunk whose rows are being read. The transaction ends with [`ChunkRows::end`].
pub struct ChunkRows<'a> {
    client: &'a mut Client,
    copied: &'a CopiedTable,
    row: CopyRow,
    is_finished: bool,
    /// What it was read under.
    pub snapshot: Arc<ChunkSnapshot>,
    /// For a first part: the blocks that the table has.
    pub blocks: Option<u32>,
    /// After an error: the column that is NOT NULL, and holds a NULL that is older than the constraint.
    pub unexpected_null: Option<String>,
    /// Whether the texts of keys are wanted.
    pub keeps_keys: bool,
}

impl CopiedTable {
    /// A table as it is now, with the encoder of its rows. Transactions that write to it at the moment may have begun
    /// before the stream carried it, so they are awaited, unless the stream is known to carry all they do.
    pub async fn new<R: SchemaRegistry>(
        table: SourceTable,
        encoders: &EncoderFactory<R>,
        awaits_writers: bool,
    ) -> Result<CopiedTable> {
        let encoder = encoders.build(&table.relation).await?;
        let writers = Mutex::new((!awaits_writers).then(HashSet::new));
        Ok(CopiedTable { table, encoder, condition: None, writers, leaves: Mutex::default() })
    }
}

/// Asks the server whether a table's rows can be selected by an SQL condition; otherwise its error says why not.
pub async fn check_condition(client: &mut Client, table: &TableName, condition: &str) -> Result<()> {
    client.query("BEGIN READ ONLY").await?;
    let checked = client.query(&format!("SELECT FROM {} WHERE ({condition}) LIMIT 0", quote_table(table))).await;
    client.query("ROLLBACK").await?;
    checked.map(drop)
}

impl ChunkReader {
    /// Connects.
    pub async fn open(options: &ConnectOptions) -> Result<ChunkReader> {
        let mut client = Client::connect(options, Mode::Sql).await?;
        client.query(&format!("SET statement_timeout = {}", STATEMENT_TIMEOUT.as_millis())).await?;
        Ok(ChunkReader { client, types: None })
    }

    /// Starts to read a part of a table. An error of code [`Code::TableAlteredDuringCopy`] if the table is not what it
    /// was when its copy began; of [`Code::TableLocked`] if somebody holds a lock on it. After any error the connection
    /// is to be dropped.
    pub async fn start<'a>(&'a mut self, copied: &'a CopiedTable, part: &Part) -> Result<ChunkRows<'a>> {
        self.check_writers(copied).await?;
        self.client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        // Fail rather than copy without the rows that a row security policy hides.
        self.client.query("SET LOCAL row_security = off").await?;
        // Before the snapshot is taken, so that the catalog that it sees is the one that holds.
        let lock = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", quote_table(&copied.table.source_name));
        self.client.query(&lock).await.map_err(|error| lock_error(&copied.table, error))?;
        let snapshot = Arc::new(self.snapshot().await?);
        // Never more rows than are published: a filter that was there may be another one by now.
        let selection = Selection::load(&mut self.client, copied.table.facts.publication.as_ref()).await?;
        let selection = selection.ok_or_else(|| altered(&copied.table))?;
        let seen = self.check_unchanged(&copied.table, &selection).await?;
        let blocks = match part {
            Part::First(_) => Some(self.count_blocks(copied, &seen).await?),
            _ => None,
        };
        if blocks == Some(0) {
            // All of it in one go, however long that takes.
            self.client.query("SET LOCAL statement_timeout = 0").await?;
        }
        let statement = {
            let leaves = copied.leaves.lock().unwrap_or_else(PoisonError::into_inner);
            let conditions = Conditions { published: selection.filter.as_deref(), asked: copied.condition.as_deref() };
            select(&copied.table, conditions, part, blocks, &leaves)
        };
        // Partitions are not locked before they are read.
        self.client.copy_out(&statement).await.map_err(|error| lock_error(&copied.table, error))?;
        Ok(ChunkRows {
            client: &mut self.client,
            copied,
            row: CopyRow::default(),
            is_finished: false,
            snapshot,
            blocks,
            unexpected_null: None,
            keeps_keys: false,
        })
    }

    /// Refuses to go on while a transaction runs that wrote to the table when this was first asked.
    async fn check_writers(&mut self, copied: &CopiedTable) -> Result<()> {
        let awaited = copied.writers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if awaited.as_ref().is_some_and(HashSet::is_empty) {
            return Ok(());
        }
        let sql = format!(
            "SELECT l.virtualtransaction, coalesce(format('process %s of %s (%s), whose transaction began at %s', l.pid, \
                    a.usename, coalesce(nullif(a.application_name, ''), 'no application name'), a.xact_start), \
                    'a prepared transaction') \
             FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid \
             WHERE l.locktype = 'relation' AND l.granted AND l.relation IN ({}) \
               AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
               AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')",
            oids_of(&copied.table)
        );
        let mut writers = HashMap::new();
        for row in self.client.query(&sql).await? {
            writers.insert(text(&row, 0)?.to_owned(), text(&row, 1)?.to_owned());
        }
        if let Some(awaited) = awaited {
            writers.retain(|writer, _| awaited.contains(writer));
        }
        let why = writers.values().next().cloned();
        *copied.writers.lock().unwrap_or_else(PoisonError::into_inner) = Some(writers.into_keys().collect());
        match why {
            None => Ok(()),
            Some(who) => Err(Error::retry(
                Code::TableLocked,
                format!("cannot copy {} yet", copied.table.name()),
                format!("it waits for {who}: what that has written to the table is not in the stream"),
                "nothing, if it ends soon; otherwise end that transaction. Other tables go on",
            )),
        }
    }

    /// The transaction's snapshot, which this query takes.
    async fn snapshot(&mut self) -> Result<ChunkSnapshot> {
        let sql = "SELECT pg_catalog.pg_current_snapshot(), pg_catalog.pg_current_wal_insert_lsn()";
        let rows = self.client.query(sql).await?;
        let row = rows.first().cloned().unwrap_or_default();
        let lsn: Lsn =
            text(&row, 1)?.parse().map_err(|error| crate::errors::protocol("cannot understand an LSN", error))?;
        Ok(ChunkSnapshot {
            sees: Visibility::parse(text(&row, 0)?)?,
            lsn: before_page_header(lsn),
            taken_micros: now_micros(),
        })
    }

    /// Blocks that the table has, as it was `seen` under the snapshot; 0 if it has to be read in one go.
    async fn count_blocks(&mut self, copied: &CopiedTable, seen: &SourceTable) -> Result<u32> {
        if self.client.server_version() < READS_RANGES {
            return Ok(0);
        }
        let sql = format!(
            "SELECT n.nspname, c.relname, CASE WHEN am.amname = 'heap' AND {} THEN \
                 pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint END \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam WHERE c.relkind = 'r' AND c.oid IN ({}) ORDER BY c.oid",
            MAY_READ,
            oids_of(seen)
        );
        let mut leaves = Vec::new();
        for row in self.client.query(&sql).await? {
            if row.get(2).is_none_or(Option::is_none) {
                return Ok(0);
            }
            leaves.push(Leaf { name: TableName::new(text(&row, 0)?, text(&row, 1)?), blocks: number(&row, 2)? });
        }
        let blocks = leaves.iter().map(|leaf| leaf.blocks).fold(0, u32::saturating_add);
        *copied.leaves.lock().unwrap_or_else(PoisonError::into_inner) = leaves;
        Ok(if blocks == u32::MAX { 0 } else { blocks })
    }

    /// The table as this transaction sees it; an error if that is not what is copied.
    async fn check_unchanged(&mut self, table: &SourceTable, selection: &Selection) -> Result<SourceTable> {
        // Types that were loaded for an earlier chunk may be outdated.
        for is_fresh in [self.types.is_none(), true] {
            let types = match &mut self.types {
                Some(types) if !is_fresh => types,
                types => types.insert(Types::load(&mut self.client).await?),
            };
            let sends_generated = table.relation.columns.iter().any(|column| column.generated);
            let members = Members::of_one(sends_generated, table.relation.oid, selection);
            let seen = catalog::table(&mut self.client, types, &members, table.relation.oid).await?;
            if let Some(seen) = seen.filter(|seen| is_same(&seen.table, table)) {
                return Ok(seen.table);
            }
        }
        Err(altered(table))
    }
}

fn altered(table: &SourceTable) -> Error {
    Error::retry(
        Code::TableAlteredDuringCopy,
        format!("cannot copy {}", table.relation.name),
        "the table was altered or rewritten while it was copied",
        "nothing; its copy starts over",
    )
}

/// Whether a table has the blocks and the rows that it had, but for a column that may be NULL by now.
fn is_same(seen: &SourceTable, table: &SourceTable) -> bool {
    let Relation { name, last_number, .. } = table.relation.clone();
    let mut relation = Relation { name, last_number, ..seen.relation.marked_like(&table.relation) };
    for (column, known) in relation.columns.iter_mut().zip(&table.relation.columns) {
        column.nullable |= known.nullable;
        column.missing.clone_from(&known.missing);
    }
    relation == table.relation
        && seen.source_name == table.source_name
        && seen.facts.file_node == table.facts.file_node
        && table.facts.altered_partitions(&seen.facts).is_none()
        && have_same_names(table, seen)
}

/// Whether the partitions that a table had are called as they were.
fn have_same_names(table: &SourceTable, seen: &SourceTable) -> bool {
    let known = table.facts.partitions.iter().flatten();
    let now = seen.facts.partitions.clone().unwrap_or_default();
    known.into_iter().all(|(oid, known)| now.get(oid).is_none_or(|now| now.name == known.name))
}

/// The object ids of what holds a table's rows, and its own, for a list in SQL.
fn oids_of(table: &SourceTable) -> String {
    let partitions = table.facts.partitions.iter().flatten().map(|(oid, _)| *oid);
    let oids: Vec<_> = partitions.chain([table.relation.oid]).map(|oid| oid.to_string()).collect();
    oids.join(", ")
}

fn lock_error(table: &SourceTable, error: Error) -> Error {
    if ["42P01", "3F000"].iter().any(|code| error.why.contains(&format!("SQLSTATE {code}"))) {
        return altered(table);
    }
    if error.code != Code::TableLocked {
        return error;
    }
    Error::retry(
        Code::TableLocked,
        format!("cannot copy {} at the moment", table.name()),
        "somebody holds a lock on it that keeps readers waiting",
        "nothing; it is tried again, and other tables go on",
    )
}

impl ChunkRows<'_> {
    /// Memory that the next batch will take, about; 0 if there is none. An error says that its row is larger than one
    /// may be.
    pub async fn batch_bytes(&mut self, limits: &ReadLimits) -> Result<usize> {
        if self.is_finished {
            return Ok(0);
        }
        let row_bytes = self.client.next_size().await?;
        if row_bytes > limits.row_bytes {
            return Err(row_too_large(&self.copied.table.relation.name, row_bytes, limits));
        }
        Ok(BATCH_BYTES.max(ROW_COPIES * row_bytes))
    }

    /// Reads the next batch of rows, a large one apart from those before; none when all have been read. A row that
    /// cannot be represented is an error that needs the operator, unless it only holds an unexpected NULL.
    pub async fn next(&mut self) -> Result<Option<CopiedRows>> {
        let mut out = CopiedRows::default();
        while !self.is_finished && out.finished_bytes() < BATCH_BYTES {
            if !out.rows.is_empty() && self.client.next_size().await? > BATCH_BYTES {
                break;
            }
            match self.client.copy_data().await? {
                Some(line) => self.encode(&line, &mut out)?,
                None => self.is_finished = true,
            }
        }
        Ok((!out.rows.is_empty()).then_some(out))
    }

    /// Ends the transaction.
    pub async fn end(self) -> Result<()> {
        self.client.query("COMMIT").await.map(drop)
    }

    fn encode(&mut self, line: &[u8], out: &mut CopiedRows) -> Result<()> {
        self.row.parse(line);
        let values = self.row.values();
        if line.len() > BATCH_BYTES {
            out.bytes.reserve_exact(line.len() + ENVELOPE_BYTES);
        }
        let CopiedTable { table, encoder, .. } = self.copied;
        let images = encoder.images().write(&mut out.bytes, Op::Read, RowChange::New(&values)).map_err(|error| {
            let relation = &table.relation;
            let in_key = relation.key.iter().any(|&index| relation.columns[index].name == error.column);
            if error.reason == UNEXPECTED_NULL && !in_key {
                self.unexpected_null = Some(error.column.clone());
            }
            unholdable("cannot copy", &relation.name, &encoder.describe_key(relation, &values), &error)
        })?;
        out.rows.push(images);
        if self.keeps_keys {
            out.keys.extend(key_texts(&table.relation, &values));
        }
        Ok(())
    }
}
