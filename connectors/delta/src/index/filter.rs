//! Which keys a segment may have: a Bloom filter in blocks of 64 bytes, so that a key costs one block. Blocks follow
//! the order of keys, so that a filter is written while keys pass by.
//!
//! Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient Bloom Filters, 2007.

use super::key::KeyHash;
use super::page::CONTENT_BYTES;

/// Bytes of a block.
const BLOCK_BYTES: usize = 64;
/// Keys for each block, on average: eight bits a key.
const KEYS_PER_BLOCK: u64 = 64;
/// Bits that a key sets.
const PROBES: u32 = 5;
/// Blocks of a page.
const BLOCKS_PER_PAGE: u64 = (CONTENT_BYTES / BLOCK_BYTES) as u64;

/// Where a key's bits lie in a filter of some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterShape {
    blocks: u64,
}

impl FilterShape {
    /// A filter for so many keys.
    pub fn for_keys(keys: u64) -> FilterShape {
        FilterShape { blocks: keys.div_ceil(KEYS_PER_BLOCK).max(1) }
    }

    /// Number of its pages.
    pub fn pages(&self) -> u64 {
        self.blocks.div_ceil(BLOCKS_PER_PAGE)
    }

    /// Page of the key's block, and where the block begins in it. Higher keys lie in the same block or a later one.
    pub fn place(&self, key: KeyHash) -> (u64, usize) {
        let block = ((u128::from((key >> 64) as u64) * u128::from(self.blocks)) >> 64) as u64;
        (block / BLOCKS_PER_PAGE, (block % BLOCKS_PER_PAGE) as usize * BLOCK_BYTES)
    }
}

/// Sets a key's bits in its page.
pub fn set(page: &mut [u8], start: usize, key: KeyHash) {
    for bit in bits(key) {
        page[start + bit / 8] |= 1 << (bit % 8);
    }
}

/// Whether a key's bits are set in its page.
pub fn has(page: &[u8], start: usize, key: KeyHash) -> bool {
    bits(key).all(|bit| page[start + bit / 8] & (1 << (bit % 8)) != 0)
}

/// The bits of a block that belong to a key: of its lower half, since the upper one chose the block.
fn bits(key: KeyHash) -> impl Iterator<Item = usize> {
    let lower = (key as u64) >> 16;
    (0..PROBES).map(move |probe| (lower >> (9 * probe)) as usize % (8 * BLOCK_BYTES))
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn keys_are_found_and_few_others_are() {
        let mut random = StdRng::seed_from_u64(5);
        let keys: Vec<KeyHash> = (0..50_000).map(|_| random.random()).collect();
        let shape = FilterShape::for_keys(keys.len() as u64);
        let mut pages = vec![vec![0; CONTENT_BYTES]; shape.pages() as usize];
        for key in &keys {
            let (page, start) = shape.place(*key);
            set(&mut pages[page as usize], start, *key);
        }
        let found = |key: KeyHash| {
            let (page, start) = shape.place(key);
            has(&pages[page as usize], start, key)
        };
        assert!(keys.iter().all(|key| found(*key)));
        let others = (0..50_000).filter(|_| found(random.random())).count();
        assert!(others < 2500, "{others} of 50000 keys that were never set");
    }

    #[test]
    fn blocks_follow_the_order_of_keys() {
        let shape = FilterShape::for_keys(1 << 20);
        let keys = [0, 1 << 70, 1 << 100, 1 << 120, KeyHash::MAX];
        let places: Vec<_> = keys.iter().map(|key| shape.place(*key)).collect();
        assert!(places.is_sorted() && places[4].0 == shape.pages() - 1, "{places:?}");
    }
}
