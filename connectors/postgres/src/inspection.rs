//! Which tables of a database take part, and which of them have to wait, each with the reason.

use std::sync::Arc;

use sooner_api::{Code, Error, Result, SourceTable};
use sooner_schemas::TableName;
use sooner_schemas::catalog_facts::PublicationFacts;
use sooner_schemas::masking::{Misfit, TableRules};

use crate::catalog;
use crate::catalog_table::CatalogTable;
use crate::client::Client;
use crate::kept_names::KeptNames;
use crate::publication::{self, Members};

/// What becomes of a table's values before they leave this process.
pub type MaskRules = Arc<dyn Fn(&TableName) -> TableRules + Send + Sync>;

/// Which tables of a database are to take part, and as what.
#[derive(Clone)]
pub struct TableFilter {
    /// By their names.
    pub names: Arc<dyn Fn(&TableName) -> bool + Send + Sync>,
    /// A partitioned table is one table, where sooner creates the publication; otherwise each of its partitions is.
    pub through_roots: bool,
    /// Rows of partitions that are detached or dropped are kept.
    pub keeps_gone_partitions: bool,
    /// Names of tables that keep the one that they had first; none where tables are known by what they are called.
    pub kept_names: Option<KeptNames>,
    /// Which of their columns are masked.
    pub masks: MaskRules,
}

impl TableFilter {
    /// Tables of these names.
    pub fn new(names: impl Fn(&TableName) -> bool + Send + Sync + 'static) -> TableFilter {
        let masks = Arc::new(|_: &TableName| TableRules::default());
        TableFilter {
            names: Arc::new(names),
            through_roots: true,
            keeps_gone_partitions: false,
            kept_names: None,
            masks,
        }
    }
}

/// All tables that are to take part; those that cannot at the moment say why.
pub async fn eligible_tables(
    client: &mut Client,
    publication: &str,
    selects: &TableFilter,
) -> Result<Vec<SourceTable>> {
    let found = candidates(client, publication, selects).await?;
    Ok(taking_part(found))
}

/// As [`eligible_tables`], after the publication was created or extended by those that it may carry.
pub async fn publish_eligible(
    client: &mut Client,
    publication: &str,
    selects: &TableFilter,
) -> Result<Vec<SourceTable>> {
    let found = candidates(client, publication, selects).await?;
    let publishable = found.iter().filter(|found| found.is_publishable());
    let publishable: Vec<_> = publishable.map(|found| found.table.source_name.clone()).collect();
    if !found.is_empty() && !found.iter().any(|found| found.access.owns) {
        let names = found.iter().map(|found| &found.table.source_name);
        publication::expect(client, publication, names, selects.through_roots).await?;
    }
    let harmed = found.iter().filter(|found| found.is_harmed()).map(|found| &found.table.source_name);
    let harmed: Vec<_> = harmed.collect();
    publication::withdraw(client, publication, &harmed).await?;
    if publication::ensure(client, publication, &publishable, selects.through_roots).await?.changed {
        return eligible_tables(client, publication, selects).await;
    }
    Ok(taking_part(found))
}

/// The tables of these that take part, without what the role may do with them.
pub fn taking_part(found: Vec<CatalogTable>) -> Vec<SourceTable> {
    found.into_iter().filter(|found| !found.access.of_extension).map(|found| found.table).collect()
}

/// The tables that fit, each with what the role may do with it. Those of extensions are told, but take no part.
pub async fn candidates(client: &mut Client, publication: &str, selects: &TableFilter) -> Result<Vec<CatalogTable>> {
    let members = Members::load(client, publication, selects.through_roots).await?;
    let mut found = catalog::tables(client, &members).await?;
    let taken = match &selects.kept_names {
        Some(kept) => kept.give(&mut found, |name| (selects.names)(name)),
        None => Vec::new(),
    };
    found.retain(|found| (selects.names)(found.table.name()) || taken.contains(&found.table.relation.oid));
    let version = client.server_version();
    for CatalogTable { table, access, .. } in &mut found {
        table.facts.keeps_gone_partitions = selects.keeps_gone_partitions;
        let checked = access.check(table, version, members.sends_generated);
        let rules = (selects.masks)(table.name());
        let checked =
            checked.and_then(|()| rules.misfit(&table.relation).map_or(Ok(()), |it| Err(unmaskable(table, it))));
        rules.mark(&mut table.relation);
        table.blocked = match checked {
            _ if taken.contains(&table.relation.oid) => Some(name_taken(&table.source_name)),
            Err(error) => Some(error),
            Ok(()) if table.facts.publication.is_none() => {
                Some(unpublished(&table.source_name, publication, access.owns))
            }
            Ok(()) => None,
        };
    }
    Ok(found)
}

fn unmaskable(table: &SourceTable, Misfit { why, remedy }: Misfit) -> Error {
    let what = format!("cannot follow {} under its masks", table.name());
    let remedy =
        format!("{remedy}, in the [[table]] blocks that match it; then reload (SIGHUP) or restart: it is copied then");
    Error::operator(Code::MaskUnfit, what, why, remedy)
}

fn name_taken(table: &TableName) -> Error {
    let why = "another table, which had this name before, has kept it in the lake (follow = \"table\" of [source])";
    let remedy = format!(
        "give {table} a name that no table has or had; or drop the other table, or set follow = \"name\". It is copied then"
    );
    Error::operator(Code::NameTaken, format!("cannot follow {table}"), why, remedy)
}

fn unpublished(table: &TableName, publication: &str, owns: bool) -> Error {
    let why = match owns {
        true => format!("the publication '{publication}' does not contain it, and sooner did not make the publication"),
        false => format!("the publication '{publication}' does not contain it, and the role may not add it"),
    };
    let remedy = format!("{}; it is copied then", publication::add_statement(publication, std::slice::from_ref(table)));
    Error::operator(Code::TableUnpublished, format!("cannot follow {table}"), why, remedy)
}

impl CatalogTable {
    /// Whether its application's UPDATE and DELETE fail because the publication names it.
    fn is_harmed(&self) -> bool {
        let is_unusable = self.table.blocked.as_ref().is_some_and(|error| error.code == Code::IdentityUnusable);
        let is_named = |facts: &PublicationFacts| !facts.members.is_empty();
        is_unusable && self.table.facts.publication.as_ref().is_some_and(is_named)
    }

    /// Whether nothing but the publication is missing, and the role may add the table to it.
    pub fn is_publishable(&self) -> bool {
        let is_unpublished = self.table.blocked.as_ref().is_some_and(|error| error.code == Code::TableUnpublished);
        is_unpublished && self.access.owns && !self.access.of_extension
    }
}
