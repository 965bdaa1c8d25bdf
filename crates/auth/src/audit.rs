//! The audit log: one JSON line per request, of who did what to which object, and how it was answered.
//!
//! ```text
//!   requests ── try_send ──▶ bounded queue ──▶ one thread ──▶ audit.log ─▶ audit.log.1 ─▶ audit.log.2 …
//! ```
//!
//! Invariant: a request never waits for the log. What the queue can't take is dropped, counted, and the count is said. The
//! lines hold no bodies, no headers, and no query values that may be secret.
//! Upstream: `apiserver/pkg/apis/audit/v1/types.go` (level Metadata), `apiserver/pkg/endpoints/filters/audit.go`, v1.36.
//! Left out: policies, other levels, webhooks; the end of long-running requests, which are told when they begin.

mod files;

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde::Serialize;

use self::files::Files;
use crate::{Attributes, User, What};

/// The path that stands for standard output.
pub const STDOUT: &str = "-";

/// Where the log is and how much of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The file; older ones are beside it, with `.1` and so on behind their names. [`STDOUT`]: standard output.
    pub path: PathBuf,
    /// How many bytes a file may have before the next is begun.
    pub bytes: u64,
    /// How many older files are kept.
    pub older: usize,
    /// How many lines may wait to be written.
    pub queue: usize,
    /// Whether requests have a line that only read, and may.
    pub reads: bool,
}

impl Options {
    /// The usual: up to five files of 20 MiB, and 4096 lines.
    pub fn new(path: PathBuf) -> Self {
        Self { path, bytes: 20 << 20, older: 4, queue: 4096, reads: true }
    }
}

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {}; make its folder writable, or choose another", path.display())]
pub struct OpenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What happened, but for its answer.
#[derive(Debug)]
pub struct Happened<'a> {
    /// The id by which the client knows the request.
    pub id: &'a str,
    /// When it came.
    pub received: Timestamp,
    /// Its path and query.
    pub uri: &'a str,
    /// The client's `User-Agent`.
    pub agent: &'a str,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// Who sent it. None: the credentials were not good.
    pub user: Option<&'a User>,
    /// As whom, if as somebody else.
    pub impersonated: Option<&'a User>,
    /// What was asked for.
    pub asked: &'a Attributes,
    /// Whether the request goes on after its answer has begun.
    pub long_running: bool,
    /// What Pod Security notes of it.
    pub violations: Option<&'a str>,
}

/// An `Event` of audit.k8s.io/v1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: &'a str,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: Cow<'a, str>,
    verb: &'a str,
    user: UserInfo,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<UserInfo>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    source_ips: Option<[IpAddr; 1]>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    response_status: ResponseStatus,
    request_received_timestamp: MicroTime,
    stage_timestamp: MicroTime,
    annotations: Annotations<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Serialize)]
struct ResponseStatus {
    metadata: Empty,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(rename = "authorization.k8s.io/decision")]
    decision: &'static str,
    #[serde(rename = "pod-security.kubernetes.io/audit-violations", skip_serializing_if = "Option::is_none")]
    violations: Option<&'a str>,
}

/// The log. Dropping it waits until everything is written.
#[derive(Debug)]
pub struct AuditLog {
    lines: Option<SyncSender<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
    reads: bool,
    writer: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Opens the log and begins to write.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let failed = |source| OpenError { path: options.path.clone(), source };
        let (lines, queue) = sync_channel(options.queue.max(1));
        let dropped = Arc::new(AtomicU64::new(0));
        let files = Files::open(options.clone()).map_err(failed)?;
        let counter = dropped.clone();
        let writer = std::thread::Builder::new().name("audit".into()).spawn(move || write(files, &queue, &counter));
        let writer = Some(writer.map_err(failed)?);
        Ok(Self { lines: Some(lines), dropped, reads: options.reads, writer })
    }

    /// Logs what happened and that it was answered with `code` at `answered`. Never waits.
    pub fn record(&self, happened: &Happened<'_>, code: u16, answered: Timestamp) {
        if !self.reads && code < 400 && only_reads(happened.asked) {
            return;
        }
        let line = line(happened, code, answered);
        let sent = self.lines.as_ref().map(|lines| lines.try_send(line));
        if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) = sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many lines are missing in the log.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the audit log's writer has panicked: its last lines may be missing");
        }
    }
}

/// Whether a request changes nothing. A connection to what runs in a pod may, whatever its method.
fn only_reads(asked: &Attributes) -> bool {
    let connects = match &asked.what {
        What::Path(_) => false,
        What::Resource(resource) => {
            matches!(resource.subresource.as_str(), "attach" | "exec" | "portforward" | "proxy")
        }
    };
    matches!(asked.verb.as_str(), "get" | "head" | "list" | "options" | "watch") && !connects
}

