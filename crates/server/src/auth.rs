//! The door of the API: who is asking, and whether they may.
//!
//! ```text
//!   Peer, headers ─▶ authenticate ─▶ impersonate ─▶ a free slot? ─▶ authorize ─▶ the verb
//!                        401            403             429            403
//! ```
//!
//! Invariant: a request that came from outside reaches a verb only after `authorize` said yes to the same decoded path
//! that the verb acts on. A request without a [`Peer`] is one from outside. From inside the process nothing is looked at.
//! Upstream: `apiserver/pkg/server/config.go` (`DefaultBuildHandlerChain`), v1.36.

mod aggregate;
mod audit;
mod bootstrap;
mod endpoints;
mod grant;
mod impersonate;
mod limits;
mod review;
mod token;

use std::sync::{Arc, PoisonError, RwLock};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Request, header};
use stint_auth::audit::AuditLog;
use stint_auth::{Attributes, Peer, Policy, Resource, User, What};
use stint_store::Store;

use self::audit::Record;
pub use self::limits::Limits;
use self::limits::Slot;
use crate::Api;
use crate::admission::pod_security::Audited;
use crate::kinds::Kind;
use crate::params::Params;
use crate::path::{Place, segments};
use crate::selector::Selector;
use crate::status::{Error, Result};

pub(crate) use bootstrap::bootstrap;
pub(crate) use endpoints::{Endpoint, answer, endpoint};
pub use endpoints::{REVIEWS, Review};
pub(crate) use grant::confirm_grant;
use stint_auth::token::Tokens;

/// Who may do what, for an API that can be reached from outside its process.
#[derive(Debug)]
pub struct Auth {
    policy: Policy,
    owner: u32,
    tokens: Option<Tokens>,
    audit: RwLock<Option<Arc<AuditLog>>>,
    limits: Limits,
}

impl Api {
    /// For whom this handle acts.
    pub(crate) fn user(&self) -> Arc<User> {
        // The process itself always is somebody.
        self.requester.clone().unwrap_or_else(|| Arc::new(Peer::InProcess.user(0).unwrap_or_default()))
    }
}

impl Auth {
    /// By the roles in `store`. `owner` is the user id that this process runs as: whoever has it on this machine may do
    /// everything, as root may.
    pub fn new(store: Store, owner: u32) -> Self {
        Self { policy: Policy::new(store), owner, tokens: None, audit: RwLock::default(), limits: Limits::default() }
    }

    /// With ServiceAccount tokens, which these make and check. Without, no token is accepted.
    #[must_use]
    pub fn with_tokens(self, tokens: Tokens) -> Self {
        Self { tokens: Some(tokens), ..self }
    }

    /// With a log of what is asked for and how it is answered.
    #[must_use]
    pub fn with_audit(self, audit: AuditLog) -> Self {
        self.set_audit(Some(audit));
        self
    }

    /// With other limits on how many requests are answered at once.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Has what is asked for from now on in this log, or in none.
    pub fn set_audit(&self, audit: Option<AuditLog>) {
        let audit = audit.map(Arc::new);
        // The old one is closed, which may take a moment, when nobody waits for the lock.
        let old = std::mem::replace(&mut *self.audit.write().unwrap_or_else(PoisonError::into_inner), audit);
        drop(old);
    }

    fn audit(&self) -> Option<Arc<AuditLog>> {
        self.audit.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The limits on how many requests are answered at once.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How many requests are being answered, for `apiserver_current_inflight_requests`: those that read, and those that
    /// change something.
    pub fn in_flight(&self) -> (usize, usize) {
        self.limits.in_flight()
    }

    /// How many lines the audit log lacks, because requests came faster than it could be written.
    pub fn audit_dropped(&self) -> u64 {
        self.audit().map_or(0, |log| log.dropped())
    }

    /// What makes and checks tokens, for a rotation of its keys.
    pub fn tokens(&self) -> Option<&Tokens> {
        self.tokens.as_ref()
    }
}

/// Answers a request from outside with `then`, if whoever sent it may do what it asks for. `id` is the client's name of it.
pub(crate) async fn guard(
    auth: &Auth,
    api: &Api,
    id: &str,
    request: Request<Body>,
    then: impl AsyncFnOnce(Api, Request<Body>) -> Response,
) -> Response {
    let (parts, body) = request.into_parts();
    let asked = asked(&parts);
    let mut record = auth.audit().map(|log| Record::begin(log, api, id, &parts, &asked));
    let response = match admit(auth, api, &parts, &asked, record.as_mut()) {
        Ok((user, _slot)) => {
            let api = Api { requester: Some(user), ..api.clone() };
            then(api, Request::from_parts(parts, body)).await
        }
        Err(error) => error.into_response(),
    };
    if let Some(mut record) = record {
        if let Some(Audited(violations)) = response.extensions().get() {
            record.violates(violations);
        }
        record.end(response.status());
    }
    response
}

/// The user for whom the request is to be carried out, and its place among those that run at once.
fn admit<'a>(
    auth: &'a Auth,
    api: &Api,
    parts: &Parts,
    asked: &Asked,
    mut record: Option<&mut Record>,
) -> Result<(Arc<User>, Option<Slot<'a>>)> {
    let sender = Arc::new(authenticate(auth, api, parts)?);
    if let Some(record) = &mut record {
        record.sent_by(sender.clone());
    }
    let user = match impersonate::impersonate(auth, &sender, &parts.headers)? {
        Some(user) => Arc::new(user),
        None => sender,
    };
    if let Some(record) = &mut record {
        record.acts_as(user.clone());
    }
    let slot = auth.limits.enter(asked, &user)?;
    for attributes in asked.all() {
        authorize(auth, &user, attributes)?;
    }
    Ok((user, slot))
}

