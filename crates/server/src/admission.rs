//! Admission of new objects: finds the objects that decide about them, and does what `core::admission` says.
//!
//! How much pods may ask for in their namespace is [`pod_security`].
//!
//! Invariant: two objects that fit into a quota alone and not together are never both made: whoever makes an object in a
//! namespace with quotas holds one lock from counting to writing.
//! Left out: changes of objects. Upstream checks limits and quotas again when a pod is resized or a claim grows; the
//! first isn't served, the second is not counted until the next creation.

pub(crate) mod pod_security;

use std::time::Duration;

use k8s_openapi::api::core::v1::{LimitRange, PersistentVolumeClaim, Pod, ResourceQuota, Service, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::de::DeserializeOwned;
use stint_core::admission::quota::{self, Amounts, Counted};
use stint_core::admission::{account, default_tolerations, limits, priority};
use stint_core::json;
use stint_store::{Mutation, Outcome};
use tokio::sync::MutexGuard;
use tokio::time::timeout;

use crate::Api;
use crate::kinds::{KINDS, Kind};
use crate::path::Place;
use crate::status::{Error, Result};
use crate::strategy::{Object, Strategy};
use crate::update::write;

/// How long a pod may wait for the ServiceAccount that every namespace has.
const ACCOUNT_APPEARS: Duration = Duration::from_secs(1);

/// What is done to new objects besides defaulting and validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Admission {
    /// Nothing: the manifests of one run.
    #[default]
    Bare,
    /// What a cluster does: accounts, tolerations, priorities, limits and quotas.
    Cluster,
}

/// The kind whose objects are `T`s.
fn kind_of<T: Strategy>() -> &'static Kind {
    let found = KINDS.iter().find(|kind| kind.kind == T::KIND && kind.group == T::GROUP);
    found.expect("admission looks only at kinds of the table")
}

/// The stored objects of a kind, of one namespace or of all.
fn all<T: Strategy>(api: &Api, namespace: Option<&str>) -> Vec<T> {
    let listing = api.store.list(&kind_of::<T>().prefix(namespace));
    listing.entries.iter().filter_map(|entry| T::load(&entry.value).ok()).collect()
}

fn one<T: Strategy>(api: &Api, namespace: Option<&str>, name: &str) -> Option<T> {
    T::load(&api.store.get(&kind_of::<T>().key(namespace, name))?.value).ok()
}

/// Adds to a new object what other objects say, before it is validated.
pub(crate) async fn mutate(api: &Api, place: &Place, object: &mut dyn Object) -> Result<()> {
    if api.admission == Admission::Bare {
        return Ok(());
    }
    let namespace = place.namespace.as_deref();
    let shown = object.meta().name.clone().unwrap_or_default();
    let refuse = |why: String| Err(Error::refused(place.kind, &shown, why));
    let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else {
        return Ok(());
    };
    let name = account::name(pod);
    let Some(account) = account_of(api, namespace, &name).await else {
        let namespace = namespace.unwrap_or_default();
        return refuse(format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ));
    };
    account::admit(pod, &account, &api.ids.suffix());
    default_tolerations(pod);
    let class = match priority::class_name(pod) {
        Some(name) => match one::<PriorityClass>(api, None, name) {
            Some(class) => Some(class),
            None => return refuse(priority::missing(name)),
        },
        None => priority::usual(&all(api, None)).cloned(),
    };
    if let Err(why) = priority::admit(pod, class.as_ref()) {
        return refuse(why);
    }
    limits::default_pod(pod, &all::<LimitRange>(api, namespace));
    object.default_fields();
    Ok(())
}

/// A pod's account. The usual one is made by a controller soon after its namespace, so it is waited for, as upstream does.
async fn account_of(api: &Api, namespace: Option<&str>, name: &str) -> Option<ServiceAccount> {
    let found = one(api, namespace, name);
    if found.is_some() || name != account::DEFAULT {
        return found;
    }
    let key = kind_of::<ServiceAccount>().key(namespace, name);
    let mut made = api.store.watch(&key, api.store.revision()).ok()?;
    let appears = async {
        loop {
            if let Some(account) = one(api, namespace, name) {
                return Some(account);
            }
            made.next().await?.ok()?;
        }
    };
    timeout(ACCOUNT_APPEARS, appears).await.ok()?
}

/// What has to be held until an admitted object is written.
pub(crate) struct Admitted<'a>(#[allow(dead_code, reason = "it is held, not read")] Option<MutexGuard<'a, ()>>);

