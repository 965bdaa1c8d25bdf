//! From a request to its verb, and from the verb's answer to a response.
//!
//! Invariant: once its body is read, a mutation runs in a task of its own: a client that hangs up, or a panic, ends the
//! request and not a half-done read-modify-write of somebody else's object.
//! Left out: who is asking, which `auth.rs` has found out before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::{try_join, try_join_all};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stint_core::admission::priority;
use stint_store::Mutation;
use tokio::sync::OnceCell;

use crate::frames::Frames;
use crate::kinds::{Holds, Kind, Subresource};
use crate::media::{Asked, Wanted};
use crate::pages::Pages;
use crate::params::Params;
use crate::path::{Info, Place, Target, target};
use crate::status::{Error, Result, json};
use crate::strategy::{Object, Strategy};
use crate::update::{Part, write};
use crate::{Admission, Api, Peer, auth, body, discovery, observe, openapi, rules, streaming, table, verbs};

/// How long a request may take that is no watch and no stream.
const PATIENCE: Duration = Duration::from_mins(1);

/// What all requests share.
struct Shared {
    api: Api,
    /// Whether the objects that a server always has are there.
    ready: OnceCell<()>,
    /// The states of lists whose next page may be asked for.
    pages: Pages,
    /// The newest events as watchers are sent them.
    frames: Arc<Frames>,
}

/// A request to change something, with its body: JSON, whatever the client sent, but for a patch.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) place: Place,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) fn router(api: Api) -> axum::Router {
    let shared = Arc::new(Shared { api, ready: OnceCell::new(), pages: Pages::default(), frames: Arc::default() });
    axum::Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    // Nobody reads the ids of the process's own requests.
    let foreign = request.extensions().get() != Some(&Peer::InProcess);
    let asked = Asked::of(&request, || foreign.then(|| shared.api.ids.uid()));
    let response = open(&shared, request, &asked).await;
    asked.render(response).await
}

/// Answers a request, if whoever sent it may ask for that.
async fn open(shared: &Shared, request: Request<Body>, media: &Asked) -> Response {
    let Some(auth) = shared.api.auth.as_ref().filter(|_| request.extensions().get() != Some(&Peer::InProcess)) else {
        return respond(answer(shared, &shared.api, request, media).await);
    };
    // Without the roles that are made first, nobody could be let in.
    if let Err(error) = shared.ready.get_or_try_init(|| bootstrap(&shared.api)).await {
        return respond(Err(error));
    }
    auth::guard(auth, &shared.api, media.audit_id(), request, async |api, request| {
        respond(answer(shared, &api, request, media).await)
    })
    .await
}

fn respond(answer: Result<Response>) -> Response {
    answer.unwrap_or_else(|error| {
        if matches!(error, Error::Store { .. } | Error::Internal(_)) {
            tracing::error!(%error, "request failed");
        }
        error.into_response()
    })
}

