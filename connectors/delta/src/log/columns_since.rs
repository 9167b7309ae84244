//! The event since which a table has its columns: events of a topic's partitions that are behind others may be older, and
//! then have former columns.

use serde_json::{Map, Value, json};
use sooner_schemas::{Lsn, Position};

/// Property of a table with the position of the first event that had its columns, as `16/B374D848 12`.
const PROPERTY: &str = "sooner.columnsSince";

/// Position of the first event that had the columns of a table's metadata; none where nobody noted it.
pub fn of(metadata: &Value) -> Option<Position> {
    let text = metadata.get("configuration")?.get(PROPERTY)?.as_str()?;
    let (lsn, ordinal) = text.split_once(' ')?;
    Some(Position { commit_lsn: lsn.parse::<Lsn>().ok()?, ordinal: ordinal.parse().ok()? })
}

/// Notes the position of the first event that had the columns of a table's metadata.
pub fn set(metadata: &mut Value, since: Position) {
    if !metadata["configuration"].is_object() {
        metadata["configuration"] = Value::Object(Map::new());
    }
    metadata["configuration"][PROPERTY] = json!(format!("{} {}", since.commit_lsn, since.ordinal));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_found_and_what_nobody_can_read_is_not() {
        let mut metadata = json!({});
        assert_eq!(of(&metadata), None);
        let since = Position { commit_lsn: Lsn(0x16_B374_D848), ordinal: 12 };
        set(&mut metadata, since);
        assert_eq!(of(&metadata), Some(since));
        metadata["configuration"][PROPERTY] = json!("yesterday");
        assert_eq!(of(&metadata), None);
    }
}
