//! What a URL path names.
//!
//! Upstream: `apiserver/pkg/endpoints/request/requestinfo.go`, v1.36. Matched by hand and not by a router with a route
//! per kind, so that starting costs nothing and the answers for unknown paths can be Kubernetes' own.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::auth::{Endpoint, REVIEWS, endpoint};
use crate::differences::Absent;
use crate::kinds::{Kind, Scope, Subresource};
use crate::status::Error;

/// What a path names.
#[derive(Debug)]
pub(crate) enum Target {
    /// Discovery, version or health: answered by `discovery.rs`.
    Info(Info),
    /// All objects of a kind, or those in a namespace.
    Collection(Place),
    /// One object, or something behind its name.
    Item(Place, String, Option<Subresource>),
    /// A question about who may do what: answered by `auth/endpoints.rs`.
    Auth(Endpoint),
    /// A document about the API, by the rest of its path: answered by `openapi.rs`.
    OpenApi(String),
    /// Nothing, not even a known group.
    Nothing,
}

/// Where objects are.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Their kind.
    pub(crate) kind: &'static Kind,
    /// Their namespace. None: all, or the kind has none.
    pub(crate) namespace: Option<String>,
}

/// What the API says about itself.
#[derive(Debug)]
pub(crate) enum Info {
    Root,
    Version,
    /// `healthz`, `livez` or `readyz`, and one check or all of them.
    Health(String, Option<String>),
    Metrics,
    /// The settings that the process runs with.
    Settings,
    Versions,
    Groups,
    Group(String),
    Resources(String, String),
}

/// The decoded segments of `path`. None: one of them can't be a name (`..`, a slash in `%2F`, no UTF-8), so that nothing is
/// there, however it is read.
pub(crate) fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    let decoded = path.split('/').filter(|segment| !segment.is_empty()).map(|segment| {
        let segment = percent_decode_str(segment).decode_utf8().ok()?;
        let odd = |c: char| c == '/' || c == '%' || c.is_control();
        (!matches!(segment.as_ref(), "." | "..") && !segment.contains(odd)).then_some(segment)
    });
    decoded.collect()
}

/// Reads `path`.
pub(crate) fn target(path: &str) -> Result<Target, Error> {
    let Some(segments) = segments(path) else { return Ok(Target::Nothing) };
    let segments: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
    if let Some(endpoint) = endpoint(&segments) {
        return Ok(Target::Auth(endpoint));
    }
    Ok(match segments.as_slice() {
        [] => Target::Info(Info::Root),
        ["version"] => Target::Info(Info::Version),
        [endpoint @ ("healthz" | "livez" | "readyz")] => Target::Info(Info::Health((*endpoint).to_owned(), None)),
        [endpoint @ ("healthz" | "livez" | "readyz"), check] => {
            Target::Info(Info::Health((*endpoint).to_owned(), Some((*check).to_owned())))
        }
        ["metrics"] => Target::Info(Info::Metrics),
        ["configz"] => Target::Info(Info::Settings),
        ["openapi", rest @ ..] => Target::OpenApi(rest.join("/")),
        ["api"] => Target::Info(Info::Versions),
        ["apis"] => Target::Info(Info::Groups),
        ["api", version] => Target::Info(Info::Resources(String::new(), (*version).to_owned())),
        ["apis", group] => Target::Info(Info::Group((*group).to_owned())),
        ["apis", group, version] => Target::Info(Info::Resources((*group).to_owned(), (*version).to_owned())),
        ["api", version, rest @ ..] => resource("", version, rest)?,
        ["apis", group, version, rest @ ..] => resource(group, version, rest)?,
        _ => Target::Nothing,
    })
}

fn resource(group: &str, version: &str, segments: &[&str]) -> Result<Target, Error> {
    let of_kinds = crate::kinds::KINDS.iter().map(|kind| kind.group);
    if !of_kinds.chain(REVIEWS.iter().map(|review| review.group)).any(|known| known == group) {
        return Ok(Target::Nothing);
    }
    let place = |plural: &str, scope: Scope, namespace: Option<&str>| {
        let kind = Kind::at(group, version, plural).filter(|kind| kind.scope == scope || namespace.is_none());
        let kind = kind.ok_or(Error::UnknownResource)?;
        Ok::<_, Error>(Place { kind, namespace: namespace.map(str::to_owned) })
    };
    let item = |place: Place, name: &str, behind: Option<&str>| {
        let behind = match behind {
            None => None,
            Some(segment) => {
                let known = place.kind.subresources.iter().find(|sub| sub.segment() == segment);
                Some(*known.ok_or_else(|| not_behind(group, place.kind.plural, segment))?)
            }
        };
        Ok(Target::Item(place, name.to_owned(), behind))
    };
    match segments {
        ["namespaces", namespace, plural] if Kind::at(group, version, plural).is_some() => {
            Ok(Target::Collection(place(plural, Scope::Namespaced, Some(namespace))?))
        }
        ["namespaces", namespace, plural, name] => item(place(plural, Scope::Namespaced, Some(namespace))?, name, None),
        ["namespaces", namespace, plural, name, behind] => {
            item(place(plural, Scope::Namespaced, Some(namespace))?, name, Some(behind))
        }
        [plural] => Ok(Target::Collection(place(plural, Scope::Cluster, None)?)),
        [plural, name] | [plural, name, _] => {
            let place = place(plural, Scope::Cluster, None)?;
            if place.kind.scope == Scope::Namespaced {
                return Err(Error::UnknownResource);
            }
            item(place, name, segments.get(2).copied())
        }
        ["namespaces", _, plural, _, behind, _, ..] | [plural, _, behind, _, ..] => {
            Err(not_behind(group, plural, behind))
        }
        _ => Err(Error::UnknownResource),
    }
}

/// What is said about a path below an object that is not served.
fn not_behind(group: &str, plural: &str, segment: &str) -> Error {
    Absent::at(group, plural, segment).map_or(Error::UnknownResource, Error::NotServed)
}
