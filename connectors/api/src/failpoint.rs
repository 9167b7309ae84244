//! Moments at which something has just become durable, and at which a test may end the process as `kill -9` does.
//!
//! `SOONER_FAILPOINT=log_entry_put@3` ends it when the third log entry has been put. Only builds with debug assertions
//! look; in a release a failpoint is nothing.

/// All failpoints that a pipeline reaches, whether or not there is Kafka.
pub const FAILPOINTS: [&str; 8] = [
    "publication_created",
    "slot_created",
    "part_put",
    "vectors_put",
    "log_entry_put",
    "files_rearranged",
    "progress_put",
    "slot_confirmed",
];

/// Those of a pipeline with Kafka.
pub const KAFKA_FAILPOINTS: [&str; 5] =
    ["topic_created", "messages_written", "record_written", "transaction_committed", "offsets_committed"];

/// Those of a copy that takes long.
pub const COPY_FAILPOINTS: [&str; 1] = ["next_generation_shown"];

/// Those of what a table does for itself after many commits.
pub const UPKEEP_FAILPOINTS: [&str; 2] = ["checkpoint_put", "unused_files_deleted"];

/// Those of a table that gets a column with a value in all rows.
pub const ALTERATION_FAILPOINTS: [&str; 1] = ["files_refilled"];

/// Those of a table that is written in more than one way.
pub const WAYS_FAILPOINTS: [&str; 1] = ["history_committed"];

/// Those of a topic that gets another number of partitions.
pub const REPARTITION_FAILPOINTS: [&str; 3] = ["repartition_begun", "replay_ended", "topic_switched"];

/// Those of a pipeline that keeps an audit trail.
pub const AUDIT_FAILPOINTS: [&str; 1] = ["audit_appended"];

/// Those of a command that erases rows.
pub const ERASURE_FAILPOINTS: [&str; 5] =
    ["erased_files_written", "rows_erased", "erased_files_found", "erased_log_checkpointed", "report_erased"];

/// Those of a history whose old rows are removed.
pub const TRIMMING_FAILPOINTS: [&str; 2] = ["trimmed_files_written", "history_trimmed"];

/// Ends the process if it was asked to die here, this time.
pub fn failpoint(name: &'static str) {
    #[cfg(debug_assertions)]
    asked::die_if_asked(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod asked {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{
        ALTERATION_FAILPOINTS, AUDIT_FAILPOINTS, COPY_FAILPOINTS, ERASURE_FAILPOINTS, FAILPOINTS, KAFKA_FAILPOINTS,
        REPARTITION_FAILPOINTS, TRIMMING_FAILPOINTS, UPKEEP_FAILPOINTS, WAYS_FAILPOINTS,
    };

    static ASKED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static REACHED: AtomicU32 = AtomicU32::new(0);

    pub fn die_if_asked(name: &'static str) {
        let lists = [
            &FAILPOINTS[..],
            &KAFKA_FAILPOINTS[..],
            &COPY_FAILPOINTS[..],
            &UPKEEP_FAILPOINTS[..],
            &ALTERATION_FAILPOINTS[..],
            &REPARTITION_FAILPOINTS[..],
            &WAYS_FAILPOINTS[..],
            &AUDIT_FAILPOINTS[..],
            &ERASURE_FAILPOINTS[..],
            &TRIMMING_FAILPOINTS[..],
        ];
        debug_assert!(lists.iter().any(|list| list.contains(&name)), "{name} is not listed");
        let asked = ASKED.get_or_init(|| {
            let asked = std::env::var("SOONER_FAILPOINT").ok()?;
            let (name, time) = asked.split_once('@')?;
            Some((name.to_owned(), time.parse().ok()?))
        });
        if let Some((asked, time)) = asked
            && asked == name
            && REACHED.fetch_add(1, Ordering::SeqCst) + 1 == *time
        {
            std::process::abort();
        }
    }
}
