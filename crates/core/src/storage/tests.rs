//! Lives of claims and volumes, each driven to its end by applying what is decided to what is there.
#![allow(clippy::needless_pass_by_value)] // `json!` reads best by value

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use serde_json::{Value, json};

use super::*;

/// What is there, as JSON, and all that was told.
#[derive(Default)]
struct World {
    view: View,
    told: Vec<String>,
    writes: usize,
}

impl World {
    fn new() -> World {
        let provisioner = Provisioner { node: "n".to_owned(), folder: "/data/volumes".into() };
        let mut world = World { view: View { provisioner, ..View::default() }, ..World::default() };
        world.class(class(&BTreeMap::new()).unwrap());
        world
    }

    fn class(&mut self, class: Value) {
        let class: StorageClass = serde_json::from_value(class).unwrap();
        self.view.classes.insert(class.metadata.name.clone().unwrap(), class);
    }

    fn claim(&mut self, name: &str, mut spec: Value) -> &mut World {
        if spec["accessModes"].is_null() {
            spec["accessModes"] = json!(["ReadWriteOnce"]);
        }
        if spec["resources"].is_null() {
            spec["resources"] = json!({ "requests": { "storage": "1Gi" } });
        }
        let claim = json!({ "metadata": { "name": name, "namespace": "ns", "uid": format!("uid-{name}") },
                            "spec": spec, "status": { "phase": "Pending" } });
        let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
        self.view.claims.insert(key(&claim), claim);
        self
    }

    fn volume(&mut self, name: &str, size: &str, mut spec: Value) -> &mut World {
        spec["capacity"] = json!({ "storage": size });
        if spec["accessModes"].is_null() {
            spec["accessModes"] = json!(["ReadWriteOnce"]);
        }
        let labels = spec.as_object_mut().unwrap().remove("labels");
        let volume =
            json!({ "metadata": { "name": name, "labels": labels }, "spec": spec, "status": { "phase": "Pending" } });
        let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
        self.view.volumes.insert(name.to_owned(), volume);
        self
    }

    fn pod(&mut self, name: &str, claim: &str, is_assigned: bool) {
        let claims = vec![("ns".to_owned(), claim.to_owned())];
        self.view.pods.insert(name.to_owned(), Uses { claims, is_assigned });
    }

    /// Takes every decision until none is left, volumes and claims in turn.
    fn settle(&mut self) -> &mut World {
        for _ in 0..100 {
            let claims = self.view.claims.values().filter_map(|one| claim(one, &self.view));
            let volumes = self.view.volumes.values().filter_map(|one| volume(one, &self.view));
            let steps: Vec<Step<Action>> = claims.chain(volumes).collect();
            let fresh = steps.iter().flat_map(|step| &step.events).map(|event| match &event.note {
                Note::Text(text) => format!("{} {} {text}", event.severity.as_str(), event.reason),
                Note::Pod(_) => unreachable!("nothing is said of pods"),
            });
            for text in fresh.collect::<Vec<_>>() {
                if !self.told.contains(&text) {
                    self.told.push(text);
                }
            }
            let Some(step) = steps.into_iter().find(|step| step.action != Action::Announce) else { return self };
            self.apply(step.action);
        }
        panic!("it never comes to rest");
    }

    fn apply(&mut self, action: Action) {
        self.writes += 1;
        match action {
            Action::Announce => {}
            Action::CreateVolume(volume) => {
                let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
                self.view.volumes.insert(volume.metadata.name.clone().unwrap(), volume);
            }
            Action::PatchVolume(name, patch) | Action::PatchVolumeStatus(name, patch) => {
                let volume = merged(&self.view.volumes[&name], &patch);
                self.put_volume(volume);
            }
            Action::DeleteVolume(name) => {
                let patch = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
                let volume = merged(&self.view.volumes[&name], &patch);
                self.put_volume(volume);
            }
            Action::PatchClaim(key, patch) | Action::PatchClaimStatus(key, patch) => {
                let claim: PersistentVolumeClaim = merged(&self.view.claims[&key], &patch);
                self.view.claims.insert(key.clone(), claim.clone());
                if claim.metadata.deletion_timestamp.is_some()
                    && claim.metadata.finalizers.iter().flatten().count() == 0
                {
                    self.view.claims.remove(&key);
                }
            }
        }
    }

    /// As the API does it: an object that is being deleted goes with its last finalizer.
    fn put_volume(&mut self, volume: PersistentVolume) {
        let name = volume.metadata.name.clone().unwrap();
        let is_gone =
            volume.metadata.deletion_timestamp.is_some() && volume.metadata.finalizers.iter().flatten().count() == 0;
        self.view.volumes.insert(name.clone(), volume);
        if is_gone {
            self.view.volumes.remove(&name);
        }
    }

    fn delete_claim(&mut self, name: &str) -> &mut World {
        let patch = json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        self.apply(Action::PatchClaim(("ns".to_owned(), name.to_owned()), patch));
        self
    }

