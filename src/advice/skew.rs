//! Whether a topic's partitions are even, and what helps where they are not. A key has one partition, so a key with
//! more than a partition's even share makes that partition larger, however many there are: then other columns have to
//! decide about the partition, or the table has to be split.

use sooner_kafka::survey::key_counters::RuleShares;

use super::figures::{Figures, Finding, Surroundings, Verdict, percent};
use super::partitions::rate;

/// A share of so many times an even one still counts as even.
const TOLERANCE: f64 = 1.5;
/// A partition is uneven from so many even shares on.
const UNEVEN: f64 = 2.0;
/// Another rule is worth it if it makes the largest partition so much smaller.
const WORTH: f64 = 0.75;
/// So many messages for each partition tell whether keys are even; fewer are chance.
const MESSAGES_TO_JUDGE: u64 = 20;

/// Judges the keys of a table's topic, which has or is to have so many partitions; none where they are even.
pub fn judge(table: &str, figures: &Figures, around: &Surroundings, partitions: i32) -> Option<Finding> {
    let in_force = figures.rules.first()?;
    if partitions <= 1 {
        return None;
    }
    if figures.messages_read < MESSAGES_TO_JUDGE * partitions.unsigned_abs() as u64 {
        let reason = format!(
            "only {} messages were read, too few to tell how even {partitions} partitions are",
            figures.messages_read
        );
        let remedy = "look at a longer time (--sample), or at more messages (--messages)";
        return Some(Finding::new(Verdict::Measure, reason, Some(remedy.to_owned())));
    }
    if in_force.shares.heaviest() * f64::from(partitions) > TOLERANCE {
        return Some(heavy_key(table, figures, around, partitions));
    }
    uneven(table, figures, in_force)
}

fn heavy_key(table: &str, figures: &Figures, around: &Surroundings, partitions: i32) -> Finding {
    let (in_force, others) = (&figures.rules[0], &figures.rules[1..]);
    let shares = &in_force.shares;
    let key = shares.keys.first().map(|key| key.text.as_str()).unwrap_or_default();
    let (share, now) = (shares.heaviest(), shares.largest_partition(partitions));
    let of_key = share * figures.peak_messages_per_second;
    let mut reason = format!(
        "the key {key} has {} of the messages, and an even share of {partitions} partitions is {}: the partition that it \
         is in has at least as much, however many there are, and {} with {partitions}",
        percent(share),
        percent(1.0 / f64::from(partitions)),
        percent(now)
    );
    reason.push_str(&match of_key > around.consumer_rate {
        true => {
            format!("; at {} messages/s that is more than a consumer's {}", rate(of_key), rate(around.consumer_rate))
        }
        false => format!("; its {} messages/s at the peak are within a consumer's {}", rate(of_key), {
            rate(around.consumer_rate)
        }),
    });
    match best(others, partitions, now) {
        Some(rule) => {
            let named = in_force.columns.as_ref().map(|columns| columns.join(", ")).unwrap_or_default();
            let then = percent(rule.shares.largest_partition(partitions));
            let reason = format!("{reason}. By {} the largest partition has {then}", by(rule));
            let remedy = format!(
                "{} in [kafka], for all tables of the pipeline, then `sooner topics repartition {table} --partitions \
                 {partitions}`; each row's changes stay in order, those of rows that agree in {named} only within a \
                 partition. If these must stay in order, give what is hot a table of its own: that has a topic of its own",
                setting(rule)
            );
            Finding::new(Verdict::PartitionBy, reason, Some(remedy))
        }
        None => {
            let remedy = match &in_force.columns {
                None => {
                    "more partitions do not part the changes of one row. Change it less often (once for many), or spread \
                     it over several rows that are added up when read; or move such rows to a table of their own, which \
                     has a topic of its own, so that they hold up no others"
                }
                Some(_) => {
                    "more partitions do not part it, nor do other columns of the key. Move what is hot to a table of its \
                     own: that has a topic of its own, with as many partitions as it needs"
                }
            };
            Finding::new(Verdict::SplitTable, reason, Some(remedy.to_owned()))
        }
    }
}

/// The rule that makes partitions even with the fewest columns; or else the one that makes them the most even, if that
/// is worth it.
fn best(rules: &[RuleShares], partitions: i32, now: f64) -> Option<&RuleShares> {
    let largest = |rule: &&RuleShares| rule.shares.largest_partition(partitions);
    let goal = TOLERANCE / f64::from(partitions);
    let columns = |rule: &&RuleShares| rule.columns.as_ref().map_or(usize::MAX, Vec::len);
    let even = rules.iter().filter(|rule| largest(rule) <= goal).min_by_key(columns);
    let better = rules.iter().filter(|rule| largest(rule) <= now * WORTH);
    even.or_else(|| better.min_by(|one, other| largest(one).total_cmp(&largest(other))))
}

fn by(rule: &RuleShares) -> String {
    rule.columns.as_ref().map_or("the whole key".to_owned(), |columns| columns.join(", "))
}

fn setting(rule: &RuleShares) -> String {
    match &rule.columns {
        None => "take partition_by out, so that the whole key counts,".to_owned(),
        Some(columns) => format!("set partition_by = {columns:?}"),
    }
}

