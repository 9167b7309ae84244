//! An immutable run of index entries on disk, in the order of their keys: 22 bytes each, in pages with a checksum.
//!
//! Keys are hashes, so they lie evenly: where one is among its neighbours can be computed rather than searched. For
//! every thousand keys or so the file says how many come before, which makes that exact to a page or two.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::entries::{ENTRIES_PER_PAGE, ENTRY_BYTES, Entry, KEY_BYTES, Place, decode, place_in};
use super::filter::{self, FilterShape};
use super::key::KeyHash;
use super::key_index::RowAddress;
use super::page::{CONTENT_BYTES, PAGE_BYTES, PageCache, PageReader, check, seal};

/// Keys between two marks, on average, at most twice as many.
const KEYS_PER_MARK: u64 = 1024;
/// Entries of a segment, at most: what comes before a mark is counted with 32 bits.
pub const MOST_ENTRIES: u64 = u32::MAX as u64;
/// Pages that are read at once where all are read, at most.
const SCAN_PAGES: usize = 256;

const MAGIC: &[u8; 8] = b"soonerk1";
const FOOTER_BYTES: usize = 8 + 8 + 8 + 4 + 4 + 4;

static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// A segment that is written. Its file is deleted with it, once that was asked for.
#[derive(Debug)]
pub struct Segment {
    path: PathBuf,
    /// Unlike that of any other segment in this process.
    number: u64,
    footer: Footer,
    /// For each of the evenly divided parts of all keys, how many entries come before it; and the number of all.
    marks: Vec<u32>,
    is_obsolete: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Footer {
    entries: u64,
    /// Keys that the filter was made for.
    filter_keys: u64,
    /// Binary logarithm of the number of parts that are marked.
    mark_bits: u32,
}

/// Writes a segment, in the order of keys.
pub struct SegmentWriter {
    file: BufWriter<File>,
    path: PathBuf,
    footer: Footer,
    page: Vec<u8>,
    shape: FilterShape,
    filter_page: Vec<u8>,
    filter_pages_written: u64,
    marks: Vec<u32>,
    last: Option<KeyHash>,
}

/// A key as it is stored: without its last bytes.
fn stored(key: KeyHash) -> KeyHash {
    key >> 16
}

impl SegmentWriter {
    /// Begins a segment of at most so many entries.
    pub fn create(path: &Path, most_entries: u64) -> io::Result<SegmentWriter> {
        let mark_bits = (most_entries / KEYS_PER_MARK).checked_ilog2().unwrap_or(0);
        let footer = Footer { entries: 0, filter_keys: most_entries, mark_bits };
        let shape = FilterShape::for_keys(most_entries);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        // Its filter comes first.
        file.seek(SeekFrom::Start(shape.pages() * PAGE_BYTES as u64))?;
        Ok(SegmentWriter {
            file,
            path: path.to_owned(),
            footer,
            page: Vec::with_capacity(PAGE_BYTES),
            shape,
            filter_page: vec![0; CONTENT_BYTES],
            filter_pages_written: 0,
            marks: Vec::with_capacity((1 << mark_bits) + 1),
            last: None,
        })
    }

    /// Appends an entry, whose key is higher than that of the one before.
    pub fn push(&mut self, (key, row): Entry) -> io::Result<()> {
        if self.footer.entries >= MOST_ENTRIES {
            return Err(io::Error::other("a segment of the key index has too many entries"));
        }
        debug_assert!(self.last.is_none_or(|last| stored(last) < stored(key)), "keys ascend");
        self.last = Some(key);
        if self.page.len() + ENTRY_BYTES > CONTENT_BYTES {
            self.write_page()?;
        }
        let part = part_of(key, self.footer.mark_bits);
        while self.marks.len() <= part {
            self.marks.push(self.footer.entries as u32);
        }
        self.page.extend_from_slice(&key.to_be_bytes()[..KEY_BYTES]);
        self.page.extend_from_slice(&row.file.to_le_bytes());
        self.page.extend_from_slice(&row.row.to_le_bytes());
        let (page, start) = self.shape.place(key);
        self.write_filter_before(page)?;
        filter::set(&mut self.filter_page, start, key);
        self.footer.entries += 1;
        Ok(())
    }

    fn write_page(&mut self) -> io::Result<()> {
        seal(&mut self.page);
        self.file.write_all(&self.page)?;
        self.page.clear();
        Ok(())
    }

    /// Writes the pages of the filter that precede one.
    fn write_filter_before(&mut self, page: u64) -> io::Result<()> {
        while self.filter_pages_written < page {
            seal(&mut self.filter_page);
            let offset = self.filter_pages_written * PAGE_BYTES as u64;
            self.file.get_ref().write_all_at(&self.filter_page, offset)?;
            self.filter_pages_written += 1;
            self.filter_page.clear();
            self.filter_page.resize(CONTENT_BYTES, 0);
        }
        Ok(())
    }

