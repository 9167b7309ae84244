//! Tables whose values their target holds another way under other policies (`unholdable` of `[[table]]`). Without I/O.

use std::collections::BTreeMap;

use sooner_api::{Feed, ProgressRecord};
use sooner_delta::merge::intake::ColumnChange;
use sooner_delta::merge::preview::change_of_columns;
use sooner_schemas::{Column, TableName};
use toml::{Table, Value};

use super::start::Start;
use super::tables::{Action, PlannedTable};
use crate::config::{Config, SourceConfig, TableBlocks};
use crate::running::Running;

/// Tables that go on, and whose rows are to be copied for it, or which stop. The same comparison is made of the first
/// event that comes under the new policies.
pub fn changed(
    config: &Config,
    source: &SourceConfig,
    known: &Running,
    start: &mut Start,
) -> BTreeMap<TableName, PlannedTable> {
    let mut planned = BTreeMap::new();
    let blocks = Value::Array(known.blocks().into_iter().map(Value::Table).collect());
    let blocks = TableBlocks::of(Table::from_iter([("table".to_owned(), blocks)]));
    let Some(blocks) = blocks.filter(|blocks| *blocks != source.blocks) else { return planned };
    let former = SourceConfig { blocks, ..source.clone() };
    let policies = |source: &SourceConfig| match config.kafka {
        None => source.policies_of_lake(),
        Some(_) => source.policies(),
    };
    let (was, is) = (policies(&former), policies(source));
    let maps_columns = config.lake.as_ref().is_none_or(|lake| lake.maps_columns);
    for table in &start.tables {
        let (name, relation) = (table.name(), &table.relation);
        // That a copy has ended is stored a little later.
        let goes_on = |record: &ProgressRecord| record.tables.get(name).is_some_and(|known| known.state.takes_events());
        if !goes_on(&start.next) || !start.former.as_ref().is_some_and(goes_on) {
            continue;
        }
        let under = |policy: &dyn Fn(&TableName, &Column) -> sooner_schemas::policy::ValuePolicy| {
            relation.under_policies(|column| policy(name, column))
        };
        let (written, now) = (under(&*was), under(&*is));
        if written == now {
            continue;
        }
        let remedy = format!("`sooner resume {name}` copies it again");
        let outcome = match change_of_columns(&written, &now, &feed(config, source, name), maps_columns) {
            Ok(ColumnChange::NeedsCopy(error)) => {
                PlannedTable::new(Action::Recopy, format!("the policy of its values changed: {}", error.why))
            }
            Ok(_) => continue,
            Err(error) => {
                let stopped =
                    PlannedTable::new(Action::Park, format!("the policy of its values changed: {}", error.why));
                PlannedTable { remedy, ..stopped }
            }
        };
        planned.insert(name.clone(), outcome);
    }
    planned
}

fn feed(config: &Config, source: &SourceConfig, table: &TableName) -> Feed {
    match &config.kafka {
        None => Feed::Slot(source.slot.clone()),
        Some(kafka) => Feed::Topic {
            topic: kafka.topics.topic(table).to_string(),
            generation: Some(0),
            partitions: 1,
            assigned: [0].into(),
            in_commit_order: true,
        },
    }
}
