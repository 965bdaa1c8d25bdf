//! Completion indexes of Indexed Jobs, and sets of them in the form of `status.completedIndexes`: `0,2-4,6`.
//!
//! Invariant: a set is a sorted list of ranges that neither overlap nor touch, so that its cost follows the number of
//! ranges and not of indexes.
//! Upstream: `pkg/controller/job/indexed_job_utils.go` (`orderedIntervals`), v1.36.

use std::fmt::{self, Write};

use k8s_openapi::api::core::v1::Pod;

/// The annotation, and label, that says a pod's index.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The index of one pod: 0, 1, 2 …
pub type Index = u32;

/// A set of indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSet {
    /// First and last of each range.
    ranges: Vec<(Index, Index)>,
}

impl IndexSet {
    /// What a status says, without anything that is not below `completions`. What can't be read is left out, as
    /// upstream does: the API validates what it stores.
    pub fn parse(text: &str, completions: Index) -> IndexSet {
        let mut set = IndexSet::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<Index>(), last.parse::<Index>())
                && first < completions
                && first <= last
            {
                set.add_range(first, last.min(completions - 1));
            }
        }
        set
    }

    /// How many indexes are in it.
    pub fn len(&self) -> i32 {
        let count: u64 = self.ranges.iter().map(|(first, last)| u64::from(last - first) + 1).sum();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether `index` is in it.
    pub fn contains(&self, index: Index) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= index);
        after > 0 && self.ranges[after - 1].1 >= index
    }

    /// Adds `index`. Whether it is new.
    pub fn insert(&mut self, index: Index) -> bool {
        let new = !self.contains(index);
        if new {
            self.add_range(index, index);
        }
        new
    }

    /// How many indexes are in both sets.
    pub fn overlap(&self, other: &IndexSet) -> i32 {
        let (mut mine, mut theirs) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut count = 0_u64;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                count += u64::from(last - first) + 1;
            }
            if a.1 < b.1 {
                mine.next()
            } else {
                theirs.next()
            };
        }
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// The indexes below `end` that are in none of `sets`, ascending.
    pub fn missing<'a>(sets: &'a [&'a IndexSet], end: Index) -> impl Iterator<Item = Index> + 'a {
        let mut next = 0;
        std::iter::from_fn(move || {
            // Each jump leaves a whole range behind.
            while let Some(last) = sets.iter().find_map(|set| set.range_with(next)) {
                next = last.checked_add(1)?;
            }
            let index = next;
            next = next.checked_add(1)?;
            (index < end).then_some(index)
        })
    }

    /// The end of the range that holds `index`.
    fn range_with(&self, index: Index) -> Option<Index> {
        let after = self.ranges.partition_point(|(first, _)| *first <= index);
        let (_, last) = *self.ranges.get(after.checked_sub(1)?)?;
        (last >= index).then_some(last)
    }

    fn add_range(&mut self, first: Index, last: Index) {
        // Ranges that overlap the new one or touch it become one with it.
        let start = self.ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        let end = self.ranges.partition_point(|(begin, _)| *begin <= last.saturating_add(1));
        let (mut first, mut last) = (first, last);
        if let (Some(low), Some(high)) = (self.ranges.get(start), self.ranges.get(end.wrapping_sub(1)))
            && start < end
        {
            first = first.min(low.0);
            last = last.max(high.1);
        }
        self.ranges.splice(start..end.max(start), [(first, last)]);
    }
}

impl Extend<Index> for IndexSet {
    /// In one pass over both, however the new ones are ordered: thousands of pods come in no order.
    fn extend<T: IntoIterator<Item = Index>>(&mut self, indexes: T) {
        let mut ranges = std::mem::take(&mut self.ranges);
        ranges.extend(indexes.into_iter().map(|index| (index, index)));
        ranges.sort_unstable();
        for (first, last) in ranges {
            match self.ranges.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => self.ranges.push((first, last)),
            }
        }
    }
}

impl FromIterator<Index> for IndexSet {
    fn from_iter<T: IntoIterator<Item = Index>>(indexes: T) -> IndexSet {
        let mut indexes: Vec<Index> = indexes.into_iter().collect();
        indexes.sort_unstable();
        let mut ranges: Vec<(Index, Index)> = Vec::new();
        for index in indexes {
            match ranges.last_mut() {
                Some((_, end)) if index <= end.saturating_add(1) => *end = index,
                _ => ranges.push((index, index)),
            }
        }
        IndexSet { ranges }
    }
}

impl fmt::Display for IndexSet {
    /// Two in a row are written `0,1`, more `0-2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.ranges.iter().enumerate() {
            if n > 0 {
                f.write_char(',')?;
            }
            write!(f, "{first}")?;
            match last - first {
                0 => {}
                1 => write!(f, ",{last}")?,
                _ => write!(f, "-{last}")?,
            }
        }
        Ok(())
    }
}

/// The index that the pod's annotation says.
pub fn of_pod(pod: &Pod) -> Option<Index> {
    let text = pod.metadata.annotations.as_ref()?.get(INDEX)?;
    text.parse::<i32>().ok().and_then(|index| Index::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets_are_written_as_ranges_of_three_and_more() {
        for text in ["", "0", "0,1", "0-2", "0,2-4,6", "1,3-5,7,8"] {
            assert_eq!(IndexSet::parse(text, 100).to_string(), text);
        }
        assert_eq!(IndexSet::parse("0-9,12", 5).to_string(), "0-4", "what is not below completions is left out");
        assert_eq!(IndexSet::parse("x,3,-,5-4", 9).to_string(), "3");
    }

    proptest! {
        #[test]
        fn a_set_is_the_set_of_its_indexes(
            one in proptest::collection::vec(0_u32..40, 0..40),
            two in proptest::collection::vec(0_u32..40, 0..40),
        ) {
            let (a, b): (IndexSet, IndexSet) = (one.iter().copied().collect(), two.iter().copied().collect());
            let (x, y): (BTreeSet<u32>, BTreeSet<u32>) = (one.into_iter().collect(), two.into_iter().collect());
            prop_assert_eq!(usize::try_from(a.len()).unwrap(), x.len());
            for index in 0..41 {
                prop_assert_eq!(a.contains(index), x.contains(&index));
            }
            prop_assert_eq!(usize::try_from(a.overlap(&b)).unwrap(), x.intersection(&y).count());
            let missing: Vec<u32> = IndexSet::missing(&[&a, &b], 41).collect();
            let expected: Vec<u32> = (0..41).filter(|i| !x.contains(i) && !y.contains(i)).collect();
            prop_assert_eq!(missing, expected);
            prop_assert_eq!(IndexSet::parse(&a.to_string(), 41), a);
        }
    }
}
