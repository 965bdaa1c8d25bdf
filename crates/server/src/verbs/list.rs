//! `GET` of a collection: the stored bytes of its objects, strung together.
//!
//! Invariant: the entries are of one revision, the one that the list names; so are those of its further pages.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use stint_schema::{Schema, protobuf};
use stint_store::{Entry, Listing, Revision};

use crate::Api;
use crate::encoding::list_item;
use crate::kinds::Kind;
use crate::media::{AsIs, COMPRESSED_FROM, Form, Gzip, PROTOBUF, Wanted};
use crate::pages::{Pages, Part, State, Token};
use crate::params::{AtRevision, Params};
use crate::path::Place;
use crate::selector::Selector;
use crate::status::{Error, Result, json};
use crate::table::{Showing, partial};

/// How long a list waits for a revision that it was told of.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of a list is copied together before it is sent.
const CHUNK: usize = 64 * 1024;
/// From how many bytes of objects on a table is sent while it is made.
const TABLE_CHUNK: usize = 8 * 1024 * 1024;

pub(crate) async fn list(
    api: &Api,
    pages: &Pages,
    place: &Place,
    params: &Params,
    wanted: &Wanted,
) -> Result<Response> {
    let selector = Selector::parse(place.kind, params.get("labelSelector"), params.get("fieldSelector"))?;
    let showing = Showing::of_list(place.kind, wanted, params, api.clock.now())?;
    let chosen = chosen(api, pages, place, params, &selector).await?;
    if wanted.form == Form::Protobuf {
        return in_protobuf(chosen, place.kind, showing, wanted.gzip);
    }
    let pieces = chosen.pieces(place.kind, showing);
    let mut response = json(StatusCode::OK, Body::empty());
    let large = if matches!(showing, Showing::Whole) { CHUNK } else { TABLE_CHUNK };
    if wanted.is_plain_json() && pieces.size >= large {
        let compress = wanted.gzip && pieces.size > COMPRESSED_FROM;
        *response.body_mut() = if compress { packed(pieces) } else { streamed(pieces) };
        if compress {
            Gzip::announce(response.headers_mut());
        }
        response.extensions_mut().insert(AsIs);
    } else {
        *response.body_mut() = streamed(pieces);
    }
    Ok(response)
}

/// A page of a list.
struct Chosen {
    part: Part,
    next: Option<Token>,
    /// Whether to say how many follow: with a selector nobody has counted them.
    counted: bool,
}

/// The part of the objects of a place that a client asks for.
async fn chosen(api: &Api, pages: &Pages, place: &Place, params: &Params, selector: &Selector) -> Result<Chosen> {
    let now = api.clock.now();
    let root = place.kind.prefix(place.namespace.as_deref());
    let prefix = prefix(place, selector);
    let at = params.at_revision()?;
    // Any state is good enough for whoever asks for revision 0, and the whole of it costs us nothing more.
    let limit = params.number("limit")?.filter(|limit| *limit > 0 && at != AtRevision::Any);
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let newest = || State::Kept(api.store.snapshot());
    let mut after = None;
    let state = if let Some(text) = params.get("continue") {
        if at != AtRevision::Newest && at != AtRevision::Any {
            let why = "specifying resource version is not allowed when using continue";
            return Err(Error::BadRequest(why.into()));
        }
        let token = Token::parse(text)?;
        after = Some(format!("{root}{}", token.after));
        match token.revision {
            None => newest(),
            Some(revision) => match pages.at(&api.store, revision, &root, now).await {
                Some(state) => state,
                None => return Err(Error::ContinueExpired(Token { revision: None, ..token }.text())),
            },
        }
    } else {
        match at {
            AtRevision::Newest | AtRevision::Any => newest(),
            AtRevision::NotOlderThan(wanted) => {
                reach(api, wanted).await?;
                newest()
            }
            AtRevision::Exact(wanted) => {
                let current = api.store.revision();
                if wanted > current.0 {
                    return Err(Error::FutureRevision { wanted, current, retry: false });
                }
                let state = pages.at(&api.store, Revision(wanted), &root, now).await;
                let gone = || Error::Expired("The resourceVersion for the provided list is too old.".into());
                state.ok_or_else(gone)?
            }
        }
    };
    let matches = |entry: &Entry| selector.matches(&entry.value);
    let selects = (!selector.is_empty()).then_some(&matches as &dyn Fn(&Entry) -> bool);
    let part = state.part(&prefix, after.as_deref(), limit, selects);
    let last = part.entries.last().filter(|_| part.remaining > 0).map(|last| last.key[root.len()..].to_owned());
    let next = last.map(|after| Token { revision: Some(part.revision), after });
    if let (Some(_), State::Kept(snapshot)) = (&next, state) {
        pages.keep(snapshot, now);
    }
    Ok(Chosen { part, next, counted: selector.is_empty() })
}

