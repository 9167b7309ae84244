//! A checkpoint and the log entries after it make the next checkpoint: the last action on each file counts. Decided
//! without I/O.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#action-reconciliation>

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow_array::cast::AsArray;
use arrow_array::{Array, BooleanArray, RecordBatch, StringArray};
use serde_json::{Map, Value, json};

use crate::log::file_rows::{FileName, FileRows};

/// What log entries say, taken in their order.
#[derive(Debug, Default)]
pub struct Recent {
    protocol: Option<Value>,
    metadata: Option<Value>,
    txns: BTreeMap<String, Value>,
    domains: BTreeMap<String, Value>,
    /// By path, the last action on each name of the file.
    files: HashMap<String, Vec<FileAction>>,
}

#[derive(Debug)]
struct FileAction {
    is_add: bool,
    body: Value,
}

/// An object of the table, as the log names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A data file, by its path in the log.
    Data(String),
    /// A file of vectors, by its name in the log.
    Vectors(String),
}

/// Makes the next checkpoint of a former one and of [`Recent`].
pub struct Reconciler {
    recent: Recent,
    /// Files that were removed before this moment are not needed by any version that is kept.
    cutoff_millis: i64,
    /// Paths of live files.
    live: HashSet<String>,
    /// Live files, and those that were removed lately, with their vectors.
    used: HashSet<Object>,
    expired: Vec<Object>,
    most_expired: usize,
    /// Live files in the new checkpoint.
    pub adds: u64,
}

impl Recent {
    /// Takes in one entry's text.
    pub fn take(&mut self, entry: &[u8]) -> serde_json::Result<()> {
        for line in entry.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Map<String, Value> = serde_json::from_slice(line)?;
            for (kind, body) in action {
                self.take_action(&kind, body);
            }
        }
        Ok(())
    }

    fn take_action(&mut self, kind: &str, body: Value) {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        match kind {
            "protocol" => self.protocol = Some(body),
            "metaData" => self.metadata = Some(body),
            "txn" => drop(text("appId").map(|id| self.txns.insert(id, body))),
            "domainMetadata" => drop(text("domain").map(|domain| self.domains.insert(domain, body))),
            "add" | "remove" => self.take_file(kind == "add", body),
            _ => {}
        }
    }

    fn take_file(&mut self, is_add: bool, body: Value) {
        let Some(name) = FileName::of_action(&body) else { return };
        let known = self.files.entry(name.path.to_owned()).or_default();
        known.retain(|action| FileName::of_action(&action.body) != Some(name));
        known.push(FileAction { is_add, body });
    }

    /// Objects of the files that are live after the entries because of them.
    pub fn added_objects(&self) -> impl Iterator<Item = Object> {
        let adds = self.files.values().flatten().filter(|action| action.is_add);
        adds.filter_map(|action| FileName::of_action(&action.body)).flat_map(objects)
    }

    fn names(&self, file: FileName<'_>) -> bool {
        let known = self.files.get(file.path);
        known.is_some_and(|known| known.iter().any(|action| FileName::of_action(&action.body) == Some(file)))
    }
}

impl Reconciler {
    /// The entries after the former checkpoint are these. What was removed before `cutoff_millis`, in milliseconds
    /// since 1970, is needed by nobody; what exceeds `most_expired` objects of that is left for another time.
    pub fn new(recent: Recent, cutoff_millis: i64, most_expired: usize) -> Reconciler {
        let (live, used) = Default::default();
        Reconciler { recent, cutoff_millis, live, used, expired: Vec::new(), most_expired, adds: 0 }
    }

