//! Objects that were just read or written, decoded: who changes one mostly changes it again within moments, as a pod is made,
//! bound, run and counted, and need not read it from JSON each time.
//!
//! Invariants: what is found here is what would be read from the stored bytes of the same revision. Memory is bounded: there are
//! so many places, one of which an object's key names, and large objects get none.
//! Left out: reads, which are answered with stored bytes.

use std::sync::{Arc, Mutex, PoisonError};

use stint_store::{Entry, Revision};

use crate::kinds::Kind;
use crate::managed::Ledger;
use crate::strategy::Object;
use crate::update::Loaded;

/// How many objects are kept.
const PLACES: usize = 512;
/// The largest stored value of which the object is kept.
const LARGEST: usize = 8 * 1024;

/// Decoded objects that are likely to be changed next.
pub struct Recent(Box<[Mutex<Option<Held>>]>);

struct Held {
    kind: &'static Kind,
    key: Arc<str>,
    revision: Revision,
    object: Loaded,
}

impl Default for Recent {
    fn default() -> Self {
        Self((0..PLACES).map(|_| Mutex::default()).collect())
    }
}

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

impl Recent {
    /// The object of `kind` that is stored as `entry`, if it is kept.
    pub(crate) fn get(&self, kind: &'static Kind, entry: &Entry) -> Option<Loaded> {
        let place = self.place(&entry.key).lock().unwrap_or_else(PoisonError::into_inner);
        let is_it =
            |held: &&Held| held.revision == entry.revision && held.key == entry.key && std::ptr::eq(held.kind, kind);
        place.as_ref().filter(is_it).map(|held| held.object.clone())
    }

    /// Keeps what is stored as `entry`.
    pub(crate) fn put(&self, kind: &'static Kind, entry: &Entry, object: Loaded) {
        if entry.value.len() > LARGEST {
            return;
        }
        let held = Held { kind, key: entry.key.clone(), revision: entry.revision, object };
        *self.place(&entry.key).lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
    }

    /// Keeps an object that has just been written as `entry`.
    pub(crate) fn wrote(&self, kind: &'static Kind, entry: &Entry, mut object: Box<dyn Object>, entries: Ledger) {
        if !object.reads_back() {
            return;
        }
        object.meta_mut().resource_version = Some(entry.revision.to_string());
        debug_assert_eq!(
            Loaded::read(kind, &entry.value).map(|read| read.to_value()).ok(),
            Some(object.to_value()),
            "what is kept of {} is what is read of it",
            entry.key
        );
        self.put(kind, entry, Loaded { object: object.into(), entries });
    }

    fn place(&self, key: &str) -> &Mutex<Option<Held>> {
        let hash = key
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let place = (hash ^ (hash >> 32)) % PLACES as u64;
        &self.0[usize::try_from(place).expect("it is less than the places")]
    }
}
