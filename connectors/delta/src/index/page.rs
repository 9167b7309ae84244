//! Pages of a segment on disk, and the memory that they share.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use quick_cache::sync::Cache;

/// Size of a page. Its last bytes are the checksum of those before.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a page without its checksum.
pub const CONTENT_BYTES: usize = PAGE_BYTES - 4;

/// A page whose checksum was right.
pub type Page = [u8; PAGE_BYTES];

/// Pages of all segments of all tables that are in memory.
#[derive(Debug)]
pub struct PageCache {
    pages: Cache<(u64, u32), Arc<Page>>,
    most_pages: u64,
}

impl PageCache {
    /// Holds so many bytes of pages, about.
    pub fn new(bytes: usize) -> PageCache {
        let most_pages = (bytes / PAGE_BYTES).max(16);
        PageCache { pages: Cache::new(most_pages), most_pages: most_pages as u64 }
    }

    /// Whether so many pages have their place here. More of them would only push each other out.
    pub fn has_place_for(&self, pages: u64) -> bool {
        pages <= self.most_pages / 4
    }
}

/// The last page of a kind that was looked at.
pub struct PageReader<'a> {
    cache: &'a PageCache,
    segment: u64,
    file: &'a File,
    is_cached: bool,
    number: Option<u64>,
    cached: Option<Arc<Page>>,
    own: Box<Page>,
}

impl<'a> PageReader<'a> {
    /// Reads pages of a segment, and keeps them in the cache or not.
    pub fn new(cache: &'a PageCache, segment: u64, file: &'a File, is_cached: bool) -> PageReader<'a> {
        PageReader { cache, segment, file, is_cached, number: None, cached: None, own: Box::new([0; PAGE_BYTES]) }
    }

    /// A page, from memory or from the file.
    pub fn page(&mut self, number: u64) -> io::Result<&Page> {
        if self.number != Some(number) {
            self.number = None;
            self.cached = if self.is_cached { self.cache.pages.get(&(self.segment, number as u32)) } else { None };
            if self.cached.is_none() {
                self.file.read_exact_at(&mut *self.own, number * PAGE_BYTES as u64)?;
                check(&*self.own)?;
                if self.is_cached {
                    self.cache.pages.insert((self.segment, number as u32), Arc::new(*self.own));
                }
            }
            self.number = Some(number);
        }
        Ok(self.cached.as_deref().unwrap_or(&self.own))
    }
}

/// Appends the checksum to a page's content, which is filled up with zeros.
pub fn seal(page: &mut Vec<u8>) {
    page.resize(CONTENT_BYTES, 0);
    let sum = crc32fast::hash(page);
    page.extend_from_slice(&sum.to_le_bytes());
}

/// Whether a page is what was written.
pub fn check(page: &[u8]) -> io::Result<()> {
    let (content, sum) = page.split_at(CONTENT_BYTES);
    if crc32fast::hash(content).to_le_bytes() != *sum {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a page of the key index has a wrong checksum"));
    }
    Ok(())
}