    /// Which rows of the former checkpoint stay, but for its removes. All rows have to be shown, before anything else
    /// is asked.
    pub fn keep(&mut self, rows: &RecordBatch) -> BooleanArray {
        let adds = FileRows::of(rows, "add");
        let is_valid = |kind: &str, row: usize| rows.column_by_name(kind).is_some_and(|column| column.is_valid(row));
        let kept = (0..rows.num_rows()).map(|row| {
            if let Some(file) = adds.as_ref().and_then(|adds| adds.file(row)) {
                return !self.recent.names(file) && self.has_live(file);
            }
            (is_valid("protocol", row) && self.recent.protocol.is_none())
                || (is_valid("metaData", row) && self.recent.metadata.is_none())
                || named(rows, "txn", "appId", row).is_some_and(|id| !self.recent.txns.contains_key(id))
                || named(rows, "domainMetadata", "domain", row)
                    .is_some_and(|domain| !self.recent.domains.contains_key(domain))
        });
        kept.map(Some).collect()
    }

    /// The rows that the entries add, but for their removes.
    pub fn recent_rows(&mut self) -> Vec<Value> {
        let mut rows = Vec::new();
        rows.extend(self.recent.protocol.take().map(|body| json!({"protocol": body})));
        rows.extend(self.recent.metadata.take().map(|body| json!({"metaData": body})));
        rows.extend(self.recent.txns.values().map(|body| json!({"txn": body})));
        let domains = self.recent.domains.values();
        let domains = domains.filter(|body| body.get("removed").and_then(Value::as_bool) != Some(true));
        rows.extend(domains.map(|body| json!({"domainMetadata": body})));
        let files = std::mem::take(&mut self.recent.files);
        for FileAction { body, .. } in files.values().flatten().filter(|action| action.is_add) {
            if let Some(file) = FileName::of_action(body) {
                self.has_live(file);
                rows.push(json!({"add": without_change(body)}));
            }
        }
        self.recent.files = files;
        rows
    }

    /// Which removes of the former checkpoint stay. All rows have to be shown, after [`Reconciler::recent_rows`].
    pub fn keep_removes(&mut self, rows: &RecordBatch) -> BooleanArray {
        let removes = FileRows::of(rows, "remove");
        let kept = (0..rows.num_rows()).map(|row| {
            let Some(file) = removes.as_ref().and_then(|removes| removes.file(row)) else { return false };
            let removed_at = removes.as_ref().map_or(0, |removes| removes.deleted_at_millis(row));
            !self.recent.names(file) && self.needs_remove(file, removed_at)
        });
        kept.map(Some).collect()
    }

    /// The removes that the entries add.
    pub fn recent_removes(&mut self) -> Vec<Value> {
        let files = std::mem::take(&mut self.recent.files);
        let removes = files.values().flatten().filter(|action| !action.is_add);
        removes
            .filter(|FileAction { body, .. }| {
                let at = body.get("deletionTimestamp").and_then(Value::as_i64).unwrap_or_default();
                FileName::of_action(body).is_some_and(|file| self.needs_remove(file, at))
            })
            .map(|FileAction { body, .. }| json!({"remove": without_change(body)}))
            .collect()
    }

    /// What is needed, after everything else.
    pub fn used(&self) -> impl Iterator<Item = &Object> {
        self.used.iter()
    }

    /// What is not needed any more, after everything else.
    pub fn into_unused(self) -> Vec<Object> {
        let Reconciler { expired, used, .. } = self;
        let mut unused: Vec<_> = expired.into_iter().filter(|object| !used.contains(object)).collect();
        unused.sort();
        unused.dedup();
        unused
    }

    fn has_live(&mut self, file: FileName<'_>) -> bool {
        self.adds += 1;
        self.live.insert(file.path.to_owned());
        self.used.extend(objects(file));
        true
    }

    /// Whether the next checkpoint has to say that a file was removed: whoever cleans the table up must spare it.
    fn needs_remove(&mut self, file: FileName<'_>, at_millis: i64) -> bool {
        let is_live = self.live.contains(file.path);
        if is_live && file.vector_file().is_none() {
            // Only the vector changed, and that was part of the log.
            return false;
        }
        if at_millis >= self.cutoff_millis {
            self.used.extend(objects(file));
            return true;
        }
        // Where nobody says when it was removed, it is left to those who list the table.
        if at_millis > 0 {
            if self.expired.len() >= self.most_expired {
                self.used.extend(objects(file));
                return true;
            }
            self.expired.extend(objects(file));
        }
        false
    }
}

