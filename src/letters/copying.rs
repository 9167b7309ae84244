//! Replays letters of topics that our own source writes: their rows are copied again by their keys, as `sooner copy
//! TABLE --where` does it. The request is durable before the letter is marked, so a kill between the two repeats it,
//! which changes nothing: the database says what the row is.

use std::collections::BTreeMap;

use sooner_api::{Code, CopyRequest, Error, Result, TableState};
use sooner_kafka::letters::catalogue::Letter;
use sooner_kafka::letters::handling::Handling;
use sooner_kafka::letters::outcome::{Became, Outcome};
use sooner_kafka::message::letter_headers::{LetterId, Mark};
use sooner_kafka::registry::reader::SchemaReader;
use sooner_kafka::registry::schema_id::SchemaId;
use sooner_postgres::client::Mode;
use sooner_postgres::key_condition::{has_row, key_condition};
use sooner_postgres::{Client, ConnectOptions};
use sooner_schemas::TableName;
use sooner_schemas::avro::Schema;
use sooner_schemas::wire::split_header;
use tokio::runtime::Handle;

use super::Inner;
use crate::control::Requests;
use crate::status::load;

/// So many rows are asked for in one request.
const AT_ONCE: usize = 200;

/// What is to become of a letter.
enum Verdict {
    /// The row with this condition is copied again.
    Copy(String),
    /// There is no such row: either that is known by a newer message, or not.
    Gone,
    Refuse(String, String),
}

/// Has the rows of letters copied again, and says what became of each.
pub fn copy(desk: &Inner, handling: &mut Handling<'_>, letters: Vec<Letter>, runtime: &Handle) -> Result<Vec<Outcome>> {
    if letters.is_empty() {
        return Ok(Vec::new());
    }
    let Some(database) = &desk.settings.database else {
        return Err(elsewhere("this process does not run the source's side"));
    };
    let (states, moved) = states(desk)?;
    let mut judge = Judge {
        database,
        keeps_names: desk.settings.keeps_names,
        states,
        registry: SchemaReader::new(&desk.settings.registry)?,
        client: None,
        runtime: runtime.clone(),
    };
    let mut outcomes = Vec::new();
    let (mut gone, mut by_table) = (Vec::new(), BTreeMap::<TableName, Vec<(Letter, String)>>::new());
    for letter in letters {
        let Some(table) = moved.get(&*letter.topic).cloned().or_else(|| desk.settings.topics.table(&letter.topic))
        else {
            let why = "its topic is that of no table of this configuration".to_owned();
            outcomes.push(Outcome::new(&letter, Became::Refused { why, remedy: "drop it".to_owned() }));
            continue;
        };
        match judge.judge(handling, &letter, &table)? {
            Verdict::Copy(condition) => by_table.entry(table).or_default().push((letter, condition)),
            Verdict::Gone => gone.push((letter, table)),
            Verdict::Refuse(why, remedy) => outcomes.push(Outcome::new(&letter, Became::Refused { why, remedy })),
        }
    }
    outcomes.extend(supersede(handling, gone)?);
    for (table, rows) in by_table {
        for some in rows.chunks(AT_ONCE) {
            ask(desk, &table, some)?;
            let letters: Vec<_> = some.iter().map(|(letter, _)| letter.clone()).collect();
            handling.mark(&letters, Mark::Replayed)?;
            outcomes.extend(letters.iter().map(|letter| Outcome::new(letter, Became::CopyAsked)));
        }
    }
    outcomes.sort_by_key(|outcome| outcome.id);
    Ok(outcomes)
}

/// The states of the tables of the source that runs with this state folder, and the tables whose events move, or have
/// moved, from topic to topic, by each of these; an operator error if no source does.
fn states(desk: &Inner) -> Result<(BTreeMap<TableName, TableState>, BTreeMap<String, TableName>)> {
    let status =
        load(&desk.settings.state_dir).map_err(|why| Error::internal("cannot read the pipeline's status", why))?;
    // Only a source has a slot.
    let status = status.filter(|status| status.slot.is_some());
    let status = status.ok_or_else(|| elsewhere("no source has run with this state folder"))?;
    let mut moved = BTreeMap::new();
    for (name, topic) in status.tables.iter().filter_map(|(name, table)| Some((name, table.topic.as_ref()?))) {
        let topics =
            topic.archived.iter().chain([&topic.topic]).chain(topic.successor.as_ref().map(|next| &next.topic));
        moved.extend(topics.map(|topic| (topic.clone(), name.clone())));
    }
    let state = |table: crate::status::TableStatus| table.source_state.unwrap_or(table.state);
    Ok((status.tables.into_iter().map(|(name, table)| (name, state(table))).collect(), moved))
}

