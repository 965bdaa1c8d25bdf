//! The daemon's settings: one table that says each one's name, type, default and meaning.
//!
//! ```text
//!   --tls-san a,b          the command line
//!   STINT_TLS_SAN=a,b      the environment           each only where those above are silent
//!   tls-san = ["a", "b"]   the configuration file
//!                          the default
//! ```
//!
//! Invariant: a setting has one definition, a row of the table, and the same name in all three places. A key that the
//! file has and the table does not is refused.

mod layers;
mod value;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use stint_agent::{Isolation, POD_MAX_PIDS};
use stint_core::job::{Backoff, Tuning};
use stint_core::pressure::{ImagePolicy, Settings as Shortage};
use stint_network::Subnet;

use crate::folder;

pub use layers::{CONFIG_FILE, Flags, Resolved, Source};
pub use value::{
    Controllers, Folder, Graces, Levels, LogFiles, LogFormat, LogLevel, NetworkKind, Percent, Reclaims, SearchPath,
    Shape, Size, TokenLife, Value,
};

/// A row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The name: of the flag after `--`, of the key in the file, and in capitals after `STINT_` of the variable.
    pub name: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// What it is unless it is said otherwise, as it would be typed. Empty: see `help`.
    pub default: &'static str,
    /// What its values look like.
    pub shape: Shape,
    /// Whether SIGHUP makes a running daemon take a new value; else it takes a restart.
    pub reloads: bool,
    /// Whether values could be what the type wants.
    pub check: fn(&[String]) -> Result<(), String>,
}

