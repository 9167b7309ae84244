//! `sooner history --verify` and `--head`: whether the rows of a chained history are as they were written.

use std::fmt::Write;

use serde_json::{Value, json};
use sooner_delta::audit::chain::Head;
use sooner_delta::history::check::{Outcome, check};
use sooner_delta::history::checked::Checked;
use sooner_schemas::TableName;

use super::print;
use super::upkeep::open_lake;
use crate::audit::certificates::erasures_of;
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::history_head::{head_of, no_history, not_chained};

/// Checks the chain of a table's history, prints and records what was found; false if it is not as it was written.
pub async fn verify(config: &Config, table: &TableName, head: Option<Head>, json: bool) -> anyhow::Result<bool> {
    let checking = async {
        let checked = checked(config, table, head.as_ref()).await?;
        print(&match json {
            true => format!("{}\n", serde_json::to_string_pretty(&shown(table, &checked)?)?),
            false => text_of(table, &checked),
        });
        Ok((checked.is_good(), of_audit(&checked)))
    };
    recorded(config, act(table, head.as_ref()), checking).await
}

/// What the audit trail is told of who has a chain checked.
pub fn act(table: &TableName, head: Option<&Head>) -> Act {
    Act::new("history_verification", json!({"head": head.map(Head::to_string)})).of_table(table)
}

/// What the audit trail is told of a check.
pub fn of_audit(checked: &Checked) -> Value {
    json!({
        "good": checked.is_good(), "rows": checked.rows, "head": checked.head, "faults": checked.count,
        "erased": checked.erased.values().sum::<u64>(),
    })
}

/// What a check of the chain of a table's history finds.
pub async fn checked(config: &Config, table: &TableName, head: Option<&Head>) -> anyhow::Result<Checked> {
    let lake = open_lake(config)?;
    let erasures = erasures_of(config, &lake).await?.of_history(table);
    match check(&lake.history_location(table), lake.pipeline(), &erasures, head).await? {
        Outcome::Absent => Err(no_history(table).into()),
        Outcome::Unchained => Err(not_chained(table).into()),
        Outcome::Checked(checked) => Ok(checked),
    }
}

/// What a check found, as JSON.
pub fn shown(table: &TableName, checked: &Checked) -> serde_json::Result<Value> {
    let mut shown = serde_json::to_value(checked)?;
    (shown["table"], shown["good"]) = (json!(table), json!(checked.is_good()));
    Ok(shown)
}

/// Prints the end of the chain of a table's history.
pub async fn print_head(config: &Config, table: &TableName, json: bool) -> anyhow::Result<()> {
    let head = head_of(&open_lake(config)?, table).await?;
    match json {
        true => print(&format!("{}\n", json!({"table": table, "head": head.to_string()}))),
        false => print(&format!("{head}\n")),
    }
    Ok(())
}

fn text_of(table: &TableName, checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{finding}");
    }
    let Checked { rows, unchained_before, count, .. } = checked;
    if *unchained_before > 0 {
        let _ = writeln!(
            text,
            "{unchained_before} rows came before the chain began: nothing shows whether they are as they were"
        );
    }
    for (erasure, rows) in &checked.erased {
        let _ = writeln!(text, "the values of {rows} rows were taken by the erasure '{erasure}'");
    }
    let _ = match count {
        0 => writeln!(text, "the history of {table} is as it was written: {rows} chained rows"),
        _ => writeln!(text, "the history of {table} is not as it was written: {count} fault(s), {rows} chained rows"),
    };
    if let Some(head) = checked.head.as_ref().filter(|_| *count == 0) {
        let _ = writeln!(text, "head {head}; kept elsewhere, it shows later that nothing was cut off: see --head");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_delta::history::checked::{Fault, Finding};

    use super::*;

    #[test]
    fn what_is_not_protected_is_told_beside_what_is() {
        let table = TableName::new("public", "t");
        let erased = BTreeMap::from([("erase-1".to_owned(), 2)]);
        let good =
            Checked { rows: 9, unchained_before: 4, erased, head: Some("9:ab".to_owned()), ..Checked::default() };
        let text = text_of(&table, &good);
        for part in ["4 rows came before the chain began", "2 rows were taken by the erasure 'erase-1'", "head 9:ab"] {
            assert!(text.contains(part), "{text}");
        }
        let mut bad = good;
        bad.tell(vec![Finding { sequence: 3, fault: Fault::Missing { to: 5 } }]);
        let text = text_of(&table, &bad);
        assert!(text.starts_with("rows 3 to 5 are missing\n") && text.contains("1 fault(s)"), "{text}");
        assert!(!text.contains("head"), "a wrong chain has no end to be kept: {text}");
    }
}
