//! The rows of a table at its source, read in parts, each in a transaction of its own that is as short as the part.

use sooner_api::{Error, Result, SourceTable};
use sooner_postgres::chunk::{ChunkReader, CopiedTable};
use sooner_postgres::client::Mode;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::inspection::eligible_tables;
use sooner_postgres::schedule::{KeyTexts, Part};
use sooner_postgres::{Client, ConnectOptions};
use sooner_schemas::{Lsn, TableName};

use super::pace::Pace;
use crate::config::Config;
use crate::direct::LocalSchemas;

/// Blocks that are read at once: 16 MiB.
const BLOCKS: u32 = 2048;
/// Keys that are looked up at once.
const KEYS: usize = 500;

/// The rows of one table.
pub struct SourceRows {
    connect: ConnectOptions,
    /// The table, with the encoder of its rows.
    pub copied: CopiedTable,
}

impl SourceRows {
    /// The tables of a pipeline, as the database has them now; those that are blocked cannot be compared.
    pub async fn tables(config: &Config) -> anyhow::Result<Vec<SourceTable>> {
        let source = config.source()?;
        let mut client = Client::connect(&source.connect, Mode::Sql).await?;
        Ok(eligible_tables(&mut client, &source.publication, &source.filter()).await?)
    }

    /// The rows of a table.
    pub async fn open(config: &Config, table: SourceTable) -> anyhow::Result<SourceRows> {
        let source = config.source()?;
        let mut encoders = EncoderFactory::new(LocalSchemas::default(), &config.name, &source.connect.database);
        encoders.policies = if config.kafka.is_some() { source.policies() } else { source.policies_of_lake() };
        let copied = CopiedTable::new(table, &encoders, false).await?;
        Ok(SourceRows { connect: source.connect.clone(), copied })
    }

    /// Name of the table.
    pub fn name(&self) -> &TableName {
        self.copied.table.name()
    }

    /// Hands the value messages of all rows and the texts of their keys to `each`, batch by batch. Returns a position
    /// of the log: whatever was read was committed before it.
    pub async fn scan(&self, pace: &Pace, mut each: impl FnMut(Vec<&[u8]>, &[KeyTexts]) -> Result<()>) -> Result<Lsn> {
        let mut reader = ChunkReader::open(&self.connect).await?;
        let (mut part, mut last) = (Part::First(BLOCKS), Lsn::ZERO);
        loop {
            let mut rows = reader.start(&self.copied, &part).await?;
            last = last.max(rows.snapshot.lsn);
            rows.keeps_keys = true;
            let (blocks, mut bytes) = (rows.blocks, 0);
            while let Some(batch) = rows.next().await? {
                bytes += batch.bytes.len();
                each(batch.rows.iter().map(|row| &batch.bytes[row.value.clone()]).collect(), &batch.keys)?;
            }
            rows.end().await?;
            pace.keep(bytes).await;
            part = match (part, blocks) {
                (Part::First(taken), Some(blocks)) if blocks > taken => Part::Blocks(taken..end_of(taken, blocks)),
                (Part::First(_), _) => return Ok(last),
                (Part::Blocks(range), _) if range.end < u32::MAX => {
                    let total = self.blocks();
                    Part::Blocks(range.end..end_of(range.end, total))
                }
                (Part::Blocks(_), _) => return Ok(last),
                (Part::Keys(_), _) => return Err(Error::internal("cannot read a table", "it is read by blocks")),
            };
        }
    }

    /// The same of the rows with these keys alone, which the source finds by its index.
    pub async fn look_up(
        &self,
        keys: &[KeyTexts],
        pace: &Pace,
        mut each: impl FnMut(Vec<&[u8]>, &[KeyTexts]) -> Result<()>,
    ) -> Result<Lsn> {
        let mut reader = ChunkReader::open(&self.connect).await?;
        let mut last = Lsn::ZERO;
        for keys in keys.chunks(KEYS) {
            let mut rows = reader.start(&self.copied, &Part::Keys(keys.to_vec())).await?;
            last = last.max(rows.snapshot.lsn);
            rows.keeps_keys = true;
            let mut bytes = 0;
            while let Some(batch) = rows.next().await? {
                bytes += batch.bytes.len();
                each(batch.rows.iter().map(|row| &batch.bytes[row.value.clone()]).collect(), &batch.keys)?;
            }
            rows.end().await?;
            pace.keep(bytes).await;
        }
        Ok(last)
    }

    fn blocks(&self) -> u32 {
        let leaves = self.copied.leaves.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        leaves.iter().map(|leaf| leaf.blocks).fold(0, u32::saturating_add)
    }
}

/// Where the part that begins at a block ends: the last one has whatever is behind the table's blocks as they were.
fn end_of(start: u32, blocks: u32) -> u32 {
    let end = start.saturating_add(BLOCKS);
    if end >= blocks { u32::MAX } else { end }
}
