//! A plan as text for a person.

use std::fmt::Write;

use bytesize::ByteSize;

use super::settings::{SettingChange, Takes};
use super::tables::{Action, PlannedTable};
use super::{Compared, Plan};

/// Renders a plan, with what is to be done so that it takes effect.
pub fn render(plan: &Plan) -> String {
    let compared = match plan.compared_with {
        Compared::Running => "with what it runs with",
        Compared::LastRun => "with what it ran with last",
        Compared::Nothing => "with what is stored of it: it has not run here",
    };
    let mut text = format!("the configuration of '{}', compared {compared}\n", plan.pipeline);
    if !plan.has_changes {
        return text + "\nnothing would be done\n";
    }
    if let Some(refused) = &plan.refused {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\nthe pipeline would STOP: {refused}\nwith --recopy it would do this:");
    }
    if !plan.settings.is_empty() {
        text.push_str("\nsettings\n");
        plan.settings.iter().for_each(|change| text.push_str(&setting(change, "  ")));
    }
    if !plan.consequences.is_empty() {
        text.push_str("\nthe pipeline\n");
    }
    for consequence in &plan.consequences {
        let _ = writeln!(text, "  {}", consequence.what);
        text.push_str(&remedy(&consequence.remedy));
    }
    if !plan.tables.is_empty() {
        text.push_str("\ntables\n");
    }
    for (name, table) in &plan.tables {
        let _ = writeln!(text, "  {} {name}  {}", mark(table.action), line(table));
        for stays in &table.stays {
            let _ = writeln!(text, "      stays as it is: {stays}");
        }
        text.push_str(&remedy(&table.remedy));
        table.settings.iter().for_each(|change| text.push_str(&setting(change, "      ")));
    }
    text.push('\n');
    text.push_str(&sums(plan));
    text
}

fn remedy(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!("      → {remedy}\n") }
}

fn setting(change: &SettingChange, indent: &str) -> String {
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
    let when = match change.takes_effect {
        Takes::Reload => "",
        Takes::Restart => " (only when the process starts again)",
    };
    let (from, to) = (shown(&change.from), shown(&change.to));
    format!("{indent}{}: {from} → {to}{when}\n{indent}    {}\n", change.setting, change.effect)
}

fn mark(action: Action) -> char {
    match action {
        Action::Copy => '+',
        Action::Recopy => '~',
        Action::Stop => '-',
        Action::Wait | Action::Park => '!',
        Action::Settings => '·',
    }
}

fn line(table: &PlannedTable) -> String {
    let what = match table.action {
        Action::Copy => "copied",
        Action::Recopy => "copied again",
        Action::Stop => "followed no longer",
        Action::Wait => "waits",
        Action::Park => "stops",
        Action::Settings => return "goes on".to_owned(),
    };
    let size = table.bytes_estimated.map(|bytes| match table.rows_estimated {
        Some(rows) => format!(", about {rows} rows, {}", ByteSize(bytes)),
        None => format!(", {}, never analysed", ByteSize(bytes)),
    });
    format!("{what}{}: {}", size.unwrap_or_default(), table.reason)
}

fn sums(plan: &Plan) -> String {
    let of = |actions: &[Action]| plan.tables.values().filter(|table| actions.contains(&table.action)).count();
    let copied: Vec<_> = plan.tables.values().filter(|table| table.bytes_estimated.is_some()).collect();
    let rows: u64 = copied.iter().filter_map(|table| table.rows_estimated).sum();
    let bytes: u64 = copied.iter().filter_map(|table| table.bytes_estimated).sum();
    let mut text = format!(
        "{} table(s) copied, {} copied again (about {rows} rows, {}), {} followed no longer, {} stopped\n",
        of(&[Action::Copy]),
        of(&[Action::Recopy]),
        ByteSize(bytes),
        of(&[Action::Stop]),
        of(&[Action::Wait, Action::Park])
    );
    let takes = match (plan.compared_with, plan.needs_restart) {
        (Compared::Running, true) => "what needs it takes effect at the next start, the rest at SIGHUP",
        (Compared::Running, false) => "SIGHUP has the process take it over",
        _ => "it takes effect when the pipeline starts",
    };
    let _ = writeln!(text, "nothing was changed; {takes}");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_schemas::TableName;

    use super::*;
    use crate::plan::Consequence;

    #[test]
    fn a_plan_is_read_from_top_to_bottom() {
        let mut plan = Plan {
            pipeline: "shop".into(),
            compared_with: Compared::Running,
            since_micros: None,
            has_changes: false,
            needs_restart: false,
            refused: None,
            settings: Vec::new(),
            consequences: Vec::new(),
            tables: BTreeMap::new(),
        };
        assert!(render(&plan).ends_with("nothing would be done\n"));
        let table = PlannedTable {
            rows_estimated: Some(10),
            bytes_estimated: Some(8192),
            ..PlannedTable::new(Action::Copy, "it takes part from now on")
        };
        plan.tables.insert(TableName::new("public", "t"), table);
        plan.consequences.push(Consequence { what: "a slot stays".into(), remedy: "drop it".into() });
        plan.has_changes = true;
        let text = render(&plan);
        assert!(text.contains("  + public.t  copied, about 10 rows, 8.0 KiB: it takes part"), "{text}");
        assert!(text.contains("a slot stays\n      → drop it"), "{text}");
        assert!(text.contains("1 table(s) copied, 0 copied again (about 10 rows, 8.0 KiB)"), "{text}");
    }
}
