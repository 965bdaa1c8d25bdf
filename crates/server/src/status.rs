//! Errors, and how each becomes a `metav1::Status`: the one place that knows codes, reasons and wordings.
//!
//! Invariant: whatever a verb refuses with is an [`Error`]; its text is what `apimachinery/pkg/api/errors` would say.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusCause, StatusDetails};
use stint_core::field::{self, Fault};
use stint_store::Revision;

use crate::differences::Absent;
use crate::kinds::Kind;
use crate::media::MEDIA_TYPES;
use crate::streaming::node::NodeError;

/// Why a request was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such object.
    #[error("{} {name:?} not found", kind.qualified_plural())]
    NotFound {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
    },
    /// There is already an object of that name.
    #[error("{} {name:?} already exists{}", kind.qualified_plural(), if *generated { NOT_UNIQUE } else { "" })]
    AlreadyExists {
        /// Its kind.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// Whether the name was generated; then the client may try again.
        generated: bool,
    },
    /// Somebody else has written the object since the client read it, or a precondition does not hold.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {why}")]
    Conflict {
        /// The kind.
        kind: &'static Kind,
        /// `jobs.batch`, `Job.batch` (failed precondition of a deletion) or `pods/binding`.
        resource: String,
        /// The object's name.
        name: String,
        /// What stands against it.
        why: String,
    },
    /// An apply would change what somebody else owns.
    #[error("{message}")]
    ApplyConflict {
        /// Whose fields, and which.
        message: String,
        /// One for each field.
        causes: Vec<StatusCause>,
    },
    /// The object breaks rules.
    #[error("{} {name:?} is invalid: {}", qualified(kind, group), field::aggregate(faults))]
    Invalid {
        /// The kind of what is invalid, `ListOptions` for instance.
        kind: &'static str,
        /// Its group.
        group: &'static str,
        /// The object's name, or nothing.
        name: String,
        /// What is wrong, in the order found.
        faults: Vec<Fault>,
    },
    /// A namespace on its way out takes nothing new.
    #[error(
        "{} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
        kind.qualified_plural()
    )]
    NamespaceTerminating {
        /// The kind.
        kind: &'static Kind,
        /// The object's name.
        name: String,
        /// The namespace.
        namespace: String,
    },
    /// The credentials are not good.
    #[error("Unauthorized")]
    Unauthorized,
    /// The client may not do it.
    #[error("{}forbidden: {why}", refused(resource, group, name))]
    Forbidden {
        /// The plural of what it is about; empty: a path.
        resource: String,
        /// Its group.
        group: String,
        /// The object's name, or nothing.
        name: String,
        /// Who can't do what.
        why: String,
    },
    /// A binding refers to a role that is not there.
    #[error("{0}")]
    RoleNotFound(String),
    /// What a token is to be for is not there.
    #[error("{resource} {name:?} not found")]
    NoSuchObject {
        /// The plural of its kind, which is one of the core group.
        resource: String,
        /// Its name.
        name: String,
    },
    /// A token is to be bound to an object that is not there any more, but another of its name.
    #[error(
        "Operation cannot be fulfilled on {kind} {name:?}: the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
    )]
    BoundToAnother {
        /// The kind, which is one of the core group.
        kind: String,
        /// The name.
        name: String,
        /// The uid that the client gave.
        uid: String,
    },
    /// As many requests as may be are being answered.
    #[error("Too many requests, please try again later.")]
    TooManyRequests,
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// A JSON patch that does not apply.
    #[error("the server rejected our request due to an error in our request")]
    UnprocessablePatch,
    /// No such path below a known group.
    #[error("the server could not find the requested resource")]
    UnknownResource,
    /// A cluster has this subresource.
    #[error("{}/{} is not served: {}", .0.plural, .0.segment, .0.why)]
    NotServed(&'static Absent),
    /// The path exists, the method does not.
    #[error("the server does not allow this method on the requested resource")]
    MethodNotAllowed,
    /// The body is in a format that is not understood.
    #[error("the body of the request was in an unknown format - accepted media types include: {MEDIA_TYPES}")]
    UnsupportedMediaType,
    /// The patch is of a type that is not understood.
    #[error("415: Unsupported Media Type")]
    UnsupportedPatchType,
    /// The client takes no media type that there is.
    #[error("406: Not Acceptable\n\nAvailable representations: {MEDIA_TYPES}")]
    NoRepresentation,
    /// The client asks for what there is not in the media type that it takes.
    #[error("{0}")]
    NotAcceptable(String),
    /// It took too long.
    #[error("Timeout: request did not complete within the allotted timeout")]
    TimedOut,
    /// The body is too large.
    #[error("Request entity too large: {0}")]
    TooLarge(String),
    /// The history needed is gone.
    #[error("{0}")]
    Expired(String),
    /// The state that a list goes on in is gone. Holds a token that goes on in the newest one.
    #[error(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list."
    )]
    ContinueExpired(String),
    /// The client has seen the future.
    #[error("Timeout: Too large resource version: {wanted}, current: {current}")]
    FutureRevision {
        /// What the client asked for.
        wanted: u64,
        /// Where the store is.
        current: Revision,
        /// Whether to tell the client to come again.
        retry: bool,
    },
    /// Writes kept coming in between.
    #[error("{0}")]
    Internal(String),
    /// None of the protocols that the client would change to is spoken here.
    #[error("unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {served:?}")]
    Protocols {
        /// What the client offers.
        offered: Vec<String>,
        /// What there is.
        served: Vec<&'static str>,
    },
    /// The node could not do it.
    #[error(transparent)]
    Node(NodeError),
    /// The store could not do it.
    #[error("cannot write {what}")]
    Store {
        /// The key.
        what: String,
        /// What the store said.
        #[source]
        source: stint_store::Error,
    },
}