/// Answers for whom `api` acts.
async fn answer(shared: &Shared, api: &Api, request: Request<Body>, media: &Asked) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let target = match target(parts.uri.path())? {
        Target::Nothing => return Ok(discovery::nothing_there()),
        Target::Info(Info::Health(endpoint, check)) if parts.method == Method::GET => {
            let params = Params::of(parts.uri.query());
            return observe::health(api.observe.as_deref(), &endpoint, check.as_deref(), &params);
        }
        Target::Info(Info::Metrics) if parts.method == Method::GET => return observe::metrics(api.observe.as_deref()),
        Target::Info(Info::Settings) if parts.method == Method::GET => {
            return observe::settings(api.observe.as_deref());
        }
        Target::Info(info) if parts.method == Method::GET => return discovery::answer(&info, &parts),
        Target::OpenApi(path) if matches!(parts.method, Method::GET | Method::HEAD) => {
            return Ok(openapi::answer(api, &path, &parts));
        }
        Target::Info(_) | Target::OpenApi(_) => return Err(Error::MethodNotAllowed),
        Target::Auth(endpoint) => return auth::answer(api, &endpoint, &parts, body).await,
        target => target,
    };
    shared.ready.get_or_try_init(|| bootstrap(&shared.api)).await?;
    let params = Params::of(parts.uri.query());
    let (place, name, subresource) = match target {
        Target::Collection(place) => (place, None, None),
        Target::Item(place, name, subresource) => (place, Some(name), subresource),
        Target::Info(_) | Target::OpenApi(_) | Target::Auth(_) | Target::Nothing => unreachable!("answered above"),
    };
    if let (Some(name), Some(subresource)) = (&name, subresource.filter(|subresource| subresource.is_streamed())) {
        // Their answers are no objects, so that `Accept` says nothing about them.
        return streaming::answer(api, &place, name, subresource, &params, &mut parts).await;
    }
    let wanted = media.wanted?;
    if name.is_none() && parts.method == Method::GET && params.flag("watch") {
        return verbs::watch::watch(api, &shared.frames, &place, &params, &wanted);
    }
    let time = params.get("timeout").map_or(Ok(PATIENCE), patience)?.min(PATIENCE);
    let (kind, now) = (place.kind, api.clock.now());
    let lists = name.is_none() && matches!(parts.method, Method::GET | Method::DELETE);
    let verb = async {
        let asked = Params::of(parts.uri.query());
        let response = verb(api, &shared.pages, place, name, subresource, params, parts, body, wanted).await?;
        if lists { Ok(response) } else { table::show(response, kind, &wanted, &asked, now).await }
    };
    tokio::time::timeout(time, verb).await.unwrap_or(Err(Error::TimedOut))
}

/// How long a client waits: `32s`, as Go writes a duration.
fn patience(text: &str) -> Result<Duration> {
    let duration: std::result::Result<jiff::SignedDuration, _> = text.parse();
    match duration.map(Duration::try_from) {
        Ok(Ok(duration)) if duration > Duration::ZERO => Ok(duration),
        Ok(Ok(_)) => Ok(PATIENCE),
        _ => Err(Error::BadRequest(format!(
            "invalid timeout specified in the request URL - time: invalid duration {text:?}"
        ))),
    }
}

/// Carries out a request about objects.
#[allow(clippy::too_many_arguments, reason = "it is the second half of `answer`, apart for its time limit")]
async fn verb(
    api: &Api,
    pages: &Pages,
    place: Place,
    name: Option<String>,
    subresource: Option<Subresource>,
    params: Params,
    parts: Parts,
    body: Body,
    wanted: Wanted,
) -> Result<Response> {
    let bodied = async |place: Place, params: Params| {
        let body = body::read(&parts.headers, body).await?;
        let body = if parts.method == Method::PATCH { body } else { body::to_json(&parts, body)? };
        Ok::<_, Error>(Call { api: api.clone(), place, params, headers: parts.headers.clone(), body })
    };
    let method = parts.method.clone();
    if place.kind.holds == Holds::Nothing && method != Method::GET {
        return Err(Error::MethodNotAllowed);
    }
    let Some(name) = name else {
        return match method {
            Method::GET => verbs::list::list(api, pages, &place, &params, &wanted).await,
            // Where objects live in namespaces, one can't be created in all of them.
            Method::POST if place.is_creatable() => {
                let call = bodied(place, params).await?;
                detached(async move { verbs::create::create(&call).await }).await
            }
            Method::DELETE if place.kind.can_delete_collection() => {
                let call = bodied(place, params).await?;
                detached(async move { verbs::delete::delete_collection(&call).await }).await
            }
            _ => Err(Error::MethodNotAllowed),
        };
    };
    let part = match subresource {
        None => Part::Main,
        Some(Subresource::Status) => Part::Status,
        Some(Subresource::Binding) if method == Method::POST => {
            let call = bodied(place, params).await?;
            return detached(async move { verbs::bind::bind(&call, &name).await }).await;
        }
        Some(Subresource::Eviction) if method == Method::POST => {
            let call = bodied(place, params).await?;
            return detached(async move { verbs::evict::evict(&call, &name).await }).await;
        }
        Some(Subresource::EphemeralContainers) => Part::EphemeralContainers,
        Some(Subresource::Finalize) if method == Method::PUT => Part::Finalize,
        Some(_) => return Err(Error::MethodNotAllowed),
    };
    match method {
        Method::GET => verbs::get::get(api, &place, &name),
        Method::PUT => {
            let call = bodied(place, params).await?;
            detached(async move { verbs::update::update(&call, &name, part).await }).await
        }
        Method::PATCH => {
            let call = bodied(place, params).await?;
            detached(async move { verbs::patch::patch(&call, &name, part).await }).await
        }
        Method::DELETE if part == Part::Main => {
            let call = bodied(place, params).await?;
            detached(async move { verbs::delete::delete(&call, &name).await }).await
        }
        _ => Err(Error::MethodNotAllowed),
    }
}

