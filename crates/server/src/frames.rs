//! The events of watches as they are sent, each made once and shared by all watchers that take it in the same form; and
//! what their selectors look at, read once for all of them.
//!
//! Invariant: memory is bounded; what has been overwritten is made again. A large event is never copied: its stored bytes
//! are sent between their frame's two ends.
//! Left out: events whose form depends on who watches and when, as rows of tables do.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use stint_schema::protobuf;
use stint_store::{Event, Revision};

use crate::kinds::Kind;
use crate::media::{Form, as_protobuf};
use crate::selector::Traits;

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
    slots: [Mutex<Option<Slot>>; SLOTS],
    seen: [Mutex<Option<Seen>>; SLOTS],
}

/// What selectors look at in an event's object.
#[derive(Debug)]
pub(crate) struct BeforeAndAfter {
    /// In the state before. None: it is new.
    pub(crate) before: Option<Traits>,
    /// In the state after it.
    pub(crate) after: Traits,
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
    kind: &'static Kind,
    frame: Bytes,
}

impl Default for Frames {
    fn default() -> Self {
        Self { slots: [const { Mutex::new(None) }; SLOTS], seen: [const { Mutex::new(None) }; SLOTS] }
    }
}

impl Frames {
    /// The pieces of an event's frame: one, or three for a large object. `object` gives the object's bytes.
    pub(crate) fn pieces(
        &self,
        revision: Revision,
        word: Word,
        form: Form,
        kind: &'static Kind,
        object: impl FnOnce() -> Bytes,
    ) -> [Option<Bytes>; 3] {
        let mut slot = self.slots[slot_of(revision)].lock().unwrap_or_else(PoisonError::into_inner);
        let known = slot.as_ref().filter(|slot| {
            slot.revision == revision && slot.word == word && slot.form == form && std::ptr::eq(slot.kind, kind)
        });
        if let Some(known) = known {
            return [Some(known.frame.clone()), None, None];
        }
        let pieces = framed(word, form, object());
        if let [Some(frame), None, None] = &pieces {
            *slot = Some(Slot { revision, word, form, kind, frame: frame.clone() });
        }
        pieces
    }

    /// What selectors look at in an event's object, which is of `kind`.
    pub(crate) fn traits(&self, event: &Event, kind: &'static Kind) -> Arc<BeforeAndAfter> {
        let mut slot = self.seen[slot_of(event.revision)].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) =
            slot.as_ref().filter(|seen| seen.revision == event.revision && std::ptr::eq(seen.kind, kind))
        {
            return seen.traits.clone();
        }
        let of = |value: &Bytes| Traits::of(kind, value);
        let traits = BeforeAndAfter { before: event.previous.as_ref().map(of), after: of(&event.value) };
        let traits = Arc::new(traits);
        *slot = Some(Seen { revision: event.revision, kind, traits: traits.clone() });
        traits
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

    #[test]
    fn an_event_is_framed_once_for_all_who_see_it_alike() {
        let frames = Frames::default();
        let kind = Kind::at("", "v1", "pods").unwrap();
        let ask = |revision, word| {
            let mut made = false;
            let object = || {
                made = true;
                Bytes::from_static(b"{}")
            };
            let pieces: Vec<Bytes> =
                frames.pieces(Revision(revision), word, Form::Json, kind, object).into_iter().flatten().collect();
            (pieces.concat(), made)
        };
        let added = br#"{"type":"ADDED","object":{}}
"#;
        assert_eq!(ask(1, Word::Added), (added.to_vec(), true));
        assert_eq!(ask(1, Word::Added), (added.to_vec(), false));
        assert!(ask(1, Word::Modified).1);
        assert!(ask(1 + SLOTS as u64, Word::Added).1);
        assert!(ask(1, Word::Added).1);
    }

    #[test]
    fn a_large_object_is_sent_as_it_is() {
        let object = Bytes::from(vec![b'x'; LARGEST + 1]);
        let [_, Some(piece), _] = framed(Word::Added, Form::Json, object.clone()) else { panic!("in three pieces") };
        assert_eq!(piece.as_ptr(), object.as_ptr());
    }
}