    /// Phase and volume of a claim.
    fn state(&self, name: &str) -> (String, String) {
        let claim = &self.view.claims[&("ns".to_owned(), name.to_owned())];
        let phase = claim.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        (phase, claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).unwrap_or_default())
    }

    fn phase(&self, volume: &str) -> String {
        let status = self.view.volumes[volume].status.clone();
        status.and_then(|status| status.phase).unwrap_or_default()
    }
}

fn merged<T: serde::Serialize + serde::de::DeserializeOwned>(object: &T, patch: &Value) -> T {
    fn merge(into: &mut Value, patch: &Value) {
        match patch {
            Value::Object(members) => {
                if !into.is_object() {
                    *into = json!({});
                }
                for (name, value) in members {
                    if value.is_null() {
                        into.as_object_mut().unwrap().remove(name);
                    } else {
                        merge(&mut into[name.as_str()], value);
                    }
                }
            }
            other => into.clone_from(other),
        }
    }
    let mut value = serde_json::to_value(object).unwrap();
    merge(&mut value, patch);
    serde_json::from_value(value).unwrap()
}

fn pair(phase: &str, volume: &str) -> (String, String) {
    (phase.to_owned(), volume.to_owned())
}

#[test]
fn a_claim_without_a_class_gets_a_volume_of_the_default_class() {
    let mut world = World::new();
    world.claim("c", json!({})).settle();
    assert_eq!(world.state("c"), pair("Bound", "pvc-uid-c"));
    assert_eq!(
        world.told,
        ["Normal ProvisioningSucceeded Successfully provisioned volume pvc-uid-c using stint.dev/local"]
    );
    let claim = &world.view.claims[&("ns".to_owned(), "c".to_owned())];
    assert_eq!(claim.spec.as_ref().unwrap().storage_class_name.as_deref(), Some(CLASS));
    let status = claim.status.clone().unwrap();
    assert_eq!(status.capacity.unwrap()["storage"].0, "1Gi");
    assert_eq!(status.access_modes.unwrap(), ["ReadWriteOnce"]);
    let notes = claim.metadata.annotations.clone().unwrap();
    assert_eq!((notes[BIND_COMPLETED].as_str(), notes[BOUND_BY_CONTROLLER].as_str()), ("yes", "yes"));
    let volume = &world.view.volumes["pvc-uid-c"];
    assert_eq!(volume.spec.as_ref().unwrap().local.as_ref().unwrap().path, "/data/volumes/pvc-uid-c");
    assert_eq!(world.phase("pvc-uid-c"), "Bound");
    let writes = world.writes;
    assert_eq!(world.settle().writes, writes, "settling again changes nothing");
}

#[test]
fn the_smallest_volume_that_suits_is_bound_and_none_is_made() {
    let mut world = World::new();
    let class = json!({ "storageClassName": "own" });
    world.volume("big", "10Gi", class.clone()).volume("fits", "2Gi", class.clone()).volume(
        "small",
        "1Mi",
        class.clone(),
    );
    world.volume("other", "1Gi", json!({ "storageClassName": "else" }));
    world.volume("shared", "1Gi", json!({ "storageClassName": "own", "accessModes": ["ReadOnlyMany"] }));
    world.volume("tape", "1Gi", json!({ "storageClassName": "own", "volumeMode": "Block" }));
    world.settle().claim("c", class).settle();
    assert_eq!(world.state("c"), pair("Bound", "fits"));
    let free = ["big", "small", "other", "shared", "tape"].map(|name| world.phase(name));
    assert_eq!(free, ["Available"; 5]);
    assert_eq!(world.view.volumes.len(), 6);
}

