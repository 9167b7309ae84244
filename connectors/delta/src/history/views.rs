//! Queries of a history, to paste into a SQL engine: the table as of a position or a moment, and each row with the time
//! for which it was so. They need nothing but the history.

use super::columns::{ChainPlaces, source_columns};
use crate::log::horizon::Horizon;
use crate::rows::columns::LakeColumn;
use crate::store::location::sparks_path;

/// Kinds of events with which a table begins anew.
const BEGINNINGS: &str = "('truncate', 'snapshot_start')";
/// Whether a state ended with the next event of its row. A copy has rows as it found them, so that a state lasts until
/// its copy; a row that came into being later is another one.
const FOLLOWED: &str = "_sooner_next_epoch = _sooner_epoch OR (_sooner_next_epoch = _sooner_epoch + 1 AND \
     _sooner_ended_by = 'snapshot_start' AND _sooner_next_type <> 'insert')";

/// Whose SQL is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// DuckDB with its extension `delta`.
    DuckDb,
    /// DuckDB, where the history lies as plain Parquet files: its location is a pattern of their names.
    DuckDbFiles,
    /// Spark with Delta Lake.
    Spark,
}

/// What of a history counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// All of it.
    Latest,
    /// What was committed at or before this LSN.
    Lsn(u64),
    /// What was committed at or before this time, written as RFC 3339.
    Time(String),
}

/// A history, as its log says it is.
#[derive(Clone, Debug)]
pub struct Described {
    /// Where it lies: a path or a URL.
    pub url: String,
    /// All of its columns.
    pub columns: Vec<LakeColumn>,
    /// Columns of its source's key; empty for a table without one.
    pub key: Vec<String>,
    /// Since when it is whole; since its first copy if none.
    pub horizon: Option<Horizon>,
}

impl Described {
    /// The rows that the source had as of a position or a moment. None for a table without a key, whose rows cannot be
    /// told apart.
    pub fn as_of(&self, engine: Engine, as_of: &AsOf) -> Option<String> {
        let states = self.states(engine, as_of)?;
        let columns = self.values().map(|name| engine.name(name)).collect::<Vec<_>>().join(", ");
        let alive = "_sooner_next_lsn IS NULL AND _change_type <> 'delete'";
        Some(format!("{states}\nSELECT {columns}\nFROM states\nWHERE {alive};\n"))
    }

