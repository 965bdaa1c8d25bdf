//! `GET …?watch=true`: what happens to a collection, one JSON object per line.
//!
//! Invariant: a watcher gets every revision that it selects, once and in order, or an `ERROR` event that says it can't.
//! What a watcher is sent of an event are bytes that all who take it in the same form share. A watcher that does not keep
//! up costs no memory: one event at a time is taken from the store, whose mailboxes are bounded.
//! The body holds no handle of the store: it ends when the last one is dropped.
//! Left out: watching over a WebSocket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use stint_core::field::{Fault, Path};
use stint_store::{Entry, Event, EventKind, Expired, Revision, Watch};
use tokio::time::{Instant, Sleep};

use crate::frames::{Frames, Word, framed};
use crate::kinds::Kind;
use crate::media::{AsIs, Form, Wanted};
use crate::params::Params;
use crate::path::Place;
use crate::selector::Selector;
use crate::status::{Error, Result, encode, json};
use crate::table::{Showing, partial};
use crate::verbs::list;
use crate::{Api, Clock};

/// The media types of streams of events.
const STREAM_TYPES: &str = "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
/// How often a quiet watcher hears how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// How long before its end a watch sends a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// The shortest time that a watch lasts if the client names none; it is up to twice as long.
const USUAL: u64 = 1800;
/// The longest time that a watch lasts, whatever its client names: a year. No clock counts as far as a client may.
const LONGEST: Duration = Duration::from_hours(365 * 24);

