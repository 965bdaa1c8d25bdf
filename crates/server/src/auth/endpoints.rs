//! What can be asked about who may do what: endpoints that answer and store nothing.
//!
//! Invariant: each is a row of [`REVIEWS`], a ServiceAccount's token, or the two documents of OpenID Connect.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use k8s_openapi::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stint_core::decode::decode;

use super::{review, token};
use crate::dispatch::reply;
use crate::kinds::Scope;
use crate::params::{FieldValidation, Params};
use crate::status::{Error, Result, encode, json};
use crate::{Api, body, discovery};

/// A kind that can only be created, and is answered and not stored.
#[derive(Debug)]
pub struct Review {
    /// Its group; the version is `v1`.
    pub group: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// Its path segment.
    pub plural: &'static str,
    /// Whether it is asked in a namespace.
    pub scope: Scope,
    answer: Answer,
}

type Answer = fn(&Api, &Asked<'_>) -> Result<Bytes>;

/// The body of a request, and where it was sent.
pub(super) struct Asked<'a> {
    pub(super) body: &'a [u8],
    pub(super) namespace: Option<&'a str>,
    pub(super) validation: FieldValidation,
}

const AUTHENTICATION: &str = "authentication.k8s.io";
const AUTHORIZATION: &str = "authorization.k8s.io";

/// Every such kind.
pub static REVIEWS: &[Review] = &[
    row(AUTHENTICATION, "SelfSubjectReview", "selfsubjectreviews", Scope::Cluster, review::self_subject),
    row(AUTHENTICATION, "TokenReview", "tokenreviews", Scope::Cluster, token::review),
    row(
        AUTHORIZATION,
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        Scope::Namespaced,
        review::local_subject_access,
    ),
    row(AUTHORIZATION, "SelfSubjectAccessReview", "selfsubjectaccessreviews", Scope::Cluster, review::self_access),
    row(AUTHORIZATION, "SelfSubjectRulesReview", "selfsubjectrulesreviews", Scope::Cluster, review::self_rules),
    row(AUTHORIZATION, "SubjectAccessReview", "subjectaccessreviews", Scope::Cluster, review::subject_access),
];

const fn row(group: &'static str, kind: &'static str, plural: &'static str, scope: Scope, answer: Answer) -> Review {
    Review { group, kind, plural, scope, answer }
}

/// One of these endpoints.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// A review, in a namespace if its kind is asked there.
    Review(&'static Review, Option<String>),
    /// The token of a ServiceAccount: its namespace and name.
    Token(String, String),
    /// `/.well-known/openid-configuration`.
    OpenIdConfiguration,
    /// `/openid/v1/jwks`.
    Keys,
}

/// The endpoint at these path segments.
pub(crate) fn endpoint(segments: &[&str]) -> Option<Endpoint> {
    let find = |group: &str, plural: &str, scope: Scope| {
        REVIEWS.iter().find(|review| review.group == group && review.plural == plural && review.scope == scope)
    };
    match segments {
        ["apis", group, "v1", plural] => Some(Endpoint::Review(find(group, plural, Scope::Cluster)?, None)),
        ["apis", group, "v1", "namespaces", namespace, plural] => {
            Some(Endpoint::Review(find(group, plural, Scope::Namespaced)?, Some((*namespace).to_owned())))
        }
        ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"] => {
            Some(Endpoint::Token((*namespace).to_owned(), (*name).to_owned()))
        }
        [".well-known", "openid-configuration"] => Some(Endpoint::OpenIdConfiguration),
        ["openid", "v1", "jwks"] => Some(Endpoint::Keys),
        _ => None,
    }
}

/// Answers a request for it.
pub(crate) async fn answer(api: &Api, endpoint: &Endpoint, parts: &Parts, body: Body) -> Result<Response> {
    let tokens = api.auth.as_ref().and_then(|auth| auth.tokens.as_ref());
    match endpoint {
        Endpoint::OpenIdConfiguration | Endpoint::Keys if parts.method != Method::GET => Err(Error::MethodNotAllowed),
        Endpoint::OpenIdConfiguration => Ok(match tokens {
            Some(tokens) => document(&tokens.openid_configuration(), "application/json"),
            None => discovery::nothing_there(),
        }),
        Endpoint::Keys => Ok(match tokens {
            Some(tokens) => document(&tokens.jwks(), "application/jwk-set+json"),
            None => discovery::nothing_there(),
        }),
        _ if parts.method != Method::POST => Err(Error::MethodNotAllowed),
        Endpoint::Review(review, namespace) => {
            let (validation, body) = read(parts, body).await?;
            let asked = Asked { body: &body, namespace: namespace.as_deref(), validation };
            Ok(json(StatusCode::CREATED, (review.answer)(api, &asked)?))
        }
        Endpoint::Token(namespace, name) => {
            let (validation, body) = read(parts, body).await?;
            let asked = Asked { body: &body, namespace: Some(namespace), validation };
            let (object, warnings) = token::create(api, &asked, namespace, name)?;
            Ok(reply(StatusCode::CREATED, object, &warnings))
        }
    }
}

async fn read(parts: &Parts, body: Body) -> Result<(FieldValidation, Bytes)> {
    let params = Params::of(parts.uri.query());
    params.dry_run("CreateOptions")?;
    let validation = params.field_validation("CreateOptions")?;
    let body = body::read(&parts.headers, body).await?;
    Ok((validation, body::to_json(parts, body)?))
}

/// A public document.
fn document(value: &serde_json::Value, media_type: &'static str) -> Response {
    let mut response = json(StatusCode::OK, encode(value));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}

impl Asked<'_> {
    /// The object that was sent.
    pub(super) fn object<T: DeserializeOwned + Resource>(&self) -> Result<T> {
        let bad = |why: String| Error::BadRequest(why);
        let decoded =
            decode::<T>(self.body).map_err(|error| bad(error.bad_request(T::GROUP, T::VERSION, T::KIND, self.body)))?;
        match decoded.strict_error().filter(|_| self.validation == FieldValidation::Strict) {
            Some(why) => Err(bad(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {why}",
                kind = T::KIND,
                version = T::VERSION
            ))),
            None => Ok(decoded.object),
        }
    }
}

/// The answer's JSON.
pub(super) fn answered(object: &impl Serialize) -> Bytes {
    encode(object).into()
}