const NOT_UNIQUE: &str = ", the server was not able to generate a unique name for the object";

/// What every verb returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The object was modified since the client read it.
    pub(crate) fn modified(kind: &'static Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// A [`Error::Conflict`] about the resource.
    pub(crate) fn conflict(kind: &'static Kind, name: &str, why: impl Into<String>) -> Self {
        Self::Conflict { kind, resource: kind.qualified_plural(), name: name.to_owned(), why: why.into() }
    }

    /// A failed precondition of a deletion, which names the kind in the singular.
    pub(crate) fn precondition(kind: &'static Kind, name: &str, why: String) -> Self {
        Self::Conflict { kind, resource: qualified(kind.kind, kind.group), name: name.to_owned(), why }
    }

    /// An object that may not be written or deleted, whoever asks.
    pub(crate) fn refused(kind: &'static Kind, name: &str, why: impl Into<String>) -> Self {
        Self::Forbidden {
            resource: kind.plural.to_owned(),
            group: kind.group.to_owned(),
            name: name.to_owned(),
            why: why.into(),
        }
    }

    /// Faults of an object.
    pub(crate) fn invalid(kind: &'static Kind, name: &str, faults: Vec<Fault>) -> Self {
        Self::Invalid { kind: kind.kind, group: kind.group, name: name.to_owned(), faults }
    }

    /// A failed negotiation.
    pub(crate) fn protocols(offered: &[&str], served: impl Iterator<Item = &'static str>) -> Self {
        let offered = offered.iter().map(|name| (*name).to_owned()).collect();
        Self::Protocols { offered, served: served.collect() }
    }

    /// Faults of request options, such as `ListOptions`.
    pub(crate) fn options(kind: &'static str, faults: Vec<Fault>) -> Self {
        Self::Invalid { kind, group: "meta.k8s.io", name: String::new(), faults }
    }

    /// The code of the answer, and its reason if it has one.
    fn code(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::NotFound { .. }
            | Self::UnknownResource
            | Self::NotServed(_)
            | Self::RoleNotFound(_)
            | Self::NoSuchObject { .. } => (S::NOT_FOUND, "NotFound"),
            Self::AlreadyExists { .. } => (S::CONFLICT, "AlreadyExists"),
            Self::Conflict { .. } | Self::BoundToAnother { .. } | Self::ApplyConflict { .. } => {
                (S::CONFLICT, "Conflict")
            }
            Self::Invalid { .. } | Self::UnprocessablePatch => (S::UNPROCESSABLE_ENTITY, "Invalid"),
            Self::Unauthorized => (S::UNAUTHORIZED, "Unauthorized"),
            Self::NamespaceTerminating { .. } | Self::Forbidden { .. } | Self::Protocols { .. } => {
                (S::FORBIDDEN, "Forbidden")
            }
            Self::TooManyRequests => (S::TOO_MANY_REQUESTS, "TooManyRequests"),
            Self::BadRequest(_) => (S::BAD_REQUEST, "BadRequest"),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
            Self::UnsupportedMediaType | Self::UnsupportedPatchType => {
                (S::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType")
            }
            Self::NoRepresentation | Self::NotAcceptable(_) => (S::NOT_ACCEPTABLE, "NotAcceptable"),
            Self::TooLarge(_) => (S::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge"),
            Self::Expired(_) | Self::ContinueExpired(_) => (S::GONE, "Expired"),
            Self::TimedOut | Self::FutureRevision { .. } => (S::GATEWAY_TIMEOUT, "Timeout"),
            Self::Node(why) => match why {
                NodeError::BadRequest(_) => (S::BAD_REQUEST, "BadRequest"),
                NodeError::NotFound(_) => (S::NOT_FOUND, "NotFound"),
                NodeError::Unavailable(_) => (S::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
                NodeError::Internal(_) => (S::INTERNAL_SERVER_ERROR, "InternalError"),
            },
            Self::Internal(_) => (S::INTERNAL_SERVER_ERROR, ""),
            Self::Store { .. } => (S::INTERNAL_SERVER_ERROR, "InternalError"),
        }
    }

    fn details(&self) -> Option<StatusDetails> {
        let about = |kind: &str, group: &str, name: &str| StatusDetails {
            name: some(name),
            group: some(group),
            kind: some(kind),
            ..StatusDetails::default()
        };
        Some(match self {
            Self::NotFound { kind, name } => about(kind.plural, kind.group, name),
            Self::AlreadyExists { kind, name, generated } => {
                StatusDetails { retry_after_seconds: generated.then_some(1), ..about(kind.plural, kind.group, name) }
            }
            Self::Conflict { kind, resource, name, .. } => {
                let named = resource.split('.').next().unwrap_or(kind.plural);
                about(named, kind.group, name)
            }
            Self::ApplyConflict { causes, .. } => {
                StatusDetails { causes: Some(causes.clone()), ..StatusDetails::default() }
            }
            Self::Invalid { kind, group, name, faults } => {
                StatusDetails { causes: Some(faults.iter().map(cause).collect()), ..about(kind, group, name) }
            }
            Self::NamespaceTerminating { kind, name, namespace } => StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("NamespaceTerminating".into()),
                    message: Some(format!("namespace {namespace} is being terminated")),
                    field: Some("metadata.namespace".into()),
                }]),
                ..about(kind.plural, kind.group, name)
            },
            Self::NoSuchObject { resource, name } => about(resource, "", name),
            Self::BoundToAnother { kind, name, .. } => about(kind, "", name),
            Self::Forbidden { resource, group, name, .. } => about(resource, group, name),
            Self::TooManyRequests => StatusDetails { retry_after_seconds: Some(1), ..StatusDetails::default() },
            Self::FutureRevision { retry, .. } => StatusDetails {
                causes: Some(vec![StatusCause {
                    reason: Some("ResourceVersionTooLarge".into()),
                    message: Some("Too large resource version".into()),
                    field: None,
                }]),
                retry_after_seconds: retry.then_some(1),
                ..StatusDetails::default()
            },
            Self::Node(NodeError::Internal(why)) => StatusDetails {
                causes: Some(vec![StatusCause { message: Some(why.clone()), ..StatusCause::default() }]),
                ..StatusDetails::default()
            },
            // Without a name: `kubectl debug` tells by that that it is not the pod which is missing.
            Self::UnknownResource
            | Self::NotServed(_)
            | Self::MethodNotAllowed
            | Self::UnprocessablePatch
            | Self::UnsupportedPatchType
            | Self::NoRepresentation
            | Self::TimedOut => StatusDetails::default(),
            _ => return None,
        })
    }

    /// What the client is told.
    pub fn status(&self) -> Status {
        let (code, reason) = self.code();
        let mut message = self.to_string();
        if let Self::Store { source, .. } = self {
            message = format!("{message}: {source}");
        }
        let continue_ = if let Self::ContinueExpired(token) = self { Some(token.clone()) } else { None };
        Status {
            metadata: ListMeta { continue_, ..ListMeta::default() },
            status: Some("Failure".into()),
            message: Some(message),
            reason: some(reason),
            details: self.details(),
            code: Some(i32::from(code.as_u16())),
        }
    }
}

fn cause(fault: &Fault) -> StatusCause {
    StatusCause {
        field: some(&fault.field),
        message: Some(fault.message.clone()),
        reason: Some(fault.cause_reason().to_owned()),
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// `jobs.batch "base" is `, or nothing for a path.
fn refused(resource: &str, group: &str, name: &str) -> String {
    match (resource, name) {
        ("", _) => String::new(),
        (_, "") => format!("{} is ", qualified(resource, group)),
        _ => format!("{} {name:?} is ", qualified(resource, group)),
    }
}

/// `Job.batch`, or `Pod` in the core group.
pub(crate) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        let retry = status.details.as_ref().and_then(|details| details.retry_after_seconds);
        let mut response = json(self.code().0, encode(&status));
        if let Some(seconds) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if matches!(self, Self::Forbidden { .. }) {
            response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        response
    }
}

/// The JSON of anything that is not stored.
pub(crate) fn encode(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("API types have string keys and no failing members")
}

/// An answer in JSON.
pub(crate) fn json(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}
