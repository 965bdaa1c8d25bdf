//! Pod Security: how much a pod may ask for in its namespace, by the namespace's labels.
//!
//! Three modes, each at a level and a version of the rules: `enforce` refuses pods, `warn` warns whoever creates them or
//! what makes them (Jobs, CronJobs, pod templates), `audit` notes it in the audit log.
//!
//! Invariant: messages are upstream's word for word; labels that can't be understood count as `restricted` for `enforce`
//! and as nothing for the other modes.
//! Left out: exemptions by user, namespace and RuntimeClass, which are a cluster's configuration; what upstream does in a
//! cluster that has none is what is done here.
//! Upstream: `staging/src/k8s.io/pod-security-admission/{admission,api}`, v1.36.

mod baseline;
mod checks;
mod restricted;
mod subject;

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use checks::{Violation, violations};

use crate::field::{Fault, Path};

const PREFIX: &str = "pod-security.kubernetes.io/";
const LEVELS: &str = "must be one of privileged, baseline, restricted";
const VERSIONS: &str = "must be \"latest\" or \"v1.x\"";
/// How many pods are looked at when a namespace gets stricter.
const MOST_PODS: usize = 3000;

/// How much pods may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Anything.
    Privileged,
    /// Nothing that is known to give them the node.
    Baseline,
    /// As little as is good practice.
    Restricted,
}

/// Of which Kubernetes the rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The newest.
    Latest,
    /// 1.x.
    Minor(u32),
}

/// Rules: a level, at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How strict.
    pub level: Level,
    /// As of when.
    pub version: Version,
}

/// What a namespace says of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What pods must keep.
    pub enforce: Rules,
    /// What is noted in the audit log if it is not kept.
    pub audit: Rules,
    /// What is warned about if it is not kept.
    pub warn: Rules,
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Latest => f.write_str("latest"),
            Version::Minor(minor) => write!(f, "v1.{minor}"),
        }
    }
}

impl Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let digits = text.strip_prefix("v1.")?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
        digits.parse().ok().filter(|_| is_number).map(Version::Minor)
    }
}

const ANYTHING: Rules = Rules { level: Level::Privileged, version: Version::Latest };

impl Policy {
    /// What a namespace without labels says.
    pub const NONE: Policy = Policy { enforce: ANYTHING, audit: ANYTHING, warn: ANYTHING };

    /// What a namespace's labels say, and what is wrong with them.
    pub fn of(labels: Option<&BTreeMap<String, String>>) -> (Policy, Vec<Fault>) {
        let mut policy = Policy::NONE;
        let mut faults = Vec::new();
        let Some(labels) = labels.filter(|labels| !labels.is_empty()) else { return (policy, faults) };
        for (mode, rules, unknown) in [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ] {
            let root = Path::root();
            let path = root.field("metadata.labels");
            let mut fault =
                |key: &str, value: &str, detail: &str| faults.push(Fault::invalid(&path.key(key), value, detail));
            let key = format!("{PREFIX}{mode}");
            if let Some(text) = labels.get(&key) {
                rules.level = Level::parse(text).unwrap_or_else(|| {
                    fault(&key, text, LEVELS);
                    unknown
                });
            }
            let key = format!("{PREFIX}{mode}-version");
            if let Some(text) = labels.get(&key) {
                rules.version = Version::parse(text).unwrap_or_else(|| {
                    fault(&key, text, VERSIONS);
                    Version::Latest
                });
            }
        }
        (policy, faults)
    }

    /// Whether pods may be anything, and nobody wants to know.
    pub fn is_none(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|rules| rules.level == Level::Privileged)
    }
}

/// What is said of a pod, or of what makes pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is refused.
    pub refusal: Option<String>,
    /// What its creator is warned of.
    pub warning: Option<String>,
    /// What the audit log says of it.
    pub audit: Option<String>,
}

/// Judges a pod.
pub fn judge_pod(policy: &Policy, pod: &Pod) -> Verdict {
    let nothing = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&nothing);
    let refusal = told(policy.enforce, &pod.metadata, spec).map(|told| format!("violates PodSecurity {told}"));
    let warning = told(policy.warn, &pod.metadata, spec).filter(|_| refusal.is_none());
    Verdict {
        warning: warning.as_deref().map(would),
        audit: told(policy.audit, &pod.metadata, spec).as_deref().map(would),
        refusal,
    }
}

