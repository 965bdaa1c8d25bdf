//! What a request is about, as an authorizer sees it.
//!
//! Invariant: made of the same decoded path segments that the router matches, so that what is authorized is what is done.
//! Upstream: `apiserver/pkg/endpoints/request/requestinfo.go` (`NewRequestInfo`), `handlers/responsewriters/errors.go`
//! (`forbiddenMessage`), v1.36.

use crate::User;

/// A verb and what it is to be done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or one that only authorizers
    /// know (`impersonate`, `bind`, `escalate`). For a path the method in small letters.
    pub verb: String,
    /// What it is done to.
    pub what: What,
}

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Objects.
    Resource(Resource),
    /// A path that has no objects behind it: `/metrics`.
    Path(String),
}

/// Objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// The API group, empty for core.
    pub group: String,
    /// The version within the group.
    pub version: String,
    /// The plural: `jobs`.
    pub resource: String,
    /// What is behind an object's name: `status`. Empty: the object itself.
    pub subresource: String,
    /// The namespace. Empty: all, or the kind has none.
    pub namespace: String,
    /// The object's name. Empty: any.
    pub name: String,
}

impl Resource {
    /// `pods/log`, or `pods`.
    pub fn combined(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

impl Attributes {
    /// An action on objects.
    pub fn resource(verb: &str, resource: Resource) -> Self {
        Self { verb: verb.to_owned(), what: What::Resource(resource) }
    }

    /// A request for a path.
    pub fn path(verb: &str, path: &str) -> Self {
        Self { verb: verb.to_owned(), what: What::Path(path.to_owned()) }
    }

    /// Those of an HTTP request. `segments` are the decoded ones of `path`; `watch` is the flag of its query.
    pub fn of_request(method: &str, path: &str, segments: &[&str], watch: bool) -> Self {
        let (group, version, rest) = match segments {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return Self { verb: method.to_ascii_lowercase(), what: What::Path(path.to_owned()) },
        };
        let mut resource = Resource { group: group.to_owned(), version: version.to_owned(), ..Resource::default() };
        let behind: &[&str] = match rest {
            // Without more than a name, or with one of the subresources that a namespace has, it is the namespace itself.
            ["namespaces", name, more @ ..] => {
                (*name).clone_into(&mut resource.namespace);
                if matches!(more, [] | ["status" | "finalize", ..]) { rest } else { more }
            }
            _ => rest,
        };
        let segment = |at: usize| behind.get(at).copied().unwrap_or_default().to_owned();
        resource.resource = segment(0);
        resource.name = segment(1);
        resource.subresource = segment(2);
        let verb = match (method, resource.name.is_empty()) {
            ("GET" | "HEAD", true) if watch => "watch",
            ("GET" | "HEAD", true) => "list",
            ("GET" | "HEAD", false) => "get",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "deletecollection",
            ("DELETE", false) => "delete",
            _ => "",
        };
        Self::resource(verb, resource)
    }

    /// What a user that may not do it is told.
    pub fn refusal(&self, user: &User) -> String {
        let name = &user.name;
        let verb = &self.verb;
        match &self.what {
            What::Path(path) => format!("User {name:?} cannot {verb} path {path:?}"),
            What::Resource(resource) => {
                let place = match resource.namespace.as_str() {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let (combined, group) = (resource.combined(), &resource.group);
                format!("User {name:?} cannot {verb} resource {combined:?} in API group {group:?} {place}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, path: &str) -> Attributes {
        let (path, watch) = path.strip_suffix("?watch").map_or((path, false), |path| (path, true));
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        Attributes::of_request(method, path, &segments, watch)
    }

    #[test]
    fn a_resource_path_gives_group_namespace_name_and_subresource() {
        let rows = [
            ("GET", "/api/v1/pods", ["list", "", "pods", "", "", ""]),
            ("GET", "/api/v1/namespaces/n/pods?watch", ["watch", "", "pods", "", "n", ""]),
            ("GET", "/api/v1/namespaces/n/pods/p?watch", ["get", "", "pods", "", "n", "p"]),
            ("GET", "/api/v1/namespaces/n/pods/p/log", ["get", "", "pods", "log", "n", "p"]),
            ("HEAD", "/api/v1/namespaces/n/pods/p", ["get", "", "pods", "", "n", "p"]),
            ("POST", "/apis/batch/v1/namespaces/n/jobs", ["create", "batch", "jobs", "", "n", ""]),
            ("PUT", "/apis/batch/v1/namespaces/n/jobs/j/status", ["update", "batch", "jobs", "status", "n", "j"]),
            ("PATCH", "/apis/batch/v1/namespaces/n/jobs/j", ["patch", "batch", "jobs", "", "n", "j"]),
            ("DELETE", "/apis/batch/v1/namespaces/n/jobs/j", ["delete", "batch", "jobs", "", "n", "j"]),
            ("DELETE", "/apis/batch/v1/namespaces/n/jobs", ["deletecollection", "batch", "jobs", "", "n", ""]),
            ("GET", "/api/v1/namespaces", ["list", "", "namespaces", "", "", ""]),
            ("GET", "/api/v1/namespaces/n", ["get", "", "namespaces", "", "n", "n"]),
            ("PUT", "/api/v1/namespaces/n/finalize", ["update", "", "namespaces", "finalize", "n", "n"]),
            ("PUT", "/api/v1/namespaces/n/status", ["update", "", "namespaces", "status", "n", "n"]),
            ("GET", "/api/v1/nodes/a", ["get", "", "nodes", "", "", "a"]),
            ("PROPFIND", "/api/v1/nodes/a", ["", "", "nodes", "", "", "a"]),
        ];
        for (method, path, expected) in rows {
            let found = of(method, path);
            let What::Resource(resource) = &found.what else { panic!("{path} is about a resource") };
            let found = [
                found.verb.as_str(),
                &resource.group,
                &resource.resource,
                &resource.subresource,
                &resource.namespace,
                &resource.name,
            ];
            assert_eq!(found, expected, "{method} {path}");
        }
    }

    #[test]
    fn other_paths_are_asked_for_as_they_are() {
        for path in ["/", "/metrics", "/api", "/api/v1", "/apis", "/apis/batch", "/apis/batch/v1", "/healthz/"] {
            assert_eq!(of("GET", path), Attributes::path("get", path));
        }
    }

    #[test]
    fn refusals_are_worded_as_upstream_words_them() {
        let alice = User::new("alice", []);
        let rows = [
            (
                of("GET", "/apis/batch/v1/namespaces/t1/jobs/base"),
                r#"User "alice" cannot get resource "jobs" in API group "batch" in the namespace "t1""#,
            ),
            (
                of("GET", "/api/v1/nodes"),
                r#"User "alice" cannot list resource "nodes" in API group "" at the cluster scope"#,
            ),
            (
                of("GET", "/api/v1/namespaces/t1/pods/p/log"),
                r#"User "alice" cannot get resource "pods/log" in API group "" in the namespace "t1""#,
            ),
            (of("GET", "/metrics"), r#"User "alice" cannot get path "/metrics""#),
        ];
        for (attributes, expected) in rows {
            assert_eq!(attributes.refusal(&alice), expected);
        }
    }
}
