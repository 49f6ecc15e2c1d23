//! The newest groups, as written, kept in memory for those who follow a stream's tail.
//!
//! Every shard has its share of one budget of bytes. Runs handed out are slices of these buffers: nothing is
//! copied, and a buffer lives until the cache and every reader have let go of it.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;

use crate::format::Mark;
use crate::shard::lock;

/// One shard's newest groups.
pub(crate) struct TailCache {
    budget: usize,
    groups: Mutex<Groups>,
}

#[derive(Default)]
struct Groups {
    /// In the order of the log.
    groups: VecDeque<(Mark, Bytes)>,
    bytes: usize,
}

impl TailCache {
    pub(crate) fn new(budget: usize) -> Self {
        Self { budget, groups: Mutex::default() }
    }

    /// Keeps a group that was written at a place.
    pub(crate) fn push(&self, at: Mark, bytes: Bytes) {
        let mut gone = Vec::new();
        let mut groups = lock(&self.groups);
        groups.bytes += bytes.len();
        groups.groups.push_back((at, bytes));
        while groups.bytes > self.budget {
            let Some((_, oldest)) = groups.groups.pop_front() else { break };
            groups.bytes -= oldest.len();
            gone.push(oldest);
        }
        drop(groups);
        // Large buffers go back to the system here, outside of the lock.
        drop(gone);
    }

    /// `count` bytes from a place on, if they are here.
    pub(crate) fn get(&self, at: Mark, count: usize) -> Option<Bytes> {
        let groups = lock(&self.groups);
        let found = groups.groups.partition_point(|(mark, _)| *mark <= at).checked_sub(1)?;
        let (mark, bytes) = groups.groups.get(found)?;
        if mark.segment != at.segment {
            return None;
        }
        let start = usize::try_from(at.offset - mark.offset).ok()?;
        let end = start.checked_add(count)?;
        (end <= bytes.len()).then(|| bytes.slice(start..end))
    }

    /// Forgets every group of the segments in a range of numbers, from an offset in the first of them on.
    pub(crate) fn forget(&self, from: Mark, upto: u64) {
        let mut groups = lock(&self.groups);
        groups.groups.retain(|(mark, _)| *mark < from || mark.segment > upto);
        groups.bytes = groups.groups.iter().map(|(_, bytes)| bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_groups_are_found_by_place_within_the_budget() {
        let cache = TailCache::new(100);
        for i in 0..20_u64 {
            let at = Mark { segment: 1 + i / 10, offset: 50 + i % 10 * 20 };
            cache.push(at, Bytes::from(vec![i as u8; 20]));
        }
        let at = |segment, offset| Mark { segment, offset };
        assert_eq!(cache.get(at(2, 215), 3), Some(Bytes::from_static(&[18; 3])));
        assert_eq!(cache.get(at(2, 225), 10), None, "spans two groups");
        assert_eq!(cache.get(at(2, 100), 1), None, "gone");
        assert_eq!(cache.get(at(3, 215), 1), None);
        cache.forget(at(2, 210), 2);
        assert_eq!(cache.get(at(2, 215), 3), None);
        assert_eq!(cache.get(at(2, 195), 3), Some(Bytes::from_static(&[17; 3])));
    }
}
