//! May I? May they? Who am I?
//!
//! Upstream: `pkg/registry/authorization/*/rest.go`, `pkg/registry/authentication/selfsubjectreview/rest.go`,
//! `pkg/apis/authorization/validation/validation.go`, `pkg/registry/authorization/util/helpers.go`, v1.36.
//! Left out: `fieldSelector` and `labelSelector` of resource attributes, which RBAC does not look at.

use bytes::Bytes;
use k8s_openapi::api::authentication::v1::{SelfSubjectReview, SelfSubjectReviewStatus};
use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceAttributes, NonResourceRule, ResourceAttributes, ResourceRule,
    SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::api::rbac::v1::PolicyRule;
use stint_auth::{Attributes, Resource, User, Verdict, escalation};
use stint_core::field::{Fault, Path, Value};

use super::endpoints::{Asked, answered};
use crate::Api;
use crate::status::{Error, Result};

const GROUP: &str = "authorization.k8s.io";

/// `SelfSubjectAccessReview`: may I?
pub(super) fn self_access(api: &Api, asked: &Asked<'_>) -> Result<Bytes> {
    let mut review: SelfSubjectAccessReview = asked.object()?;
    let spec = &review.spec;
    let faults = attribute_faults(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    expect_none("SelfSubjectAccessReview", faults)?;
    let attributes = attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    review.status = Some(status(decide(api, &api.user(), &attributes)));
    Ok(answered(&review))
}

/// `SubjectAccessReview`: may they?
pub(super) fn subject_access(api: &Api, asked: &Asked<'_>) -> Result<Bytes> {
    let mut review: SubjectAccessReview = asked.object()?;
    expect_none("SubjectAccessReview", spec_faults(&review.spec))?;
    review.status = Some(decide_for(api, &review.spec));
    Ok(answered(&review))
}

/// `LocalSubjectAccessReview`: may they, here?
pub(super) fn local_subject_access(api: &Api, asked: &Asked<'_>) -> Result<Bytes> {
    let mut review: LocalSubjectAccessReview = asked.object()?;
    let here = asked.namespace.unwrap_or_default();
    let given = review.metadata.namespace.get_or_insert_default();
    if given.is_empty() {
        here.clone_into(given);
    } else if given != here {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Error::BadRequest(why.into()));
    }
    let root = Path::root();
    let spec = root.field("spec");
    let mut faults = spec_faults(&review.spec);
    if let Some(attributes) = &review.spec.resource_attributes {
        let namespace = attributes.namespace.as_deref().unwrap_or_default();
        if namespace != here {
            let field = spec.field("resourceAttributes");
            let field = field.field("namespace");
            faults.push(Fault::invalid(&field, namespace, "must match metadata.namespace"));
        }
    }
    if let Some(attributes) = &review.spec.non_resource_attributes {
        let field = spec.field("nonResourceAttributes");
        faults.push(Fault::invalid(&field, Value::json(attributes), "disallowed on this kind of request"));
    }
    expect_none("LocalSubjectAccessReview", faults)?;
    review.status = Some(decide_for(api, &review.spec));
    Ok(answered(&review))
}

/// `SelfSubjectRulesReview`: what may I, in a namespace?
pub(super) fn self_rules(api: &Api, asked: &Asked<'_>) -> Result<Bytes> {
    let mut review: SelfSubjectRulesReview = asked.object()?;
    let namespace = review.spec.namespace.as_deref().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Error::BadRequest("no namespace on request".into()));
    }
    let user = api.user();
    let (rules, lost) = match &api.auth {
        Some(auth) => {
            let index = auth.policy.index();
            let (rules, lost) = index.rules_of(&user, namespace);
            (rules.into_iter().cloned().collect(), lost)
        }
        None => (escalation::everything().to_vec(), None),
    };
    review.status = Some(rules_status(&rules, lost));
    Ok(answered(&review))
}

fn rules_status(rules: &[PolicyRule], lost: Option<String>) -> SubjectRulesReviewStatus {
    let filled = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let about_paths = rules
        .iter()
        .filter(|rule| filled(&rule.non_resource_urls))
        .map(|rule| NonResourceRule { verbs: rule.verbs.clone(), non_resource_urls: rule.non_resource_urls.clone() });
    let about_resources = rules.iter().filter(|rule| filled(&rule.api_groups)).map(|rule| ResourceRule {
        verbs: rule.verbs.clone(),
        api_groups: rule.api_groups.clone(),
        resources: rule.resources.clone(),
        resource_names: rule.resource_names.clone(),
    });
    SubjectRulesReviewStatus {
        resource_rules: about_resources.collect(),
        non_resource_rules: about_paths.collect(),
        incomplete: false,
        evaluation_error: lost,
    }
}

/// `SelfSubjectReview`: who am I?
pub(super) fn self_subject(api: &Api, asked: &Asked<'_>) -> Result<Bytes> {
    let mut review: SelfSubjectReview = asked.object()?;
    review.status = Some(SelfSubjectReviewStatus { user_info: Some(api.user().as_ref().into()) });
    Ok(answered(&review))
}

fn decide_for(api: &Api, spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
    let user = User {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    let attributes = attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    status(decide(api, &user, &attributes))
}

fn decide(api: &Api, user: &User, asked: &Attributes) -> Verdict {
    match &api.auth {
        Some(auth) => auth.policy.decide(user, asked),
        None => Verdict { allowed: true, reason: String::new() },
    }
}

fn status(verdict: Verdict) -> SubjectAccessReviewStatus {
    SubjectAccessReviewStatus {
        allowed: verdict.allowed,
        reason: Some(verdict.reason).filter(|reason| !reason.is_empty()),
        ..SubjectAccessReviewStatus::default()
    }
}

/// One of them is there.
fn attributes(resource: Option<&ResourceAttributes>, path: Option<&NonResourceAttributes>) -> Attributes {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some(path) = path {
        return Attributes::path(&text(&path.verb), &text(&path.path));
    }
    let asked = resource.cloned().unwrap_or_default();
    let resource = Resource {
        group: text(&asked.group),
        version: text(&asked.version),
        resource: text(&asked.resource),
        subresource: text(&asked.subresource),
        namespace: text(&asked.namespace),
        name: text(&asked.name),
    };
    Attributes::resource(&text(&asked.verb), resource)
}

fn spec_faults(spec: &SubjectAccessReviewSpec) -> Vec<Fault> {
    let mut faults = attribute_faults(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    let user = spec.user.as_deref().unwrap_or_default();
    if user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let root = Path::root();
        let path = root.field("spec");
        faults.push(Fault::invalid(&path.field("user"), user, "at least one of user or group must be specified"));
    }
    faults
}

fn attribute_faults(resource: Option<&ResourceAttributes>, path: Option<&NonResourceAttributes>) -> Vec<Fault> {
    let root = Path::root();
    let spec = root.field("spec");
    match (resource, path) {
        (Some(_), Some(attributes)) => vec![Fault::invalid(
            &spec.field("nonResourceAttributes"),
            Value::json(attributes),
            "cannot be specified in combination with resourceAttributes",
        )],
        (None, None) => vec![Fault::invalid(
            &spec.field("resourceAttributes"),
            Value::bare("null"),
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        )],
        _ => Vec::new(),
    }
}

fn expect_none(kind: &'static str, faults: Vec<Fault>) -> Result<()> {
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::Invalid { kind, group: GROUP, name: String::new(), faults })
}