fn elsewhere(why: &str) -> Error {
    Error::operator(
        Code::ConfigurationIncomplete,
        "cannot have rows copied again",
        why,
        "run `sooner dead-letters replay` where the source's side of the pipeline runs, with its configuration",
    )
}

fn ask(desk: &Inner, table: &TableName, rows: &[(Letter, String)]) -> Result<()> {
    let conditions: Vec<_> = rows.iter().map(|(_, condition)| format!("({condition})")).collect();
    let request = CopyRequest { table: table.clone(), condition: Some(conditions.join(" OR ")) };
    Requests::new(&desk.settings.state_dir).ask(&request).map_err(|error| {
        let what = format!("cannot ask for rows of {table} to be copied again");
        Error::operator(Code::Internal, what, error, "see to the disk of state_dir, and repeat it")
    })
}

/// Letters of rows that the database does not have: a newer message of its key said so already, or nobody knows.
fn supersede(handling: &mut Handling<'_>, gone: Vec<(Letter, TableName)>) -> Result<Vec<Outcome>> {
    let letters: Vec<_> = gone.iter().map(|(letter, _)| letter.clone()).collect();
    let newer = if letters.is_empty() { Default::default() } else { handling.newer_events(&letters)? };
    let superseded: Vec<_> = letters.into_iter().filter(|letter| newer.contains_key(&letter.id)).collect();
    handling.mark(&superseded, Mark::Superseded)?;
    let became = |id: LetterId, table: &TableName| match newer.get(&id) {
        Some(by) => Became::Superseded { by: *by },
        None => Became::Refused {
            why: "the database does not have its row, and that may be what it said".to_owned(),
            remedy: format!("`sooner resume {table}` copies the table without that row; then drop the letter"),
        },
    };
    Ok(gone.iter().map(|(letter, table)| Outcome::new(letter, became(letter.id, table))).collect())
}

struct Judge<'a> {
    database: &'a ConnectOptions,
    keeps_names: bool,
    states: BTreeMap<TableName, TableState>,
    registry: SchemaReader,
    /// Connection to the database; none before it is needed.
    client: Option<Client>,
    runtime: Handle,
}

impl Judge<'_> {
    fn judge(&mut self, handling: &Handling<'_>, letter: &Letter, table: &TableName) -> Result<Verdict> {
        let refuse = |why: String, remedy: String| Ok(Verdict::Refuse(why, remedy));
        match self.states.get(table) {
            None => return refuse(format!("there is no table {table} in this pipeline"), "drop it".to_owned()),
            Some(TableState::Streaming { .. }) => {}
            Some(_) => {
                let why = format!("{table} does not stream, and rows are copied over those of a table that does");
                return refuse(why, "see `sooner status`; repeat it when the table streams".to_owned());
            }
        }
        let key = handling.load(letter.id)?.and_then(|loaded| loaded.key);
        let whole = || format!("`sooner resume {table}` copies the whole table; then drop the letter");
        let Some(key) = key else { return refuse("it has no key, so its row is not known".to_owned(), whole()) };
        let condition = match self.condition(&key)? {
            Ok(condition) => condition,
            Err(why) => return refuse(why, whole()),
        };
        if self.is_gone(table, &condition)? {
            return Ok(Verdict::Gone);
        }
        Ok(Verdict::Copy(condition))
    }

    /// The condition of a key, or why there is none.
    fn condition(&self, key: &[u8]) -> Result<std::result::Result<String, String>> {
        let (id, datum) = match split_header(key) {
            Ok(split) => split,
            Err(why) => return Ok(Err(format!("its key: {why}"))),
        };
        let schema = match self.runtime.block_on(self.registry.schema(SchemaId::Number(id))) {
            Ok(schema) => schema,
            Err(error) if error.code == Code::SchemaUnknown => return Ok(Err(format!("its key: {}", error.why))),
            Err(error) => return Err(error),
        };
        Ok(Schema::parse(&schema).map_err(|why| why.to_string()).and_then(|schema| key_condition(&schema, datum)))
    }

    /// Whether the database has no such row. Where tables keep their names, only the pipeline knows what a table is
    /// called by now.
    fn is_gone(&mut self, table: &TableName, condition: &str) -> Result<bool> {
        if self.keeps_names {
            return Ok(false);
        }
        let (database, client) = (self.database, &mut self.client);
        self.runtime.block_on(async {
            let client = match client.take() {
                Some(known) => client.insert(known),
                None => client.insert(Client::connect(database, Mode::Sql).await?),
            };
            Ok(!has_row(client, table, condition).await?)
        })
    }
}
