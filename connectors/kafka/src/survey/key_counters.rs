//! Counts the keys of messages by several rules of partitioning at once: the one in force, and those that part the
//! messages further.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Code, Error, Result};
use sooner_schemas::avro::Schema;
use sooner_schemas::wire::{Malformed, split_header};

use super::frequent_keys::{FrequentKeys, KeyShares, WeighedKeys};
use crate::cluster::settings::PartitionBy;
use crate::message::events::ON_WITHOUT_IT;
use crate::message::key_text::{columns_text, key_text};
use crate::message::partition::column_bytes;

/// Keys that are counted at a time, of each partition and rule: a key is found that has a thousandth of the messages.
const KEYS_COUNTED: usize = 1_000;
/// Rules by which keys are counted.
const MOST_RULES: usize = 8;

/// Finds the schema of an id. May take seconds.
pub type FindSchema<'a> = dyn FnMut(u32) -> Result<Arc<Schema>> + 'a;

/// The keys of a topic, as one rule of partitioning parts them.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleShares {
    /// The columns of the key that count; none for the whole key.
    pub columns: Option<Vec<String>>,
    /// What shares of the messages keys have.
    pub shares: KeyShares,
}

/// Counters of one partition, one for each rule.
pub(super) type Counters = Vec<FrequentKeys>;

/// Counts the keys of one topic.
pub(super) struct KeyCounters {
    by: PartitionBy,
    /// Key schemas by their ids.
    schemas: HashMap<u32, Arc<Schema>>,
    /// The rules, the one in force first; empty before the first key.
    rules: Vec<Option<Vec<String>>>,
    weighed: Vec<WeighedKeys>,
}

impl KeyCounters {
    /// Counts for a topic whose events are partitioned like this.
    pub fn new(by: &PartitionBy) -> KeyCounters {
        KeyCounters { by: by.clone(), schemas: HashMap::new(), rules: Vec::new(), weighed: Vec::new() }
    }

    /// Counts a message's key in the counters of its partition. A key that is no Avro is counted as it is.
    pub fn add(&mut self, counters: &mut Counters, key: &[u8], find: &mut FindSchema<'_>) -> Result<()> {
        let Ok((id, datum)) = split_header(key) else {
            self.adopt(vec![None]);
            counter(counters, 0).add(key, key);
            return Ok(());
        };
        let schema = match self.schemas.get(&id) {
            Some(schema) => schema.clone(),
            None => {
                let schema = find(id)?;
                self.schemas.insert(id, schema.clone());
                schema
            }
        };
        if self.rules.is_empty() {
            self.adopt(rules(&self.by, &columns(&schema)));
        }
        for (number, rule) in self.rules.iter().enumerate() {
            match rule {
                None => counter(counters, number).add(datum, key),
                Some(columns) => {
                    let bytes = column_bytes(&schema, key, columns).map_err(|why| unreadable(id, why))?;
                    counter(counters, number).add(&bytes, key);
                }
            }
        }
        Ok(())
    }

    fn adopt(&mut self, rules: Vec<Option<Vec<String>>>) {
        if self.rules.is_empty() {
            self.weighed = vec![WeighedKeys::default(); rules.len()];
            self.rules = rules;
        }
    }

    /// Takes over a partition's counters; each of its keys stands for `weight` messages.
    pub fn take(&mut self, counters: Counters, weight: f64) {
        for (weighed, counted) in self.weighed.iter_mut().zip(counters) {
            weighed.take(counted, weight);
        }
    }

    /// The shares of keys by each rule, the one in force first; empty if there was no key.
    pub fn shares(self) -> Vec<RuleShares> {
        let KeyCounters { schemas, rules, weighed, .. } = self;
        let text = |columns: &Option<Vec<String>>, key: &[u8]| {
            let schema = split_header(key).ok().and_then(|(id, _)| schemas.get(&id));
            match (schema, columns) {
                (Some(schema), Some(columns)) => columns_text(schema, key, columns),
                (Some(schema), None) => key_text(schema, key),
                (None, _) => String::from_utf8_lossy(key).into_owned(),
            }
        };
        let all = rules.into_iter().zip(weighed);
        all.map(|(columns, weighed)| {
            let shares = weighed.shares(KEYS_COUNTED, |key| text(&columns, key));
            RuleShares { columns, shares }
        })
        .collect()
    }
}

