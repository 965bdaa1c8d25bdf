//! `stint lint`: what is wrong with manifests, and what comes of them here otherwise than in a cluster, before anything is
//! applied and without asking anybody.
//!
//! ```text
//! files ─► core::manifest, strictly ─► the API server itself, over a store in memory, by dry runs ─► is it taken?
//!                                  └─► checks ─► what is otherwise on the side that it is for
//! ```
//!
//! Invariant: an object is valid here if and only if `stint serve` takes it, since the same code says so.
//! Left out: what depends on objects and images that are elsewhere.

mod checks;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::Client;
use kube::client::Body;
use serde::Serialize;
use serde_json::Value;
use stint_core::manifest::{self, Raw};
use stint_core::validate::unhonoured::{self, Outcome};
use stint_server::Api;
use stint_server::kinds::{KINDS, Kind, Scope};
use stint_store::Store;

use crate::args::{Format, LintArgs, Target};
use crate::client::{Part, client};
use crate::exit::Exit;
use crate::real::{RandomIds, SystemClock};
use crate::run::manifests;
use crate::zones;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is refused, or will not start.
    Breaks,
    /// It runs, otherwise than on the other side.
    Differs,
    /// It is as well to know.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Breaks => "breaks",
            Severity::Differs => "differs",
            Severity::Note => "note",
        })
    }
}

/// Something that there is to say about an object.
#[derive(Debug, Serialize)]
struct Finding {
    file: String,
    /// Where the object begins, or what is wrong with it; 0: nobody knows.
    line: usize,
    /// `CronJob "nightly"`, or nothing where there is no object.
    object: String,
    severity: Severity,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { file, line, object, severity, message } = self;
        let place = if *line == 0 { String::new() } else { format!(":{line}") };
        let separator = if object.is_empty() { "" } else { ": " };
        write!(f, "{file}{place}: {severity}: {object}{separator}{message}")
    }
}

/// Prints what there is to say.
pub fn main(args: &LintArgs) -> anyhow::Result<Exit> {
    zones::settle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let findings = runtime.context("can't start the async runtime")?.block_on(lint(&args.files, args.target))?;
    let text = match args.output {
        Some(Format::Json) => serde_json::to_string_pretty(&findings).context("can't write JSON")? + "\n",
        None => findings.iter().flat_map(|finding| [finding.to_string(), "\n".to_owned()]).collect(),
    };
    io::stdout().lock().write_all(text.as_bytes()).context("can't print")?;
    let breaks = findings.iter().any(|finding| finding.severity == Severity::Breaks);
    Ok(if breaks { Exit::Failed } else { Exit::Done })
}

async fn lint(files: &[PathBuf], target: Target) -> anyhow::Result<Vec<Finding>> {
    let api = Api::new(Store::in_memory(), Arc::new(SystemClock), Arc::new(RandomIds));
    let server = client(&stint_server::router(api), Part::Command);
    let mut findings = Vec::new();
    for (file, text) in manifests(files)? {
        let Some(text) = text else {
            let message = "the file is larger than a manifest may be".to_owned();
            findings.push(Finding { file, line: 0, object: String::new(), severity: Severity::Breaks, message });
            continue;
        };
        of_file(&server, &file, &text, target, &mut findings).await?;
    }
    Ok(findings)
}

async fn of_file(
    server: &Client,
    file: &str,
    text: &str,
    target: Target,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let (objects, documents) = match manifest::raw(text, file).and_then(|raw| Ok((raw, manifest::parse(text, file)?))) {
        Ok(both) => both,
        Err(error) => {
            let finding = |problem: manifest::Problem| Finding {
                file: file.to_owned(),
                line: problem.line,
                object: String::new(),
                severity: Severity::Breaks,
                message: problem.message,
            };
            findings.extend(error.problems.into_iter().map(finding));
            return Ok(());
        }
    };
    for (Raw { line, value }, document) in objects.iter().zip(&documents) {
        let mut said = asked(server, value, target).await?;
        said.extend(checks::of(document, target, Timestamp::now()));
        said.sort_by_key(|(severity, _)| *severity);
        let finding = |(severity, message)| Finding {
            file: file.to_owned(),
            line: *line,
            object: format!("{} \"{}\"", text_at(value, "/kind"), text_at(value, "/metadata/name")),
            severity,
            message,
        };
        findings.extend(said.into_iter().map(finding));
    }
    Ok(())
}

fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What the API server says to the object.
async fn asked(server: &Client, object: &Value, target: Target) -> anyhow::Result<Vec<(Severity, String)>> {
    let (version, kind) = (text_at(object, "/apiVersion"), text_at(object, "/kind"));
    let Some(known) = KINDS.iter().find(|known| known.api_version == version && known.kind == kind) else {
        return Ok(vec![match target {
            Target::Stint => (Severity::Breaks, format!("{version} {kind} is not served: nothing here knows the kind")),
            Target::Cluster => (Severity::Note, format!("{version} {kind} is not known here, and not looked at")),
        }]);
    };
    let request = Request::post(path(known, object)).header("Content-Type", "application/json");
    let request =
        request.body(Body::from(object.to_string().into_bytes())).context("a name is no part of an address")?;
    let answer = server.send(request).await.context("the API server in this process fails")?;
    let (head, body) = answer.into_parts();
    let warnings = head.headers.get_all("Warning").iter().filter_map(|value| warning(value.to_str().ok()?));
    let mut said: Vec<(Severity, String)> = warnings.filter_map(|text| Some((weight(&text, target)?, text))).collect();
    if head.status.is_success() {
        return Ok(said);
    }
    let body = body.collect_bytes().await.context("the API server in this process breaks off")?;
    let status: Status =
        serde_json::from_slice(&body).map_err(|_| anyhow!("the API server answers {}", head.status))?;
    if head.status == 405 && target == Target::Cluster {
        said.push((Severity::Note, format!("{version} {kind} is not made here, and not looked at")));
        return Ok(said);
    }
    let refused = |text: String| (Severity::Breaks, text);
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let cause = |field: Option<String>, message: Option<String>| match (field, message.unwrap_or_default()) {
        (Some(field), message) if !field.is_empty() => format!("{field}: {message}"),
        (_, message) => message,
    };
    if causes.is_empty() {
        said.push(refused(status.message.unwrap_or_default()));
    }
    said.extend(causes.into_iter().map(|one| refused(cause(one.field, one.message))));
    Ok(said)
}

/// How much a warning of the API matters; not at all, if it is about this node and the object is for another.
fn weight(warning: &str, target: Target) -> Option<Severity> {
    match (unhonoured::outcome(warning), target) {
        (None, _) => Some(Severity::Note),
        (Some(_), Target::Cluster) => None,
        (Some(Outcome::NotStarted), Target::Stint) => Some(Severity::Breaks),
        (Some(Outcome::PassedOver), Target::Stint) => Some(Severity::Differs),
    }
}

/// Where the object would be created, in a dry run.
fn path(kind: &Kind, object: &Value) -> String {
    let group = if kind.group.is_empty() { "api" } else { "apis" };
    let namespace = match (kind.scope, text_at(object, "/metadata/namespace")) {
        (Scope::Cluster, _) => String::new(),
        (Scope::Namespaced, "") => "namespaces/default/".to_owned(),
        (Scope::Namespaced, name) => format!("namespaces/{name}/"),
    };
    format!("/{group}/{}/{namespace}{}?dryRun=All&fieldValidation=Strict", kind.api_version, kind.plural)
}

/// The text in a `Warning` header.
fn warning(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 - \"")?.strip_suffix('"')?;
    Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_told_as_compilers_do() {
        let mut finding = Finding {
            file: "a.yaml".to_owned(),
            line: 3,
            object: "Job \"j\"".to_owned(),
            severity: Severity::Breaks,
            message: "no".to_owned(),
        };
        assert_eq!(finding.to_string(), "a.yaml:3: breaks: Job \"j\": no");
        (finding.line, finding.object) = (0, String::new());
        assert_eq!(finding.to_string(), "a.yaml: breaks: no");
    }

    #[test]
    fn a_warning_is_read_as_it_was_meant() {
        assert_eq!(warning(r#"299 - "a \"b\" \\c""#).as_deref(), Some(r#"a "b" \c"#));
        assert_eq!(warning("199 - x"), None);
    }
}
