//! On which line of the file each key stands, so that a problem can be gone to.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Lines of keys, by their full paths such as `source.tables[0]`.
#[derive(Debug, Default)]
pub struct Lines(HashMap<String, usize>);

impl Lines {
    /// The lines of a text; none of one that is no TOML.
    pub fn of(text: &str) -> Lines {
        let mut lines = Lines::default();
        if let Ok(table) = DeTable::parse(text) {
            lines.add_table(text, "", table.get_ref());
        }
        lines
    }

    /// Problems with their lines.
    pub fn place_all(&self, problems: Vec<String>) -> Vec<String> {
        problems.iter().map(|problem| self.place(problem)).collect()
    }

    /// A problem, which begins with the path of a key, with the line of the key, or of the section that lacks it.
    pub fn place(&self, problem: &str) -> String {
        let path = problem.split_once(": ").map_or(problem, |(path, _)| path);
        let parents = std::iter::successors(Some(path), |path| Some(&path[..path.rfind(['.', '['])?]));
        match parents.into_iter().find_map(|path| self.0.get(path)) {
            Some(line) => format!("line {line}: {problem}"),
            None => problem.to_owned(),
        }
    }

    fn add_table(&mut self, text: &str, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
            self.add(text, path, key.span().start, value);
        }
    }

    fn add(&mut self, text: &str, path: String, start: usize, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.add_table(text, &path, table),
            DeValue::Array(items) => {
                for (number, item) in items.iter().enumerate() {
                    self.add(text, format!("{path}[{number}]"), item.span().start, item);
                }
            }
            _ => {}
        }
        let line = text[..start].matches('\n').count() + 1;
        self.0.entry(path).or_insert(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_line_of_its_key_or_of_its_section() {
        let text = "name = 'shop'\n[source]\nurl = 'x'\ntables = [\n  'a.b',\n  'c',\n]\n[[table]]\nmatch = 'a.b'\n\
                    [[table]]\nfreshness = '1s'\n[kafka.tls]\nca = 'x'\n";
        let lines = Lines::of(text);
        for (problem, line) in [
            ("name: w", "line 1: name: w"),
            ("source.url: w: y", "line 3: source.url: w: y"),
            ("source.tables[1]: w", "line 6: source.tables[1]: w"),
            ("source.slot: is missing", "line 2: source.slot: is missing"),
            ("table[1].match: is missing", "line 10: table[1].match: is missing"),
            ("kafka.tls.ca: w", "line 13: kafka.tls.ca: w"),
            ("lake.url: is missing", "lake.url: is missing"),
        ] {
            assert_eq!(lines.place(problem), line);
        }
        assert_eq!(Lines::of("no toml").place("name: w"), "name: w");
    }
}
