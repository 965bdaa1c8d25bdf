//! CronJobs. Upstream: `pkg/registry/batch/cronjob/strategy.go`, v1.36.

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus};
use serde_json::Value;
use stint_core::field::Fault;
use stint_core::{admit, defaults, validate};

use crate::strategy::{Strategy, differing, outline_of};

impl Strategy for CronJob {
    const GENERATION: bool = true;

    fn default_fields(&mut self) {
        defaults::cron_job(self);
    }

    fn prepare_create(&mut self, uid: &str) {
        self.status = Some(CronJobStatus::default());
        admit::prepare_cron_job(self, uid);
    }

    fn create_faults(&self) -> Vec<Fault> {
        validate::cron_job_create(self)
    }

    fn create_warnings(&self) -> Vec<String> {
        validate::cron_job_warnings(self)
    }

    fn prepare_update(&mut self, old: &Self) {
        let job = self.spec.job_template.spec.as_mut();
        admit::drop_disabled(job.and_then(|job| job.template.spec.as_mut()));
        self.status.clone_from(&old.status);
    }

    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        validate::cron_job_update(old, self)
    }

    fn outline(&self, other: &Self) -> Option<Self> {
        Some(CronJob {
            metadata: outline_of(&self.metadata, &other.metadata),
            spec: CronJobSpec::default(),
            status: differing(self.status.as_ref(), other.status.as_ref()),
        })
    }

    fn take_status(&mut self, other: &mut Self) -> bool {
        self.status = other.status.take();
        true
    }

    fn prepare_status_update(&mut self, old: &Self) {
        self.spec.clone_from(&old.spec);
        self.status.get_or_insert_default();
    }

    fn has_same_spec(&self, old: &Self) -> bool {
        self.spec == old.spec
    }

    fn desired(&self) -> Value {
        serde_json::to_value(&self.spec).unwrap_or_default()
    }
}
