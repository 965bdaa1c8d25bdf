//! The way to the API: requests pass through here on their way to the real router, and here they get lost.
//!
//! Lists are slow at worst and never old; watches lag, stop in the middle of a line and come to an end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame};
use kube::Client;
use serde_json::json;
use stint_core::plan::Uid;
use tokio::time::{Instant, Sleep};
use tower::{BoxError, Service, ServiceExt};

use crate::chaos::{Bug, OnRequest};
use crate::world::World;

/// Whose requests they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The controllers.
    Controllers,
    /// The node.
    Node,
    /// The users, to whom nothing bad happens but crashes.
    Users,
}

/// A client of `router` for `who`.
pub fn client(world: &World, router: &Router, who: Who) -> Client {
    Client::new(Way { world: world.clone(), router: router.clone(), who }, "default")
}

#[derive(Clone)]
struct Way {
    world: World,
    router: Router,
    who: Who,
}

impl Service<Request<kube::client::Body>> for Way {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<kube::client::Body>) -> Self::Future {
        let way = self.clone();
        let request = request.map(Body::new);
        Box::pin(async move { way.send(request).await })
    }
}

impl Way {
    async fn send(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        if self.who == Who::Users {
            return self.perform(request).await;
        }
        let path = request.uri().to_string();
        let is_watch = path.contains("watch=true");
        let method = request.method().clone();
        // A deletion or a binding conflicts only with what is final; a patch also with others who write faster than the
        // API server can patch (it gives up after five attempts), and a create when the generated name is taken.
        let may_conflict = matches!(method, Method::PUT | Method::PATCH | Method::POST) && !path.contains("/binding");
        let (fate, going, coming) = {
            let mut state = self.world.state();
            let fate = state.chaos.on_request(may_conflict);
            let (going, coming) = (state.chaos.latency(), state.chaos.latency());
            let who = self.who;
            state.tell(|| format!("{who:?} {method} {path} {fate:?}"));
            (fate, going, coming)
        };
        if !going.is_zero() {
            tokio::time::sleep(going).await;
        }
        let answer = match fate {
            OnRequest::Answer => self.perform(request).await,
            OnRequest::Conflict => Ok(refusal(StatusCode::CONFLICT, "Conflict")),
            OnRequest::Refuse => Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            OnRequest::Unreachable => Err(broken()),
            OnRequest::PerformThen500 => {
                self.perform(request).await?;
                Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
            }
            OnRequest::PerformThenLost => {
                self.perform(request).await?;
                Err(broken())
            }
        };
        if !coming.is_zero() {
            tokio::time::sleep(coming).await;
        }
        match answer {
            Ok(response) if is_watch && response.status().is_success() => {
                Ok(response.map(|body| Body::new(Lagging::new(self.world.clone(), body))))
            }
            other => other,
        }
    }

    async fn perform(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let bug = self.world.state().chaos.bug;
        if self.who != Who::Controllers || matches!(bug, Bug::None | Bug::LyingDisk | Bug::ForgetfulNode) {
            return Ok(self.router.clone().oneshot(request).await?);
        }
        self.perform_with(bug, request).await
    }