    /// Each state of each row, with the time from which and to which it was so: a slowly changing dimension of type 2.
    /// A state ends with the next event of its row, or when the table was emptied or copied again; of a row that a copy
    /// has, with the copy of it. Of states before the history's horizon, only those are told that lasted beyond it.
    /// None for a table without a key.
    pub fn slowly_changing(&self, engine: Engine) -> Option<String> {
        let key = self.key_names(engine)?;
        let columns = self.values().map(|name| engine.name(name)).collect::<Vec<_>>().join(", ");
        let (values, position, origin) = (self.last_values(engine), engine.position(), engine.origin());
        let table = self.rows(engine);
        let [from, to, current] =
            ["valid_from", "valid_to", "is_current"].map(|name| engine.name(&self.free_name(name)));
        // A former state would seem to have lasted until the next one that is known.
        let lasting = self.horizon.map_or_else(String::new, |horizon| {
            format!("\nWHERE _sooner_ended_lsn IS NULL OR _sooner_ended_lsn > {}", horizon.lsn.0)
        });
        Some(format!(
            "WITH counted AS (\n  SELECT *, {position} AS _sooner_position FROM {table}\n  \
             WHERE _change_type <> 'update_preimage'\n),\n\
             beginnings AS (\n  SELECT _sooner_position, _change_type, _commit_lsn, _commit_time FROM counted\n  \
             WHERE _change_type IN {BEGINNINGS}\n  UNION SELECT {origin}, NULL, NULL, NULL\n),\n\
             epochs AS (\n  SELECT _sooner_position AS _sooner_begins, lead(_sooner_position) OVER by_position AS _sooner_ends,\n         \
             row_number() OVER by_position AS _sooner_epoch, lead(_change_type) OVER by_position AS _sooner_ended_by,\n         \
             lead(_commit_lsn) OVER by_position AS _sooner_ends_lsn, \
             lead(_commit_time) OVER by_position AS _sooner_ends_time\n  \
             FROM beginnings WINDOW by_position AS (ORDER BY _sooner_position)\n),\n\
             states AS (\n  SELECT _change_type, _commit_time, {key}{values},\n         \
             _sooner_epoch, _sooner_ended_by, _sooner_ends_lsn, _sooner_ends_time,\n         \
             lead(_change_type) OVER of_key AS _sooner_next_type, \
             lead(_sooner_epoch) OVER of_key AS _sooner_next_epoch, lead(_commit_lsn) OVER of_key AS _sooner_next_lsn,\n         \
             lead(_commit_time) OVER of_key AS _sooner_next_time\n  FROM counted JOIN epochs \
             ON _sooner_position > _sooner_begins AND (_sooner_ends IS NULL OR _sooner_position < _sooner_ends)\n  \
             WHERE _change_type NOT IN {BEGINNINGS}\n  \
             WINDOW of_key AS (PARTITION BY {key} ORDER BY _commit_lsn, _ordinal),\n         \
             of_row AS (PARTITION BY _sooner_epoch, {key} ORDER BY _commit_lsn, _ordinal)\n),\n\
             ended AS (\n  SELECT *, CASE WHEN {FOLLOWED} THEN _sooner_next_lsn ELSE _sooner_ends_lsn END \
             AS _sooner_ended_lsn,\n         \
             CASE WHEN {FOLLOWED} THEN _sooner_next_time ELSE _sooner_ends_time END AS _sooner_ended\n  \
             FROM states WHERE _change_type <> 'delete'\n)\n\
             SELECT {columns},\n       _commit_time AS {from}, _sooner_ended AS {to}, \
             _sooner_ended_lsn IS NULL AS {current}\nFROM ended{lasting};\n"
        ))
    }

    /// From when on the history is complete, for each time that the table was copied or emptied: a row with the
    /// position and the time at which that began, in microseconds since 1970, the time of the last row that was in the
    /// table before the history had it, and, where a copy began, the time of the last event before it. None for a table
    /// without a key.
    pub fn completeness(&self, engine: Engine) -> Option<String> {
        let key = self.key_names(engine)?;
        let table = self.rows(engine);
        // A row that an update gave another key is new, and has the row that it was before at the same position.
        Some(format!(
            "WITH marked AS (\n  SELECT *, count(*) FILTER (WHERE _change_type IN ('truncate', 'snapshot_start')) \
             OVER (ORDER BY _commit_lsn, _ordinal) AS _sooner_since, max(epoch_us(_commit_time)) \
             OVER (ORDER BY _commit_lsn, _ordinal ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS _sooner_before \
             FROM {table}\n),\n\
             moved AS (\n  SELECT _commit_lsn, _ordinal FROM {table} WHERE _change_type LIKE 'update_%'\n  \
             GROUP BY _commit_lsn, _ordinal HAVING count(DISTINCT ({key})) > 1\n),\n\
             first_events AS (\n  SELECT _sooner_since, _change_type, _commit_lsn, _ordinal, _commit_time, \
             row_number() OVER (PARTITION BY _sooner_since, {key} ORDER BY _commit_lsn, _ordinal) AS number FROM marked\n  \
             WHERE _change_type NOT IN ('truncate', 'snapshot_start', 'update_preimage')\n),\n\
             late AS (\n  SELECT _sooner_since, max(epoch_us(_commit_time)) AS complete FROM first_events \
             ANTI JOIN moved USING (_commit_lsn, _ordinal)\n  \
             WHERE number = 1 AND _change_type <> 'insert' GROUP BY _sooner_since\n)\n\
             SELECT marked._commit_lsn AS lsn, epoch_us(marked._commit_time) AS begins, late.complete, \
             CASE WHEN _change_type = 'snapshot_start' THEN _sooner_before END AS before\n\
             FROM marked LEFT JOIN late USING (_sooner_since)\n\
             WHERE _change_type IN ('truncate', 'snapshot_start') ORDER BY marked._commit_lsn, marked._ordinal"
        ))
    }