/// The objects of a file, with that of its vector.
fn objects(file: FileName<'_>) -> impl Iterator<Item = Object> {
    let vectors = file.vector_file().map(|name| Object::Vectors(name.to_owned()));
    std::iter::once(Object::Data(file.path.to_owned())).chain(vectors)
}

/// An action in a checkpoint never changes data.
fn without_change(body: &Value) -> Value {
    let mut body = body.clone();
    body["dataChange"] = json!(false);
    body
}

/// A text field of a row of one kind; none if the row is of another kind.
fn named<'a>(rows: &'a RecordBatch, kind: &str, field: &str, row: usize) -> Option<&'a str> {
    let record = rows.column_by_name(kind)?.as_struct_opt()?;
    let names: &StringArray = record.column_by_name(field)?.as_string_opt()?;
    record.is_valid(row).then(|| names.value(row))
}

#[cfg(test)]
mod tests {
    use arrow_select::filter::filter_record_batch;
    use proptest::prelude::*;

    use super::*;
    use crate::log::checkpoint_rows::{of_actions, schema};

    const CUTOFF: i64 = 100;

    /// An action on one of a few files, with one of a few vectors.
    #[derive(Clone, Copy, Debug)]
    struct Step {
        is_add: bool,
        path: u8,
        vector: u8,
        at: i64,
    }

    fn body(step: Step) -> Value {
        let vectors =
            [Value::Null, json!({"storageType": "i", "pathOrInlineDv": "x"}), in_file("v", 1), in_file("v", 9)];
        let mut body = json!({"path": format!("f{}", step.path), "dataChange": true, "size": 1});
        if step.vector > 0 {
            body["deletionVector"] = vectors[usize::from(step.vector)].clone();
        }
        if !step.is_add {
            body["deletionTimestamp"] = json!(step.at);
        }
        body
    }

    fn in_file(name: &str, offset: i64) -> Value {
        json!({"storageType": "u", "pathOrInlineDv": name, "offset": offset})
    }

    fn action(step: Step) -> Value {
        if step.is_add { json!({"add": body(step)}) } else { json!({"remove": body(step)}) }
    }

    /// The actions of the next checkpoint, and what is not needed any more.
    fn reconciled(former: &[Value], recent: &[Value]) -> (Vec<RecordBatch>, Vec<Object>) {
        let text: String = recent.iter().map(|action| format!("{action}\n")).collect();
        let mut entries = Recent::default();
        entries.take(text.as_bytes()).unwrap();
        let mut reconciler = Reconciler::new(entries, CUTOFF, usize::MAX);
        let rows = of_actions(former).unwrap();
        let mut kept = vec![filter_record_batch(&rows, &reconciler.keep(&rows)).unwrap()];
        kept.push(of_actions(&reconciler.recent_rows()).unwrap());
        kept.push(filter_record_batch(&rows, &reconciler.keep_removes(&rows)).unwrap());
        kept.push(of_actions(&reconciler.recent_removes()).unwrap());
        (kept, reconciler.into_unused())
    }

    fn names(rows: &[RecordBatch], kind: &str) -> Vec<String> {
        let mut names = Vec::new();
        for rows in rows {
            let files = FileRows::of(rows, kind).unwrap();
            names.extend((0..rows.num_rows()).filter_map(|row| files.file(row)).map(|file| format!("{file:?}")));
        }
        names.sort();
        names
    }

    fn data(name: &str) -> Object {
        Object::Data(name.to_owned())
    }

