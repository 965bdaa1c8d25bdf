//! Discovery in one piece: all groups with all their resources, in `apidiscovery.k8s.io/v2`.
//!
//! Upstream: `apiserver/pkg/endpoints/discovery/aggregated`, v1.36. The beta form of it is not served there any more, nor here.

use std::fmt::Write as _;
use std::sync::OnceLock;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::{Resource, groups, resources_of};
use crate::media::{Clause, Refused};
use crate::status::{Result, encode};

const MEDIA_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// A document and its tag: a hash of it in quotes.
struct Document {
    json: Bytes,
    tag: HeaderValue,
}

/// Answers a client that takes discovery in one piece. None: it takes the plain lists.
pub(super) fn answer(core: bool, headers: &HeaderMap) -> Result<Option<Response>> {
    static DOCUMENTS: OnceLock<[Document; 2]> = OnceLock::new();
    if !wanted(headers)? {
        return Ok(None);
    }
    let documents = DOCUMENTS.get_or_init(|| [document(false), document(true)]);
    let Document { json, tag } = &documents[usize::from(core)];
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known == tag);
    let mut response = Response::new(if known { Body::empty() } else { Body::from(json.clone()) });
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::ETAG, tag.clone());
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(Some(response))
}

/// Whether the first form in which we can answer is this one.
fn wanted(headers: &HeaderMap) -> Result<bool> {
    let clauses = Clause::all(headers);
    for clause in &clauses {
        match (clause.parameter("as"), clause.parameter("g"), clause.parameter("v")) {
            (None, None, None) if ["json", "yaml"].iter().any(|sub| clause.takes(sub)) => return Ok(false),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) if clause.takes("json") => {
                return Ok(true);
            }
            _ => {}
        }
    }
    if clauses.is_empty() { Ok(false) } else { Err(Refused::Impossible.into()) }
}

fn document(core: bool) -> Document {
    let items: Vec<Value> = if core {
        vec![item("", &["v1"])]
    } else {
        groups().iter().map(|group| item(group.name, &group.versions)).collect()
    };
    let mut json = encode(&json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    }));
    json.push(b'\n');
    let hash = Sha512::digest(&json).iter().fold(String::with_capacity(128), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    });
    let tag = HeaderValue::from_str(&format!("\"{hash}\"")).expect("hexadecimal digits are a header's value");
    Document { json: json.into(), tag }
}

fn item(group: &str, versions: &[&str]) -> Value {
    let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = resources_of(group, version).iter().map(resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    json!({"metadata": metadata, "versions": versions})
}

fn resource(resource: &Resource) -> Value {
    let kind = |(group, version): (&str, &str), kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut value = json!({
        "resource": resource.name,
        "responseKind": kind(("", ""), resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|sub| {
            let response = kind(sub.group_version.unwrap_or_default(), sub.kind);
            json!({"subresource": sub.name, "responseKind": response, "verbs": sub.verbs})
        })
        .collect();
    if !subresources.is_empty() {
        value["subresources"] = subresources.into();
    }
    value
}
