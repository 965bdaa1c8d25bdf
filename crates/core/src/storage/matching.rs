//! Which volume suits a claim best: the smallest that has what it asks for.
//!
//! Upstream: `pkg/controller/volume/persistentvolume/index.go`, `component-helpers/storage/volume/pv_helpers.go`
//! (`FindMatchingVolume`), v1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::{View, class_of};
use crate::quantity::{self, Quantity};
use crate::validate::selects;

/// The best volume for a claim that names none. With `only_reserved`, only one that is set aside for it.
pub(super) fn find<'a>(
    claim: &PersistentVolumeClaim,
    view: &'a View,
    only_reserved: bool,
) -> Option<&'a PersistentVolume> {
    let there = view.volumes.values().filter(|volume| volume.metadata.deletion_timestamp.is_none());
    let suits = |volume: &&PersistentVolume| mismatch(claim, volume).is_none();
    let reserved = there.clone().find(|volume| is_for(volume, claim) && suits(volume));
    if reserved.is_some() || only_reserved {
        return reserved;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let is_free = |volume: &&PersistentVolume| {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        reference(volume).is_none() && phase == Some("Available")
    };
    let is_selected =
        |volume: &&PersistentVolume| selector.is_none_or(|selector| selects(selector, volume.metadata.labels.as_ref()));
    there.filter(is_free).filter(is_selected).filter(suits).min_by_key(|volume| capacity(volume))
}

/// Why the volume does not suit the claim, in the words of `checkVolumeSatisfyClaim`.
pub(super) fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let wanted = claim.spec.clone().unwrap_or_default();
    let offered = volume.spec.clone().unwrap_or_default();
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
    let modes = offered.access_modes.unwrap_or_default();
    if capacity(volume) < request(claim) {
        Some("requested PV is too small")
    } else if offered.storage_class_name.as_deref().unwrap_or_default() != class_of(claim).unwrap_or_default() {
        Some("storageClassName does not match")
    } else if mode(&offered.volume_mode) != mode(&wanted.volume_mode) {
        Some("incompatible volumeMode")
    } else if !wanted.access_modes.iter().flatten().all(|mode| modes.contains(mode)) {
        Some("incompatible accessMode")
    } else {
        None
    }
}

/// The claim that a volume is bound to, or set aside for.
pub(super) fn reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is bound to this claim, or set aside for one of its name.
pub(super) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let meta = &claim.metadata;
    reference(volume).is_some_and(|held| {
        let uid = held.uid.as_deref().filter(|uid| !uid.is_empty());
        held.name == meta.name && held.namespace == meta.namespace && (uid.is_none() || uid == meta.uid.as_deref())
    })
}

/// How much the claim asks for, in bytes.
pub(super) fn request(claim: &PersistentVolumeClaim) -> i128 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

fn capacity(volume: &PersistentVolume) -> i128 {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

fn storage(amounts: Option<&BTreeMap<String, Text>>) -> i128 {
    let amount = amounts.and_then(|amounts| amounts.get("storage"));
    amount.map_or(0, |amount| quantity::parse(&amount.0).unwrap_or(Quantity::ZERO).value())
}