/// A finding where a partition has far more than its share, though no key does: keys are few, or met by chance.
fn uneven(table: &str, figures: &Figures, in_force: &RuleShares) -> Option<Finding> {
    let partitions = figures.partitions;
    let largest = figures.largest_partition.filter(|largest| largest.share * f64::from(partitions) > UNEVEN)?;
    let shares = &in_force.shares;
    let few = if shares.rest == 0.0 { format!(": there are {} keys", shares.keys.len()) } else { String::new() };
    let reason = format!(
        "partition {} has {} of the messages, where {} would be even, though no key has more than {}{few}; keys met in it \
         by their hashes",
        largest.partition,
        percent(largest.share),
        percent(1.0 / f64::from(partitions)),
        percent(shares.heaviest())
    );
    let is_better = |number: &i32| shares.largest_partition(*number) * f64::from(*number) <= TOLERANCE;
    let remedy = match (partitions + 1..=partitions * 2).find(is_better) {
        Some(number) => format!(
            "`sooner topics repartition {table} --partitions {number}`: the largest has {} then",
            percent(shares.largest_partition(number))
        ),
        None => "more columns in partition_by of [kafka], or the whole key, make more keys".to_owned(),
    };
    Some(Finding::new(Verdict::Uneven, reason, Some(remedy)))
}

#[cfg(test)]
mod tests {
    use sooner_kafka::message::partition::hash_of;
    use sooner_kafka::survey::frequent_keys::{KeyShare, KeyShares};

    use super::*;
    use crate::advice::figures::LargestPartition;

    const AROUND: Surroundings =
        Surroundings { members: 1, consumer_rate: 1_000.0, load_share: 1.0, spare_partitions: 100 };

    fn rule(columns: Option<&[&str]>, keys: &[(&str, f64)]) -> RuleShares {
        let key = |(name, share): &(&str, f64)| KeyShare {
            text: (*name).to_owned(),
            hash: hash_of(name.as_bytes()),
            share: *share,
        };
        let keys: Vec<_> = keys.iter().map(key).collect();
        let rest = 1.0 - keys.iter().map(|key| key.share).sum::<f64>();
        let columns = columns.map(|columns| columns.iter().map(|column| (*column).to_owned()).collect());
        RuleShares { columns, shares: KeyShares { keys, rest } }
    }

    fn figures(rules: Vec<RuleShares>) -> Figures {
        let peak_messages_per_second = 2_000.0;
        Figures {
            partitions: 4,
            messages: 900,
            messages_read: 900,
            peak_messages_per_second,
            rules,
            ..Figures::default()
        }
    }

    fn judged(figures: &Figures) -> Option<Finding> {
        judge("public.t", figures, &AROUND, figures.partitions)
    }

    #[test]
    fn even_keys_need_nothing() {
        assert_eq!(judged(&figures(vec![rule(None, &[("id=1", 0.1)])])), None);
        assert_eq!(judged(&Figures { partitions: 1, ..figures(vec![rule(None, &[("id=1", 0.9)])]) }), None);
        assert_eq!(judged(&figures(Vec::new())), None, "there are no keys");
    }

    #[test]
    fn a_heavy_tenant_is_parted_by_more_of_the_key() {
        let tenant = rule(Some(&["tenant"]), &[("tenant=7", 0.8)]);
        let whole = rule(None, &[("tenant=7, id=1", 0.01)]);
        let found = judged(&figures(vec![tenant.clone(), whole.clone()])).unwrap();
        assert_eq!(found.verdict, Verdict::PartitionBy);
        for figure in ["tenant=7 has 80.0 %", "25.0 %", "1600 messages/s that is more than a consumer's 1000"] {
            assert!(found.reason.contains(figure), "{figure}: {}", found.reason);
        }
        assert!(found.remedy.unwrap().starts_with("take partition_by out"));
        // Of rules that make partitions even, the one that keeps most in order.
        let region = rule(Some(&["tenant", "region"]), &[("tenant=7, region=1", 0.1)]);
        let remedy = judged(&figures(vec![tenant, whole, region])).unwrap().remedy.unwrap();
        assert!(remedy.starts_with("set partition_by = [\"tenant\", \"region\"]"), "{remedy}");
        assert!(remedy.contains("`sooner topics repartition public.t --partitions 4`"), "{remedy}");
    }

    #[test]
    fn a_heavy_row_is_parted_by_nothing() {
        let found = judged(&figures(vec![rule(None, &[("id=1", 0.8)])])).unwrap();
        assert!(found.verdict == Verdict::SplitTable && found.remedy.unwrap().contains("table of their own"));
        let (tenant, whole) = (rule(Some(&["tenant"]), &[("tenant=7", 0.8)]), rule(None, &[("tenant=7, id=1", 0.79)]));
        let found = judged(&figures(vec![tenant, whole])).unwrap();
        assert_eq!(found.verdict, Verdict::SplitTable, "the whole key is hardly better");
        let calm = Figures { peak_messages_per_second: 10.0, ..figures(vec![rule(None, &[("id=1", 0.8)])]) };
        assert!(judged(&calm).unwrap().reason.contains("within a consumer's 1000"));
    }

    #[test]
    fn keys_that_met_by_chance_are_parted_by_another_number() {
        let keys: Vec<_> = (0..8).map(|number| format!("id={number}")).collect();
        let shares: Vec<_> = keys.iter().map(|key| (key.as_str(), 0.125)).collect();
        let largest_partition = Some(LargestPartition { partition: 2, share: 0.75 });
        let found = judged(&Figures { largest_partition, ..figures(vec![rule(None, &shares)]) }).unwrap();
        assert_eq!(found.verdict, Verdict::Uneven);
        assert!(found.reason.contains("partition 2 has 75.0 %") && found.reason.contains("8 keys"), "{}", found.reason);
    }

    #[test]
    fn a_handful_of_messages_tells_nothing() {
        let few = Figures { messages_read: 79, ..figures(vec![rule(None, &[("id=1", 0.8)])]) };
        assert_eq!(judged(&few).unwrap().verdict, Verdict::Measure);
    }
}