macro_rules! settings {
    ($($(#[doc = $help:literal])+ $name:literal $field:ident: $kind:ty = $default:literal $(, $reloads:ident)?;)+) => {
        /// Every setting's value.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $help])+ pub $field: $kind,)+
        }

        /// The table.
        pub static TABLE: &[Setting] = &[$(Setting {
            name: $name,
            help: concat!($($help),+),
            default: $default,
            shape: <$kind as Value>::SHAPE,
            reloads: settings!(@reloads $($reloads)?),
            check: |texts| <$kind as Value>::read(texts).map(drop),
        }),+];

        impl Settings {
            /// Reads what each setting's texts say.
            fn read(mut texts: impl FnMut(&'static str) -> Vec<String>) -> Result<Settings, (&'static str, String)> {
                Ok(Settings { $($field: Value::read(&texts($name)).map_err(|why| ($name, why))?),+ })
            }
        }
    };
    (@reloads) => { false };
    (@reloads reloads) => { true };
}

settings! {
    /// Where the API is served over TLS: addresses with ports, or none
    "listen" listen: Vec<SocketAddr> = "127.0.0.1:6443";
    /// The unix socket of the API [default: /run/stint/stint.sock for the usual data folder of root,
    /// $XDG_RUNTIME_DIR/stint/stint.sock for that of another user, else stint.sock in the data folder]
    "socket" socket: Option<PathBuf> = "";
    /// More names and addresses that the server's certificate is to be good for
    "tls-san" tls_san: Vec<String> = "", reloads;
    /// A certificate chain (PEM) to serve with instead of one from Stint's own authority; needs --tls-key
    "tls-cert" tls_cert: Option<PathBuf> = "", reloads;
    /// The private key (PEM) of --tls-cert
    "tls-key" tls_key: Option<PathBuf> = "", reloads;
    /// Authorities (PEM) whose client certificates are taken beside those of Stint's own authority
    "client-ca" client_ca: Option<PathBuf> = "", reloads;
    /// This node's name [default: the machine's host name]
    "node-name" node_name: Option<String> = "";
    /// Serve the API only: start no containers here
    "no-agent" no_agent: bool = "false";
    /// Which controllers to run: all, none, or some of jobs, cronjobs, bind and housekeeping
    "controllers" controllers: Controllers = "all";
    /// How long a Job's failed pod waits for its replacement, the first time; twice as long each time after that
    "job-backoff-base" job_backoff_base: Duration = "10s";
    /// The longest that a Job's failed pod waits for its replacement
    "job-backoff-max" job_backoff_max: Duration = "10m";
    /// How many Jobs are worked on at once (a cluster's default is 5)
    "concurrent-job-syncs" concurrent_job_syncs: NonZeroU32 = "16";
    /// For how long events about pods gather before their Job is looked at again (a cluster's 1s spares an API server far away)
    "job-sync-batch-period" job_sync_batch_period: Duration = "0s";
    /// How many ended pods a Job's status holds at most before they are counted
    "job-max-uncounted-pods" job_max_uncounted_pods: NonZeroU32 = "500";
    /// How many pods of a Job are created or deleted at most before the Job is looked at again
    "job-max-pods-per-sync" job_max_pods_per_sync: NonZeroU32 = "500";
    /// With how many pods at once creating a Job's pods begins; twice as many each time that all of them are taken
    "job-slow-start" job_slow_start: NonZeroU32 = "1";
    /// How many pods this node takes at once
    "max-pods" max_pods: u32 = "110";
    /// How much one file of a container's log may have before the next is begun
    "container-log-max-size" container_log_max_size: Size = "10Mi";
    /// How many files of a container's log are kept, with the one that is written to
    "container-log-max-files" container_log_max_files: LogFiles = "5";
    /// How many processes and threads a pod may have. 0: any number
    "pod-max-pids" pod_max_pids: u32 = "16384";
    /// Sysctls beside the safe ones that pods may set in their own namespaces, like net.core.somaxconn or kernel.msg*
    "allowed-unsafe-sysctls" allowed_unsafe_sysctls: Vec<String> = "";
    /// Let pods ask for this machine's own root filesystem by the annotation `stint.dev/rootfs: host`
    "allow-host-rootfs" allow_host_rootfs: bool = "false";
    /// The network of pods: own, each its own, joined by a bridge; cni, each by CNI plugins; host, all on this machine's; or
    /// auto: cni where there is a configuration, else own [without root: own where passt or slirp4netns is installed, else
    /// host]
    "pod-network" pod_network: NetworkKind = "auto";
    /// Where CNI configurations are: the first file by name counts
    "cni-conf-dir" cni_conf_dir: Folder = "/etc/cni/net.d";
    /// Where CNI plugins are: the first folder that has one counts
    "cni-bin-dir" cni_bin_dir: SearchPath = "/opt/cni/bin,/usr/lib/cni";
    /// The addresses of pods on networks of their own, like 10.85.0.0/22 [default: 1,021 of 10.85.0.0/16 that this machine
    /// does not use]
    "pod-cidr" pod_cidr: Option<Subnet> = "";
    /// Start containers with this program (runc, crun, or a path) instead of Stint's own runtime
    "runtime" runtime: Option<PathBuf> = "";
    /// How full the disk of images may become before images that nobody uses are removed, in percent. 100: any
    "image-gc-high-threshold" image_gc_high_threshold: Percent = "85";
    /// How full the disk of images is to be after images were removed, in percent
    "image-gc-low-threshold" image_gc_low_threshold: Percent = "80";
    /// How long an image that has come stays in any case
    "image-minimum-gc-age" image_minimum_gc_age: Duration = "2m";
    /// How long an image stays that nobody uses, however empty the disk is. 0s: for ever
    "image-maximum-gc-age" image_maximum_gc_age: Duration = "0s";
    /// Below which amounts this node is short, so that pods go at once, or none: of memory.available, nodefs.available,
    /// nodefs.inodesFree, imagefs.available, imagefs.inodesFree and pid.available
    "eviction-hard" eviction_hard: Levels =
        "memory.available<100Mi,nodefs.available<1Gi,nodefs.inodesFree<5%,imagefs.available<1Gi,imagefs.inodesFree<5%";
    /// Below which amounts this node is short, so that pods go after a time: --eviction-soft-grace-period
    "eviction-soft" eviction_soft: Levels = "";
    /// For how long this node may be short as --eviction-soft says, like memory.available=1m30s
    "eviction-soft-grace-period" eviction_soft_grace_period: Graces = "";
    /// How long pods may take to end that go for --eviction-soft, if they do not ask for less
    "eviction-max-pod-grace-period" eviction_max_pod_grace_period: Duration = "0s";
    /// How much more than its threshold has to be free before this node is no longer short, like nodefs.available=1Gi
    "eviction-minimum-reclaim" eviction_minimum_reclaim: Reclaims = "";
    /// How long this node says that it is short after it was for the last time
    "eviction-pressure-transition-period" eviction_pressure_transition_period: Duration = "5m";
    /// Ask this mirror before a registry: REGISTRY=URL, like registry.example=http://127.0.0.1:5000
    "mirror" mirror: Vec<Mirror> = "";
    /// How many requests that read are answered at once, watches and streams apart; more are told to come again. 0: any
    "max-requests-inflight" max_requests_inflight: u32 = "400", reloads;
    /// How many requests that change something are answered at once; more are told to come again. 0: any
    "max-mutating-requests-inflight" max_mutating_requests_inflight: u32 = "200", reloads;
    /// The file of the audit log, or - for standard output [default: there is none]
    "audit-log-path" audit_log_path: Option<PathBuf> = "", reloads;
    /// How many MiB a file of the audit log may have before the next is begun
    "audit-log-maxsize" audit_log_maxsize: u32 = "20", reloads;
    /// How many older files of the audit log are kept
    "audit-log-maxbackup" audit_log_maxbackup: u32 = "4", reloads;
    /// Have requests in the audit log that only read, and may
    "audit-log-reads" audit_log_reads: bool = "true", reloads;
    /// How long a key signs ServiceAccount tokens before a new one does; it verifies until its last token has expired.
    /// 0s: for ever
    "service-account-key-rotation" service_account_key_rotation: Duration = "2160h", reloads;
    /// The longest life of a ServiceAccount token; what is asked for beyond it is shortened, with a warning
    "service-account-max-token-expiration" service_account_max_token_expiration: TokenLife = "8760h", reloads;
    /// How long requests may take to end when the daemon stops
    "shutdown-grace" shutdown_grace: Duration = "10s", reloads;
    /// How log lines are written: text or json
    "log-format" log_format: LogFormat = "text";
    /// What is logged: error, warn, info, debug or trace
    "log-level" log_level: LogLevel = "info", reloads;
}

impl Settings {
    /// The settings of which a daemon tells these texts by name; the defaults of those that it does not tell. None: it has a
    /// value that this program does not know.
    pub fn of_told(told: &serde_json::Value) -> Option<Settings> {
        let text = |name| told[name].as_str().or(named(name).map(|setting| setting.default)).unwrap_or_default();
        Settings::read(|name| value::split(text(name))).ok()
    }

    /// When images go that nobody uses; what is wrong with the settings, if something is.
    pub fn images(&self) -> Result<ImagePolicy, String> {
        let (high, low) = (self.image_gc_high_threshold.0, self.image_gc_low_threshold.0);
        if low >= high {
            return Err(format!("image-gc-low-threshold ({low}) must be below image-gc-high-threshold ({high})"));
        }
        let max_age = Some(signed(self.image_maximum_gc_age)).filter(SignedDuration::is_positive);
        Ok(ImagePolicy { high, low, min_age: signed(self.image_minimum_gc_age), max_age })
    }

    /// When this node is short of something; what is wrong with the settings, if something is.
    pub fn shortage(&self) -> Result<Shortage, String> {
        let graces = &self.eviction_soft_grace_period.0;
        let soft = self.eviction_soft.0.iter().map(|&(signal, level)| {
            let grace = graces.iter().find(|(of, _)| *of == signal);
            let name = signal.name();
            grace.map(|(_, grace)| (signal, level, *grace)).ok_or_else(|| {
                format!("eviction-soft has {name}, and eviction-soft-grace-period does not: add {name}=1m30s, say")
            })
        });
        Ok(Shortage {
            hard: self.eviction_hard.0.clone(),
            soft: soft.collect::<Result<_, _>>()?,
            reclaim: self.eviction_minimum_reclaim.0.clone(),
            transition: signed(self.eviction_pressure_transition_period),
            soft_grace: signed(self.eviction_max_pod_grace_period).as_secs(),
        })
    }

    /// How far pods are kept apart, with what is in the data folder `data`.
    pub fn isolation(&self, data: &Path) -> Isolation {
        let usual = Isolation::usual(folder::seccomp(data));
        let pod_max_pids = match self.pod_max_pids {
            0 => None,
            POD_MAX_PIDS => usual.pod_max_pids,
            limit => Some(limit),
        };
        Isolation { pod_max_pids, allowed_unsafe_sysctls: self.allowed_unsafe_sysctls.clone(), ..usual }
    }

    /// How the Job controller goes about its Jobs.
    pub fn tuning(&self) -> Tuning {
        Tuning {
            backoff: Backoff { base: signed(self.job_backoff_base), max: signed(self.job_backoff_max) },
            max_uncounted_pods: number(self.job_max_uncounted_pods),
            max_pods_per_plan: number(self.job_max_pods_per_sync),
        }
    }
}

/// The same number.
pub fn number(count: NonZeroU32) -> usize {
    usize::try_from(count.get()).unwrap_or(usize::MAX)
}

/// The same span; one that is longer than any timestamp is as good as for ever.
pub fn signed(span: Duration) -> SignedDuration {
    SignedDuration::try_from(span).unwrap_or(SignedDuration::MAX)
}

/// A registry's mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The registry.
    pub registry: String,
    /// Where it is mirrored.
    pub url: String,
}

/// The setting called `name`.
pub fn named(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name == name)
}

