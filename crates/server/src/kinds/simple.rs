//! Kinds that are stored as they come: ConfigMaps, Secrets, Namespaces, Nodes, Leases and others.
//!
//! A deleted namespace stays, Terminating, until nothing is in `spec.finalizers` any more.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, NamespaceStatus, Node, PodTemplate, Secret, ServiceAccount,
};
use stint_core::field::{Fault, Path};
use stint_core::namespace::FINALIZER;
use stint_core::validate::{self, NameRule, stored};

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

impl Strategy for Namespace {
    const NAMES: NameRule = NameRule::DnsLabel;
    const DELETION_RETURNS_OBJECT: bool = true;
    const UNDELETABLE: &'static [&'static str] = &["default", "kube-public", "kube-system"];
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
        // The controller that empties the namespace lets go of it in the end.
        let finalizers = self.spec.get_or_insert_default().finalizers.get_or_insert_default();
        if !finalizers.iter().any(|name| name == FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        self.status = Some(NamespaceStatus { phase: Some("Active".into()), ..NamespaceStatus::default() });
    }

    fn create_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta(&self.metadata, Self::NAMES, &mut faults);
        faults.extend(stored::namespace(self));
        faults
    }

    fn prepare_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.status.clone_from(&old.status);
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
    }

    fn status_update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta_update(&old.metadata, &self.metadata, &mut faults);
        faults.extend(stored::namespace_status_update(self));
        faults
    }

    fn prepare_finalize(&mut self, old: &Self) -> bool {
        self.status.clone_from(&old.status);
        true
    }

    fn is_held(&self) -> bool {
        self.spec.iter().flat_map(|spec| &spec.finalizers).any(|finalizers| !finalizers.is_empty())
    }

    fn mark_deleted(&mut self) {
        self.metadata.deletion_grace_period_seconds = None;
        self.status.get_or_insert_default().phase = Some("Terminating".into());
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

impl Strategy for Lease {
    const CREATE_ON_UPDATE: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
}

impl Strategy for Endpoints {
    const CREATE_ON_UPDATE: bool = true;
}

impl Strategy for PodTemplate {}

impl Strategy for ServiceAccount {
    const DELETION_RETURNS_OBJECT: bool = true;
}
