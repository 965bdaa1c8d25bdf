//! What an answer looks like: which form and shape a client takes, and putting an answer into them.
//!
//! ```text
//!   Accept, User-Agent, ?pretty ─▶ Wanted { form, shape, pretty, gzip }
//!   a verb's JSON ─▶ shape (table.rs) ─▶ form: JSON | indented JSON | YAML | protobuf ─▶ gzip
//! ```
//!
//! Invariant: a verb answers in JSON, and this is the only place that turns it into anything else; the usual answer,
//! compact JSON of a whole object, is sent as it is. Verbs that stream put it into its shape themselves.
//! Upstream: `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go` (`NegotiateMediaTypeOptions`),
//! `handlers/response.go` (`transformResponseObject`), `responsewriters/writers.go` (`isPrettyPrint`), v1.36.
//! Left out: CBOR.

use std::io::Write;

use axum::body::{Body, to_bytes};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request};
use serde_json::Value;
use stint_core::manifest::to_yaml;
use stint_schema::protobuf;

use crate::params::Params;
use crate::status::Error;

/// Answers to reads that are larger than this are compressed for those who ask for it: 128 KiB.
pub(crate) const COMPRESSED_FROM: usize = 128 * 1024;

/// The most clauses of `Accept` that are looked at. Sorting them costs their square.
const MOST_CLAUSES: usize = 64;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// How the bytes of an answer are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// The media type of Kubernetes' protobuf.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What an answer shows of an object or a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All of it.
    Whole,
    /// Rows of columns, in this version of `meta.k8s.io`.
    Table(&'static str),
    /// The metadata of one object.
    Partial(&'static str),
    /// The metadata of the objects of a list.
    PartialList(&'static str),
}

/// What a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) form: Form,
    pub(crate) shape: Shape,
    /// JSON for people.
    pub(crate) pretty: bool,
    /// Whether large answers may be compressed.
    pub(crate) gzip: bool,
}

/// Why there is no answer that a client would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It names no media type that is known.
    Unknown,
    /// It asks for a shape or a stream that there is not in that media type.
    Impossible,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown => Self::NoRepresentation,
            Refused::Impossible => {
                Self::NotAcceptable(format!("only the following media types are accepted: {MEDIA_TYPES}"))
            }
        }
    }
}

/// The media types of objects.
pub(crate) const MEDIA_TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Marks an answer that is sent as the verb has made it.
#[derive(Clone, Copy)]
pub(crate) struct AsIs;

/// One clause of an `Accept` header.
#[derive(Clone, Debug)]
pub(crate) struct Clause<'a> {
    pub(crate) main: &'a str,
    pub(crate) sub: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Clause<'a> {
    /// The clauses of all `Accept` headers, the most wanted first.
    pub(crate) fn all(headers: &'a HeaderMap) -> Vec<Self> {
        let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut clauses: Vec<Self> =
            texts.flat_map(|text| text.split(',')).filter_map(Self::parse).take(MOST_CLAUSES).collect();
        // Insertion by this order, which is none in the strict sense, is what Go's sort does with few elements.
        let before = |a: &Self, b: &Self| {
            a.quality > b.quality || (a.main != "*" && b.main == "*") || (a.sub != "*" && b.sub == "*")
        };
        for end in 1..clauses.len() {
            for at in (1..=end).rev() {
                if !before(&clauses[at], &clauses[at - 1]) {
                    break;
                }
                clauses.swap(at, at - 1);
            }
        }
        clauses
    }

    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let media = parts.next().filter(|media| !media.is_empty())?;
        let (main, sub) = media.split_once('/').unwrap_or((media, if media == "*" { "*" } else { "" }));
        let mut clause = Self { main, sub, quality: 1.0, parameters: Vec::new() };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match (name.trim(), value.trim()) {
                ("q", quality) => clause.quality = quality.parse().unwrap_or(1.0),
                parameter => clause.parameters.push(parameter),
            }
        }
        Some(clause)
    }

    /// The value of a parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    /// Whether it takes `application/{sub}`.
    pub(crate) fn takes(&self, sub: &str) -> bool {
        matches!(self.main, "application" | "*") && matches!(self.sub, "*")
            || self.main == "application" && self.sub == sub
    }

    /// The shape that it asks for. None: there is no such shape.
    fn shape(&self) -> Option<Shape> {
        let (kind, group, version) = (self.parameter("as"), self.parameter("g"), self.parameter("v"));
        if kind.is_none() && group.is_none() && version.is_none() {
            return Some(Shape::Whole);
        }
        let version = match (group, version) {
            (Some("meta.k8s.io"), Some("v1")) => "v1",
            (Some("meta.k8s.io"), Some("v1beta1")) => "v1beta1",
            _ => return None,
        };
        match kind? {
            "Table" => Some(Shape::Table(version)),
            "PartialObjectMetadata" => Some(Shape::Partial(version)),
            "PartialObjectMetadataList" => Some(Shape::PartialList(version)),
            _ => None,
        }
    }
}

