//! Advice on topics: from what was measured of one, and of those who read it, how many partitions it should have, and
//! what helps where its keys are uneven. Pure: nothing is asked or changed here.

pub mod figures;
pub mod partitions;
pub mod skew;

use self::figures::{Advice, Figures, Finding, Needed, Surroundings, Verdict, percent};

/// Share of copied rows from which on what was measured is a copy rather than the table's changes.
const MOST_COPIED: f64 = 0.5;

/// Judges the topic of a table. The reason of each finding names the figures that it follows from.
pub fn advise(table: &str, figures: &Figures, around: &Surroundings) -> Advice {
    if figures.messages == 0 {
        let reason = format!("nothing was written to it in the last {}", figures.window());
        let remedy = "measure when the table is busy, or over a longer time: --sample 1day";
        let findings = vec![Finding::new(Verdict::Measure, reason, Some(remedy.to_owned()))];
        return Advice { partitions: figures.partitions, needed: None, findings };
    }
    let needed = Needed::of(figures, around);
    let (partitions, mut findings) = partitions::decide(table, figures, needed, around);
    let most = needed.most(around.members).max(figures.partitions);
    findings.extend(skew::judge(table, figures, around, most));
    if figures.copied_share > MOST_COPIED {
        let reason = format!(
            "{} of what was read are rows of a copy, so rate and keys are those of the copy, not of changes",
            percent(figures.copied_share)
        );
        let remedy = "measure again when the table has followed changes for a while, or take a shorter --sample";
        findings.push(Finding::new(Verdict::Measure, reason, Some(remedy.to_owned())));
    }
    Advice { partitions, needed: Some(needed), findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_not_advised_on() {
        let around = Surroundings { members: 3, consumer_rate: 100.0, load_share: 1.0, spare_partitions: 100 };
        let idle = Figures { partitions: 2, window_seconds: 3600.0, ..Figures::default() };
        let advice = advise("public.t", &idle, &around);
        assert_eq!((advice.partitions, advice.findings.len()), (2, 1));
        assert_eq!(advice.findings[0].verdict, Verdict::Measure);
        let copied = Figures { messages: 10, messages_read: 10, copied_share: 0.9, ..idle };
        let advice = advise("public.t", &copied, &around);
        let last = advice.findings.last().unwrap();
        assert!(last.verdict == Verdict::Measure && last.reason.contains("90.0 %"), "{last:?}");
    }
}
