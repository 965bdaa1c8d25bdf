//! `GET …/pods/x/log`: a container's log as plain text, while it is written if the client follows it.
//!
//! Upstream: `pkg/registry/core/pod/rest/log.go`, `pkg/apis/core/validation/validation.go` (`ValidatePodLogOptions`),
//! v1.36.
//!
//! Invariant: each piece that the node gives is sent at once; a node that fails in the middle breaks the answer off, so
//! that no client takes half a log for a whole one.
//! Left out: `insecureSkipTLSVerifyBackend` is taken and means nothing, for no network lies between.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use stint_core::field::{Fault, Path, Value};

use super::Subject;
use super::node::{LogOptions, LogSource};
use crate::Api;
use crate::params::Params;
use crate::path::Place;
use crate::status::{Error, Result};

pub(super) async fn log(api: &Api, place: &Place, name: &str, params: &Params) -> Result<Response> {
    let options = options(params, name, api.clock.now())?;
    let subject = Subject::find(api, place, name)?;
    let container = subject.container(params.get("container"))?;
    if !subject.is_bound() {
        let mut nothing = Response::new(Body::empty());
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    let stream = subject.node(api)?.logs(container, options).await.map_err(Error::Node)?;
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// What the query asks for, or all that is wrong with it.
fn options(params: &Params, name: &str, now: Timestamp) -> Result<LogOptions> {
    let root = Path::root();
    let mut faults = Vec::new();
    let tail_lines = params.number("tailLines")?;
    if let Some(lines) = tail_lines.filter(|lines| *lines < 0) {
        faults.push(Fault::invalid(&root.field("tailLines"), lines, "must be greater than or equal to 0"));
    }
    let positive = |name: &'static str, faults: &mut Vec<Fault>| {
        let number = params.number(name)?;
        if let Some(number) = number.filter(|number| *number < 1) {
            faults.push(Fault::invalid(&root.field(name), number, "must be greater than 0"));
        }
        Ok::<_, Error>(number)
    };
    let limit_bytes = positive("limitBytes", &mut faults)?;
    let since_time = params.get("sinceTime").map(time).transpose()?;
    let since = match (params.get("sinceSeconds"), since_time) {
        (Some(_), Some(_)) => {
            params.number("sinceSeconds")?;
            faults.push(Fault::forbidden(&root, "at most one of `sinceTime` or `sinceSeconds` may be specified"));
            None
        }
        (_, since) => match positive("sinceSeconds", &mut faults)? {
            Some(seconds) => Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN)),
            None => since,
        },
    };
    let stream = match params.get("stream") {
        None | Some("All") => LogSource::All,
        Some("Stdout") => LogSource::Stdout,
        Some("Stderr") => LogSource::Stderr,
        Some(other) => {
            let value: Value = other.into();
            faults.push(Fault::not_supported(&root.field("stream"), value, &["All", "Stderr", "Stdout"]));
            LogSource::All
        }
    };
    if !matches!(params.get("stream"), None | Some("All")) && tail_lines.is_some() {
        faults.push(Fault::forbidden(&root, "`tailLines` and specific `stream` are mutually exclusive for now"));
    }
    if !faults.is_empty() {
        return Err(Error::Invalid { kind: "PodLogOptions", group: "", name: name.to_owned(), faults });
    }
    Ok(LogOptions {
        follow: params.flag("follow"),
        previous: params.flag("previous"),
        since,
        timestamps: params.flag("timestamps"),
        tail_lines: tail_lines.and_then(|lines| u64::try_from(lines).ok()),
        limit_bytes: limit_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        stream,
    })
}

fn time(text: &str) -> Result<Timestamp> {
    text.parse().map_err(|_| {
        Error::BadRequest(format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""
        ))
    })
}
