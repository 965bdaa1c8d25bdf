//! Strict decoding of objects, with the errors of a Kubernetes API server.
//!
//! A body is read into a tree first, then into k8s-openapi's types, whose deserializers know the name and the fields of
//! each struct. That is how a type error can say `Go struct field JobSpec.spec.parallelism of type int32`, and how unknown
//! and repeated fields are found with their paths.
//!
//! Invariant: what decodes here decodes upstream, and to the same object; quantities are made canonical on the way.
//! Left out: defaulting, and Protobuf bodies.
//! Upstream: `sigs.k8s.io/json` (strict mode), `apimachinery/pkg/runtime/serializer/json`,
//! `apiserver/pkg/endpoints/handlers/rest.go` (`transformDecodeError`), v1.36.

use serde::de::DeserializeOwned;
use serde_json::Value;

mod go_type;
pub(crate) mod node;
mod typed;

use node::{Kind, Node};

/// An object and what was dropped while reading it.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// The object, its fields as sent (not defaulted).
    pub object: T,
    /// `unknown field "spec.foo"` and `duplicate field "metadata.name"`, in the order of decoding. Repeated fields keep
    /// their last value.
    pub unknown: Vec<String>,
}

impl<T> Decoded<T> {
    /// What `fieldValidation=Strict` answers, if anything was dropped: `strict decoding error: …`.
    pub fn strict_error(&self) -> Option<String> {
        (!self.unknown.is_empty()).then(|| format!("strict decoding error: {}", self.unknown.join(", ")))
    }
}

/// Why a body is not an object of the wanted kind.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The text is not JSON, or no JSON object.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Syntax(String),
    /// A member has another type than its field: `json: cannot unmarshal …`.
    #[error("{0}")]
    Type(String),
    /// A text is not what its field holds, such as a quantity or a time.
    #[error("{0}")]
    Value(String),
    /// The body is an object of another kind.
    #[error("the object is a {kind} of {api_version}")]
    OtherKind {
        /// The body's `apiVersion`.
        api_version: String,
        /// The body's `kind`.
        kind: String,
    },
}

impl DecodeError {
    /// The message of the 400 answer to `body`, which should have been a `kind` of `version` in `group` ("batch", or
    /// "core" for the group without a name).
    pub fn bad_request(&self, group: &str, version: &str, kind: &str, body: &[u8]) -> String {
        match self {
            DecodeError::Syntax(_) => {
                let summary = summary(body);
                format!("the object provided is unrecognized (must be of type {kind}): {self} ({summary})")
            }
            DecodeError::Type(_) | DecodeError::Value(_) => {
                format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {self}")
            }
            DecodeError::OtherKind { api_version, kind: other } => {
                let other_version = api_version.rsplit('/').next().unwrap_or_default();
                format!(
                    "{other} in version \"{other_version}\" cannot be handled as a {kind}: converting (v1.{other}) to ({group}.{kind}): unknown conversion"
                )
            }
        }
    }
}

/// The first bytes of a body, for a message.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).into_owned();
    if body.len() > SHOWN { format!("{text} ...") } else { text }
}

/// Decodes a JSON body as a `T`. An absent or empty `apiVersion` or `kind` is taken to be `T`'s.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<Decoded<T>, DecodeError> {
    Tree::read(json)?.decode()
}

/// A body that is read, and not decoded yet.
#[derive(Debug)]
pub struct Tree(Node);

impl Tree {
    /// Reads JSON.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn read(json: &[u8]) -> Result<Tree, DecodeError> {
        node::from_json(json).map(Tree)
    }

    /// What reading `value`, written down, would give.
    pub fn of(value: Value) -> Tree {
        Tree(node::of_value(value))
    }

    /// It, written down.
    pub fn to_json(&self) -> Vec<u8> {
        // A tree has texts for keys, and so can always be written down.
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    /// Decodes it as a `T`, as [`decode`] does.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<Decoded<T>, DecodeError> {
        let (object, problems) = from_node(&self.0).map_err(|failure| failure.error)?;
        Ok(Decoded { object, unknown: problems.into_iter().map(|p| p.text).collect() })
    }
}

/// A dropped field and the line where it stands.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// An error and the line where it arose.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: DecodeError,
    pub(crate) line: usize,
}

/// Decodes a tree as a `T`.
pub(crate) fn from_node<T: DeserializeOwned>(node: &Node) -> Result<(T, Vec<Problem>), Failure> {
    if !matches!(node.kind, Kind::Map(_)) {
        let what = node.kind.go_name();
        let goal = "struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }";
        let text = format!("json: cannot unmarshal {what} into Go value of type {goal}");
        return Err(Failure { error: DecodeError::Syntax(text), line: node.line });
    }
    typed::decode(node)
}

#[cfg(test)]
mod tests;
