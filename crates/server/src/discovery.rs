//! What the API says about itself, made from the table of kinds when it is asked for.
//!
//! Left out: OpenAPI, which is `openapi.rs`.

mod aggregated;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use crate::auth::{REVIEWS, Review};
use crate::kinds::{KINDS, Kind, Scope, Subresource};
use crate::path::Info;
use crate::status::{self, Error, Result};

pub(crate) fn answer(info: &Info, parts: &Parts) -> Result<Response> {
    let body = match info {
        Info::Root => json!({"paths": paths()}),
        Info::Version => version(),
        // Answered by `observe`.
        Info::Health(..) | Info::Metrics | Info::Settings => return Ok(nothing_there()),
        Info::Versions => {
            if let Some(whole) = aggregated::answer(true, &parts.headers)? {
                return Ok(whole);
            }
            json!({
                "kind": "APIVersions", "versions": ["v1"],
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
            })
        }
        Info::Groups => {
            if let Some(whole) = aggregated::answer(false, &parts.headers)? {
                return Ok(whole);
            }
            let groups: Vec<Value> = groups().iter().map(Group::json).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Info::Group(name) => match groups().iter().find(|group| group.name == name) {
            None => return Ok(nothing_there()),
            Some(group) => {
                let mut json = group.json();
                json["kind"] = "APIGroup".into();
                json["apiVersion"] = "v1".into();
                json
            }
        },
        Info::Resources(group, version) => {
            let resources = resources_of(group, version);
            if resources.is_empty() {
                let known = group.is_empty() || groups().iter().any(|known| known.name == group);
                return if known { Err(Error::UnknownResource) } else { Ok(nothing_there()) };
            }
            let group_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
            let resources: Vec<Value> = resources.iter().flat_map(Resource::json).collect();
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

/// The groups in the order in which clients look for a resource that several of them have.
const ORDER: &[&str] = &[
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
];

/// A named group, and its versions: the preferred one first.
struct Group {
    name: &'static str,
    versions: Vec<&'static str>,
}

impl Group {
    fn json(&self) -> Value {
        let version = |version: &&str| json!({"groupVersion": format!("{}/{version}", self.name), "version": version});
        let versions: Vec<Value> = self.versions.iter().map(version).collect();
        json!({"name": self.name, "versions": versions, "preferredVersion": versions[0]})
    }
}

/// The named groups that are served.
fn groups() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let kinds = KINDS.iter().map(|kind| (kind.group, kind.version));
    for (name, version) in kinds.chain(REVIEWS.iter().map(|review| (review.group, "v1"))) {
        if name.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|group| group.name == name) {
            None => groups.push(Group { name, versions: vec![version] }),
            Some(group) if !group.versions.contains(&version) => group.versions.push(version),
            Some(_) => {}
        }
    }
    let place = |name: &str| ORDER.iter().position(|known| *known == name).unwrap_or(ORDER.len());
    groups.sort_by_key(|group| (place(group.name), group.name));
    groups
}

/// The paths that there are, for people who look around.
fn paths() -> Vec<String> {
    let mut paths: Vec<String> = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/configz",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    for group in groups() {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    paths.sort_unstable();
    paths
}

/// A kind as discovery tells it.
struct Resource {
    name: &'static str,
    singular: String,
    namespaced: bool,
    kind: &'static str,
    verbs: &'static [&'static str],
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    subresources: Vec<Sub>,
}

/// What is behind an object's name.
struct Sub {
    name: &'static str,
    kind: &'static str,
    /// Where the kind is, if it is in another group than the object.
    group_version: Option<(&'static str, &'static str)>,
    verbs: &'static [&'static str],
}

/// The resources of a version of a group, by name.
fn resources_of(group: &str, version: &str) -> Vec<Resource> {
    let kinds = KINDS.iter().filter(|kind| kind.group == group && kind.version == version);
    let reviews = REVIEWS.iter().filter(|review| review.group == group && version == "v1");
    let mut resources: Vec<Resource> = kinds.map(Resource::of).chain(reviews.map(Resource::of_review)).collect();
    resources.sort_by_key(|resource| resource.name);
    resources
}

impl Resource {
    fn of(kind: &'static Kind) -> Self {
        let mut subresources: Vec<Sub> = kind.subresources.iter().map(|sub| Sub::of(kind, *sub)).collect();
        subresources.sort_by_key(|sub| sub.name);
        Self {
            name: kind.plural,
            singular: kind.singular.to_owned(),
            namespaced: kind.scope == Scope::Namespaced,
            kind: kind.kind,
            verbs: kind.verbs(),
            short_names: kind.short_names,
            categories: kind.categories,
            subresources,
        }
    }

    /// Of a kind that can only be created.
    fn of_review(review: &'static Review) -> Self {
        Self {
            name: review.plural,
            singular: review.kind.to_ascii_lowercase(),
            namespaced: review.scope == Scope::Namespaced,
            kind: review.kind,
            verbs: &["create"],
            short_names: &[],
            categories: &[],
            subresources: Vec::new(),
        }
    }

    /// The entries of a plain list: its own, and one for each subresource.
    fn json(&self) -> Vec<Value> {
        let mut itself = json!({
            "name": self.name, "singularName": self.singular, "namespaced": self.namespaced,
            "kind": self.kind, "verbs": self.verbs,
        });
        if !self.short_names.is_empty() {
            itself["shortNames"] = json!(self.short_names);
        }
        if !self.categories.is_empty() {
            itself["categories"] = json!(self.categories);
        }
        let mut all = vec![itself];
        for sub in &self.subresources {
            let mut entry = json!({
                "name": format!("{}/{}", self.name, sub.name), "singularName": "",
                "namespaced": self.namespaced, "kind": sub.kind, "verbs": sub.verbs,
            });
            if let Some((group, version)) = sub.group_version {
                entry["group"] = group.into();
                entry["version"] = version.into();
            }
            all.push(entry);
        }
        all
    }
}

impl Sub {
    fn of(kind: &Kind, subresource: Subresource) -> Self {
        let (of_kind, verbs): (_, &[&str]) = match subresource {
            Subresource::Status | Subresource::EphemeralContainers => (kind.kind, &["get", "patch", "update"]),
            Subresource::Binding => ("Binding", &["create"]),
            Subresource::Eviction => ("Eviction", &["create"]),
            Subresource::Finalize => (kind.kind, &["update"]),
            Subresource::Log => ("Pod", &["get"]),
            Subresource::Exec => ("PodExecOptions", &["create", "get"]),
            Subresource::Attach => ("PodAttachOptions", &["create", "get"]),
            Subresource::PortForward => ("PodPortForwardOptions", &["create", "get"]),
        };
        let group_version = match of_kind {
            "Eviction" => Some(("policy", "v1")),
            "TokenRequest" => Some(("authentication.k8s.io", "v1")),
            _ => None,
        };
        Self { name: subresource.segment(), kind: of_kind, group_version, verbs }
    }
}