    fn values(&self) -> impl Iterator<Item = &str> {
        source_columns(&self.columns).map(|(_, column)| column.name.as_str())
    }

    /// Columns of the key, quoted; none for a table without one.
    fn key_names(&self, engine: Engine) -> Option<String> {
        let names = self.key.iter().map(|name| engine.name(name)).collect::<Vec<_>>();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Columns that are not of the key, each as the source has sent it last.
    fn last_values(&self, engine: Engine) -> String {
        let values = self.values().filter(|name| !self.key.iter().any(|key| key == name));
        values.map(|name| format!(",\n         {}", engine.last_sent(name))).collect()
    }

    /// A name, made other than those of the source's columns.
    fn free_name(&self, name: &str) -> String {
        let is_taken = |name: &str| self.values().any(|column| column.eq_ignore_ascii_case(name));
        let name =
            std::iter::successors(Some(name.to_owned()), |name| Some(format!("_{name}"))).find(|name| !is_taken(name));
        name.unwrap_or_default()
    }

    /// The history in a query, without rows of a chain that were erased: they have no values, and no key.
    fn rows(&self, engine: Engine) -> String {
        let table = engine.table(&self.url);
        match ChainPlaces::of(&self.columns) {
            Some(_) => format!("(SELECT * FROM {table} WHERE _erased IS NULL)"),
            None => table,
        }
    }

    /// States of rows since the table was last emptied or copied, each with what came after it. A value that the source
    /// did not send is that of the state before.
    fn states(&self, engine: Engine, as_of: &AsOf) -> Option<String> {
        let key = self.key_names(engine)?;
        let bound = match as_of {
            AsOf::Latest => "true".to_owned(),
            AsOf::Lsn(lsn) => format!("_commit_lsn <= {lsn}"),
            AsOf::Time(time) => format!("_commit_time <= {}", engine.instant(time)),
        };
        let (values, table, position) = (self.last_values(engine), self.rows(engine), engine.position());
        Some(format!(
            "WITH counted AS (\n  SELECT *, {position} AS _sooner_position FROM {table}\n  \
             WHERE {bound} AND _change_type <> 'update_preimage'\n),\n\
             beginning AS (\n  SELECT max(_sooner_position) AS _sooner_begins FROM counted\n  \
             WHERE _change_type IN {BEGINNINGS}\n),\n\
             states AS (\n  SELECT _change_type, _commit_lsn, _ordinal, _commit_time, {key}{values},\n         \
             lead(_commit_lsn) OVER of_row AS _sooner_next_lsn, lead(_commit_time) OVER of_row AS _sooner_next_time\n  \
             FROM counted CROSS JOIN beginning\n  \
             WHERE _change_type NOT IN {BEGINNINGS} AND (_sooner_begins IS NULL OR _sooner_position > _sooner_begins)\n  \
             WINDOW of_row AS (PARTITION BY {key} ORDER BY _commit_lsn, _ordinal)\n)"
        ))
    }
}

impl Engine {
    fn name(self, name: &str) -> String {
        match self {
            Engine::DuckDb | Engine::DuckDbFiles => format!("\"{}\"", name.replace('"', "\"\"")),
            Engine::Spark => format!("`{}`", name.replace('`', "``")),
        }
    }

    fn text(self, text: &str) -> String {
        match self {
            Engine::DuckDb | Engine::DuckDbFiles => format!("'{}'", text.replace('\'', "''")),
            Engine::Spark => format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
        }
    }

    fn table(self, url: &str) -> String {
        match self {
            Engine::DuckDb => format!("delta_scan({})", self.text(url)),
            Engine::DuckDbFiles => format!("read_parquet({})", self.text(url)),
            Engine::Spark => format!("delta.{}", self.name(&sparks_path(url))),
        }
    }

