//! Manifests: the objects in a file that a user wrote, in YAML or JSON.
//!
//! YAML is read as `sigs.k8s.io/yaml` reads it, by the rules of YAML 1.1: unquoted `y`, `on` and `no` are booleans, `0777`
//! is octal. Reading is strict, since a field that is misspelt in a file would otherwise silently do nothing.
//!
//! Invariant: whatever the text is, the answer comes quickly and with bounded memory: see [`Limits`].
//! Left out: opening files; what to do with the objects.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use serde::de::DeserializeOwned;

use crate::decode::node::{Kind, Node};
use crate::decode::{self, DecodeError};
use crate::field::quote;

mod emit;
mod yaml;

pub use emit::to_yaml;

/// After so many problems the rest of a manifest is not looked at.
const MAX_PROBLEMS: usize = 100;

/// One object of a manifest.
#[derive(Clone, Debug)]
pub enum Document {
    /// A `batch/v1` Job.
    Job(Box<Job>),
    /// A `batch/v1` CronJob.
    CronJob(Box<CronJob>),
    /// A `v1` Pod.
    Pod(Box<Pod>),
    /// A `v1` ConfigMap.
    ConfigMap(Box<ConfigMap>),
    /// A `v1` Secret.
    Secret(Box<Secret>),
    /// A `v1` PersistentVolumeClaim.
    Claim(Box<PersistentVolumeClaim>),
    /// An object of a kind that Stint does not run.
    Other {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
        /// Its `metadata.name`, empty when it has none.
        name: String,
    },
}

/// How much a manifest may ask of us.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Values in all documents together, those that aliases repeat included.
    pub values: usize,
    /// Bytes of text that aliases may repeat.
    pub alias_bytes: usize,
    /// Values inside values.
    pub depth: usize,
}

impl Default for Limits {
    /// 10 MB of text, a million values, 1 MB repeated by aliases, 100 levels.
    fn default() -> Limits {
        Limits { bytes: 10_000_000, values: 1_000_000, alias_bytes: 1_000_000, depth: 100 }
    }
}

/// Why a manifest can't be used: one problem or several, each with its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The file's name, as given to [`parse`].
    pub origin: String,
    /// What is wrong; never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// 1-based line in the file, 0 if it has none.
    pub line: usize,
    /// What is wrong there.
    pub message: String,
}

impl std::fmt::Display for ManifestError {
    /// One line per problem: `file.yaml:12: unknown field "spec.foo"`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            match problem.line {
                0 => write!(f, "{separator}{}: {}", self.origin, problem.message)?,
                line => write!(f, "{separator}{}:{line}: {}", self.origin, problem.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}

impl Problem {
    fn at(line: usize, message: impl Into<String>) -> Problem {
        Problem { line, message: message.into() }
    }
}

/// The first document of YAML `text` as JSON, its repeated members included; an empty text is `null`.
pub fn to_json(text: &str, limits: &Limits) -> Result<Vec<u8>, Problem> {
    let documents = yaml::documents(text, limits)?;
    let nothing = Node { kind: Kind::Null, line: 1 };
    let first = documents.first().unwrap_or(&nothing);
    serde_json::to_vec(first).map_err(|why| Problem::at(first.line, why.to_string()))
}

/// The first document of `text`, YAML or JSON, and what is to be said about members that are there more than once, of
/// which the last counts.
pub fn first_document(text: &str, limits: &Limits) -> Result<(serde_json::Value, Vec<Problem>), Problem> {
    let node = if let Ok(node) = decode::node::from_json(text.as_bytes()) {
        node
    } else {
        let mut documents = yaml::documents(text, limits)?;
        if documents.is_empty() { Node { kind: Kind::Null, line: 1 } } else { documents.swap_remove(0) }
    };
    let mut repeated = Vec::new();
    let value = plain(&node, &mut repeated);
    Ok((value, repeated))
}

fn plain(node: &Node, repeated: &mut Vec<Problem>) -> serde_json::Value {
    use serde_json::Value;
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(flag) => Value::Bool(*flag),
        Kind::Int(number) => (*number).into(),
        Kind::Large(number) => (*number).into(),
        Kind::Float(number) => (*number).into(),
        Kind::Text(text) => text.as_str().into(),
        Kind::List(items) => items.iter().map(|item| plain(item, repeated)).collect(),
        Kind::Map(members) => {
            let mut object = serde_json::Map::new();
            for (name, value) in members {
                if object.insert(name.clone(), plain(value, repeated)).is_some() {
                    repeated.push(Problem::at(value.line, format!("key {} already set in map", quote(name))));
                }
            }
            Value::Object(object)
        }
    }
}

/// Reads all objects of `text`, which came from `origin`: every document, lists expanded, empty documents skipped.
pub fn parse(text: &str, origin: &str) -> Result<Vec<Document>, ManifestError> {
    parse_within(text, origin, &Limits::default())
}

