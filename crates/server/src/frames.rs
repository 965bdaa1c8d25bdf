//! The events of watches as they are sent, each made once and shared by all watchers that take it alike: in the same form,
//! and in the same shape; and what their selectors look at, read once for all of them.
//!
//! Invariant: memory is bounded; what has been overwritten is made again. A large event is never copied: its stored bytes
//! are sent between their frame's two ends. A row of a table tells ages, and so is shared for no longer than a second.
//! Left out: the first table of a watch, which tells the columns.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use stint_schema::protobuf;
use stint_store::{Event, Revision};

use crate::encoding::revision_of;
use crate::kinds::Kind;
use crate::media::{Form, as_protobuf};
use crate::selector::Traits;
use crate::table::Look;

/// How many frames are kept.
const SLOTS: usize = 256;
/// Larger values are not copied into a frame.
const LARGEST: usize = 64 * 1024;

/// What has happened, as a watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Added,
    Modified,
    Deleted,
    /// Nothing, up to a revision.
    Bookmark,
    /// The end, before its time.
    Error,
}

impl Word {
    const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
            Self::Bookmark => "BOOKMARK",
            Self::Error => "ERROR",
        }
    }

    pub(crate) const fn start(self) -> &'static str {
        match self {
            Self::Added => r#"{"type":"ADDED","object":"#,
            Self::Modified => r#"{"type":"MODIFIED","object":"#,
            Self::Deleted => r#"{"type":"DELETED","object":"#,
            Self::Bookmark => r#"{"type":"BOOKMARK","object":"#,
            Self::Error => r#"{"type":"ERROR","object":"#,
        }
    }
}

/// The frames of the newest events.
#[derive(Debug)]
pub(crate) struct Frames {
    slots: Box<[Mutex<Option<Slot>>]>,
    seen: Box<[Mutex<Option<Seen>>]>,
}

/// What selectors look at in an event's object.
#[derive(Debug)]
pub(crate) struct BeforeAndAfter {
    /// In the state before. None: it is new.
    pub(crate) before: Option<Arc<Traits>>,
    /// In the state after it.
    pub(crate) after: Arc<Traits>,
}

#[derive(Debug)]
struct Seen {
    revision: Revision,
    kind: &'static Kind,
    traits: Arc<BeforeAndAfter>,
}

