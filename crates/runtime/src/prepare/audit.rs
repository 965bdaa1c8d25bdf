//! Which parts of an OCI runtime spec this runtime applies. Everything else is refused.
//!
//! Invariant: fail closed. The spec is walked as the JSON that it stands for, and a field that the table does not name
//! is an error, also when a later version of `oci-spec` invents it. Empty values (null, false, "", [], {}) ask for nothing.

use serde_json::Value;

/// Every field that is applied, or that asks for nothing. `[]` is each element of an array, `*` any key of a map.
const APPLIED: &[&str] = &[
    "ociVersion",
    "root.path", // the bundle's rootfs takes its place
    "root.readonly",
    "hostname",
    "domainname",
    "annotations.*", // metadata by definition
    "mounts.[].destination",
    "mounts.[].type",
    "mounts.[].source",
    "mounts.[].options.[]",
    "process.user.uid",
    "process.user.gid",
    "process.user.umask",
    "process.user.additionalGids.[]",
    "process.args.[]",
    "process.env.[]",
    "process.cwd",
    "process.capabilities.bounding.[]",
    "process.capabilities.effective.[]",
    "process.capabilities.inheritable.[]",
    "process.capabilities.permitted.[]",
    "process.capabilities.ambient.[]",
    "process.rlimits.[].type",
    "process.rlimits.[].hard",
    "process.rlimits.[].soft",
    "process.noNewPrivileges",
    "process.apparmorProfile",
    "process.terminal",
    "process.oomScoreAdj",
    "linux.sysctl.*",
    "linux.uidMappings.[].containerID",
    "linux.uidMappings.[].hostID",
    "linux.uidMappings.[].size",
    "linux.gidMappings.[].containerID",
    "linux.gidMappings.[].hostID",
    "linux.gidMappings.[].size",
    "linux.cgroupsPath",
    "linux.namespaces.[].type",
    "linux.namespaces.[].path",
    "linux.devices.[].path",
    "linux.devices.[].type",
    "linux.devices.[].major",
    "linux.devices.[].minor",
    "linux.devices.[].fileMode",
    "linux.devices.[].uid",
    "linux.devices.[].gid",
    "linux.maskedPaths.[]",
    "linux.readonlyPaths.[]",
    "linux.resources.devices.[].allow",
    "linux.resources.devices.[].type",
    "linux.resources.devices.[].major",
    "linux.resources.devices.[].minor",
    "linux.resources.devices.[].access",
    "linux.resources.memory.limit",
    "linux.resources.memory.reservation",
    "linux.resources.memory.swap",
    "linux.resources.memory.swappiness",        // v1 only
    "linux.resources.memory.disableOOMKiller",  // v1 only
    "linux.resources.memory.useHierarchy",      // what every kernel does by now
    "linux.resources.memory.checkBeforeUpdate", // of interest to updates only, and there are none
    "linux.resources.cpu.shares",
    "linux.resources.cpu.quota",
    "linux.resources.cpu.period",
    "linux.resources.cpu.burst",
    "linux.resources.cpu.idle",
    "linux.resources.pids.limit",
    "linux.resources.hugepageLimits.[].pageSize",
    "linux.resources.hugepageLimits.[].limit",
    "linux.resources.unified.*", // v2 only
];

/// The first field that asks for something that is not applied.
pub(super) fn unapplied(spec: &Value) -> Option<String> {
    let mut path = String::new();
    walk(spec, &mut path)
}

fn walk(value: &Value, path: &mut String) -> Option<String> {
    let asks = match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    };
    if !asks {
        return None;
    }
    let at = path.len();
    match value {
        Value::Object(fields) => fields.iter().find_map(|(key, field)| {
            // A map's keys are its user's: they stand for themselves as `*`.
            let is_map = APPLIED.iter().any(|a| a.strip_suffix(".*") == Some(path.as_str()));
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(if is_map { "*" } else { key });
            let found = walk(field, path);
            path.truncate(at);
            found
        }),
        Value::Array(elements) => {
            path.push_str(".[]");
            let found = elements.iter().find_map(|element| walk(element, path));
            path.truncate(at);
            found
        }
        _ => (!APPLIED.contains(&path.as_str())).then(|| path.replace(".[]", "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_applied_is_named() {
        for (spec, field) in [
            (json!({"hooks": {"prestart": [{"path": "/bin/x"}]}}), "hooks.prestart.path"),
            (json!({"process": {"selinuxLabel": "x"}}), "process.selinuxLabel"),
            (
                json!({"process": {"ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 1}}}),
                "process.ioPriority.class",
            ),
            (json!({"process": {"scheduler": {"policy": "SCHED_BATCH"}}}), "process.scheduler.policy"),
            (json!({"process": {"execCPUAffinity": {"initial": "0"}}}), "process.execCPUAffinity.initial"),
            (json!({"linux": {"intelRdt": {"closID": "x"}}}), "linux.intelRdt.closID"),
            (json!({"linux": {"mountLabel": "x"}}), "linux.mountLabel"),
            (json!({"linux": {"rootfsPropagation": "shared"}}), "linux.rootfsPropagation"),
            (json!({"linux": {"personality": {"domain": "LINUX32"}}}), "linux.personality.domain"),
            (json!({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}}), "linux.timeOffsets.boottime.secs"),
            (json!({"linux": {"resources": {"blockIO": {"weight": 10}}}}), "linux.resources.blockIO.weight"),
            (json!({"linux": {"resources": {"cpu": {"cpus": "0"}}}}), "linux.resources.cpu.cpus"),
            (json!({"linux": {"resources": {"memory": {"kernel": 1}}}}), "linux.resources.memory.kernel"),
            (json!({"mounts": [{"destination": "/x", "uidMappings": [{"hostID": 1}]}]}), "mounts.uidMappings.hostID"),
            (json!({"windows": {"servicing": true}}), "windows.servicing"),
            (json!({"somethingNew": {"deep": [{"on": 1}]}}), "somethingNew.deep.on"),
        ] {
            assert_eq!(unapplied(&spec).as_deref(), Some(field), "{spec}");
        }
    }

    #[test]
    fn what_asks_for_nothing_passes() {
        let spec = json!({
            "ociVersion": "1.2.0", "hooks": {}, "process": {"terminal": true, "apparmorProfile": ""},
            "annotations": {"a.b/c": "d"}, "linux": {"sysctl": {"net.ipv4.x": "1"}, "uidMappings": []},
        });
        assert_eq!(unapplied(&spec), None);
    }

    #[test]
    fn the_default_spec_is_applied_in_full() {
        let mut spec = crate::default_spec();
        spec.linux_mut().as_mut().unwrap().set_seccomp(None); // the seccomp compiler judges that part
        let spec = serde_json::to_value(spec).unwrap();
        assert_eq!(unapplied(&spec), None);
    }
}
