//! The command line, as typed.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use crate::exit::Exit;
use crate::folder;
use stint_core::job::Backoff;

use crate::remote::Source;
use crate::settings::{Flags, LogFormat, LogLevel, Value, signed};

/// Run Kubernetes Jobs and CronJobs without a cluster.
#[derive(Debug, Parser)]
#[command(name = "stint", version, disable_help_subcommand = true)]
struct Typed {
    /// Where images and running containers are kept [default: /var/lib/stint, or $XDG_DATA_HOME/stint when not root]
    #[arg(long, global = true, env = "STINT_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,
    /// Say more on stderr: -v what is decided, -vv every step
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

/// The command line, as meant.
#[derive(Debug)]
pub struct Args {
    /// The data folder.
    pub data: PathBuf,
    /// 0 warnings, 1 information, 2 everything.
    pub verbose: u8,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the Jobs in manifests to their end, here and now
    ///
    /// Prints what the containers print, and ends with 0 when every Job completed. When one failed: the exit code of
    /// the last container that failed. 64: wrong usage. 65: a manifest is not valid. 124: --timeout was over.
    /// 130: Ctrl-C or SIGTERM.
    Run(RunArgs),
    /// Serve the Kubernetes API, and run Jobs as they are created, until told to stop
    ///
    /// Each setting can be given as a flag, as a variable in the environment, or under the same name in the
    /// configuration file (TOML); the first of these that says something wins. SIGHUP makes the daemon read its
    /// certificates and the settings marked [reloads] again. SIGTERM stops it; containers go on, and the next daemon on
    /// the data folder takes them over.
    Serve(Flags),
    /// Run the controllers of Jobs and CronJobs before another Kubernetes API: a cluster's, or that of a `stint serve`
    ///
    /// Without --take-over only what asks for it is theirs: Jobs whose `spec.managedBy` is stint.dev/job-controller, and
    /// suspended CronJobs with the annotation `stint.dev/cronjob-controller: "true"`. SIGTERM stops them.
    Controllers(ControllersArgs),
    /// Print the settings that `stint serve` would have, and where each came from
    Config(Flags),
    /// Print a kubeconfig for the API of this data folder, with the administrator's certificate in it
    Kubeconfig(KubeconfigArgs),
    /// Make `stint serve` a service of systemd, and start it
    ///
    /// Stopping the service leaves containers running. Settings belong into /etc/stint/stint.toml.
    Install(InstallArgs),
    /// Stop the service and remove it from systemd; its data and containers stay
    Uninstall,
    /// Tell why a Job of the daemon, or of a cluster, is in the state it is in
    ///
    /// What its pods did, what it waits for and until when, and what comes next.
    Explain(ExplainArgs),
    /// Tell when a schedule, or a CronJob of the daemon or of a cluster, fires next
    ///
    /// With what the clocks do to it; of a CronJob also what happens after downtime.
    Schedule(ScheduleArgs),
    /// Start a CronJob's Job by hand, and follow it to its end
    ///
    /// The Job runs on when this command is interrupted. Ends like `stint run`.
    Trigger(TriggerArgs),
    /// Tell what is wrong with manifests, or otherwise than in a cluster, without applying them
    ///
    /// Whether the API takes them, what comes of them on the side that they are for, and which schedules fall into a change
    /// of the clocks. Ends with 0, or with 1 if something is refused or will not start (or a file can't be read).
    Lint(LintArgs),
    /// Print what users made in the daemon as manifests, for a cluster or another daemon
    ///
    /// CronJobs, Jobs that have not ended, ConfigMaps, and Secrets if asked for: as they were written, without status, what
    /// the API filled in, and what others make of them. What is left out is told on stderr.
    Export(ExportArgs),
    /// Write manifests for what another scheduler runs
    #[command(subcommand)]
    Import(ImportCommand),
    /// Import, list, pull and remove container images
    #[command(subcommand)]
    Image(ImageCommand),
}

/// Arguments of `stint controllers`.
#[derive(Debug, ClapArgs)]
pub struct ControllersArgs {
    /// Where the API is, and who asks: the current context of this file, or in-cluster for what a cluster gives its pods
    #[arg(long, env = "STINT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Source,
    /// Which controllers to run
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Work::Jobs, Work::CronJobs], value_name = "NAME")]
    pub controllers: Vec<Work>,
    /// Take everything of this kind but what names another controller: for APIs whose own controller is switched off
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub take_over: Vec<Work>,
    /// Work in this namespace only [default: in all]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Let one of several replicas work, and another when it can't, by a Lease
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true,
        action = ArgAction::Set, value_name = "BOOL")]
    pub leader_elect: bool,
    /// The namespace of the Lease [default: the kubeconfig's, or the pod's]
    #[arg(long, value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// The name of the Lease
    #[arg(long, default_value = "stint-controllers", value_name = "NAME")]
    pub lease_name: String,
    /// How long others wait when a replica that works is silent; it stops by itself after two thirds of it
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// Where /livez, /healthz and /readyz are served, without TLS [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub health_address: Option<SocketAddr>,
    /// Where /metrics is served, without TLS; may be the same [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// How many Jobs are worked on at once
    #[arg(long, default_value = "16", value_name = "NUMBER")]
    pub concurrent_job_syncs: NonZeroU32,
    /// For how long events about pods gather before their Job is looked at again (a cluster's own controller: 1s)
    #[arg(long, default_value = "0s", value_name = "TIME", value_parser = delay)]
    pub job_sync_batch_period: Duration,
    /// How long failed pods wait.
    #[command(flatten)]
    pub backoff: BackoffArgs,
    /// How log lines are written: text or json
    #[arg(long, default_value = "text", value_name = "FORMAT", value_parser = setting::<LogFormat>)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL", value_parser = setting::<LogLevel>)]
    pub log_level: LogLevel,
}

