//! Stable names of errors, for scripts, alerts and tests. A code is never renamed and never used for anything else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of error it is. Written in `snake_case` in logs, in `status --json` and in progress records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The configuration lacks a section that the command needs.
    ConfigurationIncomplete,
    /// A defect of sooner itself.
    Internal,

    /// The connection URL of the database is malformed.
    PostgresUrlInvalid,
    /// No connection to Postgres, or it was lost.
    PostgresUnreachable,
    /// Postgres refused the role, its password or the host.
    PostgresLoginRefused,
    /// TLS with Postgres failed.
    PostgresTlsFailed,
    /// The role lacks a privilege.
    PostgresPermissionDenied,
    /// The server's version is not supported.
    PostgresVersionUnsupported,
    /// A setting of the server stands in the way, such as `wal_level`.
    PostgresSettingUnsuitable,
    /// The server has no free connection, walsender or slot.
    PostgresLimitReached,
    /// The server is starting, stopping or cancelled the statement.
    PostgresUnavailable,
    /// Any other error that the server reported.
    PostgresError,
    /// Bytes that do not follow Postgres' protocol.
    PostgresProtocolViolated,
    /// No table fits the patterns of the configuration.
    NoTables,
    /// Another process streams from the slot.
    SlotInUse,
    /// The slot no longer exists, and the pipeline had got somewhere.
    SlotGone,
    /// Postgres removed log that the slot needed.
    SlotLost,
    /// A slot of that name exists, but is of another kind or database, or unfinished.
    SlotUnusable,
    /// Server, timeline, slot or position do not continue what was stored.
    PositionsDiscontinuous,
    /// The publication lacks tables or changes, or filters them.
    PublicationUnusable,
    /// A table was altered or rewritten while it was copied.
    TableAlteredDuringCopy,
    /// Somebody holds a lock on the table, or has an open transaction, that its copy waits for.
    TableLocked,
    /// The table was dropped, renamed or replaced at the source.
    TableReplaced,
    /// The table is not followed at the moment, so that rows cannot be copied over its own.
    TableNotFollowed,
    /// Tables came or went, or became readable: the pipeline looks at all of them again.
    TablesChanged,
    /// The table's replica identity cannot be used, or its publication would break the application.
    IdentityUnusable,
    /// The publication no longer carries the table.
    TableUnpublished,
    /// The masks that the configuration gives a table do not fit its columns or its key.
    MaskUnfit,
    /// A value of a row has no place in its event or its lake column.
    ValueUnholdable,
    /// A row takes more memory than one row may.
    RowTooLarge,

    /// No connection to the brokers, or none of them answered.
    KafkaUnreachable,
    /// Brokers or token endpoint refused the client.
    KafkaLoginRefused,
    /// TLS with the brokers failed.
    KafkaTlsFailed,
    /// Nothing gave the process credentials for AWS.
    AwsCredentialsMissing,
    /// The client lacks an ACL.
    KafkaPermissionDenied,
    /// A property or topic setting is not accepted.
    KafkaConfigurationRefused,
    /// The topic takes no such message.
    MessageRefused,
    /// A row makes a message larger than its topic takes.
    MessageTooLarge,
    /// A message that is not a readable change event.
    MessageUnreadable,
    /// A message is too large for the dead-letter topic.
    DeadLetterTooLarge,
    /// A compacted topic cannot carry the event.
    TopicCompacted,
    /// A topic does not exist and may not be created.
    TopicMissing,
    /// A topic was deleted, or created again.
    TopicReplaced,
    /// A topic has another number of partitions than before.
    TopicRepartitioned,
    /// A topic cannot be given another number of partitions.
    RepartitionRefused,
    /// Another table of the database has kept the name.
    NameTaken,
    /// Two tables would share a topic, or a subject.
    TopicShared,
    /// The brokers do not take a topic of this name or with these settings.
    TopicRefused,
    /// The table's name cannot be told from a topic's name.
    TopicNameAmbiguous,
    /// The writer began the topic again.
    TopicRestarted,
    /// No topic fits the pattern.
    NoTopics,
    /// `partition_by` names columns that the key lacks.
    PartitionColumnsMissing,
    /// Retention removed events that the table still needs.
    EventsExpired,
    /// The progress topic has the wrong settings.
    ProgressTopicUnusable,
    /// There is no progress record yet.
    ProgressMissing,
    /// A progress record cannot be parsed.
    ProgressUnreadable,
    /// Another producer's transaction is open on the topics.
    TransactionOpen,
    /// Committed events cannot be seen, because the end of their transaction was lost.
    TransactionHanging,
    /// Another producer of the same transactional id took over.
    ProducerFenced,
    /// Opening tables took longer than the group waits.
    AssignmentExpired,

    /// No connection to the schema registry, or it failed.
    RegistryUnreachable,
    /// The registry refused the client.
    RegistryLoginRefused,
    /// What answers is no schema registry, or its certificates cannot be read.
    RegistryMisconfigured,
    /// The registry refused the request.
    RegistryRefused,
    /// The registry does not know the schema id of an event.
    SchemaUnknown,
    /// The registry does not have the schema, and registering is off.
    SchemaUnregistered,
    /// The new schema is not compatible with the subject's last one.
    SchemaIncompatible,

    /// The lake's URL is malformed or of an unknown kind.
    LakeUrlInvalid,
    /// The store of the lake did not answer.
    LakeUnreachable,
    /// The store refused the client.
    LakePermissionDenied,
    /// The bucket does not exist.
    LakeBucketMissing,
    /// The disk of the lake is full.
    LakeDiskFull,
    /// The store does not honour conditional puts.
    LakeUnsafe,
    /// The key index on the local disk cannot be read.
    IndexUnreadable,
    /// An object that a table refers to is gone.
    ObjectMissing,
    /// A data file or deletion vector is damaged.
    FileDamaged,
    /// A table's log cannot be read.
    LogUnreadable,
    /// Another pipeline or program made the table.
    TableForeign,
    /// The table asks of its writers what is not supported.
    TableProtocolUnsupported,
    /// Another writer changed the table's columns.
    TableColumnsChanged,
    /// Somebody else removed or changed rows of the table, or set it back.
    TableAltered,
    /// There is a cut of that name.
    CutExists,
    /// No cut of these tables can be made as they are.
    CutImpossible,
    /// It cannot be proved that a table is in a cut as it was.
    CutUnproven,
    /// A legal hold keeps what somebody wants to be deleted.
    Held,
    /// Rows of a history had another key before, so that none is removed.
    HistoryKeyChanged,
    /// Rows of a history are chained, so that none may be removed.
    HistoryChained,
    /// What a history was asked for was removed from it, because it is older than the history keeps.
    HistoryTrimmed,
    /// Rows cannot be erased as things are.
    ErasureRefused,
    /// Events of a range cannot be replayed: not all of them are known, or they cannot be written.
    ReplayImpossible,
    /// A report could not be made: its engine or its query failed.
    ReportFailed,
    /// Others committed first, again and again.
    CommitContended,
    /// Whether a commit succeeded is not known yet.
    CommitUndecided,
    /// Another process of the pipeline committed what this one was about to commit.
    CommitOvertaken,
    /// Another process runs the pipeline.
    PipelineTakenOver,
    /// A column's type has no counterpart in the lake.
    TypeUnsupported,
    /// A table without a usable key.
    KeyMissing,
    /// Columns were dropped, renamed, retyped or moved, or the key changed.
    ShapeChanged,
    /// Postgres left a value out, and the row that has it cannot be found.
    ValueMissing,
    /// A row was changed or removed of a table that rows are only added to.
    RowChanged,
    /// Rows hold values that no event carries, so the table is copied again.
    CopyNeeded,
    /// A truncate or copy cannot be ordered among partitions that other sinks read.
    PartitionsUnordered,
    /// The lake table was filled from elsewhere, and waits for a copy.
    CopyAwaited,
    /// A copy ended before all its rows were written.
    CopyIncomplete,
    /// The other side of the pipeline ended.
    PeerEnded,

    /// Stored by another version of sooner under a code that this one does not know.
    #[serde(other)]
    Unknown,
}

impl Code {
    /// Whether it is about the topic that a table is to have: what happens in the database changes nothing of it.
    pub fn is_about_topics(self) -> bool {
        matches!(self, Code::TopicShared | Code::TopicNameAmbiguous | Code::TopicRefused)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_in_snake_case_and_read_back() {
        assert_eq!(Code::SlotInUse.to_string(), "slot_in_use");
        assert_eq!(serde_json::to_string(&Code::SlotInUse).unwrap(), "\"slot_in_use\"");
        assert_eq!(serde_json::from_str::<Code>("\"slot_in_use\"").unwrap(), Code::SlotInUse);
    }

    #[test]
    fn a_code_of_another_version_is_read_as_unknown() {
        assert_eq!(serde_json::from_str::<Code>("\"something_new\"").unwrap(), Code::Unknown);
    }
}
