//! How many partitions a topic should have: by what is written to it, by who reads it, and by what brokers bear.
//!
//! The rules are those of thumb of Kafka's field: as many as it takes for consumers to read what is written
//! (<https://www.confluent.io/blog/how-choose-number-topics-partitions-kafka-cluster/>), and as many as there are
//! consumers, since a partition has one reader. More cost brokers files and memory in each replica; and here, each
//! partition of a topic has a position in its table's log, and a table is as late as its slowest partition.

use bytesize::ByteSize;

use super::figures::{Figures, Finding, Needed, Surroundings, Verdict, percent};

/// What is read in time at the peak's rate leaves nothing to catch up with: with twice that, what an outage left is
/// read within as long as it lasted.
const HEADROOM: f64 = 2.0;
/// Bytes per second that one partition takes and gives without trouble, replicated and with acknowledgements of all.
const PARTITION_BYTES_PER_SECOND: f64 = (10 << 20) as f64;
/// No table gets more: each start of a copy and each truncate is written to all of them.
const MOST_PARTITIONS: i32 = 192;
/// Numbers that many numbers of consumers divide.
const LADDER: [i32; 15] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, MOST_PARTITIONS];

impl Needed {
    /// What the rules ask for. A table with less than one consumer's part of all messages need not keep all consumers
    /// busy: the other tables do.
    pub fn of(figures: &Figures, around: &Surroundings) -> Needed {
        let fit = |load: f64, each: f64| (load * HEADROOM / each).ceil().clamp(1.0, f64::from(i32::MAX)) as i32;
        let members = around.members.max(1);
        let is_large = around.load_share * members as f64 >= 1.0;
        Needed {
            by_rate: fit(figures.peak_messages_per_second, around.consumer_rate),
            by_size: fit(figures.peak_bytes_per_second(), PARTITION_BYTES_PER_SECOND),
            by_consumers: if is_large { members.min(MOST_PARTITIONS as usize) as i32 } else { 1 },
        }
    }

    /// The most that a rule asks for, rounded up to what the members share evenly, now and when they are more.
    pub fn most(&self, members: usize) -> i32 {
        rounded(self.by_rate.max(self.by_size).max(self.by_consumers), members)
    }

    fn reason(&self, figures: &Figures, around: &Surroundings) -> String {
        format!(
            "{} by rate ({} messages/s at the peak of the last {}, twice that to catch up after an outage, at {} a \
             consumer); {} by size ({}/s at the peak, twice that, at {}/s a partition); {} by consumers ({} of them; the \
             table has {} of the pipeline's messages)",
            self.by_rate,
            rate(figures.peak_messages_per_second),
            figures.window(),
            rate(around.consumer_rate),
            self.by_size,
            ByteSize(figures.peak_bytes_per_second() as u64),
            ByteSize(PARTITION_BYTES_PER_SECOND as u64),
            self.by_consumers,
            around.members,
            percent(around.load_share)
        )
    }
}

/// The number of partitions that a topic should have, never fewer than it has, and why.
pub fn decide(table: &str, figures: &Figures, needed: Needed, around: &Surroundings) -> (i32, Vec<Finding>) {
    let reason = needed.reason(figures, around);
    let current = figures.partitions;
    let most = needed.most(around.members);
    let target = most.min(rounded(useful(figures), 1));
    let limited = if most > target { "; more do not help while one key has so much" } else { "" };
    let reason = format!("it has {current} partition(s) and needs {target}: {reason}{limited}");
    if target <= current {
        let more = if target < current { "; what it has beyond that stays, since keys would move" } else { "" };
        let reason = format!("{reason}{more}");
        return (current, vec![Finding::new(Verdict::Keep, reason, None)]);
    }
    let granted = (target - current).min(around.spare_partitions.max(0));
    let (partitions, mut findings) = (current + granted, Vec::new());
    if granted > 0 {
        let remedy = format!(
            "`sooner topics repartition {table} --partitions {partitions}`: keys have other partitions then, so whoever \
             only adds partitions (kafka-topics.sh --alter) puts a key's changes into two of them, without an order"
        );
        findings.push(Finding::new(Verdict::AddPartitions, reason, Some(remedy)));
    }
    if partitions < target {
        let reason = format!(
            "it needs {target} partitions, and the brokers should get {granted} more at most: each costs them files, \
             memory and time at a failover, in every replica"
        );
        let remedy = "add brokers, or raise --broker-partitions if yours bear more";
        findings.push(Finding::new(Verdict::Limit, reason, Some(remedy.to_owned())));
    }
    (partitions, findings)
}