impl Setting {
    /// The variable in the environment.
    pub fn variable(&self) -> String {
        format!("STINT_{}", self.name.to_uppercase().replace('-', "_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_of_its_setting() {
        for setting in TABLE {
            let default = value::split(setting.default);
            assert_eq!((setting.check)(&default), Ok(()), "{}", setting.name);
        }
    }

    #[test]
    fn thresholds_of_images_and_of_shortages_must_fit_each_other() {
        let told = |all: serde_json::Value| Settings::of_told(&all).unwrap();
        let defaults = told(serde_json::json!({}));
        assert_eq!(defaults.images(), Ok(ImagePolicy::default()));
        let hard = stint_core::pressure::levels(&value::split(stint_core::pressure::DEFAULT_HARD)).unwrap();
        assert_eq!(defaults.shortage().unwrap().hard, hard);
        let crossed = serde_json::json!({"image-gc-low-threshold": "85"});
        assert!(told(crossed).images().unwrap_err().contains("below image-gc-high-threshold"));
        let graceless = serde_json::json!({"eviction-soft": "pid.available<10"});
        assert!(told(graceless).shortage().unwrap_err().contains("add pid.available=1m30s"));
    }

    #[test]
    fn names_are_unique_and_plain() {
        for (at, setting) in TABLE.iter().enumerate() {
            assert!(setting.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", setting.name);
            assert!(TABLE[..at].iter().all(|other| other.name != setting.name), "{}", setting.name);
            assert!(setting.help.len() > 20, "{} says what it is for", setting.name);
        }
    }
}