pub(crate) fn watch(
    api: &Api,
    frames: &Arc<Frames>,
    place: &Place,
    params: &Params,
    wanted: &Wanted,
) -> Result<Response> {
    if wanted.form == Form::Yaml {
        return Err(Error::NotAcceptable(format!("only the following media types are accepted: {STREAM_TYPES}")));
    }
    let showing = Showing::of_object(place.kind, wanted, params, api.clock.now())?;
    let selector = Selector::parse(place.kind, params.get("labelSelector"), params.get("fieldSelector"))?;
    let initial_events = initial_events(params)?;
    let after = match params.get("resourceVersion") {
        None | Some("0") => None,
        Some(text) => Some(Revision(text.parse().map_err(|_| {
            Error::Internal(format!(
                "invalid resource version {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })?)),
    };
    let prefix = list::prefix(place, &selector);
    let (state, after) = match after {
        Some(after) if initial_events != Some(true) => (Vec::new(), after),
        None if initial_events == Some(false) => (Vec::new(), api.store.revision()),
        _ => {
            let listing = api.store.list(&prefix);
            (listing.entries, listing.revision)
        }
    };
    let stream = match api.store.watch(&prefix, after) {
        Err(expired) => stream_of_one(expired_frame(expired, wanted.form)),
        Ok(watch) => {
            let seconds = params.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
            let usual = USUAL + after.0.wrapping_mul(0x9E37_79B9) % USUAL;
            let lasts = Duration::from_secs(seconds.filter(|seconds| *seconds > 0).unwrap_or(usual)).min(LONGEST);
            let now = Instant::now();
            let following = Following {
                kind: place.kind,
                form: wanted.form,
                showing,
                with_columns: true,
                clock: api.clock.clone(),
                frames: frames.clone(),
                selector,
                state: state.into_iter(),
                state_revision: (initial_events == Some(true)).then_some(after),
                watch,
                bookmarks: params.flag("allowWatchBookmarks"),
                next_bookmark: now + BOOKMARK_EVERY,
                deadline: now + lasts,
                alarm: None,
                out: VecDeque::new(),
                ended: false,
            };
            Body::from_stream(stream::unfold(following, |mut following| async move {
                let frame = following.next().await?;
                Some((Ok::<_, std::convert::Infallible>(frame), following))
            }))
        }
    };
    let mut response = json(StatusCode::OK, stream);
    if wanted.form == Form::Protobuf {
        let media = HeaderValue::from_static("application/vnd.kubernetes.protobuf;stream=watch");
        response.headers_mut().insert(header::CONTENT_TYPE, media);
    }
    response.extensions_mut().insert(AsIs);
    Ok(response)
}

/// Whether the client asked to be sent, or not to be sent, the state before the changes.
fn initial_events(params: &Params) -> Result<Option<bool>> {
    let asked = params.get("sendInitialEvents").map(|_| params.flag("sendInitialEvents"));
    let matching = params.get("resourceVersionMatch");
    let root = Path::root();
    let field = root.field("resourceVersionMatch");
    let mut faults = Vec::new();
    match (asked, matching) {
        (None, None) | (Some(_), Some(_)) => {}
        (Some(_), None) => faults
            .push(Fault::forbidden(&field, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        (None, Some(_)) => faults.push(Fault::forbidden(
            &field,
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        )),
    }
    if let Some(other) = matching.filter(|other| *other != "NotOlderThan") {
        faults.push(Fault::not_supported(&field, other, &["NotOlderThan"]));
    }
    if faults.is_empty() { Ok(asked) } else { Err(Error::options("ListOptions", faults)) }
}

/// One watch: first the state, if it was asked for, then the changes.
struct Following {
    kind: &'static Kind,
    form: Form,
    showing: Showing,
    /// Whether the next table is the first one, which tells the columns.
    with_columns: bool,
    /// Tells the age of what is in a table.
    clock: Arc<dyn Clock>,
    frames: Arc<Frames>,
    selector: Selector,
    /// What was there at the start and is still to be sent.
    state: std::vec::IntoIter<Entry>,
    /// The revision of that state, while a bookmark has to mark its end.
    state_revision: Option<Revision>,
    watch: Watch,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    /// Set for the next bookmark or the deadline; made when there is first something to wait for.
    alarm: Option<Pin<Box<Sleep>>>,
    /// Pieces of frames, ready to be sent.
    out: VecDeque<Bytes>,
    ended: bool,
}

impl Following {
    /// The next piece of the body.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.out.pop_front() {
                return Some(piece);
            }
            if self.ended {
                return None;
            }
            if let Some(entry) = self.state.next() {
                if self.selector.is_empty() || self.selector.matches(&entry.value) {
                    let object = self.object(&entry.value);
                    self.out.extend(framed(Word::Added, self.form, object).into_iter().flatten());
                }
            } else if let Some(revision) = self.state_revision.take() {
                let annotations = r#","annotations":{"k8s.io/initial-events-end":"true"}"#;
                self.bookmark(revision, annotations);
            } else {
                self.wait().await;
            }
        }
    }

    /// Waits for an event, the time of a bookmark, or the end.
    async fn wait(&mut self) {
        let mut alarm = self.alarm.take().unwrap_or_else(|| Box::pin(tokio::time::sleep_until(self.wakes())));
        tokio::select! {
            biased;
            event = self.watch.next() => match event {
                Some(Ok(event)) => self.event(&event),
                Some(Err(expired)) => {
                    self.out.push_back(expired_frame(expired, self.form));
                    self.ended = true;
                }
                None => self.ended = true,
            },
            () = &mut alarm => {
                let now = Instant::now();
                if now >= self.deadline {
                    self.ended = true;
                } else {
                    let revision = self.watch.revision();
                    self.bookmark(revision, "");
                    let last = self.deadline - LAST_BOOKMARK;
                    self.next_bookmark = now + BOOKMARK_EVERY;
                    if now < last {
                        self.next_bookmark = self.next_bookmark.min(last);
                    }
                }
                alarm.as_mut().reset(self.wakes());
            }
        }
        self.alarm = Some(alarm);
    }

    fn wakes(&self) -> Instant {
        if self.bookmarks { self.next_bookmark.min(self.deadline) } else { self.deadline }
    }

    fn event(&mut self, event: &Arc<Event>) {
        let Some(word) = self.word(event) else { return };
        let (showing, with_columns) = self.showing_now();
        let object = || shown(self.kind, showing, &event.value, with_columns);
        let pieces = if with_columns {
            framed(word, self.form, object())
        } else {
            self.frames.pieces(event.revision, word, self.form, showing.look(), self.kind, object)
        };
        self.out.extend(pieces.into_iter().flatten());
    }

    /// What an event is to this watcher. None: nothing.
    fn word(&self, event: &Event) -> Option<Word> {
        if self.selector.is_empty() {
            return Some(plain_word(event.kind));
        }
        let traits = self.frames.traits(event, self.kind);
        let before = traits.before.as_ref().is_some_and(|traits| self.selector.selects(traits));
        match (event.kind, before) {
            // It is deleted for those who have seen it.
            (EventKind::Deleted, seen) => seen.then_some(Word::Deleted),
            (_, before) => match (before, self.selector.selects(&traits.after)) {
                (false, false) => None,
                (false, true) => Some(Word::Added),
                (true, true) => Some(Word::Modified),
                (true, false) => Some(Word::Deleted),
            },
        }
    }

    /// An object in the shape that this watcher takes.
    fn object(&mut self, stored: &Bytes) -> Bytes {
        let (showing, with_columns) = self.showing_now();
        shown(self.kind, showing, stored, with_columns)
    }

    /// How objects are shown now, and whether this is the first table, which tells the columns.
    fn showing_now(&mut self) -> (Showing, bool) {
        match self.showing {
            Showing::Table(table) => {
                (Showing::Table(table.at(self.clock.now())), std::mem::take(&mut self.with_columns))
            }
            other => (other, false),
        }
    }

    /// Says how far this watcher is.
    fn bookmark(&mut self, revision: Revision, annotations: &str) {
        let metadata = format!(r#"{{"resourceVersion":"{revision}"{annotations}}}"#);
        let of = |kind: &str, api_version: &str| {
            Bytes::from(format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata}}}"#))
        };
        let object = match self.showing {
            Showing::Whole => of(self.kind.kind, self.kind.api_version),
            Showing::Metadata(version) => of("PartialObjectMetadata", &format!("meta.k8s.io/{version}")),
            Showing::Table(table) => table.bookmark(&metadata, std::mem::take(&mut self.with_columns)),
        };
        self.out.extend(framed(Word::Bookmark, self.form, object).into_iter().flatten());
    }
}

/// A stored object, as it is shown.
fn shown(kind: &'static Kind, showing: Showing, stored: &Bytes, with_columns: bool) -> Bytes {
    let value = kind.shown(stored.clone());
    match showing {
        Showing::Whole => value,
        Showing::Metadata(version) => partial(&value, kind.head(), version),
        Showing::Table(table) => table.of_one(&value, with_columns),
    }
}

fn plain_word(kind: EventKind) -> Word {
    match kind {
        EventKind::Created => Word::Added,
        EventKind::Updated => Word::Modified,
        EventKind::Deleted => Word::Deleted,
    }
}

fn expired_frame(expired: Expired, form: Form) -> Bytes {
    let why = format!("too old resource version: {} ({})", expired.after, expired.oldest);
    let status: Status = Error::Expired(why).status();
    framed(Word::Error, form, encode(&status).into()).into_iter().flatten().next().unwrap_or_default()
}

fn stream_of_one(frame: Bytes) -> Body {
    frame.into_response().into_body()
}
