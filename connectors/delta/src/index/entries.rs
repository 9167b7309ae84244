//! Entries of a segment as bytes: a key, then the file and the row that it lies in.

use super::key::KeyHash;
use super::key_index::RowAddress;
use super::page::CONTENT_BYTES;

/// A key with the address of its row.
pub type Entry = (KeyHash, RowAddress);

/// Bytes of a key that are stored: 112 bits, so that two of a billion keys agree once in 10¹⁵ tables.
pub const KEY_BYTES: usize = 14;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = KEY_BYTES + 8;
/// Entries of a page.
pub const ENTRIES_PER_PAGE: usize = CONTENT_BYTES / ENTRY_BYTES;
/// Where a key is among the entries of a page.
pub enum Place {
    /// There.
    At(RowAddress),
    /// Before the first entry of the page.
    Before,
    /// After the last one.
    After,
    /// Among them, but not there.
    Between,
}

/// Looks a key up among so many entries of a page.
pub fn place_in(page: &[u8], entries: usize, key: KeyHash) -> Place {
    let (page, _) = page.as_chunks::<ENTRY_BYTES>();
    let page = &page[..entries.min(page.len())];
    let wanted = &key.to_be_bytes()[..KEY_BYTES];
    match page.binary_search_by(|entry| entry[..KEY_BYTES].cmp(wanted)) {
        Ok(at) => Place::At(decode(&page[at]).1),
        Err(0) => Place::Before,
        Err(at) if at == page.len() => Place::After,
        Err(_) => Place::Between,
    }
}

/// An entry from its bytes.
pub fn decode(entry: &[u8; ENTRY_BYTES]) -> Entry {
    let mut key = [0; 16];
    key[..KEY_BYTES].copy_from_slice(&entry[..KEY_BYTES]);
    let number = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&entry[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    (KeyHash::from_be_bytes(key), RowAddress { file: number(KEY_BYTES), row: number(KEY_BYTES + 4) })
}
