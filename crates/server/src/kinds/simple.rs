//! Kinds that are stored as they come: ConfigMaps, Secrets, Events, Namespaces, Nodes, Leases.
//!
//! Left out: namespace termination; a Lease's rule that an update names its `resourceVersion`.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, NamespaceSpec, NamespaceStatus, Node, Secret};
use stint_core::field::{Fault, Path};
use stint_core::validate::{self, NameRule};

use crate::strategy::{SelectableField, Strategy, UnknownField};

impl Strategy for ConfigMap {
    fn create_faults(&self) -> Vec<Fault> {
        validate::config_map_create(self)
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta_update(&old.metadata, &self.metadata, &mut faults);
        if old.immutable == Some(true) {
            let root = Path::root();
            let mut frozen = |field: &str, same: bool| {
                if !same {
                    faults.push(Fault::forbidden(&root.field(field), "field is immutable when `immutable` is set"));
                }
            };
            frozen("immutable", self.immutable == old.immutable);
            frozen("data", self.data == old.data);
            frozen("binaryData", self.binary_data == old.binary_data);
        }
        faults
    }
}

impl Strategy for Secret {
    const FIELDS: &'static [SelectableField] = &[("type", &["type"], "")];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;

    fn default_fields(&mut self) {
        self.type_.get_or_insert_with(|| "Opaque".into());
        for (key, text) in self.string_data.take().into_iter().flatten() {
            let bytes = k8s_openapi::ByteString(text.into_bytes());
            self.data.get_or_insert_default().insert(key, bytes);
        }
    }

    fn create_faults(&self) -> Vec<Fault> {
        validate::secret_create(self)
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta_update(&old.metadata, &self.metadata, &mut faults);
        let root = Path::root();
        if self.type_ != old.type_ {
            let value = self.type_.as_deref().unwrap_or_default();
            faults.push(Fault::invalid(&root.field("type"), value, "field is immutable"));
        }
        if old.immutable == Some(true) {
            let mut frozen = |field: &str, same: bool| {
                if !same {
                    faults.push(Fault::forbidden(&root.field(field), "field is immutable when `immutable` is set"));
                }
            };
            frozen("immutable", self.immutable == old.immutable);
            frozen("data", self.data == old.data);
        }
        faults
    }
}

impl Strategy for Event {
    const FIELDS: &'static [SelectableField] = &[
        ("involvedObject.kind", &["involvedObject", "kind"], ""),
        ("involvedObject.namespace", &["involvedObject", "namespace"], ""),
        ("involvedObject.name", &["involvedObject", "name"], ""),
        ("involvedObject.uid", &["involvedObject", "uid"], ""),
        ("involvedObject.apiVersion", &["involvedObject", "apiVersion"], ""),
        ("involvedObject.resourceVersion", &["involvedObject", "resourceVersion"], ""),
        ("involvedObject.fieldPath", &["involvedObject", "fieldPath"], ""),
        ("reason", &["reason"], ""),
        ("reportingComponent", &["reportingComponent"], ""),
        ("source", &["source", "component"], ""),
        ("type", &["type"], ""),
    ];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;
}

impl Strategy for Namespace {
    const NAMES: NameRule = NameRule::DnsLabel;
    const DELETION_RETURNS_OBJECT: bool = true;
    const FIELDS: &'static [SelectableField] = &[("status.phase", &["status", "phase"], "")];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;

    fn default_fields(&mut self) {
        let name = self.metadata.name.clone().unwrap_or_default();
        if !name.is_empty() {
            self.metadata.labels.get_or_insert_default().insert("kubernetes.io/metadata.name".into(), name);
        }
    }

    fn prepare_create(&mut self, _uid: &str) {
        Strategy::default_fields(self);
        self.spec = Some(NamespaceSpec::default());
        self.status = Some(NamespaceStatus { phase: Some("Active".into()), ..NamespaceStatus::default() });
    }

    fn prepare_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.status.clone_from(&old.status);
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }
}

impl Strategy for Node {
    const FIELDS: &'static [SelectableField] = &[("spec.unschedulable", &["spec", "unschedulable"], "false")];
    const UNKNOWN_FIELD: UnknownField = UnknownField::Plain;

    // A node's agent registers it together with its status: creation keeps it, as upstream does.

    fn prepare_update(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }
}

impl Strategy for Lease {}
