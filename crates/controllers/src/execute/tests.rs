//! Plans before an API that answers as it is told.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use stint_core::clock::Clock;
use stint_core::plan::{Note, PodRef, Severity};

use super::*;
use crate::events::recorder;

struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
}

/// What an API was asked: the method, the path, and the body.
type Asked = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// An API that answers each request as `answer` says, by its number among those of its method, beginning with 1.
fn api(answer: impl Fn(&Method, &str, usize) -> (u16, Value) + Clone + Send + 'static) -> (Client, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let serve = move |request: Request<Body>| {
        let (seen, answer) = (seen.clone(), answer.clone());
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a request's body is at hand");
            let path = parts.uri.path().to_owned();
            let number = {
                let mut seen = seen.lock().expect("no test panics here");
                seen.push((parts.method.clone(), path.clone(), serde_json::from_slice(&body).unwrap_or_default()));
                seen.iter().filter(|(method, at, _)| *method == parts.method && *at == path).count()
            };
            let (code, object) = answer(&parts.method, &path, number);
            let body = Body::from(object.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).expect("the answer is well-formed"))
        }
    };
    (Client::new(tower::service_fn(serve), "default"), asked)
}

fn refusal(code: u16, reason: &str, causes: &Value) -> (u16, Value) {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": "no",
        "code": code, "details": { "causes": causes } });
    (code, status)
}

/// Executes a plan about the Job `j`; returns how it ended, and lets its Events be written.
async fn execute(client: Client, plan: Plan) -> Report {
    execute_as(client, plan, &Config::default()).await
}

async fn execute_as(client: Client, plan: Plan, config: &Config) -> Report {
    let (recorder, writing) = recorder(client.clone(), Arc::new(Epoch), "job-controller");
    let mut job = Job::default();
    job.metadata.name = Some("j".to_owned());
    job.metadata.namespace = Some("default".to_owned());
    let key = JobKey { namespace: "default".into(), name: "j".into() };
    let executor = Executor::new(client, recorder, config);
    let report = executor.execute(key, Arc::new(job), plan).await;
    drop(executor); // and with it the last recorder, so that the writing ends
    writing.await;
    report
}

/// Takes what was asked about `resource` by `method`.
fn bodies(asked: &Asked, method: &Method, resource: &str) -> Vec<Value> {
    let asked = asked.lock().expect("no test panics here");
    asked.iter().filter(|(by, path, _)| by == method && path.ends_with(resource)).map(|one| one.2.clone()).collect()
}

fn create() -> Step {
    let created = Note::Pod("Created pod:");
    Step::new(Action::CreatePod(Box::default()), "it is missing").announce(
        Severity::Normal,
        "SuccessfulCreate",
        created,
    )
}

fn write() -> Step {
    Step::new(Action::WriteJobStatus(Box::default()), "the status shows it")
}

/// An API server answers a patch by 409, too, when others kept writing to the pod while it tried. That was taken for a
/// release: the barrier then waited for a pod without finalizer, which nobody was going to bring about (found by the
/// simulator: the Job never ended).
#[tokio::test]
async fn a_release_that_conflicts_is_not_taken_for_done() {
    let (client, _) = api(|_, _, _| refusal(409, "Conflict", &json!([])));
    let pod = PodRef { name: "p".to_owned(), uid: Uid::from("u") };
    let plan = Plan::of(Phase::Release, vec![Step::new(Action::ReleasePod(pod), "it is recorded")]);
    let report = execute(client, plan).await;
    assert_eq!((report.ended, report.sightings), (Ended::Conflict, Vec::new()));
}

#[tokio::test]
async fn creations_start_slowly_and_end_with_the_first_batch_that_is_refused() {
    for (allowed, tried) in [(0, 1), (1, 3), (3, 7), (5, 7), (7, 15)] {
        let (client, asked) = api(move |method, path, number| {
            if path.ends_with("/pods") && *method == Method::POST && number > allowed {
                return refusal(403, "Forbidden", &json!([]));
            }
            (200, json!({ "metadata": { "name": "x", "resourceVersion": "7" } }))
        });
        let steps = (0..100).map(|_| create()).chain([write()]).collect();
        let plan = Plan { otherwise: vec![write()], ..Plan::of(Phase::Manage, steps) };
        let report = execute(client, plan).await;
        assert_eq!(report.ended, Ended::Refused);
        assert_eq!(bodies(&asked, &Method::POST, "/pods").len(), tried, "{allowed} were allowed");
        let otherwise = bodies(&asked, &Method::PATCH, "/jobs/j/status").len();
        assert_eq!(otherwise, 1, "the status is that of what was refused, and not that of what was planned");
        assert_eq!(report.sightings.len(), allowed + 1);
    }
}

#[tokio::test]
async fn creations_may_begin_with_more_than_one() {
    for (slow_start, tried) in [(0, 1), (4, 4), (500, 100)] {
        let (client, asked) = api(|_, _, _| refusal(403, "Forbidden", &json!([])));
        let plan = Plan::of(Phase::Manage, (0..100).map(|_| create()).collect());
        execute_as(client, plan, &Config { slow_start, ..Config::default() }).await;
        assert_eq!(bodies(&asked, &Method::POST, "/pods").len(), tried, "beginning with {slow_start}");
    }
}

#[tokio::test]
async fn what_is_refused_is_told_but_for_a_namespace_that_goes() {
    let leaving = json!([{ "reason": "NamespaceTerminating", "field": "", "message": "" }]);
    let delete = || {
        let pod = PodRef { name: "p".to_owned(), uid: Uid::from("u") };
        Step::new(Action::DeletePod(pod), "it is too many")
    };
    let cases = [
        (json!([]), create(), Some(("FailedCreate", "Error creating: no"))),
        (json!([]), delete(), Some(("FailedDelete", "Error deleting: no"))),
        (leaving, create(), None),
    ];
    for (causes, step, expected) in cases {
        let (client, asked) =
            api(
                move |_, path, _| {
                    if path.ends_with("/events") { (201, json!({})) } else { refusal(403, "Forbidden", &causes) }
                },
            );
        let report = execute(client, Plan::of(Phase::Manage, vec![step])).await;
        assert_eq!(report.ended, Ended::Refused);
        let told = bodies(&asked, &Method::POST, "/events");
        let told: Vec<_> = told
            .iter()
            .map(|event| {
                assert_eq!((&event["type"], &event["involvedObject"]["name"]), (&json!("Warning"), &json!("j")));
                (event["reason"].as_str().expect("a reason"), event["message"].as_str().expect("a message"))
            })
            .collect();
        assert_eq!(told, Vec::from_iter(expected));
    }
}