/// A list in protobuf: each object's message is made and its JSON forgotten, one after the other.
fn in_protobuf(chosen: Chosen, kind: &Kind, showing: Showing, gzip: bool) -> Result<Response> {
    let (api_version, kind_name) = match showing {
        Showing::Whole | Showing::Table(_) => (kind.api_version.to_owned(), kind.kind),
        Showing::Metadata(version) => (format!("meta.k8s.io/{version}"), "PartialObjectMetadata"),
    };
    let list_name = format!("{kind_name}List");
    let unwritable = |why: &dyn std::fmt::Display| Error::Internal(format!("cannot write a {list_name}: {why}"));
    let schema = Schema::get();
    let of = |kind: &str| {
        schema
            .object(&api_version, kind)
            .ok_or_else(|| unwritable(&format_args!("{api_version} {kind} has no message")))
    };
    let (item, list) = (of(kind_name)?, of(&list_name)?);
    let metadata: Value = serde_json::from_str(&chosen.metadata()).map_err(|why| unwritable(&why))?;
    let mut messages = Vec::with_capacity(chosen.part.entries.len());
    for entry in chosen.part.entries {
        let mut value = kind.shown(entry.value);
        if let Showing::Metadata(version) = showing {
            value = partial(&value, kind.head(), version);
        }
        let object: Value = serde_json::from_slice(&value).map_err(|why| unwritable(&why))?;
        messages.push(protobuf::encode(item, &object).map_err(|why| unwritable(&why))?);
    }
    let message = protobuf::encode_list(list, &metadata, messages.iter().map(Vec::as_slice));
    drop(messages);
    let bytes = protobuf::envelop(&api_version, &list_name, &message.map_err(|why| unwritable(&why))?);
    let mut response = json(StatusCode::OK, Body::empty());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    *response.body_mut() = if gzip && bytes.len() > COMPRESSED_FROM {
        Gzip::announce(response.headers_mut());
        Body::from(Gzip::whole(&bytes))
    } else {
        Body::from(bytes)
    };
    Ok(response)
}

