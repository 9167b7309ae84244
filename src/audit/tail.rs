//! Reads a journal on from where it was read before. Positions count the bytes of all that was ever written to it, so
//! they stay right when the file is put aside.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::journal::{Entry, files, start_of};

/// Bytes that are read at once, unless a line is longer.
const PART_BYTES: u64 = 1 << 20;
/// Entries of a part, at most.
const PART_ENTRIES: usize = 500;
/// How often it is tried to read a journal that is put aside meanwhile.
const ATTEMPTS: u32 = 5;

/// A part of a journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its entries, in their order.
    pub entries: Vec<Entry>,
    /// Where it ends.
    pub to: u64,
    /// Bytes before it that are gone: the journal has turned over.
    pub lost_bytes: u64,
    /// The journal ends before the place from which it was to be read: it is another one.
    pub is_another: bool,
}

/// The journal of a state folder, for who reads it bit by bit.
#[derive(Clone, Debug)]
pub struct Tail {
    state_dir: PathBuf,
}

impl Tail {
    /// The journal of a state folder, which need not have one yet.
    pub fn new(state_dir: &Path) -> Tail {
        Tail { state_dir: state_dir.to_owned() }
    }

    /// What the journal is known by; made when it is asked for first.
    pub fn id(&self) -> io::Result<String> {
        match std::fs::read_to_string(self.id_path()) {
            Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.renew(),
        }
    }

    /// Gives the journal another id.
    pub fn renew(&self) -> io::Result<String> {
        let id = format!("{:032x}", rand::random::<u128>());
        let beside = self.id_path().with_extension("id.new");
        std::fs::write(&beside, &id)?;
        std::fs::rename(beside, self.id_path())?;
        Ok(id)
    }

    fn id_path(&self) -> PathBuf {
        self.state_dir.join("events.id")
    }

    /// The next entries from a position on, or from the oldest that is there; whole lines only.
    pub fn read(&self, from: Option<u64>) -> io::Result<Part> {
        for _ in 0..ATTEMPTS {
            if let Some(part) = self.try_read(from)? {
                return Ok(part);
            }
        }
        Err(io::Error::other("the journal is put aside again and again"))
    }

    /// None if the journal was put aside meanwhile.
    fn try_read(&self, from: Option<u64>) -> io::Result<Option<Part>> {
        let [former, current] = files(&self.state_dir);
        let Some(mut file) = opened(&current)? else {
            // Nothing was written yet, or it is being put aside at this moment.
            let is_another = from.is_some() && !former.exists();
            return Ok((!former.exists()).then(|| Part { is_another, ..Part::default() }));
        };
        let metadata = file.metadata()?;
        let start = start_of(&current)?;
        let mut older = opened(&former)?;
        let older_bytes = older.as_ref().map(File::metadata).transpose()?.map_or(0, |older| older.len());
        if std::fs::metadata(&current).map(|now| now.ino()).ok() != Some(metadata.ino()) {
            return Ok(None);
        }
        let (oldest, end) = (start.saturating_sub(older_bytes), start + metadata.len());
        let wanted = from.unwrap_or(oldest);
        if wanted > end {
            return Ok(Some(Part { is_another: true, ..Part::default() }));
        }
        let lost_bytes = if from.is_some() { oldest.saturating_sub(wanted) } else { 0 };
        let mut place = wanted.max(oldest);
        let mut part = Part::default();
        if let Some(older) = older.as_mut().filter(|_| place < start) {
            part = lines(older, place - oldest)?;
            place += part.to;
            // What is left there is a line that was never written whole.
            place = if part.entries.is_empty() && part.to == 0 { start } else { place };
        }
        if part.entries.is_empty() && place >= start {
            part = lines(&mut file, place - start)?;
            place += part.to;
        }
        Ok(Some(Part { entries: part.entries, to: place, lost_bytes, is_another: false }))
    }
}

fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Entries from an offset on, and the number of bytes that their lines take.
fn lines(file: &mut File, offset: u64) -> io::Result<Part> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(PART_BYTES).read_to_end(&mut bytes)?;
    if !bytes.contains(&b'\n') {
        // A file is put aside at a bounded size.
        file.read_to_end(&mut bytes)?;
    }
    let mut part = Part::default();
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        if !line.ends_with(b"\n") || part.entries.len() >= PART_ENTRIES {
            break;
        }
        part.to += line.len() as u64;
        part.entries.extend(serde_json::from_slice::<Entry>(line).ok());
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::journal::{FILE_BYTES, Journal, Kind};

    fn write(journal: &mut Journal, numbers: std::ops::Range<i64>) {
        numbers.for_each(|number| journal.write(Entry::new(number, Kind::Started, format!("number {number}"))));
    }

    /// Reads all there is from a position on, part by part.
    fn read_all(tail: &Tail, mut from: Option<u64>) -> (Vec<i64>, Option<u64>) {
        let mut numbers = Vec::new();
        loop {
            let part = tail.read(from).unwrap();
            assert!(part.lost_bytes == 0 && !part.is_another);
            if part.to == from.unwrap_or_default() {
                return (numbers, from);
            }
            numbers.extend(part.entries.iter().map(|entry| entry.at_micros));
            from = Some(part.to);
        }
    }

    #[test]
    fn each_entry_is_read_once_also_when_the_journal_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let tail = Tail::new(folder.path());
        assert_eq!(read_all(&tail, None), (Vec::new(), None));
        let mut journal = Journal::open(folder.path());
        write(&mut journal, 0..3);
        let (numbers, from) = read_all(&tail, None);
        assert_eq!(numbers, [0, 1, 2]);
        write(&mut journal, 3..1200);
        let [_, current] = files(folder.path());
        // A process died while it wrote, and the file is full.
        let mut file = std::fs::OpenOptions::new().append(true).open(&current).unwrap();
        file.write_all(b"{\"torn").unwrap();
        write(&mut journal, 1200..1201);
        file.write_all(&vec![b'\n'; FILE_BYTES as usize]).unwrap();
        write(&mut journal, 1201..1203);
        let (numbers, from) = read_all(&tail, from);
        assert_eq!(numbers, (3..1203).collect::<Vec<_>>());
        file.write_all(b"lost with the file that is put aside").unwrap();
        write(&mut journal, 1203..1204);
        assert_eq!(read_all(&tail, from).0, [1203]);
    }

    #[test]
    fn what_is_gone_is_told_and_so_is_another_journal() {
        let folder = tempfile::tempdir().unwrap();
        let tail = Tail::new(folder.path());
        let mut journal = Journal::open(folder.path());
        write(&mut journal, 0..1);
        let first = tail.read(None).unwrap();
        let [former, current] = files(folder.path());
        for number in 1..4 {
            let mut file = std::fs::OpenOptions::new().append(true).open(&current).unwrap();
            file.write_all(&vec![b'\n'; FILE_BYTES as usize]).unwrap();
            write(&mut journal, number..number + 1);
        }
        let part = tail.read(Some(first.to)).unwrap();
        assert!(part.lost_bytes > FILE_BYTES, "{}", part.lost_bytes);
        assert_eq!(part.entries.len() + read_all(&tail, Some(part.to)).0.len(), 2, "2 and 3 are there");
        let id = tail.id().unwrap();
        assert_eq!(tail.id().unwrap(), id);
        std::fs::remove_file(former).unwrap();
        std::fs::remove_file(current).unwrap();
        assert!(tail.read(Some(first.to)).unwrap().is_another);
        assert_ne!(tail.renew().unwrap(), id);
    }
}