/// Judges what makes pods from a template: it is never refused, its pods are.
pub fn judge_template(policy: &Policy, meta: &ObjectMeta, spec: &PodSpec) -> Verdict {
    let told = |rules| told(rules, meta, spec).as_deref().map(would);
    Verdict { refusal: None, warning: told(policy.warn), audit: told(policy.audit) }
}

fn would(told: &str) -> String {
    format!("would violate PodSecurity {told}")
}

/// The rules that are not kept, and how.
fn told(rules: Rules, meta: &ObjectMeta, spec: &PodSpec) -> Option<String> {
    let violations = violations(rules, meta, spec);
    let one = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    };
    let all: Vec<String> = violations.iter().map(one).collect();
    (!all.is_empty()).then(|| format!("\"{rules}\": {}", all.join(", ")))
}

/// Whether a change of a pod may change what is said of it: another image, container or profile.
pub fn is_significant(new: &Pod, old: &Pod) -> bool {
    fn of(pod: &Pod, key: &str) -> Option<String> {
        pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key).cloned())
    }
    let profile = |name: &str| format!("container.seccomp.security.alpha.kubernetes.io/{name}");
    let differs = |key: &str| of(new, key) != of(old, key);
    let (nothing, mut images) = (PodSpec::default(), Vec::new());
    for pod in [new, old] {
        let spec = pod.spec.as_ref().unwrap_or(&nothing);
        let main = spec.init_containers.iter().flatten().chain(&spec.containers);
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let one = |container: &Container| (container.name.clone(), container.image.clone());
        images
            .push(main.map(one).chain(ephemeral.map(|one| (one.name.clone(), one.image.clone()))).collect::<Vec<_>>());
    }
    differs("seccomp.security.alpha.kubernetes.io/pod")
        || images[0] != images[1]
        || images[0].iter().any(|(name, _)| differs(&profile(name)))
}

/// What is wrong with a namespace's new labels; what was wrong before may stay.
pub fn label_faults(new: &ObjectMeta, old: Option<&ObjectMeta>) -> Vec<Fault> {
    let (_, faults) = Policy::of(new.labels.as_ref());
    let (_, before) = Policy::of(old.and_then(|old| old.labels.as_ref()));
    if old.is_some() && faults == before { Vec::new() } else { faults }
}

/// Whether a namespace that becomes so enforces rules that its pods may not keep; and then which.
pub fn stricter(new: &ObjectMeta, old: &ObjectMeta) -> Option<Rules> {
    let (new, old) = (Policy::of(new.labels.as_ref()).0.enforce, Policy::of(old.labels.as_ref()).0.enforce);
    let is_laxer = new.level == Level::Privileged || new.version == old.version && new.level <= old.level;
    (new != old && !is_laxer).then_some(new)
}

/// What is warned of when a namespace enforces stricter rules than its pods keep: pods go on, and new ones are refused.
pub fn existing_pods(rules: Rules, namespace: &str, pods: &[Pod]) -> Vec<String> {
    let nothing = PodSpec::default();
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(MOST_PODS) {
        let violations = violations(rules, &pod.metadata, pod.spec.as_ref().unwrap_or(&nothing));
        let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason.as_str()).collect();
        if !reasons.is_empty() {
            by_reason.entry(reasons.join(", ")).or_default().push(pod.metadata.name.as_deref().unwrap_or_default());
        }
    }
    let mut told: Vec<String> = by_reason
        .iter()
        .map(|(reasons, names)| {
            let first = names.iter().min().copied().unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                all => format!("{first} (and {} other pods): {reasons}", all - 1),
            }
        })
        .collect();
    told.sort();
    if !told.is_empty() {
        told.insert(
            0,
            format!("existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{rules}\""),
        );
    }
    if pods.len() > MOST_PODS {
        let all = pods.len();
        let what = "new PodSecurity enforce level only checked against the first";
        told.insert(0, format!("{what} {MOST_PODS} of {all} existing pods"));
    }
    told
}

#[cfg(test)]
mod tests;
