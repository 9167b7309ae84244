//! What the project's files hold: sources without their tests, and their items, found by rustfmt's indentation.

use std::path::{Path, PathBuf};

use integration_tests::root;

/// A file of the project.
pub struct Source {
    /// Its path from the root.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// An item with a body, and how many lines it takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name; of an `impl` block, the type's.
    pub name: String,
    /// Lines, the first and the last one included.
    pub lines: usize,
}

/// All files below a folder whose name ends so, without those that are built or installed.
pub fn files(folder: &str, ending: &str) -> Vec<Source> {
    let mut found = Vec::new();
    visit(&root().join(folder), &mut |path| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        if name.ends_with(ending) {
            found.push(Source { path: name, text: std::fs::read_to_string(path).unwrap() });
        }
    });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "{folder} has no file that ends in {ending}");
    found
}

fn visit(folder: &Path, each: &mut impl FnMut(&PathBuf)) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if path.is_file() {
            each(&path);
        } else if name != "target" && !name.starts_with('.') {
            visit(&path, each);
        }
    }
}

impl Source {
    /// The text without its tests, which stand at the end.
    pub fn code(&self) -> &str {
        self.text.split("\n#[cfg(test)]\n").next().unwrap_or_default()
    }

    /// Functions, by their names.
    pub fn functions(&self) -> Vec<Item> {
        let name = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "fn")?;
            let is_modifier = |word: &&str| word.starts_with("pub") || matches!(*word, "async" | "const" | "unsafe");
            let name = words.get(at + 1)?.split(['(', '<']).next()?;
            words[..at].iter().all(is_modifier).then(|| name.to_owned())
        };
        items(&self.text, name)
    }

    /// `impl` blocks, by their types.
    pub fn impls(&self) -> Vec<Item> {
        let name = |line: &str| {
            let rest = line.strip_prefix("impl")?;
            let rest = without_generics(rest);
            let of = rest.split(" for ").last()?.trim();
            Some(of.split(['<', ' ', '{']).next()?.to_owned())
        };
        items(self.code(), name)
    }
}

/// What stands behind `impl`, without its own parameters.
fn without_generics(text: &str) -> &str {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if !text[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return if c == '>' { &text[at + 1..] } else { text };
        }
    }
    text
}

/// Items that begin with such a line, and end with the next brace at the same indentation.
fn items(text: &str, name_of: impl Fn(&str) -> Option<String>) -> Vec<Item> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indentation = &line[..line.len() - line.trim_start().len()];
        let Some(name) = name_of(line.trim_start()) else { continue };
        let end = lines[at..].iter().position(|line| *line == format!("{indentation}}}"));
        // A declaration, or a body on one line.
        let is_short = line.ends_with(';') || line.ends_with('}');
        found.push(Item { name, lines: end.filter(|_| !is_short).map_or(1, |end| end + 1) });
    }
    found
}

#[test]
fn items_are_found_with_their_lines() {
    let text = "impl<T: Fn() -> A<B>> Port for Thing<T> {\n    pub async fn go(\n        self,\n    ) {\n        if x {\n        }\n    }\n}\n\nimpl Thing<u8> {\n    fn short() {}\n}\n\n#[cfg(test)]\nmod tests {\n}\n";
    let source = Source { path: String::new(), text: text.to_owned() };
    let item = |name: &str, lines| Item { name: name.to_owned(), lines };
    assert_eq!(source.functions(), [item("go", 6), item("short", 1)]);
    assert_eq!(source.impls(), [item("Thing", 8), item("Thing", 3)]);
}
