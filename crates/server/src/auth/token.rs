//! `POST serviceaccounts/NAME/token`, and TokenReview.
//!
//! Upstream: `pkg/registry/core/serviceaccount/storage/token.go`, `pkg/apis/authentication/validation/validation.go`,
//! `pkg/registry/authentication/tokenreview/storage.go`, v1.36.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, TokenRequest, TokenRequestStatus, TokenReview, TokenReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize;
use stint_auth::token::{LONGEST, Private, Reference, Tokens};
use stint_core::field::{Fault, Path};

use super::endpoints::{Asked, answered};
use crate::status::{Error, Result};
use crate::{Api, rules};

/// How long a token lasts if nobody says.
const USUAL_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;

/// What a token needs to know of an object.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stored {
    metadata: Meta,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Meta {
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    service_account_name: String,
    node_name: String,
}

/// A token for the ServiceAccount `name`, and what its client is warned of.
pub(super) fn create(api: &Api, asked: &Asked<'_>, namespace: &str, name: &str) -> Result<(Bytes, Vec<String>)> {
    let tokens = tokens(api)?;
    let mut request: TokenRequest = asked.object()?;
    let account = find(api, &format!("core/serviceaccounts/{namespace}/{name}"))
        .ok_or_else(|| missing("serviceaccounts", name))?;
    same("name", request.metadata.name.as_deref(), name)?;
    same("namespace", request.metadata.namespace.as_deref(), namespace)?;
    let spec = request.spec.get_or_insert_default();
    let wanted = *spec.expiration_seconds.get_or_insert(USUAL_SECONDS);
    expect_sensible(wanted)?;
    let seconds = wanted.min(tokens.longest());
    spec.expiration_seconds = Some(seconds);
    let shortened = format!("requested expiration of {wanted} seconds shortened to {seconds} seconds");
    let warnings = if seconds < wanted { vec![shortened] } else { Vec::new() };
    if spec.audiences.iter().all(Vec::is_empty) {
        spec.audiences = Some(vec![tokens.audience().to_owned()]);
    }
    let audiences = spec.audiences.clone().unwrap_or_default();
    let mut private = Private {
        namespace: namespace.to_owned(),
        serviceaccount: Reference { name: name.to_owned(), uid: account.metadata.uid },
        ..Private::default()
    };
    if let Some(bound) = &spec.bound_object_ref {
        bind(api, bound, &mut private)?;
    }
    let now = rules::seconds(api.clock.now()).0;
    let token = tokens
        .issue(private, audiences, seconds, now, api.ids.uid())
        .map_err(|error| Error::Internal(format!("cannot make a token for serviceaccount {name:?}: {error}")))?;
    let expires = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    request.metadata.name = Some(name.to_owned());
    request.metadata.namespace = Some(namespace.to_owned());
    request.metadata.creation_timestamp = Some(Time(now));
    request.status = Some(TokenRequestStatus { token: Some(token), expiration_timestamp: Some(Time(expires)) });
    Ok((answered(&request), warnings))
}

/// Whether a token is good, and whose it is.
pub(super) fn review(api: &Api, asked: &Asked<'_>) -> Result<Bytes> {
    let tokens = tokens(api)?;
    let mut review: TokenReview = asked.object()?;
    let token = review.spec.token.as_str();
    if token.is_empty() {
        return Err(Error::BadRequest("token is required for TokenReview in authentication".into()));
    }
    let audiences = review.spec.audiences.clone().unwrap_or_default();
    review.status = Some(match tokens.check(token, &audiences, api.clock.now(), &api.store) {
        Ok(shown) => TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(shown.audiences),
            user: Some((&shown.user).into()),
            error: None,
        },
        Err(stint_auth::token::Rejected::NotOurs) => {
            TokenReviewStatus { error: Some("invalid bearer token".into()), ..TokenReviewStatus::default() }
        }
        Err(why) => {
            TokenReviewStatus { error: Some(format!("[invalid bearer token, {why}]")), ..TokenReviewStatus::default() }
        }
    });
    Ok(answered(&review))
}

fn tokens(api: &Api) -> Result<&Tokens> {
    api.auth.as_ref().and_then(|auth| auth.tokens.as_ref()).ok_or(Error::UnknownResource)
}

fn find(api: &Api, key: &str) -> Option<Stored> {
    serde_json::from_slice(&api.store.get(key)?.value).ok()
}

fn missing(resource: &str, name: &str) -> Error {
    Error::NoSuchObject { resource: resource.to_owned(), name: name.to_owned() }
}

fn same(what: &str, given: Option<&str>, url: &str) -> Result<()> {
    match given.filter(|given| !given.is_empty()) {
        Some(given) if given != url => Err(Error::BadRequest(format!(
            "the {what} of the object ({given}) does not match the {what} on the URL ({url})"
        ))),
        _ => Ok(()),
    }
}

fn expect_sensible(seconds: i64) -> Result<()> {
    let why = match seconds {
        ..LEAST_SECONDS => "may not specify a duration less than 10 minutes",
        LEAST_SECONDS..=LONGEST => return Ok(()),
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    let root = Path::root();
    let spec = root.field("spec");
    let fault = Fault::invalid(&spec.field("expirationSeconds"), seconds, why);
    let (kind, group) = ("TokenRequest", "authentication.k8s.io");
    Err(Error::Invalid { kind, group, name: String::new(), faults: vec![fault] })
}

/// Lets the token end with an object.
fn bind(api: &Api, bound: &BoundObjectReference, private: &mut Private) -> Result<()> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (name, namespace) = (text(&bound.name), private.namespace.clone());
    let api_version = text(&bound.api_version);
    let kind = text(&bound.kind);
    let resource = match (api_version.as_str(), kind.as_str()) {
        ("v1", "Pod") => "pods",
        ("v1", "Secret") => "secrets",
        ("v1", "Node") => "nodes",
        _ => {
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let what = format!("{group}/{version}, Kind={kind}");
            return Err(Error::BadRequest(format!("cannot bind token to object of type {what}")));
        }
    };
    let key =
        if resource == "nodes" { format!("core/nodes/{name}") } else { format!("core/{resource}/{namespace}/{name}") };
    let stored = find(api, &key).ok_or_else(|| missing(resource, &name))?;
    let given = text(&bound.uid);
    if !given.is_empty() && given != stored.metadata.uid {
        return Err(Error::BoundToAnother { kind, name, uid: given });
    }
    let reference = Some(Reference { name, uid: stored.metadata.uid });
    match resource {
        "pods" => {
            if stored.spec.service_account_name != private.serviceaccount.name {
                return Err(Error::BadRequest(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    private.serviceaccount.name
                )));
            }
            private.pod = reference;
            let node = stored.spec.node_name;
            if !node.is_empty() {
                let uid = find(api, &format!("core/nodes/{node}")).unwrap_or_default().metadata.uid;
                private.node = Some(Reference { name: node, uid });
            }
        }
        "secrets" => private.secret = reference,
        _ => private.node = reference,
    }
    Ok(())
}
