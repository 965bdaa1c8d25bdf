//! The Go type of a field, for type errors: `int32`, `[]v1.Container`, `map[string]string`.
//!
//! A type is asked to deserialize itself from a deserializer that has no value but listens what is asked of it. Go has
//! names for some strings and maps that k8s-openapi has not; those come from a table.

use std::cell::RefCell;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::typed::Error;

/// The Go type of a list that `visitor` would read.
pub(super) fn list<'de, V: Visitor<'de>>(visitor: V) -> String {
    let out = RefCell::new(String::new());
    let _ = visitor.visit_seq(Probe { out: &out });
    format!("[]{}", out.into_inner())
}

/// The Go type of a map that `visitor` would read.
pub(super) fn map<'de, V: Visitor<'de>>(visitor: V) -> String {
    let out = RefCell::new(String::new());
    let _ = visitor.visit_map(Probe { out: &out });
    let value = out.into_inner();
    if value == "resource.Quantity" { "v1.ResourceList".to_owned() } else { format!("map[string]{value}") }
}

/// The Go type of a field of a struct, where it is not the plain string that we see.
pub(super) fn named_string(struct_name: &str, field: &str) -> Option<&'static str> {
    Some(match (struct_name, field) {
        ("JobSpec", "completionMode") => "v1.CompletionMode",
        ("JobSpec", "podReplacementPolicy") => "v1.PodReplacementPolicy",
        ("CronJobSpec", "concurrencyPolicy") => "v1.ConcurrencyPolicy",
        ("PodFailurePolicyRule", "action") => "v1.PodFailurePolicyAction",
        ("PodFailurePolicyOnExitCodesRequirement", "operator") => "v1.PodFailurePolicyOnExitCodesOperator",
        ("PodFailurePolicyOnPodConditionsPattern" | "PodCondition" | "PodReadinessGate", "type" | "conditionType") => {
            "v1.PodConditionType"
        }
        ("JobCondition", "type") => "v1.JobConditionType",
        ("PodFailurePolicyOnPodConditionsPattern" | "PodCondition" | "JobCondition", "status") => "v1.ConditionStatus",
        ("ObjectMeta" | "OwnerReference", "uid") => "types.UID",
        ("LabelSelectorRequirement", "operator") => "v1.LabelSelectorOperator",
        ("PodSpec", "restartPolicy") => "v1.RestartPolicy",
        ("PodSpec", "dnsPolicy") => "v1.DNSPolicy",
        ("PodSpec", "preemptionPolicy") => "v1.PreemptionPolicy",
        ("PodStatus", "phase") => "v1.PodPhase",
        ("PodStatus", "qosClass") => "v1.PodQOSClass",
        ("Container" | "EphemeralContainer", "restartPolicy") => "v1.ContainerRestartPolicy",
        ("Container" | "EphemeralContainer", "imagePullPolicy") | ("ImageVolumeSource", "pullPolicy") => {
            "v1.PullPolicy"
        }
        ("Container" | "EphemeralContainer", "terminationMessagePolicy") => "v1.TerminationMessagePolicy",
        ("ContainerPort", "protocol") => "v1.Protocol",
        ("HTTPGetAction", "scheme") => "v1.URIScheme",
        ("VolumeMount", "mountPropagation") => "v1.MountPropagationMode",
        ("VolumeMount", "recursiveReadOnly") => "v1.RecursiveReadOnlyMode",
        ("Toleration", "operator") => "v1.TolerationOperator",
        ("Toleration", "effect") => "v1.TaintEffect",
        ("NodeSelectorRequirement", "operator") => "v1.NodeSelectorOperator",
        ("TopologySpreadConstraint", "whenUnsatisfiable") => "v1.UnsatisfiableConstraintAction",
        ("SeccompProfile", "type") => "v1.SeccompProfileType",
        ("AppArmorProfile", "type") => "v1.AppArmorProfileType",
        ("SecurityContext", "procMount") => "v1.ProcMountType",
        ("Capabilities", "add" | "drop") => "v1.Capability",
        ("PodSecurityContext", "fsGroupChangePolicy") => "v1.PodFSGroupChangePolicy",
        ("PodSecurityContext", "supplementalGroupsPolicy") => "v1.SupplementalGroupsPolicy",
        ("EmptyDirVolumeSource", "medium") => "v1.StorageMedium",
        ("HostPathVolumeSource", "type") => "v1.HostPathType",
        ("PodOS", "name") => "v1.OSName",
        ("Secret", "type") => "v1.SecretType",
        _ => return None,
    })
}

struct Probe<'a> {
    out: &'a RefCell<String>,
}

impl Probe<'_> {
    fn heard<T>(&self, name: impl Into<String>) -> Result<T, Error> {
        *self.out.borrow_mut() = name.into();
        Err(Error::custom("probed"))
    }
}

impl<'de> SeqAccess<'de> for Probe<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        seed.deserialize(Probe { out: self.out }).map(Some)
    }
}

impl<'de> MapAccess<'de> for Probe<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        seed.deserialize(serde::de::value::StrDeserializer::new("key")).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        seed.deserialize(Probe { out: self.out })
    }
}

macro_rules! hear {
    ($($method:ident as $name:literal),*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            self.heard($name)
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    hear! {
        deserialize_bool as "bool", deserialize_i32 as "int32", deserialize_i64 as "int64", deserialize_f64 as "float64",
        deserialize_str as "string", deserialize_string as "string", deserialize_any as "intstr.IntOrString",
        deserialize_bytes as "[]uint8", deserialize_byte_buf as "[]uint8"
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let name = list(visitor);
        self.heard(name)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let name = map(visitor);
        self.heard(name)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.heard(format!("v1.{name}"))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, _: V) -> Result<V::Value, Error> {
        self.heard(if name == "Quantity" { "resource.Quantity".to_owned() } else { format!("v1.{name}") })
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 f32 char unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}
