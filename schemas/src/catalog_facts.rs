//! What the catalog says of a table beyond its [`Relation`](crate::Relation): as much as it takes to tell that rows
//! changed although no event says so. Facts of two moments are compared; of one moment alone they say nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::table_name::TableName;

/// Facts of one table, as one look at the catalog found them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogFacts {
    /// `relfilenode`: another one after the table's rows were written again, by ALTER TABLE or by VACUUM FULL, or
    /// removed by TRUNCATE.
    pub file_node: u32,
    /// Its columns, as far as the stream carries them.
    pub columns: Vec<AttributeFacts>,
    /// Types of those columns whose values change their text when the type is altered, by object id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<u32, TypeFacts>,
    /// Of a partitioned table that is one table here: what its rows lie in, by object id. None of any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<BTreeMap<u32, PartitionFacts>>,
    /// Rows of partitions that are detached or dropped are kept, as the configuration says.
    #[serde(skip)]
    pub keeps_gone_partitions: bool,
    /// Why the stream carries the table; none if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<PublicationFacts>,
}

/// One row of `pg_attribute`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeFacts {
    /// Attribute number, which is never used again for another column.
    pub number: i16,
    /// `xmin` of the row: another one after each ALTER of the column.
    pub version: u32,
    /// Rows older than the column hold a value in it that was never written (`atthasmissing`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_missing: bool,
}

/// A partition that holds rows itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionFacts {
    /// Its name.
    pub name: TableName,
    /// `relfilenode`: another one after its rows were written again or removed.
    pub file_node: u32,
    /// It was created as a partition, so that all its rows came through the partitioned table.
    #[serde(default)]
    pub is_born: bool,
    /// Versions of the rows that make it a partition (`pg_inherits`), from the uppermost down: others after it was
    /// detached and attached again. Empty if unknown.
    #[serde(default)]
    pub attached: String,
}

/// A type whose values change their text when it is altered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeFacts {
    /// Labels of an enum, by the object ids of their rows.
    Enum(BTreeMap<u32, String>),
    /// Attributes of a composite type that were not dropped: number and type.
    Composite(Vec<(i16, u32)>),
}

/// The rows that make the publication carry a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationFacts {
    /// The publication itself: another one after its options changed, or after it was created again.
    pub publication: CatalogRow,
    /// Its rows for the table or for the table's schema; none if it is for all tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<CatalogRow>,
}

/// A version of a row of a system catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CatalogRow {
    /// Object id.
    pub oid: u32,
    /// `xmin`: the transaction that wrote this version of the row.
    pub version: u32,
}

impl CatalogFacts {
    /// Why rows may have changed between `self` and `now` without an event; none if they did not.
    pub fn silent_change(&self, now: &CatalogFacts) -> Option<String> {
        self.filled_column(now)
            .or_else(|| self.rewritten(now))
            .or_else(|| self.altered_type(now))
            .or_else(|| self.altered_partitions(now))
            .or_else(|| self.interrupted(now))
    }

    /// A column that was added and holds a value in the rows that are older.
    fn filled_column(&self, now: &CatalogFacts) -> Option<String> {
        let added = now.columns.iter().find(|column| column.has_missing && self.column(column.number).is_none())?;
        Some(format!("column number {} was added, and older rows hold its default", added.number))
    }

    /// ALTER TABLE wrote the rows again. VACUUM FULL, CLUSTER and TRUNCATE change no column; what changes a column
    /// without writing rows again, such as a statistics target, changes no row.
    fn rewritten(&self, now: &CatalogFacts) -> Option<String> {
        let same_columns = self.columns.len() == now.columns.len()
            && now
                .columns
                .iter()
                .all(|column| self.column(column.number).is_some_and(|was| was.version == column.version));
        (self.file_node != now.file_node && !same_columns).then(|| "ALTER TABLE has written its rows again".to_owned())
    }

