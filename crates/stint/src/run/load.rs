//! From files to the objects of a run: read, decoded strictly, defaulted and validated before anything starts.
//!
//! Invariant: when this returns a workload, the API server will take every object of it. All faults of all objects are
//! told at once, each with its file, object and field.

use std::fs;
use std::io::Read;
use std::path::{self, PathBuf};

use anyhow::Context;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{ConfigMap, Container, PersistentVolumeClaim, PodSpec, Secret, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stint_core::field::{Fault, Path};
use stint_core::mandate::Mandate;
use stint_core::manifest::{self, Document};
use stint_core::storage::CLASS;
use stint_core::{admit, defaults, validate};

use crate::embedded::Claims;

/// The most that one manifest may hold.
const MAX_MANIFEST: u64 = 10 * 1024 * 1024;

/// Everything that a run works with.
#[derive(Debug, Default)]
pub struct Workload {
    /// The Jobs, in the order of the files.
    pub jobs: Vec<Job>,
    /// ConfigMaps that the Jobs may use.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets that the Jobs may use.
    pub secrets: Vec<Secret>,
    /// Claims that the Jobs may use; volumes are made for them, and go with the run.
    pub claims: Vec<PersistentVolumeClaim>,
    /// What the user should know, though it stops nothing.
    pub warnings: Vec<String>,
}

/// Why there is nothing to run.
#[derive(Debug)]
pub enum LoadError {
    /// Manifests that are not valid: one line per fault.
    Faults(Vec<String>),
    /// A file that can't be read.
    Unreadable(anyhow::Error),
}

/// What the containers of a run see as `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// Their images.
    Image,
    /// This machine's root filesystem.
    Host,
}

/// Loads `files`: manifests, folders of manifests, or `-` for stdin.
pub fn load(files: &[PathBuf], root: Root) -> Result<Workload, LoadError> {
    let mut workload = Workload::default();
    let mut faults = Vec::new();
    for (origin, text) in manifests(files).map_err(LoadError::Unreadable)? {
        match text {
            None => faults.push(format!("{origin}: the file is larger than {} MB", MAX_MANIFEST / 1024 / 1024)),
            Some(text) => match manifest::parse(&text, &origin) {
                Ok(documents) => {
                    for document in documents {
                        workload.add(document, &origin, &mut faults);
                    }
                }
                Err(error) => faults.push(error.to_string()),
            },
        }
    }
    for job in &workload.jobs {
        let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        let name = job.metadata.name.as_deref().or(job.metadata.generate_name.as_deref()).unwrap_or_default();
        for reason in pod.map(stint_agent::unsupported).unwrap_or_default() {
            workload.warnings.push(format!("Job \"{name}\": {reason}"));
        }
        let annotations = job.spec.iter().flat_map(|spec| &spec.template.metadata).flat_map(|meta| &meta.annotations);
        if root == Root::Image && annotations.flatten().any(|(key, _)| key == stint_agent::ROOTFS_ANNOTATION) {
            let key = stint_agent::ROOTFS_ANNOTATION;
            faults.push(format!("Job \"{name}\": its pods ask for this machine's root filesystem ({key}): add --host"));
        }
        let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
        let claims = pod.map(|pod| workload.unknown_claims(namespace, pod)).unwrap_or_default();
        faults.extend(claims.into_iter().map(|fault| format!("Job \"{name}\": {fault}")));
        if root == Root::Host {
            faults.extend(pod.into_iter().flat_map(without_command).map(|fault| format!("Job \"{name}\": {fault}")));
        }
    }
    if faults.is_empty() && workload.jobs.is_empty() {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        faults.push(format!("{}: there is no Job and no CronJob to run", names.join(", ")));
    }
    if faults.is_empty() { Ok(workload) } else { Err(LoadError::Faults(faults)) }
}

