//! What `/metrics` shows, under the API server's and Prometheus' usual names, what `/readyz` checks, and what `/configz` tells.
//!
//! Invariant: the number of series is bounded by the table of kinds, whatever paths clients make up; that of the states of
//! Jobs and CronJobs has a bound of its own.
//! Upstream: `apiserver/pkg/endpoints/metrics/metrics.go`, v1.36.

mod state;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::{Method, Request, StatusCode, header};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use state::State;

use crate::process::Process;
use crate::zones;
use stint_core::admission::pod_security::Version;
use stint_server::kinds::{KINDS, Kind};
use stint_server::observe::{Check, Judgement, Observe};
use stint_store::Store;
use tokio::task::AbortHandle;

/// Upstream's buckets for the durations of requests, in seconds.
const BUCKETS: [f64; 22] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0,
];

/// The minor version of Kubernetes whose rules are known; later ones are counted as one, so that series are bounded.
const RELEASE: u32 = 36;

/// Under which name `/configz` tells the daemon's settings.
pub const SETTINGS: &str = "stint";

/// What a request is about, in as many ways as there are kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct About {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Watched {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flight {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Judged {
    decision: &'static str,
    mode: &'static str,
    policy_level: String,
    policy_version: String,
    request_operation: &'static str,
    resource: &'static str,
    subresource: &'static str,
}

/// Counts, and shows what it has counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    durations: Family<About, Histogram>,
    running: Family<Flight, Gauge>,
    long: Family<About, Gauge>,
    watch_events: Family<Watched, Counter>,
    judged: Family<Judged, Counter>,
    store: Store,
    parts: RwLock<Vec<(&'static str, AbortHandle)>>,
    settings: RwLock<String>,
}

impl Metrics {
    /// Nothing is counted yet; `controllers` is what the controllers count.
    pub fn new(store: Store, controllers: stint_controllers::Metrics) -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::<Answered, Counter>::default();
        let durations = Family::<About, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let running = Family::<Flight, Gauge>::default();
        let long = Family::<About, Gauge>::default();
        let watch_events = Family::<Watched, Counter>::default();
        let judged = Family::<Judged, Counter>::default();
        // The encoder puts `_total` behind the names of counters.
        registry.register("apiserver_request", "Requests that were answered, by code", requests.clone());
        let help = "How long requests took to be answered, but for those that stay";
        registry.register("apiserver_request_duration_seconds", help, durations.clone());
        registry.register("apiserver_current_inflight_requests", "Requests that wait for an answer", running.clone());
        registry.register("apiserver_longrunning_requests", "Watches, logs and streams that are open", long.clone());
        registry.register("apiserver_watch_events", "Events that were sent to watchers", watch_events.clone());
        let help = "Pods, and what makes them, that Pod Security looked at";
        registry.register("pod_security_evaluations", help, judged.clone());
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("stint_build", "The version of this program", build);
        registry.register_collector(Box::new(Process));
        registry.register_collector(Box::new(Objects(store.clone())));
        registry.register_collector(Box::new(controllers));
        registry.register_collector(Box::new(State { store: store.clone(), local_zone: zones::local() }));
        let (parts, settings) = (RwLock::default(), RwLock::new("{}".to_owned()));
        Metrics { registry, requests, durations, running, long, watch_events, judged, store, parts, settings }
    }

    /// From now on these settings are told: by name, as they would be typed.
    pub fn runs_with<'a>(&self, settings: impl Iterator<Item = (&'a str, String)>) {
        let settings: serde_json::Map<_, _> = settings.map(|(name, text)| (name.to_owned(), text.into())).collect();
        let told = serde_json::json!({ SETTINGS: settings }).to_string();
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = told;
    }

    /// From now on `part` is checked: it is broken when its task has ended.
    pub fn check(&self, part: &'static str, task: AbortHandle) {
        self.parts.write().unwrap_or_else(PoisonError::into_inner).push((part, task));
    }

    /// A request has come.
    pub fn begins<B>(self: &Arc<Self>, request: &Request<B>) -> Begun {
        let about = About::of(request);
        let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
        let flight = Flight { request_kind: if changes { "mutating" } else { "readOnly" } };
        let is_long = about.is_long();
        let gauge =
            if is_long { self.long.get_or_create_owned(&about) } else { self.running.get_or_create_owned(&flight) };
        gauge.inc();
        Begun { metrics: Arc::clone(self), about, is_long, started: Instant::now(), gauge }
    }
}

/// A request that is being answered; dropped when the answer's head is there, or for a stream when it ends.
pub struct Begun {
    metrics: Arc<Metrics>,
    about: About,
    is_long: bool,
    started: Instant,
    gauge: Gauge,
}

impl Begun {
    /// The answer has this code.
    pub fn answered(&self, code: StatusCode) -> Duration {
        let About { verb, group, version, resource, subresource, scope } = self.about;
        let answered = Answered { verb, group, version, resource, subresource, scope, code: code.as_u16() };
        self.metrics.requests.get_or_create(&answered).inc();
        let took = self.started.elapsed();
        if !self.is_long {
            self.metrics.durations.get_or_create(&self.about).observe(took.as_secs_f64());
        }
        took
    }

    /// Whether the request stays until its stream ends.
    pub fn stays(&self) -> bool {
        self.is_long
    }

