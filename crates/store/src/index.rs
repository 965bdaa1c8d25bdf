//! The committed state: every entry in key order, with snapshots that cost nothing to take.
//!
//! Entries sit in sorted chunks behind `Arc`s. A reader that wants more than one entry takes a [`Snapshot`], which
//! shares all chunks; the writer copies a chunk only while a snapshot still shares it. So a list of 100,000 objects
//! never holds up a commit, and pages of one list can come from one state.

use std::sync::Arc;

use crate::{Change, Entry, Listing, Revision};

/// A chunk that outgrows this is split in halves.
const CHUNK_MAX: usize = 128;
/// A chunk that shrinks below this joins a neighbour, if both fit in one.
const CHUNK_MIN: usize = 32;
/// Chunks are loaded this full, which leaves room for insertions.
const CHUNK_LOAD: usize = 96;

/// The whole store at one revision. Cloning it is cheap, and holding it keeps that state's bytes alive.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Arc<State>);

#[derive(Debug, Clone, Default)]
struct State {
    revision: Revision,
    chunks: Vec<Arc<Vec<Entry>>>,
}

/// A part of a listing, as [`Snapshot::page`] returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries of this page, and the revision of the snapshot.
    pub listing: Listing,
    /// How many entries under the prefix follow this page. Zero on the last one.
    pub remaining: usize,
}

/// Where an entry is, or would be inserted: a chunk and an offset in it.
type Position = (usize, usize);

impl Snapshot {
    /// The revision of the last write that this snapshot includes.
    pub fn revision(&self) -> Revision {
        self.0.revision
    }

    /// The entry under a key.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.0.get(key)
    }

    /// The entries whose keys start with the prefix, in key order.
    pub fn entries(&self, prefix: &str) -> impl Iterator<Item = &Entry> {
        let (start, end) = self.0.bounds(prefix, None);
        self.0.between(start, end)
    }

    /// How many keys start with the prefix.
    pub fn count(&self, prefix: &str) -> usize {
        let (start, end) = self.0.bounds(prefix, None);
        self.0.distance(start, end)
    }

    /// All entries under the prefix.
    pub fn list(&self, prefix: &str) -> Listing {
        self.page(prefix, None, usize::MAX).listing
    }

    /// At most `limit` entries under the prefix, those whose keys come after `after_key`.
    pub fn page(&self, prefix: &str, after_key: Option<&str>, limit: usize) -> Page {
        let (start, end) = self.0.bounds(prefix, after_key);
        let total = self.0.distance(start, end);
        let mut entries = Vec::with_capacity(total.min(limit));
        entries.extend(self.0.between(start, end).take(limit).cloned());
        Page { remaining: total - entries.len(), listing: Listing { revision: self.0.revision, entries } }
    }

    /// The state that a disk holds: entries strictly ascending by key.
    pub(crate) fn load(revision: Revision, entries: Vec<Entry>) -> Self {
        let mut chunks = Vec::with_capacity(entries.len().div_ceil(CHUNK_LOAD));
        let mut entries = entries.into_iter();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_LOAD.min(entries.len()));
            chunk.extend(entries.by_ref().take(CHUNK_LOAD));
            if chunk.is_empty() {
                return Self(Arc::new(State { revision, chunks }));
            }
            chunks.push(Arc::new(chunk));
        }
    }

    /// Moves on to the state after a committed batch.
    pub(crate) fn apply(&mut self, batch: Vec<Change>, revision: Revision) {
        let state = Arc::make_mut(&mut self.0);
        for change in batch {
            match change {
                Change::Put(entry) => state.put(entry),
                Change::Delete { key, .. } => state.remove(&key),
            }
        }
        state.revision = revision;
    }
}

