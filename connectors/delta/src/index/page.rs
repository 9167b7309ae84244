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

/// The content of a page whose checksum was right, with the checksum.
pub type Page = Arc<[u8]>;

/// Pages of all segments of all tables that are in memory.
#[derive(Debug)]
pub struct PageCache(Cache<(u64, u32), Page>);

impl PageCache {
    /// Holds so many bytes of pages, about.
    pub fn new(bytes: usize) -> PageCache {
        PageCache(Cache::new((bytes / PAGE_BYTES).max(16)))
    }

    /// A page of the segment with this number, from memory or from its file.
    pub fn page(&self, segment: u64, file: &File, number: u32) -> io::Result<Page> {
        if let Some(page) = self.0.get(&(segment, number)) {
            return Ok(page);
        }
        let mut bytes = vec![0; PAGE_BYTES];
        file.read_exact_at(&mut bytes, u64::from(number) * PAGE_BYTES as u64)?;
        check(&bytes)?;
        let page: Page = bytes.into();
        self.0.insert((segment, number), page.clone());
        Ok(page)
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
