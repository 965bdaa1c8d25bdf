//! `stint explain`: why a Job of the daemon, or of a cluster, is in the state it is in, in words or as an object.
//!
//! Everything is `core::job::explain`'s; here objects are read and lines are laid out.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context, bail};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use stint_core::job::Tuning;
use stint_core::job::explain::{Attempt, Explanation, Run, Wait, explain};
use stint_core::mandate::Mandate;

use crate::args::ExplainArgs;
use crate::client::named;
use crate::exit::Exit;
use crate::serve::SETTINGS;
use crate::settings::Settings;

/// Prints what is asked for.
pub fn main(data: &Path, args: &ExplainArgs) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let told = runtime.context("can't start the async runtime")?.block_on(ask(data, args))?;
    let text = match args.output {
        Some(_) => serde_json::to_string_pretty(&told).context("can't print as JSON")? + "\n",
        None => words(&told),
    };
    io::stdout().lock().write_all(text.as_bytes()).context("can't print")?;
    Ok(Exit::Done)
}

async fn ask(data: &Path, args: &ExplainArgs) -> anyhow::Result<Explanation> {
    let name = name_of(&args.what)?;
    let client = named(args.kubeconfig.as_ref(), data).await?;
    let jobs: Api<Job> = Api::namespaced(client.clone(), &args.namespace);
    let mut job = jobs.get(name).await.with_context(|| format!("can't read {}", args.what))?;
    if args.kubeconfig.is_some()
        && let Some(managed) = Mandate::Instead.job(job.clone())
    {
        job = managed; // by `stint controllers`, as far as anybody here can know
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), &args.namespace);
    let pods = pods.list(&candidates(&job)).await.with_context(|| format!("can't list the pods of {}", args.what))?;
    let events: Api<Event> = Api::namespaced(client.clone(), &args.namespace);
    let about = ListParams::default().fields(&format!("involvedObject.kind=Job,involvedObject.name={name}"));
    let events = events.list(&about).await.with_context(|| format!("can't list the events of {}", args.what))?;
    Ok(explain(&job, &pods.items, &events.items, Timestamp::now(), tuning(&client).await))
}

/// How the API's Job controller goes about its Jobs. A cluster does not tell, and goes by upstream's constants.
async fn tuning(client: &Client) -> Tuning {
    let request = Request::get("/configz").body(Vec::new()).expect("the request is well-formed");
    let told = match client.request_text(request).await {
        Ok(told) => told,
        Err(error) => {
            tracing::debug!(%error, "the API does not tell its settings; they are taken to be the usual ones");
            return Tuning::default();
        }
    };
    let told: serde_json::Value = serde_json::from_str(&told).unwrap_or_default();
    Settings::of_told(&told[SETTINGS]).map(|settings| settings.tuning()).unwrap_or_default()
}

/// Where the Job's pods are: under its label or, if a user wrote its selector, anywhere in its namespace.
fn candidates(job: &Job) -> ListParams {
    if job.spec.as_ref().is_some_and(|spec| spec.manual_selector == Some(true)) {
        return ListParams::default();
    }
    ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={}", job.uid().unwrap_or_default()))
}

/// The name in `job/NAME`, as kubectl writes it.
fn name_of(what: &str) -> anyhow::Result<&str> {
    match what.split_once('/') {
        Some(("job" | "jobs" | "job.batch" | "jobs.batch", name)) if !name.is_empty() => Ok(name),
        _ => bail!("{what:?} names no Job: give job/NAME"),
    }
}

fn words(told: &Explanation) -> String {
    let mut out = format!("job/{} in {}\n{}\n", told.name, told.namespace, told.state);
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = write!(out, "\n{title}:\n");
            for line in lines {
                let _ = writeln!(out, "  {line}");
            }
        }
    };
    section("Why", told.because.clone());
    section("Waits for", told.waits.iter().map(wait).collect());
    section("Pods", told.attempts.iter().flat_map(pod).collect());
    let counted = told.counted;
    let counts =
        format!("{} succeeded, {} failed (backoffLimit {})", counted.succeeded, counted.failed, counted.backoff_limit);
    section("Counted, with those that are gone", vec![counts]);
    let title = told.next_at.as_ref().map_or_else(|| "Next".to_owned(), |at| format!("Next, at {}", at.0));
    section(&title, told.next.clone());
    out
}

/// What is waited for, with the time if it does not say so itself.
fn wait(wait: &Wait) -> String {
    let until = wait.until.as_ref().map(|time| time.0.to_string()).filter(|until| !wait.what.contains(until));
    until.map_or_else(|| wait.what.clone(), |until| format!("{}, until {until}", wait.what))
}

/// A pod's lines: how it fares, and what its containers did.
fn pod(attempt: &Attempt) -> Vec<String> {
    let mut line = format!("{} {}", attempt.pod, attempt.phase);
    if let Some(index) = attempt.index {
        let _ = write!(line, ", index {index}");
    }
    if let Some(reason) = &attempt.reason {
        let _ = write!(line, ": {reason}");
    }
    if let Some(at) = &attempt.created {
        let _ = write!(line, ", made at {}", at.0);
    }
    [line].into_iter().chain(attempt.runs.iter().map(run)).collect()
}

fn run(run: &Run) -> String {
    let at = |time: &Option<Time>| time.as_ref().map_or_else(|| "?".to_owned(), |time| time.0.to_string());
    let name = match run.restarts {
        0 => format!("  {}", run.container),
        restarts => format!("  {} (restart {restarts})", run.container),
    };
    match run.exit_code {
        None => format!("{name} runs since {}", at(&run.started)),
        Some(code) => {
            let reason = run.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            format!("{name} ended with {code}{reason}, {} to {}", at(&run.started), at(&run.finished))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_not_told_are_the_usual_ones() {
        let told = |told: serde_json::Value| Settings::of_told(&told).map(|settings| settings.tuning());
        assert_eq!(told(serde_json::Value::Null), Some(Tuning::default()));
        let backoff = told(serde_json::json!({ "job-backoff-base": "1s", "tls-san": "a,b" })).unwrap().backoff;
        assert_eq!((backoff.base.as_secs(), backoff.max.as_secs()), (1, 600));
        assert_eq!(told(serde_json::json!({ "job-backoff-base": "soon" })), None);
    }

    #[test]
    fn only_jobs_are_named() {
        assert_eq!(name_of("job/a").unwrap(), "a");
        assert_eq!(name_of("jobs.batch/a").unwrap(), "a");
        for wrong in ["a", "cronjob/a", "job/"] {
            assert!(name_of(wrong).is_err(), "{wrong}");
        }
    }
}