impl State {
    /// The first position whose key is not `before` the one sought; `before` holds for a leading run of keys.
    fn seek(&self, before: impl Fn(&str) -> bool) -> Position {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(|entry| before(&entry.key)));
        let offset = self.chunks.get(chunk).map_or(0, |entries| entries.partition_point(|entry| before(&entry.key)));
        (chunk, offset)
    }

    fn at(&self, (chunk, offset): Position) -> Option<&Entry> {
        self.chunks.get(chunk)?.get(offset)
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        self.at(self.seek(|k| k < key)).filter(|entry| &*entry.key == key)
    }

    fn bounds(&self, prefix: &str, after_key: Option<&str>) -> (Position, Position) {
        let start = self.seek(|k| k < prefix || after_key.is_some_and(|after| k <= after));
        let end = self.seek(|k| k < prefix || k.starts_with(prefix));
        (start.min(end), end)
    }

    fn between(&self, start: Position, end: Position) -> impl Iterator<Item = &Entry> {
        let last = self.chunks.len().min(end.0 + 1);
        self.chunks[start.0.min(last)..last].iter().enumerate().flat_map(move |(index, chunk)| {
            let index = index + start.0;
            let from = if index == start.0 { start.1 } else { 0 };
            let to = if index == end.0 { end.1 } else { chunk.len() };
            &chunk[from..to]
        })
    }

    fn distance(&self, start: Position, end: Position) -> usize {
        let whole: usize = self.chunks[start.0..end.0].iter().map(|chunk| chunk.len()).sum();
        whole + end.1 - start.1
    }

    fn put(&mut self, entry: Entry) {
        let (mut chunk, mut offset) = self.seek(|k| *k < *entry.key);
        if self.at((chunk, offset)).is_some_and(|found| found.key == entry.key) {
            Arc::make_mut(&mut self.chunks[chunk])[offset] = entry;
            return;
        }
        if chunk == self.chunks.len() {
            match self.chunks.last() {
                None => self.chunks.push(Arc::default()),
                Some(last) => (chunk, offset) = (chunk - 1, last.len()),
            }
        }
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        entries.insert(offset, entry);
        if entries.len() > CHUNK_MAX {
            let upper = entries.split_off(CHUNK_MAX / 2);
            self.chunks.insert(chunk + 1, Arc::new(upper));
        }
    }

    fn remove(&mut self, key: &str) {
        let (chunk, offset) = self.seek(|k| k < key);
        if self.at((chunk, offset)).is_none_or(|found| &*found.key != key) {
            return;
        }
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        entries.remove(offset);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        } else if entries.len() < CHUNK_MIN {
            self.join(chunk);
        }
    }

    /// Joins a small chunk with a neighbour, if both fit in one.
    fn join(&mut self, chunk: usize) {
        let lower = if chunk + 1 < self.chunks.len() { chunk } else { chunk.saturating_sub(1) };
        let Some(upper) = self.chunks.get(lower + 1) else { return };
        if self.chunks[lower].len() + upper.len() <= CHUNK_LOAD {
            let upper = self.chunks.remove(lower + 1);
            Arc::make_mut(&mut self.chunks[lower]).extend(upper.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn entry(key: u16, revision: u64) -> Entry {
        let group = ["a", "b", "bb"][usize::from(key) % 3];
        Entry { key: format!("{group}/{key:04}").into(), revision: Revision(revision), value: Bytes::new() }
    }

    fn change(key: u16, revision: u64, delete: bool) -> Change {
        let entry = entry(key, revision);
        if delete { Change::Delete { key: entry.key, revision: entry.revision } } else { Change::Put(entry) }
    }

    proptest! {
        #[test]
        fn snapshots_read_like_a_sorted_map_and_stay_as_they_were(
            loaded in proptest::collection::btree_set(0_u16..600, 0..400),
            changes in proptest::collection::vec((0_u16..600, any::<bool>()), 0..800),
            after in 0_u16..600,
            limit in 0_usize..700,
        ) {
            let mut model: BTreeMap<Arc<str>, Entry> =
                loaded.iter().map(|key| entry(*key, 0)).map(|entry| (entry.key.clone(), entry)).collect();
            let mut snapshot = Snapshot::load(Revision(0), model.values().cloned().collect());
            let (first, first_model) = (snapshot.clone(), model.clone());
            for (revision, (key, delete)) in (1..).zip(changes) {
                let change = change(key, revision, delete);
                match &change {
                    Change::Put(entry) => model.insert(entry.key.clone(), entry.clone()),
                    Change::Delete { key, .. } => model.remove(key),
                };
                snapshot.apply(vec![change], Revision(revision));
            }
            prop_assert!(first.entries("").eq(first_model.values()));
            prop_assert!(snapshot.entries("").eq(model.values()));
            for (key, entry) in &model {
                prop_assert_eq!(snapshot.get(key), Some(entry));
            }
            let after = entry(after, 0).key;
            prop_assert_eq!(snapshot.get(&after), model.get(&after));
            for prefix in ["", "a/", "b", "b/", "bb/", "c", "b/0001"] {
                let under = || model.values().filter(|entry| entry.key.starts_with(prefix));
                prop_assert!(snapshot.entries(prefix).eq(under()));
                prop_assert_eq!(snapshot.count(prefix), under().count());
                let rest: Vec<&Entry> = under().filter(|entry| entry.key > after).collect();
                let page = snapshot.page(prefix, Some(&after), limit);
                prop_assert!(page.listing.entries.iter().eq(rest.iter().copied().take(limit)));
                prop_assert_eq!(page.remaining, rest.len().saturating_sub(limit));
            }
        }
    }

    #[test]
    fn chunks_stay_between_sparse_and_huge() {
        let mut snapshot = Snapshot::default();
        let key = |number| u16::try_from(number * 7919 % 10_000).expect("it is below 10,000");
        for number in 0..10_000_u32 {
            snapshot.apply(vec![change(key(number), 1, false)], Revision(1));
        }
        assert_eq!(snapshot.count(""), 10_000);
        assert!(snapshot.0.chunks.iter().all(|chunk| chunk.len() <= CHUNK_MAX));
        assert!(snapshot.0.chunks.len() <= 10_000 / CHUNK_MIN);
        for key in 100..10_000 {
            snapshot.apply(vec![change(key, 2, true)], Revision(2));
        }
        assert_eq!(snapshot.count(""), 100);
        assert!(snapshot.0.chunks.len() <= 100 / CHUNK_MIN + 1);
    }
}
