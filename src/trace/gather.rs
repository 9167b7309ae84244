//! Gathers what each hop knows of a row. A change that is on its way is waited for a little, so that it is told from
//! one that is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sooner_api::{Code, Error, Side, TableState};
use sooner_delta::trace::row_trace::{RowQuestion, RowTrace};
use sooner_kafka::key_search::KeyPlace;
use sooner_postgres::row_lookup::RowNow;
use sooner_schemas::{Relation, TableName};

use super::hops::{kafka_hop, lake_hop};
use super::key::parse_key;
use super::looks::{RowCodec, Source, Stored, feed_of, lake_row, topic_of, topic_place};
use super::report::{Hops, LakeHop, Outcome, PostgresHop, Problem, Report, StreamHop};
use super::verdict::{Standing, judge, stream_problem};
use crate::config::Config;
use crate::control::Requests;
use crate::status::Status;

/// How long a change that is on its way is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait before the next look.
const PAUSE: Duration = Duration::from_millis(300);

/// A row that is asked for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Table.
    pub table: TableName,
    /// Its key, as a person wrote it.
    pub key: String,
    /// Whether values of columns are shown.
    pub with_values: bool,
    /// How long files and messages may be searched.
    pub limit: Duration,
}

/// The pipeline's status at a moment.
pub struct Seen {
    /// What it last said; none if it never did.
    pub status: Option<Status>,
    /// Whether its process runs.
    pub is_running: bool,
}

/// Follows a row. `see` tells the pipeline's status at the moment. A key or table that is none is an error; a hop that
/// does not answer says so in the report.
pub async fn trace(config: &Config, question: &Question, see: impl Fn() -> Seen) -> anyhow::Result<Report> {
    let deadline = Instant::now() + question.limit;
    let stored = Stored::read(config).await;
    let (mut source, mut problem) = open_source(config, &question.table, &stored).await;
    let relation = relation_of(&question.table, source.as_ref(), &stored, problem.as_ref())?;
    let names: Vec<_> = relation.key.iter().map(|&index| relation.columns[index].name.clone()).collect();
    let key = ordered_key(question, &names)?;
    let row = match &mut source {
        Some(source) => look_up(source, &key, &mut problem).await?,
        None => None,
    };
    let codec = RowCodec::new(config, &relation).await?;
    let mut gatherer = Gatherer { config, question, stored, source, codec, relation, row, key, deadline };
    let (mut hops, is_covered) = gatherer.look_until_decided(&see, problem).await?;
    if let Some(source) = &mut gatherer.source
        && let Some(settings) = &config.source
        && let Ok((Some(slot), _)) = source.slot(settings).await
    {
        hops.stream.confirmed_flush_lsn = slot.confirmed_flush_lsn;
        hops.stream.retained_bytes = Some(slot.standing.retained_bytes);
    }
    let key: BTreeMap<_, _> = names.into_iter().zip(gatherer.canonical_key()).collect();
    let verdict = judge(&question.table, &key, &hops, is_covered);
    Ok(Report { table: question.table.clone(), key, verdict, hops })
}

async fn open_source(config: &Config, table: &TableName, stored: &Stored) -> (Option<Source>, Option<Problem>) {
    let Some(settings) = &config.source else {
        let remedy = "ask where [source] is configured";
        return (None, Some(Problem::new("the configuration has no [source]", remedy)));
    };
    match Source::open(settings, table, stored).await {
        Ok(Some(source)) => (Some(source), None),
        Ok(None) => {
            let reason = format!("Postgres has no table {table}");
            (None, Some(Problem::new(reason, "see `sooner events`: it says what became of the table")))
        }
        Err(error) => (None, Some(Problem::from(&error))),
    }
}

/// The row; none, with the reason, if Postgres does not tell. A key that its columns cannot hold is an error.
async fn look_up(source: &mut Source, key: &[String], problem: &mut Option<Problem>) -> Result<Option<RowNow>, Error> {
    match source.row(key).await {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.code == Code::ValueUnholdable => Err(error),
        Err(error) => {
            *problem = Some(Problem::from(&error));
            Ok(None)
        }
    }
}

fn relation_of(
    table: &TableName,
    source: Option<&Source>,
    stored: &Stored,
    problem: Option<&Problem>,
) -> anyhow::Result<Relation> {
    let known = stored.table(table).or_else(|| stored.of_sink(table)).and_then(|progress| progress.relation.clone());
    let relation = match (source, known) {
        (Some(source), _) => source.table.table.relation.clone(),
        (None, Some(known)) => known.as_ref().clone(),
        (None, None) => {
            let why = problem.map(|problem| format!(": {}. To do: {}", problem.reason, problem.remedy));
            anyhow::bail!("the columns of {table} are not known{}", why.unwrap_or_default());
        }
    };
    anyhow::ensure!(
        !relation.key.is_empty(),
        "{table} has no key by which a row could be followed. To do: give it a primary key"
    );
    Ok(relation)
}