impl Workload {
    fn add(&mut self, document: Document, origin: &str, faults: &mut Vec<String>) {
        let mut told = |kind: &str, meta: &ObjectMeta, found: Vec<Fault>| {
            let name = meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or_default();
            faults.extend(found.into_iter().map(|fault| format!("{origin}: {kind} \"{name}\": {fault}")));
        };
        match document {
            Document::Job(job) => {
                let job = complete(*job);
                told("Job", &job.metadata, job_faults(&job));
                self.warnings.extend(validate::job_warnings(&job));
                self.jobs.push(job);
            }
            Document::CronJob(mut cron_job) => {
                defaults::cron_job(&mut cron_job);
                namespaced(&mut cron_job.metadata);
                let found = validate::cron_job_create(&cron_job);
                if found.is_empty() {
                    let job = complete(job_of(&cron_job));
                    self.warnings.extend(validate::job_warnings(&job));
                    self.jobs.push(job);
                }
                told("CronJob", &cron_job.metadata, found);
            }
            Document::ConfigMap(mut object) => {
                namespaced(&mut object.metadata);
                told("ConfigMap", &object.metadata, validate::config_map_create(&object));
                self.config_maps.push(*object);
            }
            Document::Secret(mut object) => {
                namespaced(&mut object.metadata);
                told("Secret", &object.metadata, validate::secret_create(&object));
                self.secrets.push(*object);
            }
            Document::Claim(mut object) => {
                namespaced(&mut object.metadata);
                object.status = None;
                let spec = object.spec.get_or_insert_default();
                spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
                let mut found = validate::stored::claim(&object);
                found.extend(beyond_a_run(&object));
                told("PersistentVolumeClaim", &object.metadata, found);
                self.claims.push(*object);
            }
            Document::Pod(pod) => {
                let name = pod.metadata.name.unwrap_or_default();
                self.warnings.push(format!("{origin}: Pod \"{name}\" is left out: only Jobs and CronJobs are run"));
            }
            Document::Other { api_version, kind, name } => {
                self.warnings
                    .push(format!("{origin}: {kind} \"{name}\" ({api_version}) is left out: a run has no use for it"));
            }
        }
    }

    /// Whether volumes are to be made.
    pub fn claims_at_all(&self) -> Claims {
        let spec = |job: &Job| job.spec.as_ref().and_then(|spec| spec.template.spec.clone());
        let is_made = |pod: PodSpec| pod.volumes.iter().flatten().any(|volume| volume.ephemeral.is_some());
        let any = !self.claims.is_empty() || self.jobs.iter().filter_map(spec).any(is_made);
        if any { Claims::Some } else { Claims::None }
    }

    /// The claims of a pod that nobody makes.
    fn unknown_claims(&self, namespace: &str, pod: &PodSpec) -> Vec<Fault> {
        let is_known = |name: &str| {
            let is_it = |claim: &&PersistentVolumeClaim| {
                claim.metadata.namespace.as_deref() == Some(namespace) && claim.metadata.name.as_deref() == Some(name)
            };
            self.claims.iter().any(|claim| is_it(&claim))
        };
        let root = Path::root();
        let spec = root.field("spec");
        let template = spec.field("template");
        let inner = template.field("spec");
        let volumes = inner.field("volumes");
        let fault = |(index, volume): (usize, &Volume)| {
            let name = &volume.persistent_volume_claim.as_ref()?.claim_name;
            let volume = volumes.index(index);
            let claim = volume.field("persistentVolumeClaim");
            let detail = "a run has the claims of its own manifests only: give the claim's manifest too";
            (!is_known(name)).then(|| Fault::invalid(&claim.field("claimName"), name.as_str(), detail))
        };
        pod.volumes.iter().flatten().enumerate().filter_map(fault).collect()
    }

    /// Whether pods of this workload may run side by side.
    pub fn is_parallel(&self) -> bool {
        let at_once = |job: &Job| {
            let spec = job.spec.as_ref();
            let parallelism = spec.and_then(|s| s.parallelism).unwrap_or(1);
            spec.and_then(|s| s.completions).map_or(parallelism, |completions| completions.min(parallelism))
        };
        self.jobs.iter().map(at_once).sum::<i32>() > 1
    }
}

/// What a claim asks for that is not to be had in a run.
fn beyond_a_run(claim: &PersistentVolumeClaim) -> Vec<Fault> {
    let root = Path::root();
    let (path, spec) = (root.field("spec"), claim.spec.clone().unwrap_or_default());
    let mut faults = Vec::new();
    if let Some(class) = spec.storage_class_name.filter(|class| class != CLASS) {
        let detail = format!("a run makes volumes of the class {CLASS:?} only: leave it out");
        faults.push(Fault::invalid(&path.field("storageClassName"), class.as_str(), &detail));
    }
    if let Some(volume) = spec.volume_name.filter(|volume| !volume.is_empty()) {
        faults.push(Fault::invalid(
            &path.field("volumeName"),
            volume.as_str(),
            "there are no volumes yet when a run begins",
        ));
    }
    faults
}

