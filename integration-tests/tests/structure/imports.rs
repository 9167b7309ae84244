//! Which file of a crate imports from which: paths that begin at the crate, or above the file, followed through
//! re-exports to the file that defines what they name.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Source, files};

/// A crate's files, each with those that it imports from.
pub struct Imports {
    files: BTreeMap<String, BTreeSet<String>>,
}

/// A file as a module.
struct Module {
    path: Vec<String>,
    imports: Vec<Vec<String>>,
    /// Names that it passes on, each with the path that it has them from.
    passed_on: BTreeMap<String, Vec<String>>,
}

impl Imports {
    /// Of the crate whose sources are in this folder.
    pub fn of(folder: &str) -> Imports {
        let modules: BTreeMap<_, _> = files(folder, ".rs")
            .iter()
            .filter(|source| !source.path[folder.len()..].starts_with("/bin/") && !source.path.ends_with("/main.rs"))
            .map(|source| {
                let path = module_path(&source.path[folder.len() + 1..]);
                (path.clone(), (source.path.clone(), module(path, source)))
            })
            .collect();
        let defining = |path: &[String]| defining(&modules, path, 0);
        let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (file, module) in modules.values() {
            let of = imports.entry(file.clone()).or_default();
            of.extend(module.imports.iter().filter_map(|path| defining(path)).filter(|other| other != file));
        }
        Imports { files: imports }
    }

    /// A circle of files, if there is one.
    pub fn circle(&self) -> Option<Vec<String>> {
        circle(&self.files)
    }

    /// A circle of wings, which are the folders of the crate, if there is one.
    pub fn circle_of_wings(&self, folder: &str) -> Option<Vec<String>> {
        let wing = |file: &str| file[folder.len() + 1..].split_once('/').map(|(wing, _)| wing.to_owned());
        let mut wings: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (file, imports) in &self.files {
            let Some(from) = wing(file) else { continue };
            let to = imports.iter().filter_map(|file| wing(file)).filter(|to| *to != from);
            wings.entry(from.clone()).or_default().extend(to);
        }
        circle(&wings)
    }

    /// Number of imports.
    pub fn count(&self) -> usize {
        self.files.values().map(BTreeSet::len).sum()
    }
}

fn module_path(file: &str) -> Vec<String> {
    let parts = file.trim_end_matches(".rs").split('/').map(str::to_owned);
    parts.filter(|part| !matches!(part.as_str(), "lib" | "main" | "mod")).collect()
}

/// The file that defines what a path names.
fn defining(modules: &BTreeMap<Vec<String>, (String, Module)>, path: &[String], depth: usize) -> Option<String> {
    let length = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let (file, module) = &modules[&path[..length]];
    let passed_on = path.get(length).and_then(|name| module.passed_on.get(name)).filter(|_| depth < 5);
    match passed_on {
        Some(from) => defining(modules, from, depth + 1),
        // A module by its own name is not an import of something in it.
        None => (path.len() > length || length > 0).then(|| file.clone()),
    }
}

fn module(path: Vec<String>, source: &Source) -> Module {
    let code: String = source.code().lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut module = Module { path, imports: Vec::new(), passed_on: BTreeMap::new() };
    for (named, is_passed_on) in use_statements(source.code()) {
        for named in expand(&named) {
            let Some(path) = absolute(&module.path, &named) else { continue };
            match path.last().cloned().filter(|_| is_passed_on) {
                Some(name) => drop(module.passed_on.insert(name, path)),
                None => module.imports.push(path),
            }
        }
    }
    // Paths in the text, as `super::errors::protocol(…)`.
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start).filter(|(at, _)| !code[..*at].ends_with("::")) {
            let named: String =
                code[at..].chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | ':')).collect();
            // Groups are imports, which were expanded above.
            if !named.ends_with("::") {
                module.imports.extend(absolute(&module.path, &named));
            }
        }
    }
    module.imports.retain(|path| !path.is_empty());
    module
}

/// What follows `use` in each import, and whether it is passed on.
fn use_statements(code: &str) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        let is_passed_on = line.starts_with("pub use ");
        let Some(first) = line.strip_prefix("pub use ").or_else(|| line.strip_prefix("use ")) else { continue };
        let mut statement = first.to_owned();
        while !statement.ends_with(';') {
            let Some(next) = lines.next() else { break };
            statement.push_str(next.trim());
        }
        found.push((statement.trim_end_matches(';').to_owned(), is_passed_on));
    }
    found
}

/// The paths of an import with groups, such as `a::{b, c::{d, e}}`.
fn expand(text: &str) -> Vec<String> {
    let text = text.split(" as ").next().unwrap_or_default().trim();
    let Some(open) = text.find('{') else { return vec![text.to_owned()] };
    let (head, inner) = (&text[..open], &text[open + 1..text.rfind('}').unwrap_or(text.len())]);
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[start..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|part| format!("{head}{}", part.trim_end_matches("::self"))).collect()
}

/// A path from the crate's root; none if it leads elsewhere.
fn absolute(module: &[String], named: &str) -> Option<Vec<String>> {
    let mut parts: Vec<_> = named.split("::").map(str::trim).filter(|part| *part != "self").collect();
    let mut path = match *parts.first()? {
        "crate" => Vec::new(),
        "super" => module.to_vec(),
        // In a folder's front file, of one beside it; what is of another crate leads nowhere here.
        _ if named.contains("::") => module.to_vec(),
        _ => return None,
    };
    if parts[0] == "crate" {
        parts.remove(0);
    }
    while parts.first() == Some(&"super") {
        path.pop();
        parts.remove(0);
    }
    path.extend(parts.into_iter().map(str::to_owned));
    Some(path)
}

fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left: BTreeMap<_, BTreeSet<_>> = graph.iter().map(|(from, to)| (from, to.iter().collect())).collect();
    // Whoever imports nothing that is left is on no circle.
    while let Some(done) = left.iter().find(|(_, to)| to.iter().all(|to| !left.contains_key(to))).map(|(from, _)| *from)
    {
        left.remove(done);
    }
    let mut walk = vec![*left.keys().next()?];
    loop {
        let next = left[walk.last()?].iter().find(|to| left.contains_key(*to))?;
        if let Some(start) = walk.iter().position(|seen| seen == next) {
            return Some(walk[start..].iter().map(|name| (*name).clone()).collect());
        }
        walk.push(next);
    }
}

#[test]
fn groups_are_expanded_and_paths_are_resolved() {
    assert_eq!(expand("a::{b, c::{d, self}}"), ["a::b", "a::c::d", "a::c"]);
    let module: Vec<_> = ["wing", "file"].map(str::to_owned).into();
    assert_eq!(absolute(&module, "super::other::Thing").unwrap(), ["wing", "other", "Thing"]);
    assert_eq!(absolute(&module, "crate::x").unwrap(), ["x"]);
    assert_eq!(absolute(&module, "beside::Thing").unwrap(), ["wing", "file", "beside", "Thing"]);
    assert_eq!(absolute(&module, "Thing"), None);
}

#[test]
fn a_circle_is_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            graph.entry((*to).to_owned()).or_default();
        }
        graph
    };
    assert_eq!(circle(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    assert_eq!(circle(&graph(&[("x", "a"), ("a", "b"), ("b", "a")])).unwrap().len(), 2);
}
