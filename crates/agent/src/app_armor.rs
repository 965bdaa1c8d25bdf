//! Which AppArmor profile a container has, and whether it can have it.
//!
//! Invariant: nothing runs without the profile that it asks for.
//!
//! Upstream: `pkg/security/apparmor/helpers.go` (`GetProfile`) for whose word counts; containerd's
//! `internal/cri/server/container_create.go` (`generateApparmorSpecOpts`) for what becomes of it, and for the words.

use std::io;

use k8s_openapi::api::core::v1::{Container, Pod};
use stint_runtime::app_armor::{self, DEFAULT_PROFILE};

use crate::error::{Error, chain};
use crate::spec::is_privileged;
use crate::worker::blocking;

/// What precedes the name of a container in the annotation that was there before the field.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What a container asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    /// Nothing: it has what the others have.
    Usual,
    /// No profile, or everything that the machine has.
    Unconfined,
    /// The default profile.
    Default,
    /// A profile of the node's.
    Named(&'a str),
}

/// The profile that a container has, which the kernel knows; `None` for none.
pub(crate) async fn profile_of(pod: &Pod, container: &Container) -> Result<Option<String>, Error> {
    match wanted(pod, container)? {
        Wanted::Unconfined => Ok(None),
        Wanted::Usual if !app_armor::can_load() => Ok(None),
        _ if !app_armor::is_enabled() => Err(refused("apparmor is not supported")),
        Wanted::Usual | Wanted::Default => {
            blocking(|| app_armor::load_default().map_err(|error| refused(&chain(&error)))).await?;
            Ok(Some(DEFAULT_PROFILE.to_owned()))
        }
        Wanted::Named(name) => match app_armor::is_loaded(name) {
            Ok(true) => Ok(Some(name.to_owned())),
            // Then it is the start that fails.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Some(name.to_owned())),
            Ok(false) => Err(refused(&format!("apparmor profile not found {name}"))),
            Err(error) => Err(refused(&error.to_string())),
        },
    }
}

fn refused(why: &str) -> Error {
    Error::Create(format!("failed to get container spec opts: failed to generate apparmor spec opts: {why}"))
}

/// The container's word, else that of the annotation for it, else the pod's.
fn wanted<'a>(pod: &'a Pod, container: &'a Container) -> Result<Wanted<'a>, Error> {
    let own = container.security_context.as_ref().and_then(|own| own.app_armor_profile.as_ref());
    let annotations = pod.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| of_annotation(all.get(&format!("{ANNOTATION}{}", container.name))?));
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.app_armor_profile.as_ref());
    let wanted = match (own, annotated) {
        (None, Some(annotated)) => annotated,
        (own, _) => match own.or(of_pod).map(|profile| (profile.type_.as_str(), &profile.localhost_profile)) {
            None => Wanted::Usual,
            Some(("Unconfined", _)) => Wanted::Unconfined,
            Some(("RuntimeDefault", _)) => Wanted::Default,
            Some(("Localhost", Some(name))) => Wanted::Named(name),
            Some(("Localhost", None)) => return Err(Error::config("missing localhost apparmor profile name")),
            Some((other, _)) => {
                return Err(Error::config(format!("securityContext.appArmorProfile.type {other:?} is not known")));
            }
        },
    };
    Ok(match wanted {
        Wanted::Usual | Wanted::Default if is_privileged(container) => Wanted::Unconfined,
        other => other,
    })
}

fn of_annotation(text: &str) -> Option<Wanted<'_>> {
    match text {
        "unconfined" => Some(Wanted::Unconfined),
        "runtime/default" => Some(Wanted::Default),
        other => other.strip_prefix("localhost/").map(Wanted::Named),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What the container asks for, of the pod's profile, its annotation, and its own security context.
    fn asked(pod: &Value, annotation: Option<&str>, own: &Value) -> String {
        let annotations = annotation.map(|text| json!({format!("{ANNOTATION}c"): text}));
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"securityContext": {"appArmorProfile": pod}, "containers": [{"name": "c", "securityContext": own}]},
        }))
        .unwrap();
        match wanted(&pod, &pod.spec.as_ref().unwrap().containers[0]) {
            Ok(wanted) => format!("{wanted:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_containers_word_counts_then_its_annotation_then_the_pods() {
        let nothing = Value::Null;
        let of = |kind: &str| json!({"type": kind});
        let named = |name: &str| json!({"type": "Localhost", "localhostProfile": name});
        let own = |profile: Value| json!({"appArmorProfile": profile});
        let (default, loose) = (of("RuntimeDefault"), of("Unconfined"));
        for (pod, annotation, own, expected) in [
            (&nothing, None, json!({}), "Usual"),
            (&default, None, json!({}), "Default"),
            (&default, None, own(loose.clone()), "Unconfined"),
            (&loose, None, own(named("a b")), r#"Named("a b")"#),
            (&loose, Some("localhost/k8s"), json!({}), r#"Named("k8s")"#),
            (&nothing, Some("runtime/default"), json!({}), "Default"),
            (&default, Some("unconfined"), json!({}), "Unconfined"),
            (&nothing, Some("unconfined"), own(default.clone()), "Default"),
            (&default, Some("nonsense"), json!({}), "Default"),
            (&nothing, None, own(of("Localhost")), "missing localhost apparmor profile name"),
        ] {
            assert_eq!(asked(pod, annotation, &own), expected, "{pod} {annotation:?} {own}");
        }
    }

    #[test]
    fn a_privileged_container_has_a_profile_only_by_name() {
        for (profile, expected) in [
            (Value::Null, "Unconfined"),
            (json!({"type": "RuntimeDefault"}), "Unconfined"),
            (json!({"type": "Localhost", "localhostProfile": "p"}), r#"Named("p")"#),
        ] {
            let own = json!({"privileged": true, "appArmorProfile": profile});
            assert_eq!(asked(&Value::Null, None, &own), expected, "{own}");
        }
    }
}
