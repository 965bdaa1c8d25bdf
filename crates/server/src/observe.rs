//! How the process that serves the API is: `/healthz`, `/livez`, `/readyz`, `/metrics` and `/configz`.
//!
//! What is checked and counted is the process's business, and asked for through [`Observe`].
//! Upstream: `apiserver/pkg/server/healthz/healthz.go` (`handleRootHealth`), `component-base/configz/configz.go`, v1.36.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use stint_core::admission::pod_security::Rules;

use crate::params::Params;
use crate::status::{Error, Result, json};

/// What the process can tell about itself.
pub trait Observe: Send + Sync + 'static {
    /// Every check, in the order in which they are shown.
    fn checks(&self) -> Vec<Check>;
    /// The metrics, in Prometheus' text format.
    fn metrics(&self) -> String;
    /// The settings that it runs with: a JSON object of components, as `/configz` of a cluster's components has it.
    fn settings(&self) -> String;
    /// Pod Security has judged a pod, or what makes pods.
    fn judged(&self, _judgement: Judgement) {}
}

/// What Pod Security said at one of the modes of a namespace, in the words of `pod_security_evaluations_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// `enforce`, `audit` or `warn`.
    pub mode: &'static str,
    /// By which rules.
    pub rules: Rules,
    /// `create` or `update`.
    pub operation: &'static str,
    /// `pod`, or `controller` for what makes pods.
    pub resource: &'static str,
}

/// How one part of the process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The part.
    pub name: &'static str,
    /// Whether a process of which this part is broken should be started again: it counts for `/livez` too.
    pub vital: bool,
    /// What is wrong with it. Said in the log, not to clients.
    pub fault: Option<String>,
}

/// Answers `/healthz`, `/livez` or `/readyz` (`endpoint`), or one check behind it.
pub(crate) fn health(
    observe: Option<&dyn Observe>,
    endpoint: &str,
    only: Option<&str>,
    params: &Params,
) -> Result<Response> {
    let ping = Check { name: "ping", vital: true, fault: None };
    let mut checks = vec![ping];
    checks.extend(observe.map(Observe::checks).unwrap_or_default());
    checks.retain(|check| check.vital || endpoint != "livez");
    if let Some(only) = only {
        let check = checks.iter().find(|check| check.name == only).ok_or(Error::UnknownResource)?;
        return Ok(match &check.fault {
            None => text(StatusCode::OK, "ok".to_owned()),
            Some(fault) => {
                tracing::warn!(check = only, fault, "a health check failed");
                text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: reason withheld\n".to_owned())
            }
        });
    }
    let excluded: Vec<&str> = params.all("exclude").collect();
    let mut failed = false;
    let line = |Check { name, fault, .. }: &Check| match fault {
        _ if excluded.contains(name) => format!("[+]{name} excluded: ok\n"),
        None => format!("[+]{name} ok\n"),
        Some(fault) => {
            tracing::warn!(check = name, fault, "a health check failed");
            failed = true;
            format!("[-]{name} failed: reason withheld\n")
        }
    };
    let lines: String = checks.iter().map(line).collect();
    Ok(if failed {
        text(StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{endpoint} check failed\n"))
    } else if params.flag("verbose") {
        text(StatusCode::OK, format!("{lines}{endpoint} check passed\n"))
    } else {
        text(StatusCode::OK, "ok".to_owned())
    })
}

/// Answers `/metrics`.
pub(crate) fn metrics(observe: Option<&dyn Observe>) -> Result<Response> {
    let metrics = observe.ok_or(Error::UnknownResource)?.metrics();
    let mut response = text(StatusCode::OK, metrics);
    let version = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, version);
    Ok(response)
}

/// Answers `/configz`.
pub(crate) fn settings(observe: Option<&dyn Observe>) -> Result<Response> {
    Ok(json(StatusCode::OK, observe.ok_or(Error::UnknownResource)?.settings()))
}

fn text(code: StatusCode, text: String) -> Response {
    let mut response = (code, text).into_response();
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
