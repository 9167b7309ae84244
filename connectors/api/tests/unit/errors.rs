//! What errors say, and the codes that scripts and alerts rely on.

use std::error::Error as _;

use serde_json::json;
use sooner_api::{Class, Code, Error};

/// All codes that have ever been written. A text may be added, but never taken away.
const CODES: &str = "
    configuration_incomplete internal
    postgres_url_invalid postgres_unreachable postgres_login_refused postgres_tls_failed postgres_permission_denied
    postgres_version_unsupported postgres_setting_unsuitable postgres_limit_reached postgres_unavailable postgres_error
    postgres_protocol_violated no_tables slot_in_use slot_gone slot_lost slot_unusable positions_discontinuous
    publication_unusable table_altered_during_copy table_replaced table_unpublished value_unholdable row_too_large
    kafka_unreachable kafka_login_refused kafka_tls_failed kafka_permission_denied kafka_configuration_refused
    message_refused message_too_large message_unreadable dead_letter_too_large topic_compacted topic_missing
    topic_replaced topic_repartitioned topic_shared topic_name_ambiguous topic_restarted no_topics
    partition_columns_missing events_expired progress_topic_unusable progress_missing progress_unreadable
    transaction_open transaction_hanging producer_fenced assignment_expired
    registry_unreachable registry_login_refused registry_misconfigured registry_refused schema_unknown
    schema_unregistered schema_incompatible
    lake_url_invalid lake_unreachable lake_permission_denied lake_bucket_missing lake_disk_full lake_unsafe
    index_unreadable
    object_missing file_damaged log_unreadable table_foreign table_protocol_unsupported table_columns_changed
    commit_contended commit_undecided commit_overtaken pipeline_taken_over type_unsupported key_missing shape_changed
    value_missing name_taken copy_needed partitions_unordered copy_awaited copy_incomplete peer_ended
";

#[test]
fn every_code_is_still_known_by_its_text() {
    let mut known = Vec::new();
    for text in CODES.split_whitespace() {
        let code: Code = serde_json::from_value(json!(text)).unwrap();
        assert_ne!(code, Code::Unknown, "{text}");
        assert_eq!(code.to_string(), text);
        assert!(!known.contains(&code), "{text} is written twice");
        known.push(code);
    }
    assert_eq!(known.len(), 85);
    assert_eq!(Code::Unknown.to_string(), "unknown");
}

#[test]
fn a_code_in_other_letters_is_another_code() {
    for text in ["SlotInUse", "SLOT_IN_USE", "slot-in-use", "slot_in_use ", ""] {
        assert_eq!(serde_json::from_value::<Code>(json!(text)).unwrap(), Code::Unknown, "'{text}'");
    }
    assert!(serde_json::from_value::<Code>(json!(5)).is_err());
}

#[test]
fn an_error_says_what_why_and_what_to_do() {
    let error = Error::operator(Code::SlotLost, "cannot stream", "the log was removed", "copy the tables again");
    assert_eq!(error.to_string(), "cannot stream: the log was removed. To do: copy the tables again.");
    assert!(error.source().is_none(), "all of it is in the text");
}

#[test]
fn an_error_belongs_to_the_class_that_made_it() {
    let made = [
        (Error::retry(Code::KafkaUnreachable, "a", "b", "c"), Class::Retry, "retry"),
        (Error::operator(Code::NoTables, "a", "b", "c"), Class::Operator, "operator"),
        (Error::fatal(Code::SlotLost, "a", "b", "c"), Class::Fatal, "fatal"),
        (Error::internal("a", "b"), Class::Fatal, "fatal"),
    ];
    for (error, class, text) in made {
        assert_eq!(error.class, class);
        assert_eq!((error.what.as_str(), error.why.as_str()), ("a", "b"));
        let stored = serde_json::to_value(&error).unwrap();
        assert_eq!(stored["class"], json!(text));
        assert_eq!(stored["code"], json!(error.code.to_string()));
        assert_eq!(serde_json::from_value::<Error>(stored).unwrap(), error);
    }
    let internal = Error::internal("a", std::fmt::Error);
    assert_eq!((internal.code, internal.remedy.as_str()), (Code::Internal, "report this"));
    assert_eq!(internal.why, std::fmt::Error.to_string(), "whatever can be shown is a reason");
}