/// Runs a mutation to its end, whether or not anybody waits for it.
async fn detached(mutation: impl Future<Output = Result<Response>> + Send + 'static) -> Result<Response> {
    match tokio::spawn(mutation).await {
        Ok(result) => result,
        Err(failed) => Err(Error::Internal(format!("the request could not be carried out: {failed}"))),
    }
}

/// Makes sure of what always exists: namespaces, the classes of system pods, and the roles that everybody needs. All at
/// once, so that the store can commit them together.
async fn bootstrap(api: &Api) -> Result<()> {
    let cluster = api.admission == Admission::Cluster;
    let namespaces: &[&str] =
        if cluster { &["default", "kube-node-lease", "kube-public", "kube-system"] } else { &["default"] };
    let named = |name: &str| ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    let namespaces =
        namespaces.iter().map(|name| keep(api, Namespace { metadata: named(name), ..Namespace::default() }));
    let classes = priority::SYSTEM.iter().filter(|_| cluster).map(|(name, value, description)| {
        let class = PriorityClass {
            metadata: named(name),
            value: Some(*value),
            description: Some((*description).into()),
            preemption_policy: Some("PreemptLowerPriority".into()),
            global_default: None,
        };
        keep(api, class)
    });
    let roles = async { if api.auth.is_some() { auth::bootstrap(api).await } else { Ok(()) } };
    try_join(try_join(try_join_all(namespaces), try_join_all(classes)), roles).await.map(drop)
}

/// Makes an object without a namespace unless it is there.
async fn keep<T: Strategy>(api: &Api, mut object: T) -> Result<()> {
    let kind = Kind::at(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT).expect("what is kept is of a kind in the table");
    let name = object.metadata().name.clone().unwrap_or_default();
    let key = kind.key(None, &name);
    if api.store.get(&key).is_some() {
        return Ok(());
    }
    let uid = api.ids.uid();
    rules::create(object.metadata_mut(), &uid, api.clock.now(), kind.facts.generation);
    Object::prepare_create(&mut object, &uid);
    let encoded = Object::encode(&object);
    // A conflict means that somebody else has just made it.
    write(api, Mutation::create(key, move |revision| encoded.at(revision))).await?;
    Ok(())
}

impl Place {
    fn is_creatable(&self) -> bool {
        self.namespace.is_some() || self.kind.scope == crate::kinds::Scope::Cluster
    }
}

/// How many letters all warnings of an answer may have, and each of them once that is too little.
const ALL_WARNINGS: usize = 4 * 1024;
const ONE_WARNING: usize = 256;

/// An answer with `Warning` headers, each text once.
///
/// If they are too long together, each is cut, and what is beyond the limit is left out.
/// Upstream: `apiserver/pkg/endpoints/filters/warning.go` (`AddWarning`), v1.36.
pub(crate) fn reply(code: StatusCode, body: Bytes, warnings: &[String]) -> Response {
    let mut response = json(code, body);
    let mut seen = HashSet::new();
    let texts: Vec<&str> = warnings.iter().map(String::as_str).filter(|text| seen.insert(*text)).collect();
    let letters = |text: &str| text.chars().count();
    let cut = texts.iter().map(|text| letters(text)).sum::<usize>() > ALL_WARNINGS;
    let mut written = 0;
    for text in texts {
        if written >= ALL_WARNINGS {
            break;
        }
        let end = text.char_indices().nth(ONE_WARNING).map(|(end, _)| end).filter(|_| cut);
        let text = &text[..end.unwrap_or(text.len())];
        written += letters(text);
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}
