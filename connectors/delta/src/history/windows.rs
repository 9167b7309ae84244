//! A part of a history's chain that is checked at once: which of its rows are there, and their hashes. Without I/O.

use super::checked::{Fault, Finding};
use crate::audit::chain::Head;
use crate::audit::digits::hash_bytes;

/// Numbers of a window, at most.
const NUMBERS: i64 = 1 << 19;

/// A row of the chain that later ones are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its number.
    pub sequence: i64,
    /// Its hash; none if it has none, or several rows have the number.
    pub hash: Option<[u8; 32]>,
}

/// What is there under a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Absent,
    Once([u8; 32]),
    WithoutHash,
    Repeated,
}

/// Rows whose numbers lie side by side.
#[derive(Debug)]
pub struct Window {
    start: i64,
    slots: Vec<Slot>,
    /// The last row before these.
    before: Known,
    /// The least number beyond these.
    following: Option<i64>,
}

impl Window {
    /// A window that begins with a number, behind a row that was checked. No number is larger than `most`.
    pub fn new(start: i64, most: i64, before: Known) -> Window {
        let numbers = most.saturating_sub(start).clamp(0, NUMBERS - 1) + 1;
        Window { start, slots: vec![Slot::Absent; numbers as usize], before, following: None }
    }

    /// Whether it has numbers of a range; one that lies beyond it is noted.
    pub fn meets(&mut self, least: i64, most: i64) -> bool {
        let is_beyond = self.place(least).is_none() && least > self.start;
        if is_beyond {
            self.note_following(least);
        }
        !is_beyond && most >= self.start
    }

    /// Notes a row; whether it belongs to the window.
    pub fn note(&mut self, sequence: i64, hash: Option<[u8; 32]>) -> bool {
        let Some(place) = self.place(sequence) else {
            if sequence > self.start {
                self.note_following(sequence);
            }
            return false;
        };
        if let Some(slot) = self.slots.get_mut(place) {
            *slot = match (*slot, hash) {
                (Slot::Absent, Some(hash)) => Slot::Once(hash),
                (Slot::Absent, None) => Slot::WithoutHash,
                _ => Slot::Repeated,
            };
        }
        true
    }

    fn note_following(&mut self, sequence: i64) {
        self.following = Some(self.following.map_or(sequence, |known| known.min(sequence)));
    }

    fn place(&self, sequence: i64) -> Option<usize> {
        let place = usize::try_from(sequence.checked_sub(self.start)?).ok()?;
        (place < self.slots.len()).then_some(place)
    }

    fn slot(&self, sequence: i64) -> Slot {
        self.place(sequence).and_then(|place| self.slots.get(place)).copied().unwrap_or(Slot::Absent)
    }

    /// The least number beyond it; none if there is none.
    pub fn following(&self) -> Option<i64> {
        self.following
    }

    /// The last row of the chain with this window.
    pub fn last(&self) -> Known {
        let Some(place) = self.slots.iter().rposition(|slot| *slot != Slot::Absent) else { return self.before };
        let sequence = self.start.saturating_add(place as i64);
        let hash = if let Slot::Once(hash) = self.slot(sequence) { Some(hash) } else { None };
        if sequence > self.before.sequence { Known { sequence, hash } } else { self.before }
    }

    /// Whether a row, made again of its values, is the one that is there: `hash` makes its hash of that of the row
    /// before. Of a row whose neighbour is missing this cannot be said, nor of one of several.
    pub fn is_changed(&self, sequence: i64, hash: impl FnOnce(&[u8; 32]) -> [u8; 32]) -> bool {
        let own = match self.slot(sequence) {
            Slot::Once(own) => own,
            Slot::WithoutHash => return true,
            Slot::Absent | Slot::Repeated => return false,
        };
        let previous = match self.slot(sequence.saturating_sub(1)) {
            _ if self.before.sequence == sequence.saturating_sub(1) => self.before.hash,
            Slot::Once(previous) => Some(previous),
            _ => None,
        };
        previous.is_some_and(|previous| hash(&previous) != own)
    }