    /// Partitions came with rows, went with them, or have other ones by now: no event of the partitioned table says so.
    pub fn altered_partitions(&self, now: &CatalogFacts) -> Option<String> {
        let (was, is) = (self.partitions.as_ref()?, now.partitions.as_ref()?);
        let attached = is.iter().find(|(oid, partition)| !was.contains_key(oid) && !partition.is_born);
        if let Some((_, attached)) = attached {
            return Some(format!("{} was attached as a partition", attached.name));
        }
        was.iter().find_map(|(oid, known)| match is.get(oid) {
            None if now.keeps_gone_partitions => None,
            None => Some(format!("the partition {} was detached or dropped", known.name)),
            Some(partition) if !known.attached.is_empty() && partition.attached != known.attached => {
                Some(format!("the partition {} was detached, and attached again", known.name))
            }
            Some(partition) if partition.file_node != known.file_node => {
                Some(format!("the rows of the partition {} were removed or written again", known.name))
            }
            Some(_) => None,
        })
    }

    fn altered_type(&self, now: &CatalogFacts) -> Option<String> {
        self.types.iter().find_map(|(oid, was)| match (was, now.types.get(oid)?) {
            (TypeFacts::Enum(was), TypeFacts::Enum(is)) => was.iter().find_map(|(row, label)| {
                let renamed = is.get(row).filter(|renamed| *renamed != label)?;
                Some(format!("the enum's label '{label}' was renamed to '{renamed}'"))
            }),
            (was, is) => (was != is).then(|| "the attributes of a composite type were altered".to_owned()),
        })
    }

    /// Between the two moments the publication left the table out, or some of its changes.
    fn interrupted(&self, now: &CatalogFacts) -> Option<String> {
        let (was, is) = (self.publication.as_ref()?, now.publication.as_ref()?);
        let stayed = was.publication == is.publication
            && (was.members == is.members || was.members.iter().any(|member| is.members.contains(member)));
        (!stayed).then(|| "the publication was altered, and may have left changes out".to_owned())
    }

