//! Follows the replication stream: reads and decodes it, and reports progress to the server.

mod reshaping;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sooner_api::{
    Class, Code, Error, EventBatch, FollowedTable, Positions, Result, SchemaRegistry, SourceTable, TableNote,
};
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Lsn, Relation, TableName};
use tokio::io::ReadHalf;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::client::{Client, Mode, quote_name, quote_text, read_some};
use crate::clock::now_micros;
use crate::decode::Decoder;
use crate::dial::Duplex;
use crate::encoders::EncoderFactory;
use crate::feedback::{FeedbackState, send_feedback};
use crate::guard::Guard;
use crate::incoming::{Incoming, Pause, lost, read_on};
use crate::options::ConnectOptions;
use crate::pgoutput::RelationShape;
use crate::postponed::Postponed;
use crate::settings::StreamSettings;
use crate::side_connection::{ServerState, SideConnection};
use crate::tracked::{PartialRow, Selected};
use crate::unseen::Unseen;
use crate::verdict::Verdict;
use crate::visibility::Visibility;
use crate::watch::Watch;

/// Interval at which the catalog is checked for the tables, and the server is asked for the end of its log.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit for such a check; one that takes longer is abandoned until the next interval.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval is at least so many times as long as a look takes.
const INSPECTION_SHARE: u32 = 50;
/// How long the end of the stream waits for the server.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence after which the connection counts as dead. The server sends a keepalive at half its `wal_sender_timeout`,
/// whose default is 60 s, and answers a request for one at once.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// What came first.
#[derive(Debug)]
pub enum Next<O> {
    /// A batch of the stream.
    Batch(EventBatch),
    /// The other thing that was waited for.
    Other(O),
    /// The catalog was looked at, and tables have to be copied again, or have other columns.
    Inspected,
}

/// A running replication stream. Dropping it stops the status updates.
pub struct PostgresStream<R> {
    reader: ReadHalf<Box<dyn Duplex>>,
    incoming: Incoming,
    decoder: Decoder,
    encoders: Arc<EncoderFactory<R>>,
    catalog: SideConnection,
    watch: Watch,
    /// Transactions that have been read, and may not be visible yet. Nothing is confirmed past one: whoever copies
    /// later could miss it.
    pub unseen: Unseen,
    /// What is visible by now, since that was last asked.
    visible: Option<Visibility>,
    /// What waits for its moment.
    pub postponed: Postponed,
    /// Commits wait for us, as for a synchronous standby.
    is_awaited: bool,
    reported: Arc<FeedbackState>,
    beside: JoinSet<()>,
    inspection: Interval,
    last_heard: Instant,
}

