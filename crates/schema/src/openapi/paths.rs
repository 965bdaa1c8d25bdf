//! The paths of a group and version: what can be asked of each resource, with which parameters.
//!
//! Invariant: every operation on a resource names its group, version and kind. Descriptions of parameters are those of
//! the options' members. Left out: subresources other than the status.

use serde_json::{Map, Value as Json, json};

use super::{Resource, reference};
use crate::types::{Schema, Type, Value};

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const DELETE: &[&str] = &[
    "dryRun",
    "gracePeriodSeconds",
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "orphanDependents",
    "propagationPolicy",
];
const DELETE_SEVERAL: &[&str] = &[
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
];
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];
const OBJECTS: &[&str] = &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const STREAMS: &[&str] = &["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Every path of these resources, which are of one group and version.
pub(super) fn of(resources: &[&Resource]) -> Json {
    let mut paths = Map::new();
    let Some(first) = resources.first() else { return Json::Object(paths) };
    let root = root(first);
    let discovery = json!({ "get": {
        "tags": [tag(first)],
        "description": "get available resources",
        "operationId": format!("get{}APIResources", prefix(first)),
        "responses": responses(&meta("APIResourceList"), OBJECTS, &["200"]),
    } });
    paths.insert(format!("{root}/"), discovery);
    for resource in resources {
        let Some(of) = resource.of() else { continue };
        let list = Schema::get().kind(&resource.api_version(), &format!("{}List", resource.kind)).unwrap_or(of);
        let namespace = if resource.namespaced { "namespaces/{namespace}/" } else { "" };
        let collection = format!("{root}/{namespace}{}", resource.plural);
        if resource.namespaced {
            let mut all = parameters(&[("ListOptions", LIST)]);
            all.push(pretty());
            all.sort_by_key(|parameter| parameter["name"].as_str().map(str::to_owned));
            let mut get = listing(resource, list);
            get["operationId"] = format!("list{}{}ForAllNamespaces", prefix(resource), resource.kind).into();
            paths.insert(format!("{root}/{}", resource.plural), json!({ "get": get, "parameters": all }));
        }
        let item = format!("{collection}/{{name}}");
        if resource.status {
            paths.insert(format!("{item}/status"), one(resource, of, Some("status")));
        }
        paths.insert(item, one(resource, of, None));
        paths.insert(collection, several(resource, of, list));
    }
    Json::Object(paths)
}

fn root(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}", resource.api_version())
    }
}

/// The group in one word: `rbac.authorization.k8s.io` is `RbacAuthorization`, core is `Core`.
fn word(resource: &Resource) -> String {
    let group = if resource.group.is_empty() { "core" } else { resource.group.trim_end_matches(".k8s.io") };
    group.split('.').map(capital).collect()
}

fn capital(text: &str) -> String {
    let (head, tail) = text.split_at_checked(1).unwrap_or((text, ""));
    head.to_uppercase() + tail
}

fn prefix(resource: &Resource) -> String {
    word(resource) + &capital(resource.version)
}

fn tag(resource: &Resource) -> String {
    let word = word(resource);
    let (head, tail) = word.split_at_checked(1).unwrap_or((&word, ""));
    format!("{}{tail}_{}", head.to_lowercase(), resource.version)
}

fn meta(name: &str) -> Json {
    Schema::get().named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")).map_or_else(|| json!({}), reference)
}

fn several(resource: &Resource, of: &Type, list: &Type) -> Json {
    let mut get = listing(resource, list);
    get["parameters"] = parameters(&[("ListOptions", LIST)]).into();
    let mut path = json!({ "get": get, "parameters": common(resource, false) });
    if resource.writable {
        let mut post =
            operation(resource, "post", "create", &format!("create {} {}", article(resource), resource.kind));
        post["parameters"] = parameters(&[("CreateOptions", WRITE)]).into();
        post["requestBody"] = json!({ "content": { "*/*": { "schema": reference(of) } }, "required": true });
        post["responses"] = responses(&reference(of), OBJECTS, &["200", "201", "202"]);
        path["post"] = post;
        let about = format!("delete collection of {}", resource.kind);
        let mut delete = operation(resource, "deletecollection", "delete", &about);
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        delete["operationId"] = format!("delete{}Collection{scope}{}", prefix(resource), resource.kind).into();
        let mut all = parameters(&[("ListOptions", DELETE_SEVERAL), ("DeleteOptions", DELETE)]);
        all.sort_by_key(|parameter| parameter["name"].as_str().map(str::to_owned));
        delete["parameters"] = all.into();
        delete["requestBody"] = json!({ "content": { "*/*": { "schema": meta("DeleteOptions") } } });
        delete["responses"] = responses(&meta("Status"), OBJECTS, &["200"]);
        path["delete"] = delete;
    }
    path
}