impl Wanted {
    /// What the client of a request takes.
    pub(crate) fn of(headers: &HeaderMap, params: &Params) -> Result<Self, Refused> {
        let pretty = is_pretty(headers, params);
        let gzip = takes_gzip(headers);
        let plain = Self { form: Form::Json, shape: Shape::Whole, pretty, gzip };
        let clauses = Clause::all(headers);
        if clauses.is_empty() {
            return Ok(plain);
        }
        let mut known = false;
        for clause in &clauses {
            for (form, sub) in [(Form::Json, "json"), (Form::Yaml, "yaml"), (Form::Protobuf, "vnd.kubernetes.protobuf")]
            {
                if !clause.takes(sub) {
                    continue;
                }
                known = true;
                let streams = clause.parameter("stream").is_none_or(|stream| stream == "watch");
                // There are no tables in protobuf.
                let possible = |shape: &Shape| streams && !(form == Form::Protobuf && matches!(shape, Shape::Table(_)));
                if let Some(shape) = clause.shape().filter(possible) {
                    let pretty = pretty || clause.parameter("pretty") == Some("1");
                    return Ok(Self { form, shape, pretty, ..plain });
                }
            }
        }
        Err(if known { Refused::Impossible } else { Refused::Unknown })
    }

    /// Whether a verb's bytes are what the client gets.
    pub(crate) fn is_plain_json(&self) -> bool {
        self.form == Form::Json && !self.pretty
    }
}

fn is_pretty(headers: &HeaderMap, params: &Params) -> bool {
    if let Some(text) = params.get("pretty") {
        return matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|people| agent.starts_with(people))
}

pub(crate) fn takes_gzip(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    encodings.flat_map(|value| value.split(',')).any(|encoding| encoding.trim() == "gzip")
}

/// What is known of a request before it is carried out.
pub(crate) struct Asked {
    /// What its client takes.
    pub(crate) wanted: Result<Wanted, Refused>,
    fallback: Wanted,
    reads: bool,
    audit_id: Option<HeaderValue>,
}

impl Asked {
    /// By which name the client knows its request.
    pub(crate) fn audit_id(&self) -> &str {
        self.audit_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default()
    }

    /// From a request's head. `new_id` names a request that has no id of its own yet.
    pub(crate) fn of<B>(request: &Request<B>, new_id: impl FnOnce() -> Option<String>) -> Self {
        let headers = request.headers();
        let params = Params::of(request.uri().query());
        let audit_id = headers.get(AUDIT_ID).cloned();
        Self {
            wanted: Wanted::of(headers, &params),
            fallback: Wanted {
                form: Form::Json,
                shape: Shape::Whole,
                pretty: is_pretty(headers, &params),
                gzip: takes_gzip(headers),
            },
            reads: request.method() == Method::GET,
            audit_id: audit_id.or_else(|| new_id().and_then(|id| HeaderValue::from_str(&id).ok())),
        }
    }

    /// Puts an answer into the form that was asked for.
    pub(crate) async fn render(self, mut response: Response) -> Response {
        if response.extensions().get::<AsIs>().is_none() && is_json(&response) {
            let wanted = self.wanted.as_ref().unwrap_or(&self.fallback);
            response = into_form(response, wanted, self.reads).await;
        }
        if let Some(id) = self.audit_id {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        response
    }
}

fn is_json(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == "application/json")
}

async fn into_form(response: Response, wanted: &Wanted, reads: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(json) = to_bytes(body, usize::MAX).await else {
        return Error::Internal("the answer could not be put together".into()).into_response();
    };
    let body = match wanted.form {
        Form::Json if wanted.pretty => indented(&json),
        Form::Json => with_line_feed(&json),
        Form::Yaml => {
            parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
            as_yaml(&json)
        }
        Form::Protobuf => match as_protobuf(&json) {
            Some(message) => {
                parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
                message
            }
            // What has no message, as plain discovery, is answered in the form that every client reads.
            None => with_line_feed(&json),
        },
    };
    if reads && wanted.gzip && body.len() > COMPRESSED_FROM {
        Gzip::announce(&mut parts.headers);
        return Response::from_parts(parts, Body::from(Gzip::whole(&body)));
    }
    Response::from_parts(parts, Body::from(body))
}

/// Compact JSON ends in a line feed.
fn with_line_feed(json: &Bytes) -> Bytes {
    if json.is_empty() || json.ends_with(b"\n") {
        return json.clone();
    }
    let mut line = BytesMut::with_capacity(json.len() + 1);
    line.put_slice(json);
    line.put_u8(b'\n');
    line.freeze()
}

