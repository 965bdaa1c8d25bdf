//! `GET` of a collection: the stored bytes of its objects, strung together.
//!
//! Invariant: the entries are of one revision, the one that the list names.
//! Left out: `limit` and `continue`. A list is always whole, which clients that page have to accept.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::StatusCode;
use stint_store::{Entry, Listing, Revision};

use crate::Api;
use crate::encoding::list_item;
use crate::kinds::Kind;
use crate::media::{AsIs, COMPRESSED_FROM, Gzip, Wanted};
use crate::params::{AtRevision, Params};
use crate::path::Place;
use crate::selector::Selector;
use crate::status::{Error, Result, json};

/// How long a list waits for a revision that it was told of.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much of a list is copied together before it is sent.
const CHUNK: usize = 64 * 1024;

pub(crate) async fn list(api: &Api, place: &Place, params: &Params, wanted: &Wanted) -> Result<Response> {
    let selector = Selector::parse(place.kind, params.get("labelSelector"), params.get("fieldSelector"))?;
    match params.at_revision()? {
        AtRevision::Newest | AtRevision::Any => {}
        AtRevision::NotOlderThan(wanted) => reach(api, wanted).await?,
        AtRevision::Exact(wanted) => {
            let current = api.store.revision();
            if wanted > current.0 {
                return Err(Error::FutureRevision { wanted, current, retry: false });
            }
            if wanted < current.0 {
                return Err(Error::Expired("The resourceVersion for the provided list is too old.".into()));
            }
        }
    }
    let listing = select(api, place, &selector);
    let mut response = json(StatusCode::OK, Body::empty());
    let pieces = Pieces::of(place.kind, listing);
    if wanted.is_plain_json() && pieces.size >= CHUNK {
        let headers = response.headers_mut();
        let compress = wanted.gzip && pieces.size > COMPRESSED_FROM;
        let body = if compress { packed(pieces) } else { streamed(pieces) };
        if compress {
            Gzip::announce(headers);
        }
        response.extensions_mut().insert(AsIs);
        *response.body_mut() = body;
    } else {
        *response.body_mut() = streamed(pieces);
    }
    Ok(response)
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
    streamed(Pieces::of(kind, listing))
}

fn streamed(mut pieces: Pieces) -> Body {
    if pieces.size < CHUNK {
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

fn start(kind: &Kind, revision: Revision) -> BytesMut {
    let text = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{{"resourceVersion":"{revision}"}},"items":["#,
        kind.kind, kind.api_version
    );
    BytesMut::from(text.as_bytes())
}

struct Pieces {
    /// About how many bytes there will be.
    size: usize,
    start: Option<BytesMut>,
    first: bool,
    entries: std::vec::IntoIter<Entry>,
    head: usize,
}

impl Pieces {
    fn of(kind: &Kind, mut listing: Listing) -> Self {
        if kind.facts.show.is_some() {
            for entry in &mut listing.entries {
                entry.value = kind.shown(entry.value.clone());
            }
        }
        let size = listing.entries.iter().map(|entry| entry.value.len()).sum();
        let start = Some(start(kind, listing.revision));
        Self { size, start, first: true, entries: listing.entries.into_iter(), head: kind.head() }
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
            piece.put_u8(b'{');
            piece.put_slice(&list_item(&entry.value, self.head));
        }
        if self.entries.len() == 0 {
            piece.put_slice(b"]}\n");
        }
        Some(piece.freeze())
    }
}
