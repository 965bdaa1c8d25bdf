//! Jobs. Upstream: `pkg/registry/batch/job/strategy.go`, v1.36.

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use serde_json::Value;
use stint_core::field::Fault;
use stint_core::{admit, defaults, validate};

use crate::encoding::Encoded;
use crate::strategy::{SelectableField, Strategy, UnknownField, differing, outline_of};

impl Strategy for Job {
    const GENERATION: bool = true;
    const ORPHANS_BY_DEFAULT: Option<&'static str> = Some(
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning",
    );
    const FIELDS: &'static [SelectableField] = &[("status.successful", &["status", "succeeded"], "0")];
    const UNKNOWN_FIELD: UnknownField = UnknownField::OfKind;

    fn default_fields(&mut self) {
        defaults::job(self);
    }

    fn prepare_create(&mut self, uid: &str) {
        self.status = Some(JobStatus::default());
        admit::prepare_job(self, uid);
    }

    /// A Job without labels of its own has those of its template, the generated ones included: but only when it is read,
    /// so that validation does not tell of them twice.
    fn encode(&self) -> Encoded {
        if self.reads_back() {
            return Encoded::of(self);
        }
        let mut read = self.clone();
        defaults::job(&mut read);
        Encoded::of(&read)
    }

    fn reads_back(&self) -> bool {
        self.metadata.labels.as_ref().is_some_and(|labels| !labels.is_empty())
    }

    fn create_faults(&self) -> Vec<Fault> {
        validate::job_create(self)
    }

    fn create_warnings(&self) -> Vec<String> {
        validate::job_warnings(self)
    }

    fn prepare_update(&mut self, old: &Self) {
        admit::drop_disabled(self.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()));
        self.status.clone_from(&old.status);
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        validate::job_update(old, self)
    }

    fn outline(&self, other: &Self) -> Option<Self> {
        let metadata = outline_of(&self.metadata, &other.metadata);
        Some(Job { metadata, spec: None, status: differing(self.status.as_ref(), other.status.as_ref()) })
    }

    fn take_status(&mut self, other: &mut Self) -> bool {
        self.status = other.status.take();
        true
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.status.get_or_insert_default();
    }

    fn status_update_faults(&self, old: &Self) -> Vec<Fault> {
        validate::job_status_update(old, self)
    }

    fn has_same_spec(&self, old: &Self) -> bool {
        self.spec == old.spec
    }

    fn desired(&self) -> Value {
        serde_json::to_value(&self.spec).unwrap_or_default()
    }
}