fn listing(resource: &Resource, list: &Type) -> Json {
    let about = format!("list or watch objects of kind {}", resource.kind);
    let mut get = operation(resource, "list", "list", &about);
    let media: Vec<&str> = OBJECTS.iter().chain(STREAMS).copied().collect();
    get["responses"] = responses(&reference(list), &media, &["200"]);
    get
}

fn one(resource: &Resource, of: &Type, subresource: Option<&str>) -> Json {
    let part = subresource.map(|name| format!("{name} of ")).unwrap_or_default();
    let suffix = subresource.map(capital).unwrap_or_default();
    let make = |action: &str, verb: &str, about: String| {
        let mut made = operation(resource, action, verb, &about);
        let id = format!("{}{suffix}", made["operationId"].as_str().unwrap_or_default());
        made["operationId"] = id.into();
        made
    };
    let mut get = make("get", "read", format!("read {part}the specified {}", resource.kind));
    get["responses"] = responses(&reference(of), OBJECTS, &["200"]);
    let mut path = json!({ "get": get, "parameters": common(resource, true) });
    if !resource.writable {
        return path;
    }
    let mut put = make("put", "replace", format!("replace {part}the specified {}", resource.kind));
    put["parameters"] = parameters(&[("UpdateOptions", WRITE)]).into();
    put["requestBody"] = json!({ "content": { "*/*": { "schema": reference(of) } }, "required": true });
    put["responses"] = responses(&reference(of), OBJECTS, &["200", "201"]);
    path["put"] = put;
    let mut patch = make("patch", "patch", format!("partially update {part}the specified {}", resource.kind));
    patch["parameters"] = parameters(&[("PatchOptions", WRITE), ("PatchOptions", &["force"])]).into();
    let bodies: Map<_, _> =
        PATCHES.iter().map(|media| ((*media).to_owned(), json!({ "schema": meta("Patch") }))).collect();
    patch["requestBody"] = json!({ "content": bodies, "required": true });
    patch["responses"] = responses(&reference(of), OBJECTS, &["200", "201"]);
    path["patch"] = patch;
    if subresource.is_none() {
        let mut delete = make("delete", "delete", format!("delete {} {}", article(resource), resource.kind));
        delete["parameters"] = parameters(&[("DeleteOptions", DELETE)]).into();
        delete["requestBody"] = json!({ "content": { "*/*": { "schema": meta("DeleteOptions") } } });
        // A pod's deletion answers with the pod.
        let answer = if resource.kind == "Pod" { reference(of) } else { meta("Status") };
        delete["responses"] = responses(&answer, OBJECTS, &["200", "202"]);
        path["delete"] = delete;
    }
    path
}

fn article(resource: &Resource) -> &'static str {
    if resource.kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

fn operation(resource: &Resource, action: &str, verb: &str, about: &str) -> Json {
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    json!({
        "tags": [tag(resource)],
        "description": about,
        "operationId": format!("{verb}{}{scope}{}", prefix(resource), resource.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind":
            { "group": resource.group, "version": resource.version, "kind": resource.kind },
    })
}

fn responses(answer: &Json, media: &[&str], codes: &[&str]) -> Json {
    let content: Map<_, _> = media.iter().map(|media| ((*media).to_owned(), json!({ "schema": answer }))).collect();
    let mut responses = json!({ "401": { "description": "Unauthorized" } });
    for code in codes {
        let meaning = match *code {
            "201" => "Created",
            "202" => "Accepted",
            _ => "OK",
        };
        responses[*code] = json!({ "description": meaning, "content": content });
    }
    responses
}

/// Query parameters that are members of options.
fn parameters(of: &[(&str, &[&str])]) -> Vec<Json> {
    let mut all = Vec::new();
    for (options, names) in of {
        let Some(options) = Schema::get().named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{options}")) else {
            continue;
        };
        for field in names.iter().filter_map(|name| options.field(name)) {
            let kind = match field.value {
                Value::Bool => "boolean",
                Value::Int32 | Value::Int64 => "integer",
                _ => "string",
            };
            all.push(json!({
                "name": field.name,
                "in": "query",
                "description": field.doc(),
                "schema": { "type": kind, "uniqueItems": true },
            }));
        }
    }
    all
}

/// The parameters of all operations on a path.
fn common(resource: &Resource, name: bool) -> Vec<Json> {
    let in_path = |name: &str, about: &str| {
        json!({
            "name": name, "in": "path", "description": about, "required": true,
            "schema": { "type": "string", "uniqueItems": true },
        })
    };
    let mut all = Vec::new();
    if name {
        all.push(in_path("name", &format!("name of the {}", resource.kind)));
    }
    if resource.namespaced {
        all.push(in_path("namespace", "object name and auth scope, such as for teams and projects"));
    }
    all.push(pretty());
    all
}

fn pretty() -> Json {
    json!({
        "name": "pretty",
        "in": "query",
        "description": "If 'true', then the output is pretty printed. Defaults to 'false' unless the user-agent indicates a browser or command-line HTTP tool (curl and wget).",
        "schema": { "type": "string", "uniqueItems": true },
    })
}
