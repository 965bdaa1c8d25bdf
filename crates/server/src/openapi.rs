//! `/openapi/…`: the API's documents, made from the tables of kinds and types when they are first asked for.
//!
//! ```text
//!   /openapi/v3                          an index: for each group and version a path and its hash
//!   /openapi/v3/apis/batch/v1[?hash=…]   one document; with the right hash it may be kept for ever
//!   /openapi/v2                          the whole API, as JSON or protobuf
//! ```
//!
//! Invariant: a document does not change while the process lives, so that its hash is its name. A wrong hash leads to the
//! right one.

use std::fmt::Write as _;
use std::sync::{LazyLock, OnceLock};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha512};
use stint_schema::openapi::{Resource, gnostic_document, v2_document, v3_document};

use crate::Api;
use crate::discovery::nothing_there;
use crate::kinds::{Holds, KINDS, Scope, Subresource};
use crate::media::{AsIs, Clause, Gzip, takes_gzip};
use crate::params::Params;

/// The release whose API this is.
const RELEASE: &str = "1.36";

/// How version 2 is called in protobuf, and the name that clients ask for it by.
const GNOSTIC: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const GNOSTIC_ASKED: &str = "com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A document, ready to send.
struct Document {
    plain: Bytes,
    packed: OnceLock<Bytes>,
    hash: String,
    media: &'static str,
}

impl Document {
    fn new(plain: Vec<u8>, media: &'static str) -> Self {
        let mut hash = String::with_capacity(128);
        for byte in Sha512::digest(&plain) {
            let _ = write!(hash, "{byte:02X}");
        }
        Self { plain: plain.into(), packed: OnceLock::new(), hash, media }
    }

    fn packed(&self) -> Bytes {
        let pack = || {
            let mut gzip = Gzip::new();
            let mut packed = gzip.pack(&self.plain).to_vec();
            packed.extend_from_slice(&gzip.finish());
            packed.into()
        };
        self.packed.get_or_init(pack).clone()
    }

    /// The document, or word that the client has it already.
    fn send(&self, asked: &HeaderMap) -> Response {
        let tag = format!("\"{}\"", self.hash);
        let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|value| value.split(',')).any(|value| value.trim().trim_start_matches("W/") == tag);
        let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { Response::default() };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, HeaderValue::try_from(tag).expect("a hash is text"));
        headers.append(header::VARY, HeaderValue::from_static("Accept"));
        if !known {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media));
            let body = if takes_gzip(asked) {
                Gzip::announce(headers);
                self.packed()
            } else {
                self.plain.clone()
            };
            *response.body_mut() = Body::from(body);
        }
        response
    }
}

/// A group and version, as a path: `apis/batch/v1`.
struct Part {
    path: String,
    resources: Vec<Resource>,
    document: OnceLock<(Json, Document)>,
}

impl Part {
    fn document(&self) -> &(Json, Document) {
        self.document.get_or_init(|| {
            let json = v3_document(&self.resources, RELEASE);
            let sent = Document::new(json.to_string().into_bytes(), "application/json");
            (json, sent)
        })
    }
}

static PARTS: LazyLock<Vec<Part>> = LazyLock::new(|| {
    let mut parts: Vec<Part> = Vec::new();
    for kind in KINDS {
        let path = if kind.group.is_empty() { "api" } else { "apis" };
        let path = format!("{path}/{}", kind.api_version);
        let resource = Resource {
            group: kind.group,
            version: kind.version,
            kind: kind.kind,
            plural: kind.plural,
            namespaced: kind.scope == Scope::Namespaced,
            writable: kind.holds == Holds::Objects,
            status: kind.subresources.contains(&Subresource::Status),
        };
        match parts.iter_mut().find(|part| part.path == path) {
            Some(part) => part.resources.push(resource),
            None => parts.push(Part { path, resources: vec![resource], document: OnceLock::new() }),
        }
    }
    parts
});

/// Version 2: as JSON, and as protobuf.
static WHOLE: LazyLock<(Document, Document)> = LazyLock::new(|| {
    let parts: Vec<Json> = PARTS.iter().map(|part| part.document().0.clone()).collect();
    let whole = v2_document(&parts, RELEASE);
    let json = Document::new(whole.to_string().into_bytes(), "application/json");
    (json, Document::new(gnostic_document(&whole), GNOSTIC))
});

/// Answers `/openapi/{path}`.
pub(crate) fn answer(api: &Api, path: &str, parts: &Parts) -> Response {
    let mut response = match path {
        "v2" => v2(&parts.headers),
        "v3" => index(&parts.headers),
        _ => match path.strip_prefix("v3/").and_then(|path| PARTS.iter().find(|part| part.path == path)) {
            Some(part) => v3(api, part, parts),
            None => nothing_there(),
        },
    };
    // These are no objects: no other form, no indentation.
    response.extensions_mut().insert(AsIs);
    response
}

fn v2(asked: &HeaderMap) -> Response {
    let (json, gnostic) = &*WHOLE;
    let clauses = Clause::all(asked);
    if clauses.is_empty() {
        return json.send(asked);
    }
    for clause in clauses {
        match (clause.main, clause.sub) {
            ("application", GNOSTIC_ASKED) => return gnostic.send(asked),
            ("application", sub) if GNOSTIC.ends_with(sub) && sub.contains("proto-openapi") => {
                return gnostic.send(asked);
            }
            ("application" | "*", "json" | "*") => return json.send(asked),
            _ => {}
        }
    }
    StatusCode::NOT_ACCEPTABLE.into_response()
}

fn index(asked: &HeaderMap) -> Response {
    static INDEX: LazyLock<Document> = LazyLock::new(|| {
        let path = |part: &Part| {
            let url = format!("/openapi/v3/{}?hash={}", part.path, part.document().1.hash);
            (part.path.clone(), json!({ "serverRelativeURL": url }))
        };
        let paths: Map<_, _> = PARTS.iter().map(path).collect();
        Document::new(json!({ "paths": paths }).to_string().into_bytes(), "application/json")
    });
    INDEX.send(asked)
}

fn v3(api: &Api, part: &Part, asked: &Parts) -> Response {
    let document = &part.document().1;
    let Some(hash) = Params::of(asked.uri.query()).get("hash").map(str::to_owned) else {
        return document.send(&asked.headers);
    };
    if hash != document.hash {
        let url = format!("/openapi/v3/{}?hash={}", part.path, document.hash);
        return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, url)]).into_response();
    }
    let mut response = document.send(&asked.headers);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    // The hash names the content, so that it is never out of date: a year is the most that HTTP knows.
    let year = api.clock.now() + jiff::SignedDuration::from_hours(365 * 24);
    let expires = year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert(header::EXPIRES, HeaderValue::try_from(expires).expect("a date is text"));
    response
}