    /// Completes the segment.
    pub fn finish(mut self) -> io::Result<Segment> {
        if !self.page.is_empty() {
            self.write_page()?;
        }
        self.write_filter_before(self.shape.pages())?;
        self.marks.resize((1 << self.footer.mark_bits) + 1, self.footer.entries as u32);
        let marks: Vec<u8> = self.marks.iter().flat_map(|mark| mark.to_le_bytes()).collect();
        self.file.write_all(&marks)?;
        self.file.write_all(&self.footer.encode(&marks))?;
        self.file.flush()?;
        Ok(Segment::new(self.path, self.footer, self.marks))
    }
}

/// Which of the evenly divided parts of all keys one lies in.
fn part_of(key: KeyHash, bits: u32) -> usize {
    (key >> 64 >> (64 - bits)) as usize
}

impl Footer {
    fn encode(&self, marks: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.entries.to_le_bytes());
        bytes.extend_from_slice(&self.filter_keys.to_le_bytes());
        bytes.extend_from_slice(&self.mark_bits.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(marks).to_le_bytes());
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Also returns the checksum of the marks. None if these are not the bytes of a footer.
    fn decode(bytes: &[u8]) -> Option<(Footer, u32)> {
        let (content, sum) = bytes.split_last_chunk::<4>()?;
        let content = content.strip_prefix(MAGIC).filter(|_| crc32fast::hash(content).to_le_bytes() == *sum)?;
        let (entries, rest) = content.split_first_chunk()?;
        let (filter_keys, rest) = rest.split_first_chunk()?;
        let (mark_bits, rest) = rest.split_first_chunk()?;
        let (marks_sum, _) = rest.split_first_chunk()?;
        let footer = Footer {
            entries: u64::from_le_bytes(*entries),
            filter_keys: u64::from_le_bytes(*filter_keys),
            mark_bits: u32::from_le_bytes(*mark_bits),
        };
        (footer.mark_bits < 32).then_some((footer, u32::from_le_bytes(*marks_sum)))
    }

    fn data_pages(&self) -> u64 {
        self.entries.div_ceil(ENTRIES_PER_PAGE as u64)
    }

    fn filter(&self) -> FilterShape {
        FilterShape::for_keys(self.filter_keys)
    }

    fn marks_offset(&self) -> u64 {
        (self.filter().pages() + self.data_pages()) * PAGE_BYTES as u64
    }
}

impl Segment {
    fn new(path: PathBuf, footer: Footer, marks: Vec<u32>) -> Segment {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Segment { path, number, footer, marks, is_obsolete: AtomicBool::new(false) }
    }

    /// Opens a segment that a former process has written. An error of kind `InvalidData` says that it is damaged.
    pub fn open(path: &Path) -> io::Result<Segment> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a segment of the key index is damaged");
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let footer_at = length.checked_sub(FOOTER_BYTES as u64).ok_or_else(damaged)?;
        let mut bytes = [0; FOOTER_BYTES];
        file.read_exact_at(&mut bytes, footer_at)?;
        let (footer, marks_sum) = Footer::decode(&bytes).ok_or_else(damaged)?;
        let marks_at = footer.marks_offset();
        let size = footer_at.checked_sub(marks_at).filter(|size| *size == 4 * ((1 << footer.mark_bits) + 1));
        let mut marks = vec![0; size.ok_or_else(damaged)? as usize];
        file.seek(SeekFrom::Start(marks_at))?;
        file.read_exact(&mut marks)?;
        if crc32fast::hash(&marks) != marks_sum {
            return Err(damaged());
        }
        let (chunks, _) = marks.as_chunks::<4>();
        let marks: Vec<u32> = chunks.iter().map(|mark| u32::from_le_bytes(*mark)).collect();
        if !marks.is_sorted() || marks.last().copied().map(u64::from) != Some(footer.entries) {
            return Err(damaged());
        }
        Ok(Segment::new(path.to_owned(), footer, marks))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of its entries.
    pub fn len(&self) -> u64 {
        self.footer.entries
    }

