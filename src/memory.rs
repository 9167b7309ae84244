//! How the configured `memory` is divided. The only place that does.

/// Shares of the memory, in bytes. They add up to less than what is configured: rows are in memory more than once while
/// they are read, and while they are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryShares {
    /// Events between being read and being sealed into files.
    pub events_bytes: usize,
    /// Data files that are being filled, of all tables together.
    pub parts_bytes: usize,
    /// Size at which one data file is closed, and the next one begins.
    pub part_bytes: usize,
    /// Events of one table at which they are sealed, whoever else has room.
    pub seal_bytes: usize,
    /// Rows of copies that have been read, and not handed on.
    pub copies_bytes: usize,
    /// One row as text.
    pub row_bytes: usize,
    /// Rows of histories that are written again without those that are kept no longer, and what is known of keys.
    pub trimming_bytes: usize,
}

impl MemoryShares {
    /// Divides so many bytes.
    pub fn of(memory_bytes: usize) -> MemoryShares {
        MemoryShares {
            events_bytes: memory_bytes / 8 * 3,
            parts_bytes: memory_bytes / 16 * 3,
            part_bytes: memory_bytes / 16 * 3,
            seal_bytes: memory_bytes / 8,
            copies_bytes: memory_bytes / 8,
            row_bytes: memory_bytes / 8,
            trimming_bytes: memory_bytes / 16,
        }
    }

    /// Messages of topics that wait to be merged, unless configured otherwise.
    pub fn fetch_bytes(memory_bytes: usize) -> usize {
        memory_bytes / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_memory() {
        for memory_bytes in [8 << 20, 128 << 20, 1 << 30] {
            let shares = MemoryShares::of(memory_bytes);
            let others = MemoryShares::fetch_bytes(memory_bytes) + shares.trimming_bytes;
            assert!(shares.events_bytes + shares.parts_bytes + others + shares.copies_bytes <= memory_bytes);
            assert!(shares.seal_bytes <= shares.events_bytes && shares.part_bytes <= shares.parts_bytes);
        }
    }
}
