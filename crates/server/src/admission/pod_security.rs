//! Pod Security in requests: finds what the namespace's labels say, and does what `core::admission::pod_security` decides.
//!
//! Invariant: a pod that its namespace does not let be is neither made nor becomes so; of what makes pods it is only said.

use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stint_core::admission::pod_security::{self as rules, Policy, Verdict};
use stint_core::json;

use super::{Admission, all};
use crate::Api;
use crate::dispatch::reply;
use crate::kinds::Kind;
use crate::observe::Judgement;
use crate::path::Place;
use crate::status::{Error, Result};
use crate::strategy::Object;
use crate::update::Part;

/// What is said of a request that is carried out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    /// To the client.
    pub(crate) warnings: Vec<String>,
    /// In the audit log.
    pub(crate) audit: Option<String>,
}

/// What the audit log says of the request that a response answers.
#[derive(Clone, Debug)]
pub(crate) struct Audited(pub(crate) String);

impl Told {
    /// The answer, with what is said to the client after `warnings`, and what is for the audit log.
    pub(crate) fn reply(self, code: StatusCode, body: Bytes, mut warnings: Vec<String>) -> Response {
        warnings.extend(self.warnings);
        let mut response = reply(code, body, &warnings);
        if let Some(audit) = self.audit {
            response.extensions_mut().insert(Audited(audit));
        }
        response
    }
}

/// What is said of a new object, unless it is refused.
pub(crate) fn create(api: &Api, place: &Place, object: &dyn Object) -> Result<Told> {
    if api.admission == Admission::Bare {
        return Ok(Told::default());
    }
    if let Some(namespace) = object.as_any().downcast_ref::<Namespace>() {
        expect_labels(place, &namespace.metadata, None)?;
        return Ok(Told::default());
    }
    judge(api, place, object, "create")
}

/// What is said of an object that becomes another, unless that is refused.
pub(crate) fn update(api: &Api, place: &Place, part: Part, old: &dyn Object, new: &dyn Object) -> Result<Told> {
    if api.admission == Admission::Bare || !matches!(part, Part::Main | Part::EphemeralContainers) {
        return Ok(Told::default());
    }
    if let (Some(old), Some(new)) = (old.as_any().downcast_ref::<Namespace>(), new.as_any().downcast_ref::<Namespace>())
    {
        expect_labels(place, &new.metadata, Some(&old.metadata))?;
        let name = new.metadata.name.as_deref().unwrap_or_default();
        let warnings = rules::stricter(&new.metadata, &old.metadata)
            .map(|rules| rules::existing_pods(rules, name, &all::<Pod>(api, Some(name))))
            .unwrap_or_default();
        return Ok(Told { warnings, audit: None });
    }
    if let (Some(old), Some(new)) = (old.as_any().downcast_ref::<Pod>(), new.as_any().downcast_ref::<Pod>())
        && !rules::is_significant(new, old)
    {
        return Ok(Told::default());
    }
    judge(api, place, new, "update")
}

fn expect_labels(place: &Place, new: &ObjectMeta, old: Option<&ObjectMeta>) -> Result<()> {
    let faults = rules::label_faults(new, old);
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(place.kind, new.name.as_deref().unwrap_or_default(), faults))
}

/// Judges a pod or what makes pods.
fn judge(api: &Api, place: &Place, object: &dyn Object, operation: &'static str) -> Result<Told> {
    let any = object.as_any();
    let pod = any.downcast_ref::<Pod>();
    let template = template(object);
    let (Some(namespace), true) = (&place.namespace, pod.is_some() || template.is_some()) else {
        return Ok(Told::default());
    };
    let policy = policy_of(api, namespace);
    if policy.is_none() {
        return Ok(Told::default());
    }
    let (no_meta, no_spec) = (ObjectMeta::default(), PodSpec::default());
    let Verdict { refusal, warning, audit } = match (pod, template) {
        (Some(pod), _) => rules::judge_pod(&policy, pod),
        (None, template) => {
            let meta = template.and_then(|template| template.metadata.as_ref()).unwrap_or(&no_meta);
            let spec = template.and_then(|template| template.spec.as_ref()).unwrap_or(&no_spec);
            rules::judge_template(&policy, meta, spec)
        }
    };
    let told = [
        ("enforce", policy.enforce, refusal.is_some(), pod.is_some()),
        ("audit", policy.audit, audit.is_some(), false),
        ("warn", policy.warn, warning.is_some(), false),
    ];
    for (mode, rules, is_broken, counts_always) in told {
        if let Some(observe) = api.observe.as_ref().filter(|_| is_broken || counts_always) {
            let decision = if is_broken { "deny" } else { "allow" };
            let resource = if pod.is_some() { "pod" } else { "controller" };
            observe.judged(Judgement { decision, mode, rules, operation, resource });
        }
    }
    match refusal {
        Some(why) => Err(Error::refused(place.kind, object.meta().name.as_deref().unwrap_or_default(), why)),
        None => Ok(Told { warnings: warning.into_iter().collect(), audit }),
    }
}

/// What pods are made of, if the object makes any.
fn template(object: &dyn Object) -> Option<&PodTemplateSpec> {
    let any = object.as_any();
    let job = any.downcast_ref::<Job>().and_then(|job| job.spec.as_ref());
    let cron_job = || any.downcast_ref::<CronJob>().and_then(|cron_job| cron_job.spec.job_template.spec.as_ref());
    let template = || any.downcast_ref::<PodTemplate>().and_then(|template| template.template.as_ref());
    job.or_else(cron_job).map(|job| &job.template).or_else(template)
}

/// What a namespace says of its pods. One that is not there says nothing: nothing can be made in it.
fn policy_of(api: &Api, namespace: &str) -> Policy {
    let entry = api.store.get(&Kind::namespaces().key(None, namespace));
    let namespace: Option<Namespace> = entry.and_then(|entry| json::read(&entry.value).ok());
    namespace.map_or(Policy::NONE, |namespace| Policy::of(namespace.metadata.labels.as_ref()).0)
}
