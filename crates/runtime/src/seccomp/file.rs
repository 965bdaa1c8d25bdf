//! Profiles in files: JSON as the OCI runtime specification has it, or as Docker does, where rules can depend on the
//! machine and on the container's capabilities.
//!
//! Invariant: what it returns can be compiled; a rule is left out only where the file says so.
//! Docker's format: `profiles/seccomp/seccomp.go` (`Seccomp`, `Syscall`, `Filter`) of github.com/moby/profiles.
#![allow(clippy::implicit_hasher)] // oci-spec's sets are plain ones

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxSeccomp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::compile;
use crate::host;
use crate::prepare::Refusal;

/// Why a file is no profile that can be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadProfile {
    /// It is not JSON, or not of this form.
    #[error("cannot be decoded: {0}")]
    Form(String),
    /// It asks for something that can't be applied.
    #[error("asks for {0}")]
    Unsupported(String),
}

/// When a rule holds, or does not.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    /// The container has all of these capabilities.
    caps: Option<Vec<Capability>>,
    /// The machine is one of these, in Go's words.
    arches: Option<Vec<String>>,
    /// The kernel is at least this one: `4.8`.
    min_kernel: Option<String>,
}

/// Reads a profile, for a container with these capabilities on this machine.
pub fn parse(text: &[u8], capabilities: &HashSet<Capability>) -> Result<LinuxSeccomp, BadProfile> {
    let form = |fault: serde_json::Error| BadProfile::Form(fault.to_string());
    let mut profile: Value = serde_json::from_slice(text).map_err(form)?;
    let Some(fields) = profile.as_object_mut() else {
        return Err(BadProfile::Form("it is no JSON object".to_owned()));
    };
    if let Some(map) = fields.remove("archMap") {
        let architectures = architectures(&map);
        fields.entry("architectures").or_insert(architectures);
    }
    if let Some(rules) = fields.get_mut("syscalls").and_then(Value::as_array_mut) {
        let mut kept = Vec::new();
        for mut rule in std::mem::take(rules) {
            if applies(&mut rule, capabilities)? {
                kept.push(rule);
            }
        }
        *rules = kept;
    }
    let profile: LinuxSeccomp = serde_json::from_value(profile).map_err(form)?;
    compile(&profile).map_err(|refusal| match refusal {
        Refusal::Unsupported(control, _) => BadProfile::Unsupported(control),
        Refusal::Invalid(fault) => BadProfile::Form(fault),
    })?;
    Ok(profile)
}

/// Whether a rule holds here. What only Docker's form has is taken out of it.
fn applies(rule: &mut Value, capabilities: &HashSet<Capability>) -> Result<bool, BadProfile> {
    let Some(fields) = rule.as_object_mut() else {
        return Err(BadProfile::Form("a rule is no JSON object".to_owned()));
    };
    fields.remove("comment");
    if let Some(name) = fields.remove("name").filter(|name| name.as_str().is_some_and(|name| !name.is_empty())) {
        fields.entry("names").or_insert(json!([name]));
    }
    let mut condition = |key: &str| -> Result<Condition, BadProfile> {
        let given = fields.remove(key).filter(|given| !given.is_null());
        let read = given.map(serde_json::from_value).transpose();
        read.map(Option::unwrap_or_default).map_err(|fault| BadProfile::Form(format!("{key}: {fault}")))
    };
    let (includes, excludes) = (condition("includes")?, condition("excludes")?);
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let is_here = |arches: &[String]| arches.iter().any(|arch| arch == machine);
    let is_reached = |kernel: &str| {
        let mut numbers = kernel.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(host::kernel() >= (major, minor)),
            _ => Err(BadProfile::Form(format!("minKernel {kernel:?} is no version"))),
        }
    };
    let Condition { caps, arches, min_kernel } = includes;
    let included = caps.is_none_or(|all| all.iter().all(|one| capabilities.contains(one)))
        && arches.is_none_or(|arches| arches.is_empty() || is_here(&arches))
        && min_kernel.as_deref().map_or(Ok(true), is_reached)?;
    let Condition { caps, arches, min_kernel } = excludes;
    let excluded = caps.is_some_and(|all| all.iter().any(|one| capabilities.contains(one)))
        || arches.is_some_and(|arches| is_here(&arches))
        || min_kernel.as_deref().map_or(Ok(false), is_reached)?;
    Ok(included && !excluded)
}

/// The architectures of Docker's map, each with those that come with it.
fn architectures(map: &Value) -> Value {
    let mut all = Vec::new();
    for entry in map.as_array().into_iter().flatten() {
        all.extend(entry.get("architecture").cloned());
        all.extend(entry.get("subArchitectures").and_then(Value::as_array).into_iter().flatten().cloned());
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(profile: &Value, capabilities: &[Capability]) -> Result<Vec<String>, BadProfile> {
        let set = capabilities.iter().copied().collect();
        let read = parse(profile.to_string().as_bytes(), &set)?;
        Ok(read.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect())
    }

    #[test]
    fn rules_hold_where_they_say() {
        let rule = |name: &str, more: Value| {
            let mut rule = json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "x"});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}],
            "syscalls": [
                rule("read", json!({})),
                rule("mount", json!({"includes": {"caps": ["CAP_SYS_ADMIN"]}})),
                rule("clone", json!({"excludes": {"caps": ["CAP_SYS_ADMIN"]}})),
                rule("write", json!({"includes": {"minKernel": "4.8"}, "excludes": {}})),
                rule("ptrace", json!({"includes": {"minKernel": "99.0"}})),
                rule("open", json!({"includes": {"arches": ["s390"]}})),
                {"name": "close", "action": "SCMP_ACT_ALLOW"},
            ],
        });
        assert_eq!(names(&profile, &[]).unwrap(), ["read", "clone", "write", "close"]);
        assert_eq!(names(&profile, &[Capability::SysAdmin]).unwrap(), ["read", "mount", "write", "close"]);
    }

    #[test]
    fn a_file_that_is_no_profile_is_told() {
        for (text, told) in [
            ("", "cannot be decoded"),
            ("[]", "no JSON object"),
            ("{}", "cannot be decoded"),
            (r#"{"defaultAction": "SCMP_ACT_FLY"}"#, "cannot be decoded"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
                "asks for",
            ),
            (
                r#"{"defaultAction": "SCMP_ACT_ERRNO",
                    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"moon": "full"}}]}"#,
                "includes",
            ),
        ] {
            let fault = parse(text.as_bytes(), &HashSet::new()).unwrap_err().to_string();
            assert!(fault.contains(told), "{text}: {fault}");
        }
    }
}
