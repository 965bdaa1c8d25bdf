//! AppArmor: whether the kernel confines by it, which profiles it knows, and the one that containers have by default.
//!
//! Invariant: nothing is loaded unless it is asked for, and a profile of the default's name that is loaded stays as it is:
//! it may be the administrator's.
//!
//! The default is containerd's (`contrib/apparmor/template.go`): containers change nothing of the machine by `/proc` and
//! `/sys`, mount nothing, and signal and trace nobody but each other.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use thiserror::Error;

use crate::rootless;

/// The name of the profile that containers have by default.
pub const DEFAULT_PROFILE: &str = "stint-default";

/// The program that compiles profiles and loads them into the kernel.
const PARSER: &str = "/sbin/apparmor_parser";

/// What the kernel tells of AppArmor.
const TOLD: &str = "/sys/kernel/security/apparmor";

/// Where the machine's profiles are, and what they include.
const PROFILES: &str = "/etc/apparmor.d";

/// Why the default profile is not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel does not say which profiles it has.
    #[error("failed to read {TOLD}/profiles")]
    Unknown(#[source] io::Error),
    /// There is nothing to load it by.
    #[error("{DEFAULT_PROFILE} can't be loaded: that takes {PARSER} (package apparmor), {TOLD} (securityfs) and root")]
    NoMeans,
    /// The program could not be run.
    #[error("failed to run {PARSER}")]
    NotRun(#[source] io::Error),
    /// The program refused it.
    #[error("{PARSER} does not load {DEFAULT_PROFILE}: {0}")]
    Refused(String),
}

/// Whether the kernel confines by AppArmor.
pub fn is_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| {
        std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
    })
}

/// Whether the kernel knows a profile of this name. An ordinary user is not told.
pub fn is_loaded(profile: &str) -> io::Result<bool> {
    let all = std::fs::read_to_string(Path::new(TOLD).join("profiles"))?;
    Ok(names(&all).any(|name| name == profile))
}

/// The names in a list with lines like `name (enforce)`; a name may have spaces.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| Some(line.rsplit_once(" (")?.0))
}

/// Whether this process can load profiles, as far as can be seen. In a container it has no business to.
pub fn can_load() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let in_container = std::env::var_os("container").is_some_and(|kind| !kind.is_empty());
        is_enabled()
            && Path::new(TOLD).exists()
            && Path::new(PARSER).exists()
            && !in_container
            && !rootless::is_confined()
    })
}

/// Has the kernel know the default profile. Reads one file if it does; compiling it takes a fraction of a second.
pub fn load_default() -> Result<(), LoadError> {
    static LOADING: Mutex<()> = Mutex::new(());
    if !can_load() {
        return Err(LoadError::NoMeans);
    }
    let is_loaded = || is_loaded(DEFAULT_PROFILE).map_err(LoadError::Unknown);
    if is_loaded()? {
        return Ok(());
    }
    let _others_wait = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if is_loaded()? { Ok(()) } else { load(&default_profile()) }
}

/// Loads a profile, past the compiler's cache, in which it would be by the name of a file.
fn load(text: &str) -> Result<(), LoadError> {
    let mut parser = Command::new(PARSER);
    parser.arg("-Kr").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = parser.spawn().map_err(LoadError::NotRun)?;
    // One that ends before it has read says why. What it says itself is short.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(LoadError::NotRun)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    Err(LoadError::Refused(String::from_utf8_lossy(&said).trim().replace('\n', "; ")))
}

/// The default profile, as it is on this machine.
fn default_profile() -> String {
    let own = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    profile(own_name(&own), |file| Path::new(PROFILES).join(file).exists())
}

/// The profile in a process's `attr/current`, which may say in which mode it is.
fn own_name(current: &str) -> &str {
    let current = current.trim_matches(['\n', '\0']);
    match current.rsplit_once(" (").map_or(current, |(name, _)| name) {
        "" => "unconfined",
        name => name,
    }
}

/// The default profile, for a machine with these files to include, and a process of this profile that sends signals.
fn profile(own: &str, has: impl Fn(&str) -> bool) -> String {
    let abi = if has("abi/3.0") { "abi <abi/3.0>,\n" } else { "" };
    let proc = if has("tunables/global") { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if has("abstractions/base") { "#include <abstractions/base>" } else { "" };
    format!(
        r#"{abi}{proc}
profile {DEFAULT_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  {base}
  network,
  capability,
  file,
  umount,

  # From the machine's processes, from whoever runs containers, and among containers.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer="{own}",
  signal (send,receive) peer={DEFAULT_PROFILE},

  # Of /proc nothing but /proc/<number> and /proc/sys/kernel/shm*.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny mount,

  # Of /sys nothing but cgroups.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,

  ptrace (trace,tracedby,read,readby) peer={DEFAULT_PROFILE},
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let list = "stint-default (enforce)\n/usr/bin/man (complain)\nwith spaces (in it) (enforce)\n";
        assert_eq!(names(list).collect::<Vec<_>>(), ["stint-default", "/usr/bin/man", "with spaces (in it)"]);
    }

    #[test]
    fn a_process_knows_what_confines_it() {
        for (current, name) in [
            ("unconfined\n", "unconfined"),
            ("", "unconfined"),
            ("/usr/bin/stint (enforce)\n", "/usr/bin/stint"),
            ("my stint (complain)\0", "my stint"),
        ] {
            assert_eq!(own_name(current), name, "{current:?}");
        }
    }

    /// Compiled, and not loaded, by what loads it.
    #[test]
    fn the_default_profile_is_understood_with_and_without_the_machines_files() {
        if !Path::new(PARSER).exists() {
            eprintln!("skipped: apparmor is not installed");
            return;
        }
        for text in [default_profile(), profile("/opt/my stint", |_| false)] {
            let mut parser = Command::new(PARSER);
            parser.args(["--skip-kernel-load", "--skip-cache"]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = parser.spawn().unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