/// Refuses a valid object for which there is no room.
pub(crate) async fn validate<'a>(
    api: &'a Api,
    place: &Place,
    object: &dyn Object,
    dry_run: bool,
) -> Result<Admitted<'a>> {
    if api.admission == Admission::Bare {
        return Ok(Admitted(None));
    }
    let Some(namespace) = place.namespace.as_deref() else { return Ok(Admitted(None)) };
    let name = object.meta().name.clone().unwrap_or_default();
    let bounds = || all::<LimitRange>(api, Some(namespace));
    let refusal = if let Some(pod) = object.as_any().downcast_ref::<Pod>() {
        limits::check_pod(pod, &bounds())
    } else if let Some(claim) = object.as_any().downcast_ref::<PersistentVolumeClaim>() {
        limits::check_claim(claim, &bounds())
    } else {
        None
    };
    if let Some(why) = refusal {
        return Err(Error::refused(place.kind, &name, why));
    }
    let resource = place.kind.qualified_plural();
    let concerned = |quota: &ResourceQuota| {
        let spec = quota.spec.as_ref();
        spec.is_some_and(|spec| quota::concerns(spec.hard.iter().flat_map(|hard| hard.keys()), &resource))
    };
    if !all::<ResourceQuota>(api, Some(namespace)).iter().any(concerned) {
        return Ok(Admitted(None));
    }
    let guard = api.quotas.lock().await;
    let object = counted(object.as_any());
    let wanted = quota::usage(&resource, object);
    for quota in all::<ResourceQuota>(api, Some(namespace)) {
        if !concerned(&quota) || !quota::matches(&quota, object) {
            continue;
        }
        let used = used(api, namespace, &quota);
        let total =
            quota::check(&quota, object, &wanted, &used).map_err(|why| Error::refused(place.kind, &name, why))?;
        if !dry_run {
            record(api, namespace, &quota, &total).await?;
        }
    }
    Ok(Admitted(Some(guard)))
}

fn counted(object: &dyn std::any::Any) -> Counted<'_> {
    let pod = object.downcast_ref().map(Counted::Pod);
    let claim = || object.downcast_ref().map(Counted::Claim);
    let service = || object.downcast_ref().map(Counted::Service);
    pod.or_else(claim).or_else(service).unwrap_or(Counted::Other)
}

/// What the objects of a namespace use of what a quota limits.
fn used(api: &Api, namespace: &str, quota: &ResourceQuota) -> Amounts {
    let hard = quota::hard(quota);
    let mut used = Amounts::new();
    quota::add(quota, &mut used, &Amounts::new());
    // An event counts once, though it has two kinds.
    let own = KINDS.iter().filter(|kind| kind.facts.storage_group == kind.group);
    for kind in own.filter(|kind| quota::concerns(hard.keys(), &kind.qualified_plural())) {
        let resource = kind.qualified_plural();
        for entry in api.store.list(&kind.prefix(Some(namespace))).entries {
            let stored = Stored::of(&resource, &entry.value);
            let object = stored.counted();
            if quota::matches(quota, object) {
                quota::add(quota, &mut used, &quota::usage(&resource, object));
            }
        }
    }
    used
}

/// A stored object, decoded where quotas look into it.
enum Stored {
    Pod(Box<Pod>),
    Claim(Box<PersistentVolumeClaim>),
    Service(Box<Service>),
    Other,
}

impl Stored {
    fn of(resource: &str, value: &[u8]) -> Self {
        fn read<T: DeserializeOwned>(value: &[u8]) -> Option<Box<T>> {
            json::read(value).ok().map(Box::new)
        }
        let known = match resource {
            "pods" => read(value).map(Self::Pod),
            "persistentvolumeclaims" => read(value).map(Self::Claim),
            "services" => read(value).map(Self::Service),
            _ => None,
        };
        known.unwrap_or(Self::Other)
    }

    fn counted(&self) -> Counted<'_> {
        match self {
            Self::Pod(pod) => Counted::Pod(pod),
            Self::Claim(claim) => Counted::Claim(claim),
            Self::Service(service) => Counted::Service(service),
            Self::Other => Counted::Other,
        }
    }
}

/// Writes into a quota's status what is used with the object that comes now. Somebody else's change of the quota wins.
async fn record(api: &Api, namespace: &str, quota: &ResourceQuota, total: &Amounts) -> Result<()> {
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let key = kind_of::<ResourceQuota>().key(Some(namespace), name);
    let Some(entry) = api.store.get(&key) else { return Ok(()) };
    let Ok(mut stored) = ResourceQuota::load(&entry.value) else { return Ok(()) };
    stored.status = Some(quota::status(&stored, total));
    stored.metadata.resource_version = None;
    let encoded = Object::encode(&stored);
    if !encoded.says_the_same_as(&entry.value) {
        let mutation = Mutation::update(entry.key.clone(), entry.revision, move |revision| encoded.at(revision));
        match write(api, mutation).await? {
            Outcome::Written(_) | Outcome::Conflict { .. } => {}
        }
    }
    Ok(())
}
