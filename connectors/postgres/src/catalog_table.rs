//! A table as the catalog has it.

use sooner_api::SourceTable;

use crate::eligibility::Access;

/// Bytes of a block, as the planner counts the size of tables.
pub const BLOCK_BYTES: u64 = 8192;

/// A table, and what the pipeline's role may do with it.
#[derive(Clone, Debug)]
pub struct CatalogTable {
    /// Table. Whether it can take part is not judged yet.
    pub table: SourceTable,
    /// What may stand in the way.
    pub access: Access,
    /// Its rows lie in partitions.
    pub is_partitioned: bool,
    /// Object ids of the partitioned tables that it is a part of.
    pub ancestors: Vec<u32>,
}