/// As [`parse`], within `limits`.
pub fn parse_within(text: &str, origin: &str, limits: &Limits) -> Result<Vec<Document>, ManifestError> {
    let fail = |problems| ManifestError { origin: origin.to_owned(), problems };
    if text.len() > limits.bytes {
        let message = format!("the manifest has {} bytes, {} are allowed", text.len(), limits.bytes);
        return Err(fail(vec![Problem::at(0, message)]));
    }
    let nodes = yaml::documents(text, limits).map_err(|problem| fail(vec![problem]))?;
    let mut documents = Vec::new();
    let mut problems = Vec::new();
    for node in &nodes {
        expand(node, &mut |node| object(node, &mut documents, &mut problems));
        if problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    if problems.is_empty() { Ok(documents) } else { Err(fail(problems)) }
}

/// An object as it stands in a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// The 1-based line on which it begins.
    pub line: usize,
    /// Its members; of those that are there more than once, the last.
    pub value: serde_json::Value,
}

/// The objects of `text`, which came from `origin`, of whatever kind: every document, lists expanded, empty ones skipped.
///
/// # Errors
///
/// If it is no YAML, or more than the usual limits allow.
pub fn raw(text: &str, origin: &str) -> Result<Vec<Raw>, ManifestError> {
    let nodes = yaml::documents(text, &Limits::default());
    let nodes = nodes.map_err(|problem| ManifestError { origin: origin.to_owned(), problems: vec![problem] })?;
    let mut objects = Vec::new();
    let mut add = |node: &Node| objects.push(Raw { line: node.line, value: plain(node, &mut Vec::new()) });
    for node in &nodes {
        expand(node, &mut add);
    }
    Ok(objects)
}

/// Hands every object of a document on: it, or what is in it if it is a list.
fn expand(node: &Node, object: &mut impl FnMut(&Node)) {
    if node.kind == Kind::Null {
        return;
    }
    let (api_version, kind) = (node.text("apiVersion"), node.text("kind"));
    if let (Some(item_kind), Some(Kind::List(items))) =
        (kind.strip_suffix("List"), node.member("items").map(|items| &items.kind))
    {
        for item in items {
            match named(item, api_version, item_kind) {
                Some(item) => expand(&item, object),
                None => expand(item, object),
            }
        }
        return;
    }
    object(node);
}

fn object(node: &Node, documents: &mut Vec<Document>, problems: &mut Vec<Problem>) {
    if !matches!(node.kind, Kind::Map(_)) {
        let what = node.kind.go_name();
        problems.push(Problem::at(node.line, format!("an object is wanted here, found: {what}")));
        return;
    }
    let (api_version, kind) = (node.text("apiVersion"), node.text("kind"));
    for (member, value) in [("apiVersion", api_version), ("kind", kind)] {
        if value.is_empty() {
            problems.push(Problem::at(node.line, format!("{member} is missing")));
        }
    }
    match (api_version, kind) {
        ("batch/v1", "Job") => typed(node, Document::Job, documents, problems),
        ("batch/v1", "CronJob") => typed(node, Document::CronJob, documents, problems),
        ("v1", "Pod") => typed(node, Document::Pod, documents, problems),
        ("v1", "ConfigMap") => typed(node, Document::ConfigMap, documents, problems),
        ("v1", "Secret") => typed(node, Document::Secret, documents, problems),
        ("v1", "PersistentVolumeClaim") => typed(node, Document::Claim, documents, problems),
        _ => {
            let name = node.member("metadata").map_or("", |metadata| metadata.text("name"));
            documents.push(Document::Other {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                name: name.to_owned(),
            });
        }
    }
}

/// An item of a typed list (`JobList`) need not name its kind; the list does.
fn named(item: &Node, api_version: &str, kind: &str) -> Option<Node> {
    let Kind::Map(members) = &item.kind else {
        return None;
    };
    if kind.is_empty() || item.member("kind").is_some() {
        return None;
    }
    let mut members = members.clone();
    for (name, value) in [("kind", kind), ("apiVersion", api_version)] {
        let value = Node { kind: Kind::Text(value.to_owned()), line: item.line };
        members.push((name.to_owned(), value));
    }
    Some(Node { kind: Kind::Map(members), line: item.line })
}

fn typed<T: DeserializeOwned>(
    node: &Node,
    document: impl Fn(Box<T>) -> Document,
    documents: &mut Vec<Document>,
    problems: &mut Vec<Problem>,
) {
    match decode::from_node(node) {
        Ok((object, dropped)) => {
            documents.push(document(Box::new(object)));
            problems.extend(dropped.into_iter().map(|p| Problem::at(p.line, p.text)));
        }
        Err(failure) => {
            let message = match failure.error {
                DecodeError::Type(text) => text.trim_start_matches("json: ").to_owned(),
                error => error.to_string(),
            };
            problems.push(Problem::at(failure.line, message));
        }
    }
}

#[cfg(test)]
mod tests;
