//! What the API says about itself, made from the table of kinds when it is asked for.
//!
//! Left out: the aggregated form, and OpenAPI, which is `openapi.rs`.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use crate::auth::{REVIEWS, Review};
use crate::kinds::{KINDS, Kind, Scope, Subresource};
use crate::path::Info;
use crate::status::{self, Error, Result};

pub(crate) fn answer(info: &Info) -> Result<Response> {
    let body = match info {
        Info::Version => version(),
        Info::Versions => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
        }),
        Info::Groups => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Info::Group(name) if groups().contains(&name.as_str()) => {
            let mut group = group(name);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }
        // The last two are answered by `observe`.
        Info::Group(_) | Info::Health(..) | Info::Metrics => return Ok(nothing_there()),
        Info::Resources(group, version) => {
            let mut kinds: Vec<&Kind> =
                KINDS.iter().filter(|kind| kind.group == group && kind.version == version).collect();
            let reviews: Vec<&Review> =
                REVIEWS.iter().filter(|review| review.group == group && version == "v1").collect();
            if !reviews.is_empty() {
                let group_version = format!("{group}/{version}");
                let resources: Vec<Value> = reviews.into_iter().map(review).collect();
                let list = json!({
                    "kind": "APIResourceList", "apiVersion": "v1",
                    "groupVersion": group_version, "resources": resources,
                });
                return Ok(status::json(StatusCode::OK, status::encode(&list)));
            }
            if kinds.is_empty() {
                let known = groups().contains(&group.as_str());
                return if known { Err(Error::UnknownResource) } else { Ok(nothing_there()) };
            }
            kinds.sort_by_key(|kind| kind.plural);
            let resources: Vec<Value> = kinds.iter().flat_map(|kind| resources(kind)).collect();
            let group_version = kinds[0].api_version;
            json!({
                "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources,
            })
        }
    };
    Ok(status::json(StatusCode::OK, status::encode(&body)))
}

/// A path below which there is nothing at all.
pub(crate) fn nothing_there() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": concat!("v1.36.2+stint.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

/// The named groups that are served.
fn groups() -> Vec<&'static str> {
    let all = KINDS.iter().map(|kind| kind.group).chain(REVIEWS.iter().map(|review| review.group));
    let mut groups: Vec<_> = all.filter(|group| !group.is_empty()).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn group(name: &str) -> Value {
    let version = KINDS.iter().find(|kind| kind.group == name).map_or("v1", |kind| kind.version);
    let version = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

/// A kind that can only be created.
fn review(review: &Review) -> Value {
    json!({
        "name": review.plural, "singularName": review.kind.to_ascii_lowercase(),
        "namespaced": review.scope == Scope::Namespaced, "kind": review.kind, "verbs": ["create"],
    })
}

fn resources(kind: &Kind) -> Vec<Value> {
    let namespaced = kind.scope == Scope::Namespaced;
    let mut itself = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": namespaced,
        "kind": kind.kind, "verbs": kind.verbs(),
    });
    if !kind.short_names.is_empty() {
        itself["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        itself["categories"] = json!(kind.categories);
    }
    let mut all = vec![itself];
    for subresource in kind.subresources {
        let (name, verbs): (_, &[&str]) = match subresource {
            Subresource::Status => (kind.kind, &["get", "patch", "update"]),
            Subresource::Binding => ("Binding", &["create"]),
            Subresource::Log => ("Pod", &["get"]),
            Subresource::Exec => ("PodExecOptions", &["create", "get"]),
            Subresource::Attach => ("PodAttachOptions", &["create", "get"]),
            Subresource::PortForward => ("PodPortForwardOptions", &["create", "get"]),
        };
        all.push(json!({
            "name": format!("{}/{}", kind.plural, subresource.segment()), "singularName": "",
            "namespaced": namespaced, "kind": name, "verbs": verbs,
        }));
    }
    all
}
