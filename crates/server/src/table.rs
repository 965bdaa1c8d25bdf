//! Objects in other shapes: rows of a table, or their metadata only.
//!
//! Invariant: a shape is made of an object's stored bytes, and metadata is copied from them without being decoded.
//! Upstream: `apiserver/pkg/endpoints/handlers/response.go` (`asTable`, `asPartialObjectMetadata`), v1.36.

use axum::body::{Body, to_bytes};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde::Deserialize;
use stint_core::columns::{Layout, layout};

use crate::encoding::{is_of, metadata};
use crate::kinds::Kind;
use crate::media::{Shape, Wanted};
use crate::params::Params;
use crate::status::{Error, Result, encode};

/// What a row holds of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Include {
    Nothing,
    Metadata,
    Everything,
}

/// How the objects of an answer are shown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Showing {
    /// Whole.
    Whole,
    /// As rows.
    Table(Table),
    /// Their metadata, in this version of `meta.k8s.io`.
    Metadata(&'static str),
}

/// What makes two objects of one revision and kind look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Whole,
    /// Their metadata, in this version.
    Metadata(&'static str),
    /// A table of one row, as of this second.
    Row {
        version: &'static str,
        include: Include,
        second: i64,
    },
}

impl Look {
    /// A number for each variant.
    pub(crate) const fn ordinal(self) -> u64 {
        match self {
            Self::Whole => 0,
            Self::Metadata(_) => 1,
            Self::Row { .. } => 2,
        }
    }
}

/// How rows are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    version: &'static str,
    include: Include,
    layout: Layout,
    head: usize,
    now: Timestamp,
}

impl Showing {
    /// What tells objects that are shown so from those that are shown otherwise.
    pub(crate) fn look(&self) -> Look {
        match self {
            Self::Whole => Look::Whole,
            Self::Metadata(version) => Look::Metadata(version),
            Self::Table(Table { version, include, now, .. }) => {
                Look::Row { version, include: *include, second: now.as_second() }
            }
        }
    }

    /// How the objects of a list are shown.
    pub(crate) fn of_list(kind: &'static Kind, wanted: &Wanted, params: &Params, now: Timestamp) -> Result<Self> {
        match wanted.shape {
            Shape::Whole => Ok(Self::Whole),
            Shape::Table(version) => Table::of(kind, version, params, now).map(Self::Table),
            Shape::PartialList(version) => Ok(Self::Metadata(version)),
            Shape::Partial(_) => Err(Error::NotAcceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list ({}List)",
                go_type(kind)
            ))),
        }
    }

    /// How single objects are shown, those of a watch too.
    pub(crate) fn of_object(kind: &'static Kind, wanted: &Wanted, params: &Params, now: Timestamp) -> Result<Self> {
        match wanted.shape {
            Shape::Whole => Ok(Self::Whole),
            Shape::Table(version) => Table::of(kind, version, params, now).map(Self::Table),
            Shape::Partial(version) => Ok(Self::Metadata(version)),
            Shape::PartialList(_) => Err(Error::NotAcceptable(format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list ({})",
                go_type(kind)
            ))),
        }
    }
}

/// What Go calls the type of a kind: `*batch.Job`.
fn go_type(kind: &Kind) -> String {
    let group = if kind.group.is_empty() { "core" } else { kind.group };
    format!("*{}.{}", group.split('.').next().unwrap_or(group), kind.kind)
}

/// Puts the answer about one object into the shape that was asked for. Statuses stay what they are.
pub(crate) async fn show(
    response: Response,
    kind: &'static Kind,
    wanted: &Wanted,
    params: &Params,
    now: Timestamp,
) -> Result<Response> {
    if wanted.shape == Shape::Whole || !response.status().is_success() {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let object = to_bytes(body, usize::MAX)
        .await
        .map_err(|why| Error::Internal(format!("the answer could not be put together: {why}")))?;
    if !is_of(&object, kind) {
        return Ok(Response::from_parts(parts, Body::from(object)));
    }
    let shown = match Showing::of_object(kind, wanted, params, now)? {
        Showing::Whole => object,
        Showing::Metadata(version) => partial(&object, kind.head(), version),
        Showing::Table(table) => table.of_one(&object, true),
    };
    Ok(Response::from_parts(parts, Body::from(shown)))
}

/// An object's metadata as an object of its own.
pub(crate) fn partial(value: &[u8], head: usize, version: &str) -> Bytes {
    let metadata = metadata(value, head);
    let mut out = BytesMut::with_capacity(metadata.len() + 80);
    out.put_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/"#);
    out.put_slice(version.as_bytes());
    out.put_slice(br#"","#);
    out.put_slice(metadata);
    out.put_u8(b'}');
    out.freeze()
}

impl Table {
    fn of(kind: &'static Kind, version: &'static str, params: &Params, now: Timestamp) -> Result<Self> {
        let include = match params.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::Nothing,
            Some("Object") => Include::Everything,
            Some(other) => {
                return Err(Error::BadRequest(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
                )));
            }
        };
        Ok(Self { version, include, layout: layout(kind.group, kind.kind), head: kind.head(), now })
    }

    /// The same table at another time.
    pub(crate) fn at(self, now: Timestamp) -> Self {
        Self { now, ..self }
    }

    /// All that comes before the rows. `metadata` is JSON.
    pub(crate) fn start(&self, metadata: &str, with_columns: bool) -> BytesMut {
        let mut out = BytesMut::with_capacity(4096);
        out.put_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/"#);
        out.put_slice(self.version.as_bytes());
        out.put_slice(br#"","metadata":"#);
        out.put_slice(metadata.as_bytes());
        out.put_slice(br#","columnDefinitions":"#);
        if with_columns {
            out.put_slice(&encode(&self.layout.columns));
        } else {
            out.put_slice(b"null");
        }
        out.put_slice(br#","rows":["#);
        out
    }

    /// Adds the row of a stored object.
    pub(crate) fn row(&self, value: &[u8], out: &mut BytesMut) {
        let row = self.layout.row(value, self.now);
        out.put_slice(br#"{"cells":"#);
        match row {
            Ok(row) => {
                out.put_slice(&encode(&row.cells));
                if let Some(condition) = row.condition {
                    out.put_slice(br#","conditions":"#);
                    out.put_slice(&encode(&[condition]));
                }
            }
            // It can't be shown, but the rows around it can.
            Err(_) => out.put_slice(b"[]"),
        }
        out.put_slice(br#","object":"#);
        match self.include {
            Include::Nothing => out.put_slice(b"null"),
            Include::Metadata => out.put_slice(&partial(value, self.head, self.version)),
            Include::Everything => out.put_slice(value),
        }
        out.put_u8(b'}');
    }

    /// A table of one object.
    pub(crate) fn of_one(&self, value: &[u8], with_columns: bool) -> Bytes {
        let version = resource_version(value);
        let mut out = self.start(&format!(r#"{{"resourceVersion":"{version}"}}"#), with_columns);
        self.row(value, &mut out);
        out.put_slice(b"]}");
        out.freeze()
    }

    /// A table that only says which revision it is of.
    pub(crate) fn bookmark(&self, metadata: &str, with_columns: bool) -> Bytes {
        let mut out = self.start(metadata, with_columns);
        out.put_slice(b"]}");
        out.freeze()
    }
}

#[derive(Default, Deserialize)]
struct Versioned {
    #[serde(default)]
    metadata: VersionedMeta,
}

#[derive(Default, Deserialize)]
struct VersionedMeta {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
}

fn resource_version(value: &[u8]) -> String {
    serde_json::from_slice::<Versioned>(value).unwrap_or_default().metadata.resource_version
}