    /// What counts the events that are sent, for a watch.
    pub fn events(&self) -> Option<Counter> {
        let About { group, version, resource, .. } = self.about;
        let watched = Watched { group, version, resource };
        (self.about.verb == "WATCH").then(|| self.metrics.watch_events.get_or_create_owned(&watched))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl About {
    fn of<B>(request: &Request<B>) -> About {
        let path = request.uri().path();
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let watch = request.uri().query().is_some_and(|query| {
            query.split('&').any(|pair| matches!(pair, "watch" | "watch=true" | "watch=1" | "watch=True"))
        });
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return About { verb: plain(request.method()), ..About::default() },
        };
        let (namespaced, rest) = match rest {
            ["namespaces", _, rest @ ..] if !matches!(rest, [] | ["status" | "finalize"]) => (true, rest),
            _ => (false, rest),
        };
        let kind = rest.first().and_then(|plural| Kind::at(group, version, plural));
        let Some(kind) = kind else { return About { verb: plain(request.method()), ..About::default() } };
        let named = rest.len() > 1;
        let behind = rest.get(2).and_then(|name| kind.subresources.iter().find(|sub| sub.segment() == *name));
        let subresource = behind.map_or("", |subresource| subresource.segment());
        let applies = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/apply-patch"));
        let verb = match (request.method(), named) {
            _ if matches!(subresource, "exec" | "attach" | "portforward" | "log") => "CONNECT",
            (&Method::GET | &Method::HEAD, false) if watch => "WATCH",
            (&Method::GET | &Method::HEAD, false) => "LIST",
            (&Method::DELETE, false) => "DELETECOLLECTION",
            (&Method::PATCH, _) if applies => "APPLY",
            (method, _) => plain(method),
        };
        let scope = match (named, namespaced) {
            (true, _) => "resource",
            (false, true) => "namespace",
            (false, false) => "cluster",
        };
        About { verb, group: kind.group, version: kind.version, resource: kind.plural, subresource, scope }
    }

    fn is_long(&self) -> bool {
        matches!(self.verb, "WATCH" | "CONNECT")
    }
}

fn plain(method: &Method) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

impl Observe for Metrics {
    fn checks(&self) -> Vec<Check> {
        let store = Check { name: "store", vital: true, fault: self.store.failure().map(str::to_owned) };
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        let part = |(name, task): &(&'static str, AbortHandle)| {
            let fault = task.is_finished().then(|| "its task has ended".to_owned());
            Check { name, vital: true, fault }
        };
        [store].into_iter().chain(parts.iter().map(part)).collect()
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = prometheus_client::encoding::prometheus_text::encode(&mut text, &self.registry);
        text
    }

    fn settings(&self) -> String {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn judged(&self, Judgement { decision, mode, rules, operation, resource }: Judgement) {
        let known = |version: Version| !matches!(version, Version::Minor(minor) if minor > RELEASE);
        let judged = Judged {
            decision,
            mode,
            policy_level: rules.level.to_string(),
            policy_version: if known(rules.version) { rules.version.to_string() } else { "future".to_owned() },
            request_operation: operation,
            resource,
            subresource: "",
        };
        self.judged.get_or_create(&judged).inc();
    }
}

/// How many objects of each kind there are.
#[derive(Debug)]
struct Objects(Store);

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = ConstGauge::new(0_i64);
        let help = "Objects that are stored, by kind";
        let mut family = encoder.encode_descriptor("apiserver_storage_objects", help, None, gauge.metric_type())?;
        let snapshot = self.0.snapshot();
        for kind in KINDS {
            let count = i64::try_from(snapshot.count(&kind.prefix(None))).unwrap_or(i64::MAX);
            let labels = [("resource", kind.qualified_plural())];
            ConstGauge::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(method: &str, uri: &str) -> String {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        let About { verb, group, version, resource, subresource, scope } = About::of(&request);
        [verb, group, version, resource, subresource, scope].join(",")
    }

    #[test]
    fn a_request_is_counted_by_what_it_is_about() {
        let rows = [
            ("GET", "/api/v1/pods", "LIST,,v1,pods,,cluster"),
            ("GET", "/apis/batch/v1/namespaces/a/jobs?watch=true", "WATCH,batch,v1,jobs,,namespace"),
            ("PUT", "/apis/batch/v1/namespaces/a/jobs/x/status", "PUT,batch,v1,jobs,status,resource"),
            ("GET", "/api/v1/namespaces/a", "GET,,v1,namespaces,,resource"),
            ("DELETE", "/api/v1/namespaces/a/pods", "DELETECOLLECTION,,v1,pods,,namespace"),
            ("GET", "/version", "GET,,,,,"),
            ("POST", "/apis/made.up/v9/things", "POST,,,,,"),
            ("BREW", "/api/v1/pods/a/b/c", "other,,v1,pods,,resource"),
        ];
        for (method, uri, expected) in rows {
            assert_eq!(about(method, uri), expected, "{method} {uri}");
        }
    }

    #[test]
    fn what_was_counted_is_shown_in_prometheus_text_format() {
        let metrics = Arc::new(Metrics::new(Store::in_memory(), stint_controllers::Metrics::default()));
        let request = Request::get("/api/v1/pods").body(()).unwrap();
        let begun = metrics.begins(&request);
        assert!(metrics.metrics().contains("apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1"));
        begun.answered(StatusCode::OK);
        drop(begun);
        let text = metrics.metrics();
        let about = r#"verb="LIST",group="",version="v1",resource="pods",subresource="",scope="cluster""#;
        for line in [
            format!("apiserver_request_total{{{about},code=\"200\"}} 1"),
            format!("apiserver_request_duration_seconds_count{{{about}}} 1"),
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 0".to_owned(),
            "apiserver_storage_objects{resource=\"jobs.batch\"} 0".to_owned(),
            "# TYPE process_cpu_seconds_total counter".to_owned(),
            "# TYPE job_controller_job_syncs_total counter".to_owned(),
            "# HELP kube_job_info [STABLE] Information about job.".to_owned(),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