/// So many partitions make the largest smaller; with more it stays as large as its heaviest key.
fn useful(figures: &Figures) -> i32 {
    let heaviest = figures.rules.first().map_or(0.0, |rule| rule.shares.heaviest());
    if heaviest > 0.0 { (1.0_f64 / heaviest).ceil().min(f64::from(MOST_PARTITIONS)) as i32 } else { MOST_PARTITIONS }
}

/// The next number that members share evenly, if they are no more than that, and that more of them would, too.
fn rounded(wanted: i32, members: usize) -> i32 {
    let members = members.max(1).min(wanted.max(1) as usize) as i32;
    let even = |number: &&i32| **number >= wanted && **number % members == 0;
    match LADDER.iter().find(even) {
        Some(number) if *number <= wanted * 2 => *number,
        _ => ((wanted + members - 1) / members * members).min(MOST_PARTITIONS),
    }
}

/// A rate as a person reads it.
pub fn rate(per_second: f64) -> String {
    if per_second < 10.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Surroundings =
        Surroundings { members: 1, consumer_rate: 1_000.0, load_share: 1.0, spare_partitions: 100 };

    fn figures(partitions: i32, peak: f64, bytes_each: f64) -> Figures {
        Figures {
            partitions,
            window_seconds: 3600.0,
            messages: 1_000,
            messages_per_second: peak / 2.0,
            peak_messages_per_second: peak,
            bytes_per_second: peak / 2.0 * bytes_each,
            ..Figures::default()
        }
    }

    fn decided(figures: &Figures, around: &Surroundings) -> (i32, Vec<Finding>) {
        decide("public.t", figures, Needed::of(figures, around), around)
    }

    #[test]
    fn rate_size_and_consumers_each_ask_for_partitions() {
        let of = |figures: &Figures, around: &Surroundings| {
            let Needed { by_rate, by_size, by_consumers } = Needed::of(figures, around);
            (by_rate, by_size, by_consumers)
        };
        assert_eq!(of(&figures(1, 10.0, 100.0), &AROUND), (1, 1, 1));
        assert_eq!(of(&figures(1, 2_100.0, 100.0), &AROUND), (5, 1, 1), "twice the peak");
        assert_eq!(of(&figures(1, 2_000.0, 10_000.0), &AROUND), (4, 4, 1), "40 MB/s at 10 MiB/s each");
        let many = Surroundings { members: 5, ..AROUND };
        assert_eq!(of(&figures(1, 10.0, 100.0), &many), (1, 1, 5));
        let small = Surroundings { load_share: 0.19, ..many };
        assert_eq!(of(&figures(1, 10.0, 100.0), &small), (1, 1, 1), "less than one consumer's part");
    }

    #[test]
    fn numbers_are_such_that_members_share_them_evenly() {
        assert_eq!([5, 7, 13, 1_000].map(|wanted| rounded(wanted, 1)), [6, 8, 16, MOST_PARTITIONS]);
        assert_eq!(
            [(5, 3), (5, 4), (5, 5), (7, 7), (2, 3)].map(|(wanted, members)| rounded(wanted, members)),
            [6, 8, 5, 7, 2]
        );
        // No number of the ladder is a multiple of 5 or 7; then their own multiples do.
        assert_eq!(rounded(11, 5), 15);
    }

    #[test]
    fn more_are_advised_with_figures_and_command_and_fewer_never() {
        let (partitions, findings) = decided(&figures(2, 2_100.0, 100.0), &AROUND);
        assert_eq!((partitions, findings.len(), findings[0].verdict), (6, 1, Verdict::AddPartitions));
        for figure in ["2100 messages/s", "at 1000 a consumer", "needs 6", "100.0 %"] {
            assert!(findings[0].reason.contains(figure), "{figure}: {}", findings[0].reason);
        }
        let remedy = findings[0].remedy.as_deref().unwrap();
        assert!(remedy.contains("`sooner topics repartition public.t --partitions 6`"), "{remedy}");
        let (partitions, findings) = decided(&figures(12, 2_100.0, 100.0), &AROUND);
        assert_eq!((partitions, findings.len(), findings[0].verdict), (12, 1, Verdict::Keep));
    }

    #[test]
    fn brokers_bear_so_many_and_no_more() {
        let tight = Surroundings { spare_partitions: 1, ..AROUND };
        let (partitions, findings) = decided(&figures(2, 2_100.0, 100.0), &tight);
        let verdicts: Vec<_> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!((partitions, verdicts), (3, vec![Verdict::AddPartitions, Verdict::Limit]));
        let full = Surroundings { spare_partitions: -5, ..AROUND };
        let (partitions, findings) = decided(&figures(2, 2_100.0, 100.0), &full);
        assert_eq!((partitions, findings.len(), findings[0].verdict), (2, 1, Verdict::Limit));
    }
}
