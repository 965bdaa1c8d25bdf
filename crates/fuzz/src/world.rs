//! A server in this process, and what every answer of it is held to: it comes soon, it is not too large, and it is never a
//! 5xx that Kubernetes itself would not give.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures::FutureExt;
use http::Request;
use serde_json::Value;
use stint_server::{Api, Clock, Ids, router};
use stint_store::Store;
use tower::ServiceExt;

use crate::seeds::{config_map, cron_job, job, pod};

/// Where there are Jobs.
pub const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
/// The Job.
pub const JOB: &str = "/apis/batch/v1/namespaces/default/jobs/j";
/// Where there are CronJobs.
pub const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
/// Where there are pods.
pub const PODS: &str = "/api/v1/namespaces/default/pods";
/// Where there are ConfigMaps.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Media types of bodies.
pub mod media {
    /// JSON.
    pub const JSON: &str = "application/json";
    /// YAML.
    pub const YAML: &str = "application/yaml";
    /// Kubernetes' protobuf.
    pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
    /// A list of operations.
    pub const JSON_PATCH: &str = "application/json-patch+json";
    /// A merge patch.
    pub const MERGE: &str = "application/merge-patch+json";
    /// A strategic merge patch.
    pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
    /// What somebody applies.
    pub const APPLY: &str = "application/apply-patch+yaml";
}

/// How long the processor may be busy with an answer. What is guarded against takes minutes; code that is not optimized
/// needs some room.
const SOON: Duration = Duration::from_secs(if cfg!(debug_assertions) { 8 } else { 1 });
/// How long an answer may take by the clock.
const AT_ALL: Duration = Duration::from_mins(1);
/// How long is waited for more of a watch, which goes on: that it began is what there is to see.
const GLANCE: Duration = Duration::from_millis(2);
/// The most bytes of an answer.
const LARGE: usize = 64 << 20;

/// The 5xx that a cluster answers too, by a part of their messages.
const AS_UPSTREAM: &[&str] = &[
    // The client has seen a revision that there is not yet: 504, "try again".
    "Too large resource version",
    // The client set how long it waits, and it was not long enough.
    "request did not complete within the allotted timeout",
    // All that follows is 500 without a reason in a cluster.
    "resourceVersion should not be set on objects to be created",
    "invalid resource version",
    // What is applied breaks the schema; a cluster did not foresee that the client is at fault.
    "failed to create typed patch object",
];

/// Time that stands still.
struct StandingClock;

impl Clock for StandingClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_767_323_045).expect("a time of 2026")
    }
}

/// Ids that count.
#[derive(Default)]
struct CountingIds(AtomicU64);

impl Ids for CountingIds {
    fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-{:012}", self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn suffix(&self) -> String {
        format!("{:05}", self.0.fetch_add(1, Ordering::Relaxed) % 100_000)
    }
}

/// A server with an object of each of four kinds.
#[derive(Debug)]
pub struct World {
    router: Router,
}

/// What it answered.
#[derive(Debug)]
pub struct Reply {
    /// The code.
    pub code: u16,
    /// The body; of a watch, its beginning.
    pub text: String,
}

impl World {
    /// A server that holds a Job `j`, a CronJob `cj`, a pod `p` and a ConfigMap `c`.
    pub async fn new() -> World {
        let api = Api::new(Store::in_memory(), Arc::new(StandingClock), Arc::new(CountingIds::default()));
        let world = World { router: router(api) };
        world.fill().await;
        world
    }

    /// Makes those of them that are not there.
    ///
    /// # Panics
    ///
    /// If one can't be made.
    pub async fn fill(&self) {
        let objects = [(JOBS, job("j")), (CRON_JOBS, cron_job()), (PODS, pod("p")), (CONFIG_MAPS, config_map("c"))];
        for (path, object) in objects {
            let reply = self.send("filling", "POST", path, media::JSON, object.to_string()).await;
            assert!(matches!(reply.code, 201 | 409), "{path}: {reply:?}");
        }
    }

    /// Sends a body.
    ///
    /// # Panics
    ///
    /// If the answer is not what an answer has to be. `what` is said then.
    pub async fn send(&self, what: &str, method: &str, path: &str, media: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        self.request(what, request.body(Body::from(body.into())).expect("the caller's path is one")).await
    }

    /// Sends a request.
    ///
    /// # Panics
    ///
    /// If the answer is not what an answer has to be. `what` is said then.
    pub async fn request(&self, what: &str, request: Request<Body>) -> Reply {
        let began = busy();
        let goes_on = request.uri().query().is_some_and(|query| query.contains("watch"));
        let answer = AssertUnwindSafe(async {
            let response = self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
            let code = response.status().as_u16();
            let headers: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            assert!(headers < 32 << 10, "{what}: {headers} bytes of headers");
            let body = to_bytes(response.into_body(), LARGE);
            let body = tokio::time::timeout(if code == 200 && goes_on { GLANCE } else { AT_ALL }, body).await;
            assert!(body.is_ok() || goes_on, "{what}: the answer has no end");
            let body = body.map_or(Bytes::new(), |body| body.unwrap_or_else(|_| panic!("{what}: a huge answer")));
            Reply { code, text: String::from_utf8_lossy(&body).into_owned() }
        });
        let Ok(reply) = answer.catch_unwind().await else { panic!("the server panicked: {what}") };
        let took = busy().saturating_sub(began);
        assert!(took < SOON, "{what}: {took:?} until {}", reply.code);
        let known = AS_UPSTREAM.iter().any(|part| reply.text.contains(part));
        assert!(reply.code < 500 || known, "{what}: {}: {:.600}", reply.code, reply.text);
        reply
    }
}

/// How long this thread, which is also the server's, has been at work. Other programs do not count.
fn busy() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().expect("it never is negative")
}

/// Runs on a runtime of one thread.
///
/// # Panics
///
/// If the system has no room for a runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime of one thread needs little").block_on(future)
}

/// Runs with a server that this thread keeps, for what changes nothing in it.
pub fn with_shared<T>(of: impl AsyncFnOnce(&World) -> T) -> T {
    thread_local! {
        static SHARED: (tokio::runtime::Runtime, World) = {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a runtime of one thread needs little");
            let world = runtime.block_on(World::new());
            (runtime, world)
        };
    }
    SHARED.with(|(runtime, world)| runtime.block_on(of(world)))
}

/// A Job with these members of `spec.template.spec` beside its container.
///
/// # Panics
///
/// If `members` is no object.
pub fn job_with(members: &Value) -> Value {
    let mut job = job("bomb");
    let spec = job.pointer_mut("/spec/template/spec").and_then(Value::as_object_mut).expect("a Job has a pod's spec");
    spec.extend(members.as_object().expect("members are an object").clone());
    job
}