fn counter(counters: &mut Counters, number: usize) -> &mut FrequentKeys {
    if counters.len() <= number {
        counters.resize_with(number + 1, || FrequentKeys::new(KEYS_COUNTED));
    }
    &mut counters[number]
}

fn columns(schema: &Schema) -> Vec<String> {
    let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
    fields.iter().map(|field| field.column.clone()).collect()
}

/// The rules to count by: the one in force, the whole key, and the one in force with one more column of the key.
fn rules(by: &PartitionBy, key: &[String]) -> Vec<Option<Vec<String>>> {
    let PartitionBy::Columns(columns) = by else { return vec![None] };
    let mut rules = vec![Some(columns.clone()), None];
    let others = key.iter().filter(|column| !columns.contains(column));
    if columns.len() + 1 < key.len() {
        rules.extend(others.map(|column| Some(columns.iter().chain([column]).cloned().collect())));
    }
    rules.truncate(MOST_RULES);
    rules
}

fn unreadable(id: u32, why: Malformed) -> Error {
    let what = format!("cannot read a key with schema id {id}");
    Error::operator(Code::MessageUnreadable, what, why, ON_WITHOUT_IT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Arc<Schema> {
        let field = |name: &str| format!("{{\"name\":\"{name}\",\"type\":\"long\"}}");
        let fields = ["tenant", "region", "id"].map(field).join(",");
        Arc::new(Schema::parse(&format!("{{\"type\":\"record\",\"name\":\"Key\",\"fields\":[{fields}]}}")).unwrap())
    }

    #[test]
    fn keys_are_counted_by_the_rule_in_force_and_by_finer_ones() {
        let by = PartitionBy::Columns(vec!["tenant".into()]);
        let (mut keys, mut counters) = (KeyCounters::new(&by), Counters::new());
        let mut asked = 0;
        for number in 0..10_u8 {
            let tenant = if number < 8 { 2 } else { 4 };
            let mut find = |_| {
                asked += 1;
                Ok(schema())
            };
            keys.add(&mut counters, &[0, 0, 0, 0, 1, tenant, (number % 2) * 2, number * 2], &mut find).unwrap();
        }
        assert_eq!(asked, 1);
        keys.take(counters, 1.0);
        let found = keys.shares();
        let of = |number: usize| (found[number].columns.clone(), found[number].shares.heaviest());
        let named = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(0), (named(&["tenant"]), 0.8));
        assert_eq!(of(1), (None, 0.1));
        assert_eq!(of(2), (named(&["tenant", "region"]), 0.4));
        assert_eq!(of(3), (named(&["tenant", "id"]), 0.1));
        assert_eq!(found[0].shares.keys[0].text, "tenant=1");
        assert_eq!(found[1].shares.keys[0].text, "tenant=1, region=0, id=0");
    }

    #[test]
    fn a_key_of_two_columns_has_no_rule_between_one_column_and_all() {
        let by = PartitionBy::Columns(vec!["tenant".into()]);
        let key = ["tenant".to_owned(), "id".to_owned()];
        assert_eq!(rules(&by, &key), [Some(vec!["tenant".into()]), None]);
        assert_eq!(rules(&PartitionBy::Key, &key), [None]);
    }

    #[test]
    fn keys_without_a_schema_are_counted_as_they_are() {
        let (mut keys, mut counters) = (KeyCounters::new(&PartitionBy::Key), Counters::new());
        keys.add(&mut counters, b"plain", &mut |_| panic!("there is no id")).unwrap();
        keys.take(counters, 1.0);
        assert_eq!(keys.shares()[0].shares.keys[0].text, "plain");
    }
}