fn ordered_key(question: &Question, names: &[String]) -> anyhow::Result<Vec<String>> {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    parse_key(&question.key).and_then(|key| key.in_order_of(&names)).map_err(|why| {
        anyhow::anyhow!(
            "cannot read the key: {why}. To do: write it as value, or as column=value,column=value; put what has commas \
             or equal signs in double quotes"
        )
    })
}

/// What a row is followed with.
struct Gatherer<'a> {
    config: &'a Config,
    question: &'a Question,
    stored: Stored,
    source: Option<Source>,
    codec: RowCodec,
    relation: Relation,
    row: Option<RowNow>,
    /// Texts of the key as a person wrote them.
    key: Vec<String>,
    deadline: Instant,
}

impl Gatherer<'_> {
    /// Texts of the key in Postgres' own form, where Postgres was asked.
    fn canonical_key(&self) -> Vec<String> {
        self.row.as_ref().map_or(&self.key, |row| &row.key).clone()
    }

    /// Looks at all hops, again and again while a change is on its way. Returns them with whether the lake had all
    /// changes of the row.
    async fn look_until_decided(
        &mut self,
        see: &impl Fn() -> Seen,
        mut source_problem: Option<Problem>,
    ) -> anyhow::Result<(Hops, bool)> {
        let until = self.deadline.min(Instant::now() + PATIENCE);
        let slot_problem = self.slot_problem().await;
        let mut place = self.topic_place().await?;
        let mut attempts = 0;
        let (mut hops, is_covered) = loop {
            attempts += 1;
            let value = self.value_message(&mut source_problem);
            // What the status says of the lake is older than what the lake is read as.
            let stream = self.stream_hop(&see(), slot_problem.as_ref());
            let mut hops = Hops { postgres: self.postgres_hop(source_problem.clone()), stream, ..Hops::default() };
            let found = self.lake_trace(value, place.as_ref()).await?;
            self.place_in(&mut hops, found, place.as_ref());
            let outcome = judge(&self.question.table, &BTreeMap::new(), &hops, false).outcome;
            if outcome != Outcome::Waiting || hops.stream.problem.is_some() {
                break (hops, false);
            }
            if self.has_arrived(&hops) && self.is_still_the_same().await {
                break (hops, true);
            }
            if Instant::now() >= until {
                break (hops, false);
            }
            tokio::time::sleep(PAUSE).await;
            self.stored.read_lake(self.config).await;
        };
        if attempts > 1 && hops.kafka.is_some() {
            let sink_next = hops.kafka.as_ref().and_then(|kafka| kafka.sink_next_offset);
            place = self.topic_place().await?;
            hops.kafka = place.as_ref().map(|place| kafka_hop(self.topic(), place, sink_next));
        }
        Ok((hops, is_covered))
    }

    /// Whether the lake is complete up to where the server's log ended when the row was read.
    fn has_arrived(&self, hops: &Hops) -> bool {
        let end = hops.postgres.server_lsn;
        end.is_some_and(|end| hops.stream.complete_to_lsn.is_some_and(|complete| complete >= end))
    }

    /// Whether nobody has written the row since it was read. If somebody has, it counts as it is now.
    async fn is_still_the_same(&mut self) -> bool {
        let Some(source) = &mut self.source else { return false };
        let Ok(again) = source.row(&self.key).await else { return false };
        let same = |row: &RowNow| (row.xmin, &row.values) == (again.xmin, &again.values);
        let is_same = self.row.as_ref().is_some_and(same);
        if !is_same {
            self.row = Some(again);
        }
        is_same
    }

    /// The row as an event would carry it; none if it is not there, or no event can.
    fn value_message(&self, problem: &mut Option<Problem>) -> Option<Vec<u8>> {
        let row = self.row.as_ref().filter(|row| row.is_published)?;
        match self.codec.value(row.values.as_ref()?) {
            Ok(message) => Some(message),
            Err(error) => {
                *problem = Some(Problem::from(&error));
                None
            }
        }
    }

    fn postgres_hop(&self, problem: Option<Problem>) -> PostgresHop {
        let Some(row) = &self.row else {
            return PostgresHop { problem, is_published: true, ..PostgresHop::default() };
        };
        let named = |values: &Vec<Option<String>>| {
            let names = self.relation.columns.iter().map(|column| column.name.clone());
            names.zip(values.iter().cloned()).collect()
        };
        PostgresHop {
            problem,
            exists: Some(row.values.is_some()),
            is_published: row.is_published,
            xmin: row.xmin,
            committed_micros: row.committed_micros,
            server_lsn: Some(row.end_lsn),
            values: row.values.as_ref().filter(|_| self.question.with_values).map(named),
        }
    }

    async fn slot_problem(&mut self) -> Option<Error> {
        let (source, settings) = (self.source.as_mut()?, self.config.source.as_ref()?);
        source.slot(settings).await.ok()?.1
    }

    fn stream_hop(&self, seen: &Seen, slot: Option<&Error>) -> StreamHop {
        let table = &self.question.table;
        let status = seen.status.as_ref();
        let known = status.and_then(|status| status.tables.get(table));
        let stored = self.stored.table(table);
        let state = known.map(|known| &known.state).or(stored.map(|stored| &stored.state));
        let requests = Requests::new(&self.config.state_dir);
        let paused = [Side::Source, Side::Sink].into_iter().filter(|side| requests.is_paused(*side)).collect();
        // With Kafka, the other side may run elsewhere.
        let is_elsewhere = self.config.kafka.is_some() && status.is_none();
        let standing = Standing {
            state,
            is_running: (!is_elsewhere).then_some(seen.is_running),
            paused,
            trouble: status.and_then(|status| status.trouble.as_ref()),
            slot: slot.cloned(),
            copied: known.map_or((0, None), |known| (known.rows_copied, known.rows_estimated)),
            copy_is_asked: requests.pending().iter().any(|request| request.table == *table),
        };
        let lag_bytes = known.and_then(|known| known.lag_bytes);
        let told = known.and_then(|known| known.complete_lsn);
        let recorded = self.stored.of_sink(table).and_then(|stored| stored.lake.as_ref());
        StreamHop {
            problem: stream_problem(table, &standing),
            is_running: seen.is_running,
            phase: state.map(TableState::name).map(str::to_owned),
            paused: standing.paused,
            lag_bytes,
            lag_seconds: known.and_then(|known| known.lag_seconds),
            complete_to_lsn: told.max(recorded.map(|lake| lake.watermark.end_lsn)),
            ..StreamHop::default()
        }
    }

    fn topic(&self) -> String {
        let kafka = self.config.kafka.as_ref();
        kafka.map(|kafka| topic_of(kafka, &self.stored, &self.question.table)).unwrap_or_default()
    }

    /// What the key's topic has; none without Kafka.
    async fn topic_place(&self) -> anyhow::Result<Option<Result<KeyPlace, Error>>> {
        let Some(kafka) = &self.config.kafka else { return Ok(None) };
        let key = self.codec.key(&self.canonical_key())?;
        Ok(Some(topic_place(kafka, self.topic(), self.codec.schema(), &key, self.deadline).await))
    }

    async fn lake_trace(
        &self,
        row: Option<Vec<u8>>,
        place: Option<&Result<KeyPlace, Error>>,
    ) -> anyhow::Result<Result<RowTrace, Problem>> {
        if self.config.lake.is_none() {
            let remedy = "ask where [lake] is configured";
            return Ok(Err(Problem::new("the configuration has no [lake]", remedy)));
        }
        let table = &self.question.table;
        let place = place.and_then(|place| place.as_ref().ok());
        let Some(feed) = feed_of(self.config, &self.stored, table, place) else {
            return Ok(Err(Problem::new("nobody knows where the table's events come from", "configure [source]")));
        };
        let question = RowQuestion {
            schema: self.codec.schema().clone(),
            key: self.codec.key(&self.canonical_key())?,
            row,
            with_values: self.question.with_values,
            deadline: self.deadline,
        };
        let found = lake_row(self.config, table, &feed, &question).await;
        Ok(found.map_err(|error| Problem::from(&error)))
    }

    /// Notes what lake and topic have, and compares how far they are.
    fn place_in(&self, hops: &mut Hops, found: Result<RowTrace, Problem>, place: Option<&Result<KeyPlace, Error>>) {
        let positions = found.as_ref().ok().and_then(|found| found.positions.clone());
        let partition = place.and_then(|place| place.as_ref().ok()?.partition);
        let sink_next = partition.and_then(|partition| positions?.next_offset(partition));
        hops.kafka = place.map(|place| kafka_hop(self.topic(), place, sink_next));
        hops.lake = match found {
            Ok(found) => {
                hops.stream.complete_to_lsn = hops.stream.complete_to_lsn.max(found.watermark);
                lake_hop(found, self.question.with_values)
            }
            Err(problem) => LakeHop { problem: Some(problem), ..LakeHop::default() },
        };
    }
}