/// What a controller works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Work {
    /// Jobs, and how long they stay when they have finished.
    #[value(alias = "job")]
    Jobs,
    /// CronJobs.
    #[value(name = "cronjobs", alias = "cronjob")]
    CronJobs,
}

/// What to import.
#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// Print CronJobs that run what crontabs run
    ///
    /// Their pods get this machine's root filesystem where `stint serve --allow-host-rootfs` runs them. What can't be
    /// carried over is told on stderr, by file and line, with what to do; then the exit code is 65.
    Crontab(CrontabArgs),
}

/// Arguments of `stint import crontab`.
#[derive(Debug, ClapArgs)]
pub struct CrontabArgs {
    /// The crontab, or - for stdin [default: that of the user who asks]
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Take this user's crontab (may be repeated); with FILE: run its commands as this user
    #[arg(long, value_name = "USER")]
    pub user: Vec<String>,
    /// Take /etc/crontab and the files in /etc/cron.d; with FILE: its lines name their users, as there
    #[arg(long)]
    pub system: bool,
    /// The image that clusters run the commands in, which have no root filesystem of this machine
    #[arg(long, value_name = "IMAGE", default_value = "debian:stable-slim")]
    pub image: String,
    /// Keep what commands write below this folder, which is this machine's own for them (may be repeated)
    #[arg(long, value_name = "FOLDER", value_parser = kept_folder)]
    pub keep: Vec<String>,
    /// The time zone of the schedules, like Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    pub tz: Option<String>,
    /// Write a file for each CronJob into this folder instead of printing them
    #[arg(short, long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

/// Arguments of `stint run`.
#[derive(Debug, ClapArgs)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct RunArgs {
    /// Manifests (YAML or JSON): files, folders of them, or - for stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Run on this machine's own root filesystem instead of images: read-only below a throw-away overlay
    #[arg(long)]
    pub host: bool,
    /// End everything after this time, like 90s, 5m or 1h30m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Print only what the containers print, and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Put the pod's name before each line [default: when more than one pod runs at once]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, value_name = "BOOL")]
    pub prefix: Option<bool>,
    /// Print the final Jobs as objects on stdout; what the containers print goes to stderr
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Start containers with this program (runc, crun, or a path) instead of Stint's own runtime
    #[arg(long, value_name = "PROGRAM")]
    pub runtime: Option<PathBuf>,
    /// How long failed pods wait.
    #[command(flatten)]
    pub backoff: BackoffArgs,
    /// How to reach registries.
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// The delays before failed pods are replaced.
#[derive(Clone, Copy, Debug, ClapArgs)]
pub struct BackoffArgs {
    /// How long a Job's failed pod waits for its replacement, the first time; twice as long each time after that
    #[arg(long, env = "STINT_JOB_BACKOFF_BASE", value_name = "TIME", default_value = "10s", value_parser = delay)]
    pub job_backoff_base: Duration,
    /// The longest that a Job's failed pod waits for its replacement
    #[arg(long, env = "STINT_JOB_BACKOFF_MAX", value_name = "TIME", default_value = "10m", value_parser = delay)]
    pub job_backoff_max: Duration,
}

impl BackoffArgs {
    /// For the controller.
    pub fn delays(self) -> Backoff {
        Backoff { base: signed(self.job_backoff_base), max: signed(self.job_backoff_max) }
    }
}

/// Arguments of `stint explain`.
#[derive(Debug, ClapArgs)]
pub struct ExplainArgs {
    /// job/NAME
    #[arg(value_name = "JOB")]
    pub what: String,
    /// The Job's namespace
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Print it as an object
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
    /// Ask the API of this kubeconfig's current context instead of the daemon of the data folder
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<Source>,
}

/// Arguments of `stint schedule`.
#[derive(Debug, ClapArgs)]
pub struct ScheduleArgs {
    /// A schedule, like "0 3 * * *", or cronjob/NAME
    #[arg(value_name = "SCHEDULE")]
    pub what: String,
    /// The time zone of the schedule, like Europe/Berlin [default: this machine's]
    #[arg(long, value_name = "ZONE")]
    pub tz: Option<String>,
    /// How many times to show
    #[arg(short = 'n', default_value_t = 10, value_name = "COUNT")]
    pub count: usize,
    /// Show those after this moment, like 2026-03-28T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    pub after: Option<Timestamp>,
    /// The CronJob's namespace
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Ask the API of this kubeconfig's current context instead of the daemon of the data folder
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<Source>,
}

/// Arguments of `stint trigger`.
#[derive(Debug, ClapArgs)]
pub struct TriggerArgs {
    /// cronjob/NAME
    #[arg(value_name = "CRONJOB")]
    pub what: String,
    /// The CronJob's namespace
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Set this variable in every container (may be repeated)
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Ask the API of this kubeconfig's current context instead of the daemon of the data folder
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<Source>,
    /// Print only what the containers print, and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Give the first container these arguments
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
}

/// Arguments of `stint lint`.
#[derive(Debug, ClapArgs)]
pub struct LintArgs {
    /// Manifests (YAML or JSON): files, folders of them, or - for stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where they are to be applied
    #[arg(long = "for", value_enum, default_value = "stint", value_name = "SIDE")]
    pub target: Target,
    /// Print the findings as a list in JSON
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// Where manifests are to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// To `stint serve`: what is otherwise than in the cluster that they may have been written for.
    Stint,
    /// To a cluster: what is otherwise than in Stint.
    Cluster,
}

/// Arguments of `stint export`.
#[derive(Debug, ClapArgs)]
#[allow(clippy::struct_excessive_bools)] // each is a flag of its own
pub struct ExportArgs {
    /// The namespace whose objects are printed
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub namespace: String,
    /// Print those of all namespaces, which must be there where the manifests are applied
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Print Secrets, too, as readable as they are
    #[arg(long)]
    pub secrets: bool,
    /// Print Jobs that have ended, too: where they are applied they run once more
    #[arg(long)]
    pub ended: bool,
    /// Print one List in JSON instead of YAML
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

/// Arguments of `stint kubeconfig`.
#[derive(Debug, ClapArgs)]
pub struct KubeconfigArgs {
    /// Put it into the file that kubectl uses ($KUBECONFIG, or ~/.kube/config) and make it the current context
    #[arg(long)]
    pub merge: bool,
    /// Where clients reach the API, if not at the daemon's first address
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

/// Arguments of `stint install`.
#[derive(Debug, ClapArgs)]
pub struct InstallArgs {
    /// Only print the units
    #[arg(long)]
    pub print: bool,
}

/// How to reach registries.
#[derive(Clone, Debug, Default, ClapArgs)]
pub struct RegistryArgs {
    /// Ask this mirror before a registry: REGISTRY=URL, like registry.example=http://127.0.0.1:5000 (may be repeated)
    #[arg(long, env = "STINT_MIRROR", value_name = "REGISTRY=URL", value_delimiter = ',', value_parser = mirror)]
    pub mirror: Vec<(String, String)>,
}

/// How to print objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object; a List when there are several Jobs.
    Json,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import images from an OCI layout or a `docker save` archive (file, folder, or - for stdin)
    Import {
        /// The archive or folder
        path: PathBuf,
        /// Name the image so, when the archive does not say
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List the images that are here, and since when nobody has used them
    Ls {
        /// Print them as objects
        #[arg(short, long, value_enum, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Remove images
    ///
    /// What a container uses stays until it ends.
    Rm {
        /// The images' names
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove every image that no container uses
    Prune {
        /// Only those that nobody has used for this time, like 90s, 12h or 30d
        #[arg(long, value_name = "TIME", value_parser = duration)]
        unused_for: Option<Duration>,
        /// Only tell which would go
        #[arg(long)]
        dry_run: bool,
        /// Print what went as objects
        #[arg(short, long, value_enum, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Pull images from their registries
    Pull {
        /// The images' names
        #[arg(required = true)]
        images: Vec<String>,
        /// How to reach registries.
        #[command(flatten)]
        registry: RegistryArgs,
    },
}

/// Reads the command line. Help and version are printed here; so is what is wrong.
pub fn parse() -> Result<Args, Exit> {
    let typed = Typed::try_parse().map_err(|error| {
        // Writing help to a closed pipe is not worth a second message.
        let _ = error.print();
        if error.use_stderr() { Exit::Usage } else { Exit::Done }
    })?;
    let data = typed.data.unwrap_or_else(folder::default_data);
    Ok(Args { data, verbose: typed.verbose, command: typed.command })
}

fn delay(text: &str) -> Result<Duration, String> {
    setting(text)
}

/// What a setting of the same type would be.
fn setting<T: Value>(text: &str) -> Result<T, String> {
    T::read(&[text.to_owned()])
}

/// Leases count in whole seconds, and nobody should wait as long as a clock may be wrong.
fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration: Duration = setting(text)?;
    let is_whole = duration.subsec_nanos() == 0 && (3..=3600).contains(&duration.as_secs());
    is_whole.then_some(duration).ok_or_else(|| "give a time in whole seconds, from 3s to 1h".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let hint = "give a time like 90s, 5m or 1h30m";
    let parsed: SignedDuration = text.parse().map_err(|_| hint.to_owned())?;
    Duration::try_from(parsed).ok().filter(|d| !d.is_zero()).ok_or_else(|| hint.to_owned())
}

fn kept_folder(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let is_plain = !path.contains(':') && path.split('/').all(|part| part != "..");
    if path.starts_with('/') && is_plain {
        Ok(path.to_owned())
    } else {
        Err("give a folder by its whole path".to_owned())
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give NAME=VALUE".to_owned()),
    }
}

fn mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((registry, url)) if !registry.is_empty() && !url.is_empty() => Ok((registry.to_owned(), url.to_owned())),
        _ => Err("give REGISTRY=URL, like registry.example=http://127.0.0.1:5000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Typed::command().debug_assert();
    }

    #[test]
    fn kept_folders_are_whole_paths_below_the_root() {
        assert_eq!(kept_folder("/var/backups/"), Ok("/var/backups".to_owned()));
        for wrong in ["", "/", "var", "/a/../b", "/a:b"] {
            assert!(kept_folder(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_positive_and_have_units() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        for wrong in ["", "5", "-5s", "0s", "soon"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
