//! Where events are written: to standard output, or to a file that is there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use anyhow::Context;
use sooner_delta::replaying::output::Form;

use super::Writer;

/// Where events are written.
#[derive(Debug)]
pub struct Target {
    /// In which form.
    pub form: Form,
    file: Option<Partial>,
}

/// A file that is being written beside the place that it is meant for.
#[derive(Debug)]
struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Target {
    /// Opens standard output for `-`, or a new file. An error if there is one already, if its name says no form, or if
    /// another process writes it.
    pub fn open(into: &str) -> anyhow::Result<(Target, Writer)> {
        if into == "-" {
            let target = Target { form: Form::JsonLines, file: None };
            return Ok((target, Box::new(BufWriter::new(io::stdout()))));
        }
        let target = PathBuf::from(into);
        let form = match target.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson") => Form::JsonLines,
            Some("parquet") => Form::Parquet,
            _ => anyhow::bail!("cannot tell the form of {into} by its name. To do: call it FILE.jsonl or FILE.parquet"),
        };
        anyhow::ensure!(!target.exists(), "{into} is there already. To do: name another file, or remove that one");
        let partial = Partial::open(&target)?;
        let writer = Box::new(BufWriter::new(partial.file.try_clone()?));
        Ok((Target { form, file: Some(partial) }, writer))
    }

    /// Makes what is written durable, and the file seen under its name.
    pub fn complete(&mut self) -> anyhow::Result<()> {
        let Some(partial) = self.file.take() else { return Ok(()) };
        let done = partial.complete();
        if done.is_err() {
            self.file = Some(partial);
        }
        done
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(partial) = &self.file {
            // What a kill leaves is written over the next time.
            let _ = std::fs::remove_file(&partial.path);
        }
    }
}

impl Partial {
    fn open(target: &Path) -> anyhow::Result<Partial> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!(".{name}.partial"));
        let what = || format!("cannot write {}", path.display());
        // It is not truncated before it is known that nobody writes it.
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).with_context(what)?;
        file.try_lock().map_err(|_| {
            anyhow::anyhow!("another process writes {}. To do: let it end, or name another file", target.display())
        })?;
        file.set_len(0).with_context(what)?;
        Ok(Partial { file, path, target: target.to_path_buf() })
    }

    fn complete(&self) -> anyhow::Result<()> {
        let what = || format!("cannot write {}", self.target.display());
        self.file.sync_all().with_context(what)?;
        std::fs::rename(&self.path, &self.target).with_context(what)?;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).with_context(what)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_not_at_all_and_replaces_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        let into = path.display().to_string();
        let (target, mut writer) = Target::open(&into).unwrap();
        writer.write_all(b"half").unwrap();
        writer.flush().unwrap();
        let why = Target::open(&into).err().unwrap().to_string();
        assert!(why.contains("another process writes"), "{why}");
        drop((target, writer));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of it");
        let (mut target, mut writer) = Target::open(&into).unwrap();
        writer.write_all(b"whole").unwrap();
        writer.flush().unwrap();
        assert!(!path.exists());
        target.complete().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert!(Target::open(&into).err().unwrap().to_string().contains("there already"));
        assert!(Target::open("events.csv").err().unwrap().to_string().contains("FILE.parquet"));
    }
}