#[test]
fn a_selector_a_reservation_and_a_name_each_decide_for_themselves() {
    let none = json!({ "storageClassName": "" });
    let with = |more: Value| {
        let mut spec = none.clone();
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let mut world = World::new();
    world.volume("a", "1Gi", none.clone()).volume("b", "5Gi", with(json!({ "labels": { "disk": "fast" } })));
    world.volume("c", "9Gi", with(json!({ "claimRef": { "namespace": "ns", "name": "awaited" } })));
    world.volume("d", "7Gi", none.clone()).settle();
    world.claim("fast", with(json!({ "selector": { "matchLabels": { "disk": "fast" } } }))).settle();
    world.claim("awaited", none.clone()).settle();
    world.claim("named", with(json!({ "volumeName": "d" }))).settle();
    world.claim("plain", none.clone()).settle();
    world.claim("late", none.clone()).settle();
    let states = ["fast", "awaited", "named", "plain", "late"].map(|name| world.state(name));
    assert_eq!(
        states,
        [("Bound", "b"), ("Bound", "c"), ("Bound", "d"), ("Bound", "a"), ("Pending", "")].map(|(p, v)| pair(p, v))
    );
    assert_eq!(
        world.told,
        ["Normal FailedBinding no persistent volumes available for this claim and no storage class is set"]
    );
    // What it waited for.
    world.volume("e", "1Gi", none).settle();
    assert_eq!(world.state("late"), pair("Bound", "e"));
}

#[test]
fn what_can_not_be_bound_is_told_in_the_words_of_a_cluster() {
    let cases = [
        (
            json!({ "storageClassName": "none" }),
            "Warning ProvisioningFailed storageclass.storage.k8s.io \"none\" not found",
        ),
        (
            json!({ "volumeName": "taken" }),
            "Warning FailedBinding volume \"taken\" already bound to a different claim.",
        ),
        (
            json!({ "volumeName": "small", "storageClassName": "" }),
            "Warning VolumeMismatch Cannot bind to requested volume \"small\": requested PV is too small",
        ),
        (
            json!({ "storageClassName": "late" }),
            "Normal WaitForFirstConsumer waiting for first consumer to be created before binding",
        ),
        (
            json!({ "storageClassName": "standard", "volumeMode": "Block" }),
            "Warning ProvisioningFailed failed to provision volume with StorageClass \"standard\": block volumes are not provided",
        ),
    ];
    for (spec, told) in cases {
        let mut world = World::new();
        let mut late = class(&BTreeMap::new()).unwrap();
        late["metadata"]["annotations"] = json!({});
        late["metadata"]["name"] = json!("late");
        late["volumeBindingMode"] = json!("WaitForFirstConsumer");
        world.class(late);
        let elsewhere = json!({ "namespace": "ns", "name": "x", "uid": "uid-x" });
        world.claim("x", json!({ "volumeName": "taken", "storageClassName": "" }));
        world.volume("taken", "1Gi", json!({ "claimRef": elsewhere })).volume("small", "1Mi", json!({})).settle();
        world.claim("c", spec).settle();
        assert_eq!(world.state("c").0, "Pending");
        assert_eq!(world.told, [told]);
        // A pod that waits for the claim is the consumer that is waited for.
        world.pod("p", "c", false);
        world.settle();
        assert_eq!(world.state("c").0 == "Bound", told.contains("first consumer"), "{told}");
    }
}

#[test]
fn a_made_volume_goes_with_its_claim_once_the_node_has_removed_what_is_in_it() {
    let mut world = World::new();
    world.claim("c", json!({})).settle();
    world.pod("p", "c", true);
    world.delete_claim("c").settle();
    assert_eq!(world.state("c").0, "Bound", "a pod uses it");
    world.view.pods.clear();
    world.settle();
    assert!(world.view.claims.is_empty());
    let volume = &world.view.volumes["pvc-uid-c"];
    assert!(volume.metadata.deletion_timestamp.is_some());
    assert_eq!(volume.metadata.finalizers.as_deref(), Some(&[DATA_FINALIZER.to_owned()][..]), "the node's turn");
}

#[test]
fn a_volume_that_is_to_be_retained_or_that_nobody_can_reclaim_stays() {
    let none = |policy: &str| json!({ "storageClassName": "", "persistentVolumeReclaimPolicy": policy });
    for (policy, phase, told) in [
        ("Retain", "Released", None),
        (
            "Delete",
            "Failed",
            Some(
                "Warning VolumeFailedDelete error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched",
            ),
        ),
        ("Recycle", "Failed", Some("Warning VolumeFailedRecycle No recycler plugin found for the volume!")),
    ] {
        let mut world = World::new();
        world.volume("v", "1Gi", none(policy)).settle();
        world.claim("c", json!({ "storageClassName": "" })).settle();
        assert_eq!(world.state("c"), pair("Bound", "v"));
        world.delete_claim("c").settle();
        assert_eq!((world.phase("v").as_str(), world.told.first().map(String::as_str)), (phase, told));
        // Nobody else gets it.
        world.claim("d", json!({ "storageClassName": "" })).settle();
        assert_eq!(world.state("d").0, "Pending");
    }
}

#[test]
fn a_claim_whose_volume_is_gone_is_lost() {
    let mut world = World::new();
    world.claim("c", json!({})).settle();
    world.view.volumes.clear();
    world.settle();
    assert_eq!(world.state("c"), pair("Lost", "pvc-uid-c"));
    assert_eq!(
        world.told.last().unwrap(),
        "Warning ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!"
    );
}

#[test]
fn two_claims_for_one_volume_leave_one_waiting() {
    let mut world = World::new();
    world.volume("v", "1Gi", json!({ "storageClassName": "" })).settle();
    world.claim("a", json!({ "storageClassName": "" })).claim("b", json!({ "storageClassName": "" })).settle();
    assert_eq!([world.state("a"), world.state("b")], [pair("Bound", "v"), pair("Pending", "")]);
    assert_eq!(world.view.volumes["v"].spec.as_ref().unwrap().claim_ref.as_ref().unwrap().name.as_deref(), Some("a"));
}
