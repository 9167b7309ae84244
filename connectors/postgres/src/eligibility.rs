//! Whether a table can take part: it must be readable whole, and publishing it must not make a statement of the
//! application fail.
//!
//! <https://www.postgresql.org/docs/current/logical-replication-publication.html>

use sooner_api::{Code, Error, Result, SourceTable};
use sooner_schemas::ReplicaIdentity;

use crate::client::{Row, quote_name};
use crate::publication::quote_table;

/// Expressions of a query over `pg_class c`, whose results [`Access::of_row`] reads, in this order. None takes a lock.
pub const ACCESS: &str = "pg_catalog.pg_has_role(c.relowner, 'USAGE'), \
    pg_catalog.has_table_privilege(c.oid, 'SELECT'), \
    pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE'), \
    pg_catalog.row_security_active(c.oid), \
    EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::regclass \
            AND e.objid = c.oid AND e.deptype = 'e'), \
    EXISTS (SELECT FROM pg_catalog.pg_attribute g WHERE g.attrelid = c.oid AND g.attnum > 0 \
            AND NOT g.attisdropped AND g.attgenerated <> '')";

/// What the pipeline's role may do with a table, and what of it stands in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The role owns the table, so that it may publish it.
    pub owns: bool,
    /// The role may read it.
    pub may_select: bool,
    /// The role may use its schema.
    pub may_use_schema: bool,
    /// A row security policy hides rows from the role.
    pub hides_rows: bool,
    /// An extension made it.
    pub of_extension: bool,
    /// It has generated columns.
    pub has_generated: bool,
    /// Columns of its key that are not sent: they are generated, or a column list lacks them.
    pub unsent_key_columns: usize,
    /// One of its partitions has another replica identity than the table, or that of an index.
    pub has_odd_partition: bool,
}

impl Access {
    /// Reads the results of [`ACCESS`], which begin at the column `first`.
    pub fn of_row(row: &Row, first: usize) -> Access {
        let is = |index: usize| row.get(first + index).and_then(Option::as_deref) == Some("t");
        Access {
            owns: is(0),
            may_select: is(1),
            may_use_schema: is(2),
            hides_rows: is(3),
            of_extension: is(4),
            has_generated: is(5),
            unsent_key_columns: 0,
            has_odd_partition: false,
        }
    }

    /// Why the table cannot be copied and followed, and what to do; `server_version` as `server_version_num` has it.
    pub fn check(&self, table: &SourceTable, server_version: u32, sends_generated: bool) -> Result<()> {
        let (relation, table) = (&table.relation, &table.source_name);
        let quoted = quote_table(table);
        let refuse = |code: Code, why: &str, remedy: String| {
            Err(Error::operator(code, format!("cannot follow {table}"), why, remedy))
        };
        if !self.may_use_schema {
            let remedy = format!("GRANT USAGE ON SCHEMA {} TO the role; it is copied then", quote_name(&table.schema));
            return refuse(Code::PostgresPermissionDenied, "the role may not use its schema", remedy);
        }
        if !self.may_select {
            let remedy = format!("GRANT SELECT ON {quoted} TO the role; it is copied then");
            return refuse(Code::PostgresPermissionDenied, "the role may not read it", remedy);
        }
        if self.hides_rows {
            let why = "a row security policy hides rows of it from the role, so that the lake would lack them";
            let remedy = "ALTER ROLE … BYPASSRLS for the role, or exclude the table; it is copied then".to_owned();
            return refuse(Code::PostgresPermissionDenied, why, remedy);
        }
        if self.unsent_key_columns > 0 {
            let why = "its key contains a column that Postgres does not send: it is generated, or the publication's column \
                       list lacks it";
            let remedy = format!(
                "give {quoted} another replica identity, put the column on the list, or from version 18 on \
                 publish_generated_columns = stored"
            );
            return refuse(Code::IdentityUnusable, why, remedy);
        }
        let unusable = match relation.identity {
            _ if self.has_odd_partition => {
                Some("a partition has another replica identity than the table, or that of an index")
            }
            ReplicaIdentity::Nothing => Some("its replica identity is NOTHING"),
            ReplicaIdentity::Full if server_version >= 180_000 && self.has_generated && !sends_generated => {
                Some("its replica identity is FULL, and it has generated columns that are not published")
            }
            ReplicaIdentity::Default if relation.key.is_empty() => {
                Some("it has no primary key that is valid and not deferrable")
            }
            ReplicaIdentity::Index if relation.key.is_empty() => Some("the index of its replica identity is gone"),
            _ => None,
        };
        let Some(unusable) = unusable else { return Ok(()) };
        let why = format!("{unusable}: once it is published, Postgres refuses the application's UPDATE and DELETE");
        let remedy = format!(
            "ALTER TABLE {quoted} ADD PRIMARY KEY (…), or ALTER TABLE {quoted} REPLICA IDENTITY USING INDEX …; or exclude \
             it. It is published and copied then"
        );
        refuse(Code::IdentityUnusable, &why, remedy)
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::{Column, ColumnType, Relation, Scalar, TableName};

    use super::*;

    fn relation(identity: ReplicaIdentity, key: Vec<usize>) -> SourceTable {
        let columns = vec![Column::new("id", ColumnType::Scalar(Scalar::Int8))];
        SourceTable::new(Relation { identity, ..Relation::new(TableName::new("public", "t"), columns, key) })
    }

    fn access() -> Access {
        Access {
            owns: true,
            may_select: true,
            may_use_schema: true,
            hides_rows: false,
            of_extension: false,
            has_generated: false,
            unsent_key_columns: 0,
            has_odd_partition: false,
        }
    }

    #[test]
    fn a_table_is_published_only_if_its_rows_stay_changeable() {
        let check =
            |identity, key: &[usize], version| access().check(&relation(identity, key.to_vec()), version, false);
        assert_eq!(check(ReplicaIdentity::Default, &[0], 150_000), Ok(()));
        assert_eq!(check(ReplicaIdentity::Index, &[0], 150_000), Ok(()));
        assert_eq!(check(ReplicaIdentity::Full, &[], 150_000), Ok(()));
        for (identity, key) in
            [(ReplicaIdentity::Default, &[][..]), (ReplicaIdentity::Index, &[]), (ReplicaIdentity::Nothing, &[0])]
        {
            let error = check(identity, key, 150_000).unwrap_err();
            assert_eq!(error.code, Code::IdentityUnusable, "{identity:?}");
        }
    }

    #[test]
    fn a_full_identity_with_generated_columns_fails_updates_since_18() {
        let generated = Access { has_generated: true, ..access() };
        let check = |version, sends| generated.check(&relation(ReplicaIdentity::Full, vec![0]), version, sends);
        assert_eq!(check(170_000, false), Ok(()));
        assert_eq!(check(180_000, true), Ok(()));
        assert_eq!(check(180_000, false).unwrap_err().code, Code::IdentityUnusable);
    }

    #[test]
    fn what_the_role_may_not_read_whole_waits_with_the_statement() {
        let table = relation(ReplicaIdentity::Default, vec![0]);
        for (access, remedy) in [
            (Access { may_use_schema: false, ..access() }, "GRANT USAGE ON SCHEMA \"public\""),
            (Access { may_select: false, ..access() }, "GRANT SELECT ON \"public\".\"t\""),
            (Access { hides_rows: true, ..access() }, "BYPASSRLS"),
            (Access { unsent_key_columns: 1, ..access() }, "another replica identity"),
        ] {
            let error = access.check(&table, 150_000, false).unwrap_err();
            assert!(error.remedy.contains(remedy), "{error}");
        }
    }
}