    /// Rows that are missing between those that are there, or are there several times.
    pub fn gaps(&self) -> Vec<Finding> {
        let (mut findings, mut expected) = (Vec::new(), self.before.sequence + 1);
        for (at, slot) in self.slots.iter().enumerate().filter(|(_, slot)| **slot != Slot::Absent) {
            let sequence = self.start.saturating_add(at as i64);
            if sequence > expected {
                findings.push(Finding { sequence: expected, fault: Fault::Missing { to: sequence - 1 } });
            }
            // No row has a number that is not larger than that of the one before it.
            if sequence < expected {
                findings.push(Finding { sequence, fault: Fault::Changed });
            }
            if *slot == Slot::Repeated {
                findings.push(Finding { sequence, fault: Fault::Repeated });
            }
            expected = expected.max(sequence.saturating_add(1));
        }
        findings
    }

    /// What is wrong with the row that a head names, if it is one of these and not the one that it was.
    pub fn differs(&self, head: &Head) -> Option<Finding> {
        let is_other = match self.slot(head.sequence) {
            Slot::Absent => false,
            Slot::Once(hash) => Some(hash) != hash_bytes(&head.hash),
            Slot::WithoutHash | Slot::Repeated => true,
        };
        is_other.then_some(Finding { sequence: head.sequence, fault: Fault::HeadDiffers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::digits::hex;
    use crate::history::chain::NO_HASH;

    const START: Known = Known { sequence: 0, hash: Some(NO_HASH) };

    fn hash(of: i64) -> [u8; 32] {
        [of as u8; 32]
    }

    fn window(start: i64, before: Known, numbers: &[i64]) -> Window {
        let mut window = Window::new(start, *numbers.iter().max().unwrap(), before);
        for number in numbers {
            window.note(*number, Some(hash(*number)));
        }
        window
    }

    fn faults(window: &Window) -> Vec<(i64, Fault)> {
        window.gaps().into_iter().map(|finding| (finding.sequence, finding.fault)).collect()
    }

    /// What a right row makes of the hash before it.
    fn next(previous: &[u8; 32]) -> [u8; 32] {
        previous.map(|byte| byte + 1)
    }

    #[test]
    fn rows_follow_each_other_within_windows_and_across_them() {
        let mut first = window(1, START, &[3, 1, 2]);
        assert_eq!((faults(&first), first.following()), (vec![], None));
        assert!(first.meets(2, 9) && !first.meets(8, 9), "the second lies beyond");
        assert_eq!(first.following(), Some(8));
        assert!((1..=3).all(|number| !first.is_changed(number, next)));
        let second = window(4, first.last(), &[4, 5]);
        assert_eq!(faults(&second), vec![]);
        assert!(!second.is_changed(4, next) && second.is_changed(5, |_| hash(9)));
        assert_eq!(second.last(), Known { sequence: 5, hash: Some(hash(5)) });
    }

    #[test]
    fn missing_doubled_and_odd_numbers_are_found() {
        assert_eq!(faults(&window(3, START, &[3, 6])), [(1, Fault::Missing { to: 2 }), (4, Fault::Missing { to: 5 })]);
        let doubled = window(1, START, &[1, 2, 2, 3]);
        assert_eq!(faults(&doubled), [(2, Fault::Repeated)]);
        assert!(!doubled.is_changed(3, |_| hash(9)), "nobody knows which of the two it followed");
        assert_eq!(faults(&window(-1, START, &[-1, 1])), [(-1, Fault::Changed)]);
        let far = window(1, START, &[1, i64::MAX]);
        assert_eq!((far.following(), far.slots.len() as i64), (Some(i64::MAX), NUMBERS));
        let last = window(i64::MAX, far.last(), &[i64::MAX]);
        assert_eq!(faults(&last), [(2, Fault::Missing { to: i64::MAX - 1 })]);
        let mut without = Window::new(1, 2, START);
        assert!(without.note(1, None) && without.is_changed(1, next));
    }

    #[test]
    fn a_head_is_compared_with_the_row_of_its_number() {
        let window = window(1, START, &[1, 2]);
        let head = |sequence, of| Head { sequence, hash: hex(&hash(of)) };
        assert_eq!(window.differs(&head(2, 2)), None);
        assert_eq!(window.differs(&head(2, 3)).unwrap().fault, Fault::HeadDiffers);
        assert_eq!(window.differs(&head(3, 3)), None, "it is in no row of these");
    }
}