    /// Performs a request of the controllers as a planted bug would have it.
    async fn perform_with(&self, bug: Bug, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let is_write = request.method() != Method::GET;
        let (parts, body) = request.into_parts();
        let mut bytes = axum::body::to_bytes(body, usize::MAX).await?;
        if bug == Bug::AnyName && parts.method == Method::POST && parts.uri.path().ends_with("/jobs") {
            let mut job: serde_json::Value = serde_json::from_slice(&bytes)?;
            let name = job["metadata"]["name"].as_str().unwrap_or_default();
            job["metadata"]["name"] = json!(format!("{name}-{}", self.world.state().files.writes));
            bytes = job.to_string().into();
        }
        let again = |bytes: Bytes| Request::from_parts(parts.clone(), Body::from(bytes));
        if bug == Bug::ReleaseFirst && parts.method == Method::PATCH && parts.uri.path().ends_with("/status") {
            for pod in self.recorded(&bytes) {
                let patch = json!({ "metadata": { "finalizers": null } }).to_string();
                let request = Request::patch(format!("/api/v1/namespaces/default/pods/{pod}"))
                    .header(header::CONTENT_TYPE, "application/merge-patch+json")
                    .body(Body::from(patch))?;
                self.router.clone().oneshot(request).await?;
            }
        }
        if bug == Bug::CreateTwice && parts.method == Method::POST && parts.uri.path().ends_with("/pods") {
            self.router.clone().oneshot(again(bytes.clone())).await?;
        }
        let response = self.router.clone().oneshot(again(bytes)).await?;
        if bug != Bug::NoBarrier || !is_write || !response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await?;
        let mut object: serde_json::Value = serde_json::from_slice(&bytes)?;
        if object["metadata"]["resourceVersion"].is_string() {
            object["metadata"]["resourceVersion"] = json!("1");
        }
        let mut response = Response::from_parts(parts, Body::from(object.to_string()));
        response.headers_mut().remove(header::CONTENT_LENGTH);
        Ok(response)
    }

    /// The names of the pods that a Job's status records.
    fn recorded(&self, job: &[u8]) -> Vec<String> {
        let job: serde_json::Value = serde_json::from_slice(job).unwrap_or_default();
        let uncounted = &job["status"]["uncountedTerminatedPods"];
        let lists = [&uncounted["succeeded"], &uncounted["failed"]];
        let uids = lists.into_iter().filter_map(|list| list.as_array()).flatten().filter_map(|uid| uid.as_str());
        let state = self.world.state();
        uids.filter_map(|uid| Some(state.history.pods.get(&Uid::from(uid))?.name.clone())).collect()
    }
}

fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "chaos", "reason": reason, "code": code.as_u16(),
    });
    (code, [(header::CONTENT_TYPE, "application/json")], status.to_string()).into_response()
}

fn broken() -> BoxError {
    Box::new(std::io::Error::new(std::io::ErrorKind::ConnectionReset, "chaos broke the connection"))
}

/// The body of a watch, on its way.
struct Lagging {
    world: World,
    inner: Body,
    /// What is under way, with the time of its arrival.
    on_the_way: VecDeque<(Instant, Bytes)>,
    last: Instant,
    alarm: Option<Pin<Box<Sleep>>>,
    inner_ended: bool,
    torn: bool,
}

impl Lagging {
    fn new(world: World, inner: Body) -> Lagging {
        let last = Instant::now();
        Lagging { world, inner, on_the_way: VecDeque::new(), last, alarm: None, inner_ended: false, torn: false }
    }

    /// Takes what the server has sent so far.
    fn fill(&mut self, context: &mut Context<'_>) {
        while !self.inner_ended {
            let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else { return };
            let Some(Ok(frame)) = frame else {
                self.inner_ended = true;
                return;
            };
            let Ok(bytes) = frame.into_data() else { continue };
            if bytes.starts_with(b"{\"type\"") {
                let mut state = self.world.state();
                if state.chaos.breaks_watch() {
                    state.tell(|| "a watch breaks".to_owned());
                    self.inner_ended = true;
                    self.torn = true;
                    return;
                }
                self.last = self.last.max(Instant::now() + state.chaos.lag());
            }
            self.on_the_way.push_back((self.last, bytes));
        }
    }
}

impl HttpBody for Lagging {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        loop {
            this.fill(context);
            let Some((due, _)) = this.on_the_way.front() else {
                if !this.inner_ended {
                    return Poll::Pending;
                }
                // Half of the watches that break say so, the others just end.
                let says_so = std::mem::take(&mut this.torn) && this.world.state().names.chance(500);
                return Poll::Ready(says_so.then(|| Err(broken())));
            };
            if *due <= Instant::now() {
                let (_, bytes) = this.on_the_way.pop_front().expect("it was just looked at");
                this.alarm = None;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let due = *due;
            let alarm = this.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            ready!(alarm.as_mut().poll(context));
            this.alarm = None;
        }
    }
}