    fn instant(self, time: &str) -> String {
        match self {
            Engine::DuckDb | Engine::DuckDbFiles => format!("TIMESTAMPTZ {}", self.text(time)),
            Engine::Spark => format!("TIMESTAMP {}", self.text(time)),
        }
    }

    /// Position of an event, as a value that can be compared.
    fn position(self) -> &'static str {
        match self {
            Engine::DuckDb | Engine::DuckDbFiles => "struct_pack(lsn := _commit_lsn, ordinal := _ordinal)",
            Engine::Spark => "named_struct('lsn', _commit_lsn, 'ordinal', _ordinal)",
        }
    }

    /// A position before every event.
    fn origin(self) -> &'static str {
        match self {
            Engine::DuckDb | Engine::DuckDbFiles => "struct_pack(lsn := -1::BIGINT, ordinal := -1::BIGINT)",
            Engine::Spark => "named_struct('lsn', -1L, 'ordinal', -1L)",
        }
    }

    /// The last value of a column that the source has sent of a row.
    fn last_sent(self, name: &str) -> String {
        let (column, text) = (self.name(name), self.text(name));
        match self {
            Engine::DuckDb | Engine::DuckDbFiles => format!(
                "(last_value(CASE WHEN list_contains(_unchanged, {text}) THEN NULL ELSE struct_pack(v := {column}) END \
                 IGNORE NULLS) OVER of_row).v AS {column}"
            ),
            Engine::Spark => format!(
                "(last_value(CASE WHEN array_contains(_unchanged, {text}) THEN NULL ELSE named_struct('v', {column}) END, \
                 true) OVER of_row).v AS {column}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::columns::{extended, fact_columns};
    use crate::rows::lake_type::LakeType;

    #[test]
    fn odd_names_are_quoted_as_each_engine_quotes_them() {
        let table = sooner_schemas::TableName::new("public", "t");
        let mut odd = fact_columns().remove(1);
        (odd.name, odd.lake_type) = ("o\"d`d'".to_owned(), LakeType::Long);
        let (columns, _) = extended(&table, &[], &[odd], false).unwrap();
        let history = Described { url: "/lake/it's".to_owned(), columns, key: vec!["id".to_owned()], horizon: None };
        let duck = history.as_of(Engine::DuckDb, &AsOf::Lsn(7)).unwrap();
        for part in ["\"o\"\"d`d'\"", "'o\"d`d'''", "delta_scan('/lake/it''s')", "_commit_lsn <= 7"] {
            assert!(duck.contains(part), "{part} in {duck}");
        }
        let spark = history.as_of(Engine::Spark, &AsOf::Latest).unwrap();
        for part in ["`o\"d``d'`", "'o\"d`d\\''", "delta.`/lake/it's`"] {
            assert!(spark.contains(part), "{part} in {spark}");
        }
        assert_eq!(Described { key: Vec::new(), ..history }.slowly_changing(Engine::Spark), None);
    }

    #[test]
    fn queries_of_a_chained_history_leave_out_what_was_erased_and_show_columns_of_the_source() {
        let table = sooner_schemas::TableName::new("public", "t");
        let id = LakeColumn { name: "id".to_owned(), lake_type: LakeType::Long, ..fact_columns().remove(1) };
        for chains in [false, true] {
            let (columns, _) = extended(&table, &[], std::slice::from_ref(&id), chains).unwrap();
            let history = Described { url: "/h".to_owned(), columns, key: vec!["id".to_owned()], horizon: None };
            for query in [
                history.as_of(Engine::DuckDb, &AsOf::Latest),
                history.slowly_changing(Engine::Spark),
                history.completeness(Engine::DuckDbFiles),
            ] {
                let query = query.unwrap();
                assert_eq!(query.matches("_erased IS NULL").count() > 0, chains, "{query}");
                assert!(!query.contains("_hash") && !query.contains("_sequence"), "{query}");
            }
        }
    }
}
