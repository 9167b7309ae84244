//! How the configured `memory` is divided. The only place that does.

/// Shares of the memory, in bytes. They add up to what is configured, or less.
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
}

impl MemoryShares {
    /// Divides so many bytes.
    pub fn of(memory_bytes: usize) -> MemoryShares {
        MemoryShares {
            events_bytes: memory_bytes / 2,
            parts_bytes: memory_bytes / 4,
            part_bytes: memory_bytes / 4,
            seal_bytes: memory_bytes / 8,
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
            let fetched = MemoryShares::fetch_bytes(memory_bytes);
            assert!(shares.events_bytes + shares.parts_bytes + fetched <= memory_bytes);
            assert!(shares.seal_bytes <= shares.events_bytes && shares.part_bytes <= shares.parts_bytes);
        }
    }
}