/// JSON with two spaces per level, its texts as they are. Ends without a line feed, as Go's does.
pub(crate) fn indented(json: &[u8]) -> Bytes {
    let json = json.trim_ascii_end();
    let mut out = BytesMut::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |out: &mut BytesMut, depth: usize| {
        out.put_u8(b'\n');
        out.put_bytes(b' ', depth * 2);
    };
    let mut bytes = json.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if in_string {
            out.put_u8(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.put_u8(byte);
            }
            b'{' | b'[' => {
                out.put_u8(byte);
                if let Some(close) = bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    out.put_u8(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.put_u8(byte);
            }
            b',' => {
                out.put_u8(byte);
                line(&mut out, depth);
            }
            b':' => out.put_slice(b": "),
            b' ' | b'\n' | b'\t' | b'\r' => {}
            _ => out.put_u8(byte),
        }
    }
    out.freeze()
}

fn as_yaml(json: &Bytes) -> Bytes {
    match serde_json::from_slice::<Value>(json) {
        Ok(value) => to_yaml(&value).into(),
        Err(_) => json.clone(),
    }
}

/// An object's JSON as protobuf in its envelope. None: there is no message for it.
pub(crate) fn as_protobuf(json: &[u8]) -> Option<Bytes> {
    let value: Value = serde_json::from_slice(json).ok()?;
    match protobuf::encode_object(&value) {
        Ok(message) => Some(message.into()),
        Err(protobuf::Error::UnknownKind { .. }) => None,
        Err(why) => {
            tracing::error!(%why, "an answer could not be written as protobuf");
            None
        }
    }
}

/// A gzip stream made piece by piece.
pub(crate) struct Gzip(GzEncoder<Vec<u8>>);

impl Gzip {
    pub(crate) fn new() -> Self {
        Self(GzEncoder::new(Vec::new(), Compression::fast()))
    }

    /// All of `bytes`.
    pub(crate) fn whole(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = Self::new();
        let mut packed = Vec::from(gzip.pack(bytes));
        packed.extend_from_slice(&gzip.finish());
        packed
    }

    /// What comes out after `piece` went in; maybe nothing yet.
    pub(crate) fn pack(&mut self, piece: &[u8]) -> Bytes {
        self.0.write_all(piece).expect("a Vec takes everything");
        std::mem::take(self.0.get_mut()).into()
    }

    /// The end of the stream.
    pub(crate) fn finish(self) -> Bytes {
        self.0.finish().expect("a Vec takes everything").into()
    }

    /// Says so in an answer's headers.
    pub(crate) fn announce(headers: &mut HeaderMap) {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: &str) -> Result<(Form, Shape), Refused> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        Wanted::of(&headers, &Params::default()).map(|wanted| (wanted.form, wanted.shape))
    }

    #[test]
    fn the_first_clause_that_can_be_satisfied_wins() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (accept, expected) in [
            ("*/*", (Form::Json, Shape::Whole)),
            ("application/json, */*;q=0.8", (Form::Json, Shape::Whole)),
            ("application/yaml", (Form::Yaml, Shape::Whole)),
            ("application/json;q=0.1, application/yaml", (Form::Yaml, Shape::Whole)),
            ("application/vnd.kubernetes.protobuf,application/json", (Form::Protobuf, Shape::Whole)),
            ("application/vnd.kubernetes.protobuf, */*", (Form::Protobuf, Shape::Whole)),
            (table, (Form::Json, Shape::Table("v1"))),
            ("application/json;g=meta.k8s.io;as=Table;v=v1beta1;x=y", (Form::Json, Shape::Table("v1beta1"))),
            ("application/json;as=Foo;v=v1;g=meta.k8s.io,application/json", (Form::Json, Shape::Whole)),
            (
                "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/yaml",
                (Form::Yaml, Shape::Whole),
            ),
            ("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", (Form::Json, Shape::Partial("v1"))),
            ("*/*;q=1, application/yaml;q=0.5", (Form::Yaml, Shape::Whole)),
            ("text/html, application/json;stream=watch", (Form::Json, Shape::Whole)),
        ] {
            assert_eq!(wanted(accept), Ok(expected), "{accept}");
        }
    }

    #[test]
    fn what_can_not_be_is_told_from_what_nobody_knows() {
        assert_eq!(wanted("application/json;as=Foo;v=v1;g=meta.k8s.io"), Err(Refused::Impossible));
        assert_eq!(wanted("application/json;as=Table;v=v2;g=meta.k8s.io"), Err(Refused::Impossible));
        assert_eq!(wanted("application/json;stream=other"), Err(Refused::Impossible));
        let table = "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io";
        assert_eq!(wanted(table), Err(Refused::Impossible));
        assert_eq!(wanted("text/html"), Err(Refused::Unknown));
        assert_eq!(wanted("application/cbor"), Err(Refused::Unknown));
    }

    #[test]
    fn indenting_touches_nothing_inside_texts() {
        let json = br#"{"a":[1,{"b":"x,{\"y\":[]}"}],"e":{},"l":[],"n":null}
"#;
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,{\\\"y\\\":[]}\"\n    }\n  ],\n  \"e\": {},\n  \"l\": [],\n  \"n\": null\n}";
        assert_eq!(std::str::from_utf8(&indented(json)).unwrap(), expected);
    }
}