impl Chosen {
    /// The list's metadata, as JSON.
    fn metadata(&self) -> String {
        let mut metadata = format!(r#"{{"resourceVersion":"{}""#, self.part.revision);
        if let Some(next) = &self.next {
            // Of a token's letters none needs an escape.
            let _ = write!(metadata, r#","continue":"{}""#, next.text());
            if self.counted {
                let _ = write!(metadata, r#","remainingItemCount":{}"#, self.part.remaining);
            }
        }
        metadata.push('}');
        metadata
    }

    fn pieces(self, kind: &'static Kind, showing: Showing) -> Pieces {
        Pieces::of(kind, showing, &self.metadata(), self.part.entries)
    }
}

/// The selected objects of a place.
pub(crate) fn select(api: &Api, place: &Place, selector: &Selector) -> Listing {
    let prefix = prefix(place, selector);
    let mut listing = api.store.list(&prefix);
    if !selector.is_empty() {
        listing.entries.retain(|entry| selector.matches(&entry.value));
    }
    listing
}

/// What the keys of the selected objects start with.
pub(crate) fn prefix(place: &Place, selector: &Selector) -> String {
    match selector.name() {
        Some(name) if place.namespace.is_some() || place.kind.scope == crate::kinds::Scope::Cluster => place.key(name),
        _ => place.kind.prefix(place.namespace.as_deref()),
    }
}

/// Waits until the store has reached a revision that the client has seen.
async fn reach(api: &Api, wanted: u64) -> Result<()> {
    if api.store.revision().0 >= wanted {
        return Ok(());
    }
    let late = tokio::time::sleep(PATIENCE);
    tokio::pin!(late);
    let mut watch = api.store.watch("", api.store.revision()).ok();
    while api.store.revision().0 < wanted {
        let Some(events) = &mut watch else { break };
        tokio::select! {
            biased;
            () = &mut late => break,
            event = events.next() => if !matches!(event, Some(Ok(_))) { watch = None },
        }
    }
    let current = api.store.revision();
    if current.0 >= wanted { Ok(()) } else { Err(Error::FutureRevision { wanted, current, retry: true }) }
}

/// The list's JSON, made in pieces as the client takes them.
pub(crate) fn body(kind: &'static Kind, listing: Listing) -> Body {
    let metadata = format!(r#"{{"resourceVersion":"{}"}}"#, listing.revision);
    streamed(Pieces::of(kind, Showing::Whole, &metadata, listing.entries))
}

fn streamed(mut pieces: Pieces) -> Body {
    if pieces.size < CHUNK && matches!(pieces.showing, Showing::Whole) {
        return Body::from(pieces.next().unwrap_or_default());
    }
    Body::from_stream(stream::iter(pieces.map(Ok::<_, std::convert::Infallible>)))
}

/// The same, compressed on the way.
fn packed(mut pieces: Pieces) -> Body {
    let mut gzip = Some(Gzip::new());
    Body::from_stream(stream::iter(std::iter::from_fn(move || {
        loop {
            let packed = match pieces.next() {
                Some(piece) => gzip.as_mut()?.pack(&piece),
                None => gzip.take()?.finish(),
            };
            if !packed.is_empty() {
                return Some(Ok::<_, std::convert::Infallible>(packed));
            }
        }
    })))
}

struct Pieces {
    /// About how many bytes of objects there are.
    size: usize,
    start: Option<BytesMut>,
    first: bool,
    entries: std::vec::IntoIter<Entry>,
    kind: &'static Kind,
    showing: Showing,
}

impl Pieces {
    fn of(kind: &'static Kind, showing: Showing, metadata: &str, entries: Vec<Entry>) -> Self {
        let size = entries.iter().map(|entry| entry.value.len()).sum();
        let open = |kind: &str, api_version: &str| {
            let text = format!(r#"{{"kind":"{kind}List","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
            BytesMut::from(text.as_bytes())
        };
        let start = Some(match &showing {
            Showing::Whole => open(kind.kind, kind.api_version),
            Showing::Metadata(version) => open("PartialObjectMetadata", &format!("meta.k8s.io/{version}")),
            Showing::Table(table) => table.start(metadata, true),
        });
        Self { size, start, first: true, entries: entries.into_iter(), kind, showing }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut piece = match self.start.take() {
            Some(start) => start,
            None if self.entries.len() == 0 => return None,
            None => BytesMut::with_capacity(CHUNK),
        };
        while piece.len() < CHUNK {
            let Some(entry) = self.entries.next() else { break };
            if !std::mem::take(&mut self.first) {
                piece.put_u8(b',');
            }
            let value = self.kind.shown(entry.value);
            match &self.showing {
                Showing::Whole => {
                    piece.put_u8(b'{');
                    piece.put_slice(&list_item(&value, self.kind.head()));
                }
                Showing::Metadata(version) => piece.put_slice(&partial(&value, self.kind.head(), version)),
                Showing::Table(table) => table.row(&value, &mut piece),
            }
        }
        if self.entries.len() == 0 {
            piece.put_slice(b"]}\n");
        }
        Some(piece.freeze())
    }
}