    /// Size of its file.
    pub fn disk_bytes(&self) -> u64 {
        self.footer.marks_offset() + 4 * self.marks.len() as u64 + FOOTER_BYTES as u64
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether its file is deleted, once nobody reads it any more.
    pub fn make_obsolete(&self, is_obsolete: bool) {
        self.is_obsolete.store(is_obsolete, Ordering::Relaxed);
    }

    /// Looks up those of the ascending `keys` whose address is not known yet.
    pub fn locate(&self, keys: &[KeyHash], found: &mut [Option<RowAddress>], cache: &PageCache) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let file = File::open(&self.path)?;
        let shape = self.footer.filter();
        let reader = |pages| PageReader::new(cache, self.number, &file, cache.has_place_for(pages));
        let (mut filter_pages, mut data_pages) = (reader(shape.pages()), reader(self.footer.data_pages()));
        for (key, found) in keys.iter().zip(found).filter(|(_, found)| found.is_none()) {
            let (page, start) = shape.place(*key);
            if filter::has(filter_pages.page(page)?, start, *key) {
                *found = self.find(*key, &mut data_pages)?;
            }
        }
        Ok(())
    }

    fn find(&self, key: KeyHash, data_pages: &mut PageReader<'_>) -> io::Result<Option<RowAddress>> {
        let part = part_of(key, self.footer.mark_bits);
        let (first, end) = (u64::from(self.marks[part]), u64::from(self.marks[part + 1]));
        if first == end {
            return Ok(None);
        }
        // How far the key lies into its part says about how many of the part's entries come before.
        let fraction = (((key >> 64) as u64) << self.footer.mark_bits) as f64 / 2f64.powi(64);
        let guess = first + ((end - first) as f64 * fraction) as u64;
        let pages = first / ENTRIES_PER_PAGE as u64..=(end - 1) / ENTRIES_PER_PAGE as u64;
        let mut number = guess.min(end - 1) / ENTRIES_PER_PAGE as u64;
        let mut came_from = None;
        loop {
            let entries = self.entries_of(number);
            let page = data_pages.page(self.footer.filter().pages() + number)?;
            let next = match place_in(page, entries, key) {
                Place::At(row) => return Ok(Some(row)),
                Place::Before => number.checked_sub(1),
                Place::After => Some(number + 1),
                Place::Between => None,
            };
            match next.filter(|next| pages.contains(next) && came_from != Some(*next)) {
                Some(next) => (came_from, number) = (Some(number), next),
                None => return Ok(None),
            }
        }
    }

    fn entries_of(&self, page: u64) -> usize {
        (self.footer.entries - page * ENTRIES_PER_PAGE as u64).min(ENTRIES_PER_PAGE as u64) as usize
    }

    /// All entries in the order of keys, without the last bytes of their keys; so many pages are in memory at most.
    pub fn scan(&self, most_pages: usize) -> io::Result<Scan> {
        let (left, pages_left) = (self.footer.entries, self.footer.data_pages());
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.footer.filter().pages() * PAGE_BYTES as u64))?;
        let most_pages = most_pages.clamp(1, SCAN_PAGES) as u64;
        Ok(Scan { file, bytes: Vec::new(), next: 0, left, pages_left, most_pages })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.is_obsolete.load(Ordering::Relaxed) {
            // What is left of it is removed when the index is opened again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Looks ascending keys up, from the newest segment to the oldest.
pub fn locate_in(segments: &[Arc<Segment>], cache: &PageCache, keys: Vec<KeyHash>) -> io::Result<Vec<Entry>> {
    let mut rows: Vec<Option<RowAddress>> = vec![None; keys.len()];
    for segment in segments.iter().rev() {
        segment.locate(&keys, &mut rows, cache)?;
    }
    Ok(keys.into_iter().zip(rows).filter_map(|(key, row)| Some((key, row?))).collect())
}

/// Reads a segment from its begin to its end.
pub struct Scan {
    file: File,
    bytes: Vec<u8>,
    /// Entry of `bytes` that comes next.
    next: usize,
    left: u64,
    pages_left: u64,
    /// Pages that are read at once.
    most_pages: u64,
}

impl Scan {
    fn fill(&mut self) -> io::Result<()> {
        let pages = self.pages_left.min(self.most_pages) as usize;
        self.bytes.resize(pages * PAGE_BYTES, 0);
        self.file.read_exact(&mut self.bytes)?;
        self.pages_left -= pages as u64;
        self.next = 0;
        self.bytes.chunks(PAGE_BYTES).try_for_each(check)
    }

    fn read(&mut self) -> io::Result<Entry> {
        if self.next >= self.bytes.len() / PAGE_BYTES * ENTRIES_PER_PAGE {
            self.fill()?;
        }
        let (page, entry) = (self.next / ENTRIES_PER_PAGE, self.next % ENTRIES_PER_PAGE);
        let start = page * PAGE_BYTES + entry * ENTRY_BYTES;
        let bytes = self.bytes.get(start..).and_then(|bytes| bytes.first_chunk());
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        self.next += 1;
        self.left -= 1;
        Ok(decode(bytes))
    }
}

impl Iterator for Scan {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<io::Result<Entry>> {
        (self.left > 0).then(|| self.read())
    }
}