fn line(happened: &Happened<'_>, code: u16, answered: Timestamp) -> Vec<u8> {
    let object_ref = match &happened.asked.what {
        What::Path(_) => None,
        What::Resource(resource) => Some(ObjectRef {
            resource: &resource.resource,
            namespace: &resource.namespace,
            name: &resource.name,
            api_group: &resource.group,
            api_version: &resource.version,
            subresource: &resource.subresource,
        }),
    };
    let event = Event {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: "Metadata",
        audit_id: happened.id,
        stage: if happened.long_running { "ResponseStarted" } else { "ResponseComplete" },
        request_uri: without_secrets(happened.uri),
        verb: &happened.asked.verb,
        user: happened.user.map(UserInfo::from).unwrap_or_default(),
        impersonated_user: happened.impersonated.map(UserInfo::from),
        source_ips: happened.address.map(|address| [address]),
        user_agent: happened.agent,
        object_ref,
        response_status: ResponseStatus { metadata: Empty {}, code },
        request_received_timestamp: MicroTime(happened.received),
        stage_timestamp: MicroTime(answered),
        annotations: Annotations {
            decision: if matches!(code, 401 | 403) { "forbid" } else { "allow" },
            violations: happened.violations,
        },
    };
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The query parameters whose values are told.
const HARMLESS: &[&str] = &[
    "allowWatchBookmarks",
    "container",
    "continue",
    "dryRun",
    "exclude",
    "fieldManager",
    "fieldSelector",
    "fieldValidation",
    "follow",
    "force",
    "gracePeriodSeconds",
    "includeObject",
    "labelSelector",
    "limit",
    "limitBytes",
    "orphanDependents",
    "ports",
    "pretty",
    "previous",
    "propagationPolicy",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "sinceSeconds",
    "sinceTime",
    "stderr",
    "stdin",
    "stdout",
    "tailLines",
    "timeout",
    "timeoutSeconds",
    "timestamps",
    "tty",
    "verbose",
    "watch",
];

/// A request's path and query without the values that may be secret: commands to run in pods, and tokens that somebody has
/// put where they do not belong.
fn without_secrets(uri: &str) -> Cow<'_, str> {
    let Some((path, query)) = uri.split_once('?') else { return Cow::Borrowed(uri) };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if !HARMLESS.contains(&name) => Cow::Owned(format!("{name}=(left-out)")),
        _ => Cow::Borrowed(parameter),
    });
    let parameters: Vec<Cow<'_, str>> = parameters.collect();
    Cow::Owned(format!("{path}?{}", parameters.join("&")))
}

/// Writes lines until nobody can send any more.
fn write(mut files: Files, queue: &Receiver<Vec<u8>>, dropped: &AtomicU64) {
    let (mut said, mut failing) = (0, false);
    while let Ok(line) = queue.recv() {
        let mut result = files.begin().and_then(|()| files.write(&line));
        let mut lost = u64::from(result.is_err());
        // What waits already goes with it, then everything is handed to the kernel at once.
        while let Ok(line) = queue.try_recv() {
            let written = files.write(&line);
            lost += u64::from(written.is_err());
            result = result.and(written);
        }
        result = result.and(files.flush());
        dropped.fetch_add(lost, Ordering::Relaxed);
        match result {
            Err(error) if !failing => {
                failing = true;
                tracing::error!(path = %files.options.path.display(), %error, "cannot write the audit log; lines are lost until this is mended");
            }
            Err(_) => {}
            Ok(()) => failing = false,
        }
        let now = dropped.load(Ordering::Relaxed);
        if now != said {
            tracing::warn!(
                lost = now - said,
                in_all = now,
                "audit log: requests came faster than they could be logged"
            );
            said = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_query_values_known_to_be_harmless_are_told() {
        let rows = [
            ("/api/v1/pods", "/api/v1/pods"),
            ("/api/v1/pods?limit=5&watch=true", "/api/v1/pods?limit=5&watch=true"),
            (
                "/exec?container=c&command=login&command=--password%3Dx&stdin=true",
                "/exec?container=c&command=(left-out)&command=(left-out)&stdin=true",
            ),
            ("/api?access_token=x", "/api?access_token=(left-out)"),
            ("/api?%63ommand=x&token", "/api?%63ommand=(left-out)&token"),
        ];
        for (uri, expected) in rows {
            assert_eq!(without_secrets(uri), expected);
        }
    }
}
