//! Admission: what a cluster adds to new objects from other objects, and what it refuses because of them.
//!
//! Invariant: pure; the objects looked up are arguments. A refusal is the text that comes after `… is forbidden: `.
//! Left out: which of these a server applies, and how it finds the other objects (see the server's `admission`).

pub mod account;
pub mod limits;
pub mod pod_security;
pub mod priority;
pub mod quota;

use k8s_openapi::api::core::v1::{Pod, Toleration};

/// How long a pod stays on a node that is gone, if it says nothing else.
const TOLERATION_SECONDS: i64 = 300;

/// Lets the pod stay for five minutes on a node that is not ready or not reachable.
///
/// Upstream: `plugin/pkg/admission/defaulttolerationseconds/admission.go`, v1.36.
pub fn default_tolerations(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let tolerated = tolerations.iter().any(|toleration| {
            let (given, effect) = (text(&toleration.key), text(&toleration.effect));
            (given == key || given.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        });
        if !tolerated {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(TOLERATION_SECONDS),
                ..Toleration::default()
            });
        }
    }
}

/// Several refusals in one text, as upstream's aggregated errors.
pub(crate) fn joined(refusals: &[String]) -> Option<String> {
    match refusals {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_keeps_its_own_tolerations() {
        let mut pod = Pod::default();
        default_tolerations(&mut pod);
        assert_eq!(pod.spec.as_ref().unwrap().tolerations.as_ref().unwrap().len(), 2);
        let once = pod.clone();
        default_tolerations(&mut pod);
        assert_eq!(pod, once);
        let all = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        let mut pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": []}})).unwrap();
        pod.spec.as_mut().unwrap().tolerations = Some(vec![all]);
        default_tolerations(&mut pod);
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 1);
    }
}
