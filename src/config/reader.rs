//! Reads a TOML table key by key, and collects all problems: refused values, missing keys, unknown keys.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use toml::Value;

/// A TOML table of the configuration that is being read. Reading a key takes it out; keys that are left at
/// the end are unknown. A `check` returns the checked value, or a phrase that says what was expected.
pub struct Section {
    path: String,
    table: toml::Table,
    known: Vec<&'static str>,
    problems: Vec<String>,
    folder: PathBuf,
}

impl Section {
    /// Starts to read a whole file; relative paths in it start from `folder`.
    pub fn root(table: toml::Table, folder: &Path) -> Section {
        Section { path: String::new(), table, known: Vec::new(), problems: Vec::new(), folder: folder.to_owned() }
    }

    /// Whether the section still has a key; does not read it.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Takes note of a key that may be missing, for what is said of unknown ones.
    pub fn knows(&mut self, key: &'static str) {
        self.known.push(key);
    }

    /// Adds a problem with a key, named by its full path in the file.
    pub fn problem(&mut self, key: &str, why: &str) {
        self.problems.push(format!("{}{key}: {why}", self.path));
    }

    /// Reads a required text; a missing key is a problem.
    pub fn text<T>(&mut self, key: &'static str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.problem(key, "is missing");
            return None;
        }
        self.optional(key, check)
    }

    /// Reads an optional text; a value that is no text, or that `check` refuses, is a problem.
    pub fn optional<T>(&mut self, key: &'static str, check: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.take(key)?;
        let Value::String(text) = value else {
            self.problem(key, "expected a text in quotes");
            return None;
        };
        match check(&text) {
            Ok(checked) => Some(checked),
            Err(why) => {
                self.problem(key, &format!("'{text}': {why}"));
                None
            }
        }
    }

    /// Reads a required text that no problem shows, because it may contain a secret. `check` is also told whether the
    /// text comes from a variable, where a secret may be.
    pub fn unshown_text<T>(
        &mut self,
        key: &'static str,
        check: impl FnOnce(&str, bool) -> Result<T, String>,
    ) -> Option<T> {
        let is_variable = self.is_variable(key);
        let value = self.take(key);
        let checked = match value.as_ref().map(Value::as_str) {
            None if is_variable => return None,
            None => Err("is missing".to_owned()),
            Some(None) => Err("expected a text in quotes".to_owned()),
            Some(Some(text)) => check(text, is_variable),
        };
        checked.map_err(|why| self.problem(key, &why)).ok()
    }

    /// Reads an optional list of texts, and reports each item that `check` refuses.
    pub fn list<T>(&mut self, key: &'static str, check: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let Value::Array(items) = self.take(key)? else {
            self.problem(key, "expected a list of texts, such as [\"public.*\"]");
            return None;
        };
        let mut checked = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let Some(item) = self.resolve(&format!("{key}[{index}]"), item) else { continue };
            let text = item.as_str().unwrap_or_default();
            match check(text) {
                Ok(item) => checked.push(item),
                Err(why) => self.problem(&format!("{key}[{index}]"), &format!("'{text}': {why}")),
            }
        }
        Some(checked)
    }

    /// Reads an optional table of texts, such as `{ date = "null" }`, and reports each name and text that `check`
    /// refuses.
    pub fn texts<T>(&mut self, key: &'static str, check: impl Fn(&str, &str) -> Result<T, String>) -> Vec<(String, T)> {
        self.values(key, "a table of texts, such as { date = \"null\" }", |name, value| {
            let text = value.as_str().unwrap_or_default();
            check(name, text).map_err(|why| format!("'{text}': {why}"))
        })
    }

    /// Reads an optional table of any values, and reports each name and value that `check` refuses; `expected` says
    /// what the table is.
    pub fn values<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        check: impl Fn(&str, &Value) -> Result<T, String>,
    ) -> Vec<(String, T)> {
        let Some(value) = self.take_as_written(key) else { return Vec::new() };
        let Value::Table(table) = value else {
            self.problem(key, &format!("expected {expected}"));
            return Vec::new();
        };
        let mut checked = Vec::new();
        for (name, value) in table {
            let Some(value) = self.resolve(&format!("{key}.{name}"), value) else { continue };
            match check(&name, &value) {
                Ok(value) => checked.push((name, value)),
                Err(why) => self.problem(&format!("{key}.{name}"), &why),
            }
        }
        checked
    }

    /// Reads a duration such as "1s", at least `least`; `default` if it is missing or refused.
    pub fn duration(&mut self, key: &'static str, default: Duration, least: Duration) -> Duration {
        self.optional_duration(key, least).unwrap_or(default)
    }

    /// Reads a duration such as "500ms", at least `least`; none if it is missing or refused.
    pub fn optional_duration(&mut self, key: &'static str, least: Duration) -> Option<Duration> {
        self.optional(key, |text| match humantime::parse_duration(text) {
            Ok(duration) if duration >= least => Ok(duration),
            Ok(_) => Err(format!("expected at least {}", humantime::format_duration(least))),
            Err(error) => Err(format!("expected a duration such as \"1s\" or \"500ms\" ({error})")),
        })
    }

    /// Reads a size such as "64MiB" as bytes, at least `least`; `default` if it is missing or refused.
    pub fn size(&mut self, key: &'static str, default: usize, least: usize) -> usize {
        self.optional_size(key, least).unwrap_or(default)
    }

    /// Reads a size such as "64MiB" as bytes, at least `least`; none if it is missing or refused.
    pub fn optional_size(&mut self, key: &'static str, least: usize) -> Option<usize> {
        self.optional(key, |text| parse_size(text, least))
    }

    /// Reads a whole number in the range `allowed`; `default` if it is missing or refused.
    pub fn count(&mut self, key: &'static str, default: usize, allowed: RangeInclusive<usize>) -> usize {
        let is_variable = self.is_variable(key);
        let Some(value) = self.take(key) else { return default };
        let text = value.as_str().filter(|_| is_variable);
        let number = value.as_integer().or_else(|| text?.parse().ok());
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) if allowed.contains(&number) => number,
            _ => {
                let why = format!("expected a number from {} to {}", allowed.start(), allowed.end());
                self.problem(key, &why);
                default
            }
        }
    }

    /// Reads an optional secret from where the file refers to: `{ env = "VARIABLE" }` or `{ file = "path" }`. Line
    /// breaks at the end of a secret's file are dropped; a secret in the configuration itself is a problem and is
    /// not shown.
    pub fn secret(&mut self, key: &'static str) -> Option<String> {
        let value = self.take_as_written(key)?;
        let Value::Table(place) = value else {
            self.problem(key, "secrets do not belong in the file; write { env = \"VARIABLE\" } or { file = \"path\" }");
            return None;
        };
        let place: Vec<_> = place.iter().map(|(kind, name)| (kind.as_str(), name.as_str())).collect();
        let found = match place[..] {
            [("env", Some(name))] => {
                std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))
            }
            [("file", Some(name))] => std::fs::read_to_string(self.folder.join(name))
                .map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
                .map_err(|error| format!("the file {name} cannot be read: {error}")),
            _ => Err("expected { env = \"VARIABLE\" } or { file = \"path\" }".to_owned()),
        };
        found.map_err(|why| self.problem(key, &why)).ok()
    }

    /// Path of the file that a secret is in; none if it is elsewhere. Does not read the key.
    pub fn secret_file(&self, key: &str) -> Option<PathBuf> {
        let file = self.table.get(key)?.as_table()?.get("file")?.as_str()?;
        Some(self.folder.join(file))
    }

    /// Reads a required secret; a missing key is a problem.
    pub fn required_secret(&mut self, key: &'static str) -> Option<String> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            self.problem(key, "is missing; write { env = \"VARIABLE\" } or { file = \"path\" }");
            return None;
        }
        self.secret(key)
    }

    /// Reads an optional path of a file, relative to the configuration's folder; the file must be readable.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = self.folder.clone();
        self.optional(key, |text| {
            let path = folder.join(text);
            match std::fs::File::open(&path) {
                Ok(_) => Ok(path),
                Err(error) => Err(format!("the file cannot be read: {error}")),
            }
        })
    }

    /// Reads a boolean; `default` if it is missing or refused.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let is_variable = self.is_variable(key);
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(Value::String(text)) if is_variable && matches!(text.as_str(), "true" | "false") => text == "true",
            Some(_) => {
                self.problem(key, "expected true or false");
                default
            }
        }
    }

    /// Reads an optional table of names with values, as texts; `check` may refuse a name. Values may be texts, whole
    /// numbers or booleans.
    pub fn strings(&mut self, key: &'static str, check: impl Fn(&str) -> Result<(), String>) -> Vec<(String, String)> {
        let table = match self.take_as_written(key) {
            None => return Vec::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.problem(key, "expected a section of names with texts");
                return Vec::new();
            }
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            let Some(value) = self.resolve(&format!("{key}.{name}"), value) else { continue };
            match (check(&name), value) {
                (Err(why), _) => self.problem(&format!("{key}.{name}"), &format!("is refused: {why}")),
                (Ok(()), Value::String(text)) => pairs.push((name, text)),
                (Ok(()), Value::Integer(number)) => pairs.push((name, number.to_string())),
                (Ok(()), Value::Boolean(flag)) => pairs.push((name, flag.to_string())),
                (Ok(()), _) => self.problem(&format!("{key}.{name}"), "expected a text, a number, true or false"),
            }
        }
        pairs
    }

    /// Reads an optional subsection with `read`; none if it is missing.
    pub fn optional_section<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section) -> Option<T>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.push(key);
            return None;
        }
        self.section(key, read)
    }

    /// Reads a required subsection with `read`. A missing one is read as an empty one, which reports its required
    /// keys.
    pub fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section) -> Option<T>) -> Option<T> {
        let table = match self.take_as_written(key) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.problem(key, "expected a section");
                return None;
            }
            None => toml::Table::new(),
        };
        let mut inner = Section::root(table, &self.folder);
        inner.path = format!("{}{key}.", self.path);
        let checked = read(&mut inner);
        self.problems.extend(inner.finish());
        checked
    }

    /// Reads each of the optional subsections `[[key]]` with `read`, in their order.
    pub fn sections<T>(&mut self, key: &'static str, read: impl Fn(&mut Section) -> Option<T>) -> Vec<T> {
        let blocks = match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(blocks)) => blocks,
            Some(_) => {
                self.problem(key, &format!("expected sections [[{key}]]"));
                return Vec::new();
            }
        };
        let mut checked = Vec::new();
        for (number, block) in blocks.into_iter().enumerate() {
            let Value::Table(table) = block else {
                self.problem(key, &format!("expected sections [[{key}]]"));
                continue;
            };
            let mut inner = Section::root(table, &self.folder);
            inner.path = format!("{}{key}[{number}].", self.path);
            checked.extend(read(&mut inner));
            self.problems.extend(inner.finish());
        }
        checked
    }

    /// Returns all problems; each key that was not read is one of them.
    pub fn finish(mut self) -> Vec<String> {
        for key in self.table.keys().cloned().collect::<Vec<_>>() {
            let why = match self.known.iter().find(|known| looks_like(known, &key)) {
                Some(known) => format!("is not known; did you mean '{known}'?"),
                None => format!("is not known; allowed here: {}", self.known.join(", ")),
            };
            self.problem(&key, &why);
        }
        self.problems
    }

    fn is_variable(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| variable(value).is_some())
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        let value = self.take_as_written(key)?;
        self.resolve(key, value)
    }

    fn take_as_written(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// The value of an environment variable where `{ env = "VARIABLE" }` stands, as a text; any other value as it is.
    fn resolve(&mut self, key: &str, value: Value) -> Option<Value> {
        let Some(name) = variable(&value) else { return Some(value) };
        match std::env::var(name) {
            Ok(text) => Some(Value::String(text)),
            Err(_) => {
                self.problem(key, &format!("the environment variable {name} is not set"));
                None
            }
        }
    }
}

/// The variable that a value refers to.
fn variable(value: &Value) -> Option<&str> {
    let table = value.as_table().filter(|table| table.len() == 1)?;
    table.get("env")?.as_str()
}

fn parse_size(text: &str, least: usize) -> Result<usize, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(bytes)) if bytes >= least as u64 => Ok(usize::try_from(bytes).unwrap_or(usize::MAX)),
        Ok(_) => Err(format!("expected at least {}", ByteSize(least as u64))),
        Err(_) => Err("expected a size such as \"64MiB\"".to_owned()),
    }
}

/// Whether a key is probably a misspelt known one: the same letters in any order, or one letter more or less.
fn looks_like(known: &str, typed: &str) -> bool {
    let sorted = |text: &str| {
        let mut letters: Vec<_> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    let without_one = |long: &str, short: &str| {
        long.len() == short.len() + 1
            && long.char_indices().any(|(at, c)| format!("{}{}", &long[..at], &long[at + c.len_utf8()..]) == short)
    };
    sorted(known) == sorted(typed) || without_one(known, typed) || without_one(typed, known)
}