impl<R: SchemaRegistry> PostgresStream<R> {
    /// Starts to stream from `settings.start_lsn`, and spawns the task that sends status updates.
    pub async fn start(
        options: &ConnectOptions,
        settings: StreamSettings,
        encoders: Arc<EncoderFactory<R>>,
    ) -> Result<PostgresStream<R>> {
        let client = Client::connect(options, Mode::Replication).await?;
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            quote_name(&settings.slot),
            // The server goes on from what was confirmed.
            Lsn::ZERO,
            quote_text(&quote_name(&settings.publication)),
        );
        let (stream, buffer) = client.start_replication(&command).await?;
        let (reader, writer) = tokio::io::split(stream);
        let reported = Arc::new(FeedbackState::default());
        let mut inspection = interval(INSPECTION_INTERVAL);
        inspection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let StreamSettings {
            slot,
            slot_limit,
            limits,
            publication,
            selects,
            follow,
            copy,
            apart,
            keeps_columns,
            start_lsn,
        } = settings;
        let mut beside = JoinSet::new();
        beside.spawn(send_feedback(writer, reported.clone()));
        beside.spawn(Guard::new(&slot, slot_limit, SideConnection::new(options), reported.clone()).run());
        let selected = |followed: &FollowedTable| {
            let selected = Selected { name: followed.table.name().clone(), covered: followed.covered.clone() };
            (followed.table.relation.oid, selected)
        };
        let decoder = Decoder::new(follow.iter().map(selected).collect(), start_lsn);
        let watch = Watch::new(&publication, selects, follow.into_iter().chain(copy).collect(), apart, keeps_columns);
        Ok(PostgresStream {
            reader,
            incoming: Incoming::new(buffer, limits),
            decoder,
            encoders,
            catalog: SideConnection::new(options),
            watch,
            unseen: Unseen::default(),
            visible: None,
            postponed: Postponed::default(),
            is_awaited: false,
            beside,
            reported,
            inspection,
            last_heard: Instant::now(),
        })
    }

    /// Decodes all whole messages in the buffer, up to the end of a batch; looks up relations where they are needed.
    async fn decode_buffer(&mut self) -> Result<()> {
        let now = now_micros();
        loop {
            let decoded = match self.incoming.decode(&mut self.decoder, now) {
                Ok(decoded) => decoded,
                Err(error) => return Err(self.ended(error).await),
            };
            match decoded {
                Pause::BufferEmpty | Pause::BatchReady => break,
                Pause::ReplyRequested => self.reported.send_now.notify_one(),
                Pause::RelationNeeded(shape) => self.look_up(shape).await?,
                Pause::Relax { oid, relation } => drop(self.set_relation(oid, relation).await?),
            }
        }
        self.unseen.extend(self.decoder.take_ended())?;
        if self.decoder.take_look_wanted() {
            self.inspection.reset_immediately();
        }
        self.reported.received.fetch_max(self.incoming.received_lsn().0, Ordering::Relaxed);
        Ok(())
    }

    /// Looks up a relation that a change needs. If the change cannot be carried, its table is stopped.
    async fn look_up(&mut self, shape: RelationShape) -> Result<()> {
        let Some(Selected { name, .. }) = self.decoder.selected(shape.oid).cloned() else {
            self.decoder.ignore(shape.oid);
            return Ok(());
        };
        let mut client = self.catalog.take().await?;
        let (relation, verdict) = self.watch.announced(&mut client, &name, &shape).await?;
        self.catalog.give_back(client);
        let stops = matches!(verdict, Some(Verdict::Stopped(..)));
        self.obey(verdict)?;
        if !stops {
            self.set_relation(shape.oid, relation).await?;
        }
        Ok(())
    }

    fn obey(&mut self, verdicts: impl IntoIterator<Item = Verdict>) -> Result<()> {
        for verdict in verdicts {
            match verdict {
                Verdict::Noted(note) => self.decoder.note(note),
                Verdict::Reshaped(reshaped) => self.postponed.reshaped.push(*reshaped),
                Verdict::Stopped(table, error) if error.code == Code::CopyNeeded => self.copy_again(&table, &error),
                Verdict::Stopped(table, error) => self.stop(&table, error),
                Verdict::ChangedLater(dropped, why) => self.postponed.change(dropped, why)?,
                Verdict::Changed(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The table is copied again as soon as the stream is between two transactions; until then its events are
    /// left out.
    fn copy_again(&mut self, table: &TableName, why: &Error) {
        tracing::warn!(%table, why = %why.why, "the table is copied again");
        self.watch.is_copied_again(table, &why.why);
        if let Some(oid) = self.watch.oid_of(table) {
            self.decoder.mute(oid);
            self.postponed.recopy.push(oid);
        }
    }

    /// Stops a table until a person has done something.
    pub fn stop(&mut self, table: &TableName, error: Error) {
        self.watch.stopped(table);
        self.decoder.stop(table, error);
    }

    /// Returns the schemas of the relation's events; none if they cannot be carried, and its table is stopped.
    async fn set_relation(&mut self, oid: u32, relation: Relation) -> Result<Option<Arc<EventSchema>>> {
        match self.encoders.build(&relation).await {
            Ok(encoder) => Ok(Some(self.decoder.set_relation(oid, relation, encoder))),
            Err(error) if error.class == Class::Operator => {
                self.stop(&relation.name, error);
                self.decoder.ignore(oid);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Queries the end of the server's log and what is visible, and looks for what happened to tables. After an error
    /// it is tried again at the next interval.
    async fn inspect_catalog(&mut self) -> Result<Vec<Verdict>> {
        let ServerState { visible, is_awaited, .. } = self.server_state().await?;
        self.is_awaited = is_awaited;
        self.visible = Some(visible);
        let mut client = self.catalog.take().await?;
        let verdicts = self.watch.look(&mut client).await?;
        self.catalog.give_back(client);
        Ok(verdicts)
    }

    /// Why the stream has ended, given how that showed. What the guard has to do first is done.
    async fn ended(&mut self, error: Error) -> Error {
        let Some(why) = self.reported.ended_by_us() else { return error };
        while self.beside.join_next().await.is_some() {}
        why
    }

    /// Looks at the catalog, unless that takes too long.
    async fn inspect(&mut self) -> Result<()> {
        let started = Instant::now();
        let verdicts = match timeout(INSPECTION_TIMEOUT, self.inspect_catalog()).await {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look at the catalog");
                return Ok(());
            }
            Err(_) => {
                tracing::debug!("looking at the catalog took too long");
                return Ok(());
            }
        };
        // With very many tables, looking takes a bounded share of the server's time.
        self.inspection.reset_after(INSPECTION_INTERVAL.max(started.elapsed() * INSPECTION_SHARE));
        self.obey(verdicts)
    }
}

impl<R: SchemaRegistry> PostgresStream<R> {
    /// Waits for the next batch, or for something else if that comes first. The other wait may be cancelled; it is
    /// begun only if the stream stands between two transactions. Not to be cancelled itself.
    pub async fn next_or<O>(&mut self, mut other: impl Future<Output = O> + Unpin) -> Result<Next<O>> {
        let asked = Instant::now();
        loop {
            self.decode_buffer().await?;
            if let Some(batch) = self.decoder.take() {
                return Ok(Next::Batch(batch));
            }
            tokio::select! {
                biased;
                // First, because a busy stream is always ready to be read.
                _ = self.inspection.tick() => {
                    self.inspect().await?;
                    // Nothing is read while the consumer is busy: silence counts from this call on, at the earliest.
                    if self.last_heard.max(asked).elapsed() > SILENCE_LIMIT {
                        return Err(lost(&io::Error::new(io::ErrorKind::TimedOut, "the server has fallen silent")));
                    }
                    if self.postponed.is_due() && self.decoder.is_between() {
                        return Ok(Next::Inspected);
                    }
                }
                read = read_on(&mut self.reader, &mut self.incoming) => {
                    if let Err(error) = read {
                        return Err(self.ended(lost(&error)).await);
                    }
                    self.last_heard = Instant::now();
                }
                // Last: whoever is always ready must not keep the stream from being read.
                other = &mut other, if self.decoder.is_between() => return Ok(Next::Other(other)),
            }
        }
    }

    /// Lets the database forget everything before this LSN that is visible to whoever copies later.
    pub fn confirm(&mut self, durable_lsn: Lsn) {
        let read = durable_lsn.min(self.decoder.read_lsn());
        // Who waits for us to confirm a commit, or the end of the log, is not kept waiting until it is visible.
        let is_awaited = self.is_awaited || self.reported.shuts_down.load(Ordering::Relaxed);
        let unseen = self.unseen.first().filter(|_| !is_awaited);
        let confirmed = unseen.map_or(read, |first| first.min(read));
        self.reported.flushed.fetch_max(confirmed.0, Ordering::Relaxed);
    }

    /// Whether all that was read has been handed on, up to the end of a transaction.
    pub fn is_idle(&self) -> bool {
        self.decoder.is_idle() && self.is_between()
    }

    /// Whether what is handed on next begins with a transaction.
    pub fn is_between(&self) -> bool {
        self.decoder.is_between()
    }

    /// What is visible by now; once after each time that it was asked.
    pub fn take_visible(&mut self) -> Option<Visibility> {
        self.visible.take()
    }

    /// Asks how the server is doing.
    pub async fn server_state(&mut self) -> Result<ServerState> {
        let state = self.catalog.server_state().await?;
        self.decoder.server_end(state.end_lsn);
        Ok(state)
    }

    /// Has the server send what it keeps back.
    pub async fn push(&mut self) -> Result<()> {
        self.catalog.push().await
    }

    /// Confirms up to an LSN, and ends the stream: returns once the server has taken note of it, or does not answer.
    pub async fn finish(mut self, durable_lsn: Lsn) {
        self.confirm(durable_lsn);
        self.reported.end(None);
        // The server closes the connection when it has read everything that was sent to it.
        let drained = async { while read_some(&mut self.reader, self.incoming.discard(), None).await.is_ok() {} };
        let _ = timeout(FINISH_TIMEOUT, drained).await;
    }

    /// Rows of copied tables that are not known whole, since this was last asked.
    pub fn take_partial(&mut self) -> Vec<PartialRow> {
        self.decoder.take_partial()
    }

    /// Tables as they are by now, without those that are gone or have to wait.
    pub async fn find_tables(&mut self, oids: &[u32]) -> Result<Vec<SourceTable>> {
        let mut client = self.catalog.take().await?;
        let tables = self.watch.find(&mut client, oids).await?;
        self.catalog.give_back(client);
        Ok(tables)
    }

    /// The object id of a table that takes part.
    pub fn oid_of(&self, table: &TableName) -> Option<u32> {
        self.watch.oid_of(table)
    }

    /// Whether the events of a table are carried.
    pub fn is_followed(&self, oid: u32) -> bool {
        self.decoder.selected(oid).is_some()
    }

    /// Leaves the events of a table out until it is copied again.
    pub fn mute(&mut self, oid: u32) {
        self.decoder.mute(oid);
    }

    /// Carries the events of a table whose copy begins, but for those up to an LSN. Reports what the table is.
    pub fn follow_copied(&mut self, table: &SourceTable, emitted: Lsn) {
        self.follow_on(table, Positions::whole(emitted));
        self.decoder.note(TableNote {
            table: table.name().clone(),
            relation: Some(Arc::new(table.relation.clone())),
            facts: Arc::new(table.facts.clone()),
        });
        self.watch.follow(table.clone());
    }

    /// Carries the events of a table whose copy goes on, but for those that its consumer has.
    pub fn follow_on(&mut self, table: &SourceTable, covered: Positions) {
        self.decoder.follow_copied(table.relation.oid, Some(Selected { name: table.name().clone(), covered }));
    }

    /// Rows of a table that is followed are copied over those that are there.
    pub fn copy_in_place(&mut self, oid: u32) {
        self.decoder.follow_copied(oid, None);
    }

    /// The copy of a table has ended.
    pub fn end_copy(&mut self, oid: u32) {
        self.decoder.end_copy(oid);
    }
}