#[derive(Debug)]
struct Slot {
    revision: Revision,
    word: Word,
    form: Form,
    look: Look,
    kind: &'static Kind,
    frame: Bytes,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Mutex::default()).collect(),
            seen: (0..SLOTS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Frames {
    /// The pieces of an event's frame: one, or three for a large object. `object` gives the bytes of the object as it
    /// looks.
    pub(crate) fn pieces(
        &self,
        revision: Revision,
        word: Word,
        form: Form,
        look: Look,
        kind: &'static Kind,
        object: impl FnOnce() -> Bytes,
    ) -> [Option<Bytes>; 3] {
        // What is taken in many ways is not made again and again for want of a place.
        let way = word as u64 * 37 + form as u64 * 61 + look.ordinal() * 89;
        let slot = &self.slots[slot_of(Revision(revision.0.wrapping_add(way)))];
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let known = slot.as_ref().filter(|slot| {
            (slot.revision, slot.word, slot.form, slot.look) == (revision, word, form, look)
                && std::ptr::eq(slot.kind, kind)
        });
        if let Some(known) = known {
            return [Some(known.frame.clone()), None, None];
        }
        let pieces = framed(word, form, object());
        if let [Some(frame), None, None] = &pieces {
            *slot = Some(Slot { revision, word, form, look, kind, frame: frame.clone() });
        }
        pieces
    }

    /// What selectors look at in an event's object, which is of `kind`.
    pub(crate) fn traits(&self, event: &Event, kind: &'static Kind) -> Arc<BeforeAndAfter> {
        if let Some(seen) = self.seen(event.revision, kind) {
            return seen;
        }
        let of = |value: &Bytes| Arc::new(Traits::of(kind, value));
        // The state before is mostly the one after an event that is still known.
        let before = |value: &Bytes| {
            let seen = revision_of(value, kind.head()).and_then(|revision| self.seen(revision, kind));
            seen.map_or_else(|| of(value), |seen| seen.after.clone())
        };
        let traits = BeforeAndAfter { before: event.previous.as_ref().map(before), after: of(&event.value) };
        let traits = Arc::new(traits);
        let seen = Seen { revision: event.revision, kind, traits: traits.clone() };
        *self.seen[slot_of(event.revision)].lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        traits
    }

    fn seen(&self, revision: Revision, kind: &'static Kind) -> Option<Arc<BeforeAndAfter>> {
        let slot = self.seen[slot_of(revision)].lock().unwrap_or_else(PoisonError::into_inner);
        let seen = slot.as_ref().filter(|seen| seen.revision == revision && std::ptr::eq(seen.kind, kind));
        seen.map(|seen| seen.traits.clone())
    }
}

fn slot_of(revision: Revision) -> usize {
    usize::try_from(revision.0 % SLOTS as u64).expect("it is less than the slots")
}

/// One event's frame, in as many pieces as it takes. `object` is JSON.
pub(crate) fn framed(word: Word, form: Form, object: Bytes) -> [Option<Bytes>; 3] {
    if form == Form::Protobuf {
        // An object without a message can't be watched in this form: whoever serves the kind has a type for it.
        let message = as_protobuf(&object).unwrap_or_default();
        return [Some(protobuf::watch_frame(word.name(), &message).into()), None, None];
    }
    let (start, end) = (word.start().as_bytes(), b"}\n");
    if object.len() > LARGEST {
        return [Some(Bytes::from_static(start)), Some(object), Some(Bytes::from_static(end))];
    }
    let mut frame = BytesMut::with_capacity(start.len() + object.len() + end.len());
    frame.put_slice(start);
    frame.put_slice(&object);
    frame.put_slice(end);
    [Some(frame.freeze()), None, None]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Include;

    #[test]
    fn an_event_is_framed_once_for_all_who_see_it_alike() {
        let frames = Frames::default();
        let kind = Kind::at("", "v1", "pods").unwrap();
        let look = |revision, word, look| {
            let mut made = false;
            let object = || {
                made = true;
                Bytes::from_static(b"{}")
            };
            let pieces = frames.pieces(Revision(revision), word, Form::Json, look, kind, object);
            (pieces.into_iter().flatten().collect::<Vec<_>>().concat(), made)
        };
        let ask = |revision, word| look(revision, word, Look::Whole);
        let added = br#"{"type":"ADDED","object":{}}
"#;
        assert_eq!(ask(1, Word::Added), (added.to_vec(), true));
        assert_eq!(ask(1, Word::Added), (added.to_vec(), false));
        assert!(ask(1, Word::Modified).1);
        assert!(ask(1 + SLOTS as u64, Word::Added).1);
        assert!(ask(1, Word::Added).1);
        let rows = |second| look(2, Word::Added, Look::Row { version: "v1", include: Include::Metadata, second }).1;
        assert_eq!([rows(7), rows(7), rows(8)], [true, false, true], "the age of its object may be another");
        let others = [Look::Whole, Look::Metadata("v1")].map(|other| look(2, Word::Added, other).1);
        assert_eq!((others, rows(8)), ([true; 2], false), "each has its place");
    }

    #[test]
    fn a_large_object_is_sent_as_it_is() {
        let object = Bytes::from(vec![b'x'; LARGEST + 1]);
        let [_, Some(piece), _] = framed(Word::Added, Form::Json, object.clone()) else { panic!("in three pieces") };
        assert_eq!(piece.as_ptr(), object.as_ptr());
    }
}