    #[test]
    fn the_last_word_on_everything_but_files_counts() {
        let former = [
            json!({"protocol": {"minReaderVersion": 1}}),
            json!({"metaData": {"id": "a"}}),
            json!({"txn": {"appId": "x", "version": 1}}),
            json!({"txn": {"appId": "y", "version": 1}}),
            json!({"domainMetadata": {"domain": "d", "configuration": "", "removed": false}}),
        ];
        let recent = [
            json!({"txn": {"appId": "x", "version": 2}}),
            json!({"metaData": {"id": "b"}}),
            json!({"domainMetadata": {"domain": "d", "configuration": "", "removed": true}}),
            json!({"commitInfo": {"txnId": "z"}}),
        ];
        let (rows, _) = reconciled(&former, &recent);
        let expected = [&former[0], &former[3], &recent[1], &recent[0]].map(Clone::clone);
        let rows = arrow_select::concat::concat_batches(schema(), &rows).unwrap();
        assert_eq!(rows, of_actions(&expected).unwrap());
    }

    #[test]
    fn a_file_that_went_long_ago_is_not_needed_and_one_that_went_lately_is() {
        let gone = |path, at| action(Step { is_add: false, path, vector: 0, at });
        let (rows, unused) = reconciled(&[gone(1, 99), gone(2, 100)], &[gone(3, 50), gone(4, 101)]);
        assert_eq!(unused, [data("f1"), data("f3")]);
        assert_eq!(names(&rows, "remove").len(), 2);
        let unknown = json!({"remove": {"path": "f5"}});
        assert!(reconciled(&[unknown], &[]).1.is_empty(), "nobody says when it went");
    }

    #[test]
    fn a_file_of_vectors_is_needed_as_long_as_one_of_them_is() {
        let live = action(Step { is_add: true, path: 1, vector: 3, at: 0 });
        let gone = action(Step { is_add: false, path: 2, vector: 2, at: 5 });
        assert_eq!(reconciled(&[live.clone(), gone.clone()], &[]).1, [data("f2")]);
        let gone_too = action(Step { is_add: false, path: 1, vector: 3, at: 5 });
        assert_eq!(reconciled(&[live, gone], &[gone_too]).1, [data("f1"), data("f2"), Object::Vectors("v".to_owned())]);
    }

    #[test]
    fn a_vector_that_was_replaced_leaves_nothing_behind_where_it_was_part_of_the_log() {
        let live = action(Step { is_add: true, path: 1, vector: 1, at: 0 });
        let former = action(Step { is_add: false, path: 1, vector: 0, at: 500 });
        let (rows, unused) = reconciled(&[], &[former, live]);
        assert!(names(&rows, "remove").is_empty() && unused.is_empty());
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (any::<bool>(), 0..4u8, 0..4u8, 0..200i64);
        prop::collection::vec(step.prop_map(|(is_add, path, vector, at)| Step { is_add, path, vector, at }), 0..30)
    }

    proptest! {
        /// Wherever checkpoints are made, the state is that of all actions one after the other, and nothing goes that
        /// it needs.
        #[test]
        fn a_checkpoint_between_actions_changes_nothing(all in steps(), cut in 0..30usize) {
            let actions: Vec<_> = all.iter().map(|step| action(*step)).collect();
            let (before, after) = actions.split_at(cut.min(actions.len()));
            let (whole, _) = reconciled(&[], &actions);
            // The first checkpoint as actions again.
            let mut last: BTreeMap<String, &Value> = BTreeMap::new();
            for action in before {
                let body = action.get("add").or(action.get("remove")).unwrap();
                last.insert(format!("{:?}", FileName::of_action(body)), action);
            }
            let former: Vec<_> = last.into_values().cloned().collect();
            let (rows, unused) = reconciled(&former, after);
            prop_assert_eq!(names(&rows, "add"), names(&whole, "add"));
            prop_assert_eq!(names(&rows, "remove"), names(&whole, "remove"));
            for rows in &rows {
                for kind in ["add", "remove"] {
                    let files = FileRows::of(rows, kind).unwrap();
                    for file in (0..rows.num_rows()).filter_map(|row| files.file(row)) {
                        prop_assert!(objects(file).all(|object| !unused.contains(&object)), "{file:?} is needed");
                    }
                }
            }
        }
    }
}