    fn column(&self, number: i16) -> Option<&AttributeFacts> {
        self.columns.iter().find(|column| column.number == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(number: i16, version: u32) -> AttributeFacts {
        AttributeFacts { number, version, has_missing: false }
    }

    fn row(oid: u32, version: u32) -> CatalogRow {
        CatalogRow { oid, version }
    }

    fn facts() -> CatalogFacts {
        CatalogFacts {
            file_node: 1,
            columns: vec![attribute(1, 10), attribute(2, 10)],
            types: BTreeMap::from([
                (50, TypeFacts::Enum(BTreeMap::from([(5, "ok".to_owned()), (6, "bad".to_owned())]))),
                (60, TypeFacts::Composite(vec![(1, 23), (2, 25)])),
            ]),
            publication: Some(PublicationFacts { publication: row(7, 1), members: vec![row(8, 1)] }),
            ..CatalogFacts::default()
        }
    }

    fn after(change: impl FnOnce(&mut CatalogFacts)) -> Option<String> {
        let mut now = facts();
        change(&mut now);
        facts().silent_change(&now)
    }

    #[test]
    fn rows_that_alter_table_wrote_again_changed() {
        let why = after(|now| (now.file_node, now.columns[1].version) = (2, 11));
        assert!(why.unwrap().contains("written its rows again"));
        let added = after(|now| {
            now.file_node = 2;
            now.columns.push(attribute(3, 11));
        });
        assert!(added.is_some(), "a default that is computed for each row");
    }

    #[test]
    fn vacuum_full_and_a_statistics_target_alone_change_no_row() {
        assert_eq!(after(|_| {}), None);
        assert_eq!(after(|now| now.file_node = 2), None, "VACUUM FULL, CLUSTER, SET TABLESPACE, TRUNCATE");
        assert_eq!(after(|now| now.columns[0].version = 11), None, "SET STATISTICS, SET NOT NULL, RENAME COLUMN");
        assert_eq!(after(|now| now.columns.push(attribute(3, 11))), None, "a new column that is NULL everywhere");
        assert_eq!(after(|now| now.columns.truncate(1)), None, "a dropped column");
    }

    #[test]
    fn a_default_that_older_rows_hold_is_no_event() {
        let why = after(|now| now.columns.push(AttributeFacts { has_missing: true, ..attribute(3, 11) }));
        assert!(why.unwrap().contains("number 3"));
        let mut known = facts();
        known.columns.push(AttributeFacts { has_missing: true, ..attribute(3, 11) });
        assert_eq!(known.silent_change(&known), None, "it was copied with the value");
    }

    #[test]
    fn a_renamed_label_changes_rows_and_a_new_one_does_not() {
        let labels = |labels: [(u32, &str); 3]| {
            TypeFacts::Enum(labels.into_iter().map(|(row, label)| (row, label.to_owned())).collect())
        };
        let renamed = after(|now| drop(now.types.insert(50, labels([(5, "fine"), (6, "bad"), (9, "x")]))));
        assert!(renamed.unwrap().contains("'ok' was renamed to 'fine'"));
        assert_eq!(after(|now| drop(now.types.insert(50, labels([(5, "ok"), (6, "bad"), (9, "new")])))), None);
        let swapped = after(|now| drop(now.types.insert(50, labels([(5, "bad"), (6, "ok"), (9, "x")]))));
        assert!(swapped.is_some(), "two labels that changed places");
    }

    #[test]
    fn a_composite_type_with_another_attribute_changes_rows() {
        let composite = |attributes: &[(i16, u32)]| TypeFacts::Composite(attributes.to_vec());
        assert!(after(|now| drop(now.types.insert(60, composite(&[(1, 23), (2, 25), (3, 23)])))).is_some());
        assert!(after(|now| drop(now.types.insert(60, composite(&[(1, 23)])))).is_some());
        assert_eq!(after(|now| drop(now.types.remove(&60))), None, "no column has it any more");
    }

    #[test]
    fn a_publication_that_left_the_table_out_for_a_while_shows_it() {
        let published = |publication, members: &[CatalogRow]| {
            after(|now| now.publication = Some(PublicationFacts { publication, members: members.to_vec() }))
        };
        assert!(published(row(7, 1), &[row(9, 3)]).is_some(), "dropped and added again");
        assert!(published(row(7, 2), &[row(8, 1)]).is_some(), "SET (publish = ...) and back");
        assert!(published(row(12, 1), &[row(8, 1)]).is_some(), "created again");
        assert_eq!(published(row(7, 1), &[row(8, 1), row(9, 3)]), None, "its schema was added beside it");
        assert_eq!(after(|now| now.publication = None), None, "that is told otherwise");
    }

    #[test]
    fn facts_survive_json() {
        let text = serde_json::to_string(&facts()).unwrap();
        assert_eq!(serde_json::from_str::<CatalogFacts>(&text).unwrap(), facts());
    }

    #[test]
    fn partitions_that_come_and_go_with_rows_change_rows() {
        let partition = |name: &str, file_node, is_born| {
            let name = TableName::new("public", name);
            PartitionFacts { name, file_node, is_born, attached: "7/9".to_owned() }
        };
        let root = |partitions: Vec<(u32, PartitionFacts)>| CatalogFacts {
            partitions: Some(partitions.into_iter().collect()),
            ..CatalogFacts::default()
        };
        let before = root(vec![(1, partition("a", 1, true))]);
        let changes = |now: Vec<(u32, PartitionFacts)>| before.silent_change(&root(now));
        let a = || (1, partition("a", 1, true));
        assert_eq!(changes(vec![a(), (2, partition("b", 2, true))]), None, "it was empty");
        assert!(
            changes(vec![a(), (2, partition("b", 2, false))]).is_some_and(|why| why.contains("public.b was attached"))
        );
        assert!(changes(vec![]).is_some_and(|why| why.contains("public.a was detached or dropped")));
        assert!(changes(vec![(1, partition("a", 5, true))]).is_some_and(|why| why.contains("removed")));
        let again = PartitionFacts { attached: "8/9".to_owned(), ..partition("a", 1, false) };
        assert!(changes(vec![(1, again)]).is_some_and(|why| why.contains("attached again")));
        let kept = CatalogFacts { keeps_gone_partitions: true, ..root(vec![]) };
        assert_eq!(before.silent_change(&kept), None);
    }
}
