//! Files that hold secrets of a configuration: what they hold may change while a pipeline runs, as mounted secrets do.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The files that a configuration names, and what they held when it was read.
#[derive(Clone, Debug, Default)]
pub struct SecretFiles {
    paths: Vec<PathBuf>,
    read: u64,
}

impl SecretFiles {
    /// All `{ file = "…" }` of a configuration but those of `[http]`, whose listener sees to them. Relative paths start
    /// from `folder`.
    pub fn of(configuration: &Table, folder: &Path) -> SecretFiles {
        let mut paths = Vec::new();
        let sections = configuration.iter().filter(|(name, _)| *name != "http");
        sections.for_each(|(_, value)| collect(value, folder, &mut paths));
        let read = content(&paths);
        SecretFiles { paths, read }
    }

    /// Whether one of them holds something else than when the configuration was read.
    pub fn have_changed(&self) -> bool {
        content(&self.paths) != self.read
    }

    /// What they hold by now is taken as known: it could not be taken over, and is not tried again.
    pub fn note(&mut self) {
        self.read = content(&self.paths);
    }
}

fn collect(value: &Value, folder: &Path, paths: &mut Vec<PathBuf>) {
    match value {
        Value::Table(table) => match table.get("file") {
            Some(Value::String(path)) if table.len() == 1 => paths.push(folder.join(path)),
            _ => table.values().for_each(|value| collect(value, folder, paths)),
        },
        Value::Array(values) => values.iter().for_each(|value| collect(value, folder, paths)),
        _ => {}
    }
}

/// Stands for what files hold, and for whether they are there; the secrets themselves are not kept for this.
fn content(paths: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Of a pipe, whoever reads it first takes what it holds.
    let files = paths.iter().filter(|path| path.is_file());
    files.for_each(|path| std::fs::read(path).ok().hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_is_replaced_or_goes_is_noticed_once() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[source]\npassword = { file = 'secret' }\n[[a]]\nb = { c = { file = 'other' } }\n\
                    [http]\ntoken = { file = 'token' }";
        let path = folder.path().join("secret");
        std::fs::write(&path, "one").unwrap();
        let mut files = SecretFiles::of(&text.parse().unwrap(), folder.path());
        assert_eq!(files.paths, [folder.path().join("other"), path.clone()]);
        assert!(!files.have_changed());
        std::fs::write(&path, "two").unwrap();
        assert!(files.have_changed());
        files.note();
        assert!(!files.have_changed());
        std::fs::remove_file(&path).unwrap();
        assert!(files.have_changed());
    }
}
