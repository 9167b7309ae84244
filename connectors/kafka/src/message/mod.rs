//! One message of a data topic: key, value, headers and partition; and the event that it carries.

pub mod datum_json;
pub mod events;
pub mod headers;
pub mod key_text;
pub mod letter_headers;
pub mod partition;
pub mod polled;
pub mod topic_message;