/// Who sent the request.
///
/// A certificate counts more than a token, as upstream. A unix socket counts less: a token is sent on purpose, while
/// everybody on this machine is some user.
fn authenticate(auth: &Auth, api: &Api, parts: &Parts) -> Result<User> {
    let shown = parts.extensions.get::<Peer>().and_then(|peer| Some((peer, peer.user(auth.owner)?)));
    match (shown, bearer(&parts.headers)) {
        (Some((Peer::ClientCertificate { .. }, user)), _) | (Some((_, user)), None) => Ok(user),
        (_, Some(token)) => {
            let tokens = auth.tokens.as_ref().ok_or(Error::Unauthorized)?;
            let shown = tokens.check(token, &[], api.clock.now(), &api.store);
            // The client is told nothing; whoever runs the server may want to know.
            let shown = shown.inspect_err(|why| tracing::debug!(%why, "a bearer token was not accepted"));
            shown.map(|shown| shown.user).map_err(|_| Error::Unauthorized)
        }
        (None, None) => Ok(User::anonymous()),
    }
}

/// The token in `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// What a request asks for.
struct Asked {
    /// What it says that it does.
    main: Attributes,
    /// What it does as well: a connection to a process in a pod is not only a read, whatever its method.
    also: Option<Attributes>,
}

impl Asked {
    fn all(&self) -> impl Iterator<Item = &Attributes> {
        std::iter::once(&self.main).chain(&self.also)
    }

    /// Whether it goes on after its answer has begun, for as long as the client likes.
    fn is_long_running(&self) -> bool {
        let What::Resource(resource) = &self.main.what else { return false };
        self.main.verb == "watch"
            || matches!(resource.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy")
    }
}

/// Whether a path tells how the server is, which probes ask all the time.
fn is_probed(path: &str) -> bool {
    let first = path.split('/').find(|segment| !segment.is_empty());
    matches!(first, Some("healthz" | "livez" | "readyz" | "version"))
}

fn asked(parts: &Parts) -> Asked {
    let path = parts.uri.path();
    // A path that can't be read is nothing that any rule for objects could be about.
    let Some(segments) = segments(path) else {
        return Asked { main: Attributes::path(&lower(parts), path), also: None };
    };
    let params = Params::of(parts.uri.query());
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let mut main = Attributes::of_request(parts.method.as_str(), &decoded, &segments, params.flag("watch"));
    let What::Resource(resource) = &mut main.what else { return Asked { main, also: None } };
    if matches!(main.verb.as_str(), "list" | "watch")
        && let Some(kind) = Kind::at(&resource.group, &resource.version, &resource.resource)
        && let Ok(selector) = Selector::parse(kind, None, params.get("fieldSelector"))
        && let Some(name) = selector.name()
    {
        name.clone_into(&mut resource.name);
    }
    let connects = resource.group.is_empty()
        && resource.resource == "pods"
        && main.verb == "get"
        && matches!(resource.subresource.as_str(), "attach" | "exec" | "portforward");
    let also = connects.then(|| Attributes::resource("create", resource.clone()));
    Asked { main, also }
}

fn lower(parts: &Parts) -> String {
    parts.method.as_str().to_ascii_lowercase()
}

/// Refuses what `user` may not do.
fn authorize(auth: &Auth, user: &User, asked: &Attributes) -> Result<()> {
    let verdict = auth.policy.decide(user, asked);
    if verdict.allowed { Ok(()) } else { Err(forbidden(user, asked, &verdict.reason)) }
}

/// Refuses an update or an application that would create an object, from who may update it but not create it.
pub(crate) fn expect_may_create(api: &Api, place: &Place, name: &str) -> Result<()> {
    let (Some(auth), Some(user)) = (&api.auth, &api.requester) else { return Ok(()) };
    let resource = Resource {
        group: place.kind.group.to_owned(),
        version: place.kind.version.to_owned(),
        resource: place.kind.plural.to_owned(),
        subresource: String::new(),
        namespace: place.namespace.clone().unwrap_or_default(),
        name: name.to_owned(),
    };
    authorize(auth, user, &Attributes::resource("create", resource))
}

fn forbidden(user: &User, asked: &Attributes, reason: &str) -> Error {
    let mut why = asked.refusal(user);
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let (resource, group, name) = match &asked.what {
        What::Path(_) => Default::default(),
        What::Resource(resource) => (resource.resource.clone(), resource.group.clone(), resource.name.clone()),
    };
    Error::Forbidden { resource, group, name, why }
}