/// The Job that a CronJob's template describes, run once, now (as `kubectl create job --from`).
fn job_of(cron_job: &CronJob) -> Job {
    let template = cron_job.spec.job_template.clone();
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name.clone_from(&cron_job.metadata.name);
    metadata.generate_name.clone_from(&cron_job.metadata.generate_name);
    metadata.namespace.clone_from(&cron_job.metadata.namespace);
    let manual = ("cronjob.kubernetes.io/instantiate".to_owned(), "manual".to_owned());
    metadata.annotations.get_or_insert_default().extend([manual]);
    Job { metadata, spec: template.spec, status: None }
}

/// A Job with its namespace and defaults.
fn complete(mut job: Job) -> Job {
    namespaced(&mut job.metadata);
    job.status = None;
    defaults::job(&mut job);
    job
}

fn namespaced(metadata: &mut ObjectMeta) {
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
}

/// What the API server would find wrong with `job`.
fn job_faults(job: &Job) -> Vec<Fault> {
    let mut job = job.clone();
    if job.metadata.name.is_none() {
        // As the server does it: the name is made before anything else, and the letters change no verdict.
        job.metadata.name =
            job.metadata.generate_name.as_ref().map(|base| stint_core::names::generate_name(base, "xxxxx"));
    }
    admit::prepare_job(&mut job, "00000000-0000-4000-8000-000000000000");
    let mut faults = validate::job_create(&job);
    if faults.is_empty() {
        faults.extend(somebody_elses(&job));
    }
    faults
}

/// A Job that a run would wait for in vain.
fn somebody_elses(job: &Job) -> Option<Fault> {
    let manager = job.spec.as_ref()?.managed_by.as_deref()?;
    let root = Path::root();
    let path = root.field("spec");
    let detail = "a run has no such controller: leave it out";
    let is_ours = Mandate::Instead.job(job.clone()).is_some();
    (!is_ours).then(|| Fault::invalid(&path.field("managedBy"), manager, detail))
}

/// The containers that no image tells what to run.
fn without_command(pod: &PodSpec) -> Vec<Fault> {
    let root = Path::root();
    let spec = root.field("spec");
    let template = spec.field("template");
    let path = template.field("spec");
    let missing = |list: &'static str, containers: &[Container]| {
        let list = path.field(list);
        let without = containers.iter().enumerate().filter(|(_, c)| c.command.as_ref().is_none_or(Vec::is_empty));
        let fault = |(index, _)| {
            let container = list.index(index);
            Fault::required(&container.field("command"), "with --host there is no image to say what to run")
        };
        without.map(fault).collect::<Vec<_>>()
    };
    let mut faults = missing("initContainers", pod.init_containers.as_deref().unwrap_or_default());
    faults.extend(missing("containers", &pod.containers));
    faults
}

/// The texts of `files`: manifests, folders of manifests, or `-` for stdin. No text: it is larger than a manifest may be.
pub fn manifests(files: &[PathBuf]) -> anyhow::Result<Vec<(String, Option<String>)>> {
    let origin = |file: &PathBuf| if is_stdin(file) { "stdin".to_owned() } else { file.display().to_string() };
    expand(files)?.iter().map(|file| Ok((origin(file), read(file)?))).collect()
}

/// The files themselves: a folder stands for the manifests in it, by name.
fn expand(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for file in files {
        if is_stdin(file) || !file.is_dir() {
            all.push(file.clone());
            continue;
        }
        let entries = fs::read_dir(file).with_context(|| format!("can't read the folder {}", file.display()))?;
        let mut inside: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
        inside.retain(|path| path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
        inside.sort();
        all.append(&mut inside);
    }
    Ok(all)
}

/// The text of `file`, or nothing if it is too large.
fn read(file: &path::Path) -> anyhow::Result<Option<String>> {
    let what = || format!("can't read {}", if is_stdin(file) { "stdin".into() } else { file.to_string_lossy() });
    let mut bytes = Vec::new();
    if is_stdin(file) {
        std::io::stdin().lock().take(MAX_MANIFEST + 1).read_to_end(&mut bytes).with_context(what)?;
    } else {
        fs::File::open(file).with_context(what)?.take(MAX_MANIFEST + 1).read_to_end(&mut bytes).with_context(what)?;
    }
    if bytes.len() as u64 > MAX_MANIFEST {
        return Ok(None);
    }
    Ok(Some(String::from_utf8(bytes).with_context(what)?))
}

fn is_stdin(file: &path::Path) -> bool {
    file == path::Path::new("-")
}
