//! The CronJob that does what a line does.
//!
//! Like cron it starts whatever is due, also beside a run that goes on; it tries nothing again, and makes up for nothing
//! that passed while the machine was down. What the command prints is in the pod's log instead of a mail.

use serde_json::{Map, Value, json};

use super::command::Command;
use super::environment::Environment;
use super::field::When;
use super::{Account, Wishes};

/// Where the address is kept to which cron would mail the output; empty where it would mail none.
pub(super) const MAILTO: &str = "stint.dev/mailto";
/// On what the label [`IMPORTED_FROM`] is `crontab`.
const IMPORTED_FROM: &str = "stint.dev/imported-from";
/// Asks for the machine's root filesystem.
const ROOTFS: &str = "stint.dev/rootfs";

/// How late a run may start. Cron's is never late; an API server or a node may be busy.
const DEADLINE_SECONDS: i64 = 60;
const PATH: &str = "/usr/bin:/bin";
const SHELL: &str = "/bin/sh";

/// Gives the rest of its arguments, a command, the first as input.
const FEED: &str = "printf %s \"$0\" | \"$@\"";

/// What is needed for it.
pub(super) struct CronJob<'a> {
    pub(super) name: &'a str,
    pub(super) when: &'a When,
    pub(super) zone: Option<&'a str>,
    pub(super) account: &'a Account,
    pub(super) environment: &'a Environment,
    pub(super) command: &'a Command,
}

impl CronJob<'_> {
    /// As JSON.
    pub(super) fn object(&self, wishes: &Wishes<'_>) -> Value {
        let mut metadata = json!({ "name": self.name, "labels": { IMPORTED_FROM: "crontab" } });
        if let Some(mailto) = self.environment.get("MAILTO") {
            metadata["annotations"] = json!({ MAILTO: mailto });
        }
        let mut spec = json!({
            "schedule": self.when.schedule,
            "startingDeadlineSeconds": DEADLINE_SECONDS,
            "jobTemplate": { "spec": {
                "backoffLimit": 0,
                "template": {
                    "metadata": { "annotations": { ROOTFS: "host" } },
                    "spec": self.pod(wishes),
                },
            } },
        });
        if let Some(zone) = self.zone {
            spec["timeZone"] = zone.into();
        }
        json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": spec })
    }

    fn pod(&self, wishes: &Wishes<'_>) -> Value {
        let account = self.account;
        let mut user = json!({ "runAsUser": account.uid, "runAsGroup": account.gid });
        if !account.groups.is_empty() {
            user["supplementalGroups"] = json!(account.groups);
        }
        let mut container = self.container(wishes.image);
        let mut pod = json!({
            "restartPolicy": "Never",
            "hostNetwork": true,
            "automountServiceAccountToken": false,
            "securityContext": user,
        });
        if !wishes.keep.is_empty() {
            let kept = || wishes.keep.iter().enumerate();
            let name = |index: usize| format!("keep-{}", index + 1);
            let mounts = kept().map(|(index, path)| json!({ "name": name(index), "mountPath": path }));
            container["volumeMounts"] = mounts.collect();
            let volumes = kept().map(|(index, path)| json!({ "name": name(index), "hostPath": { "path": path } }));
            pod["volumes"] = volumes.collect();
        }
        pod["containers"] = json!([container]);
        pod
    }

    fn container(&self, image: &str) -> Value {
        let account = self.account;
        let own = |name: &str, default: &str| self.environment.get(name).unwrap_or(default).to_owned();
        let shell = own("SHELL", SHELL);
        let home = own("HOME", &account.home);
        let mut env: Vec<(&str, String)> = vec![
            ("SHELL", shell.clone()),
            ("HOME", home.clone()),
            ("PATH", own("PATH", PATH)),
            ("LOGNAME", account.name.clone()),
        ];
        for setting in self.environment.iter() {
            if env.iter().all(|(name, _)| *name != setting.name) {
                env.push((&setting.name, setting.value.clone()));
            }
        }
        let env: Vec<Value> =
            env.into_iter().map(|(name, value)| json!({ "name": name, "value": literal(&value) })).collect();
        let mut command = vec![literal(&shell), "-c".to_owned()];
        if let Some(stdin) = &self.command.stdin {
            let feed = [SHELL.to_owned(), "-c".to_owned(), literal(FEED), literal(stdin)];
            command.splice(0..0, feed);
        }
        let mut container = Map::new();
        container.insert("name".to_owned(), "command".into());
        container.insert("image".to_owned(), image.into());
        container.insert("env".to_owned(), env.into());
        container.insert("command".to_owned(), command.into());
        container.insert("args".to_owned(), json!([literal(&self.command.line)]));
        // A relative one would be below a folder of cron itself.
        if home.starts_with('/') {
            container.insert("workingDir".to_owned(), home.into());
        }
        container.into()
    }
}

/// Text that Kubernetes, which replaces `$(NAME)` and takes `$$` for `$`, reads as `text`.
fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        literal.push(c);
        if c == '$' && matches!(chars.peek(), Some('$' | '(')) {
            literal.push('$');
        }
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_would_replace_is_escaped() {
        for (text, written) in [
            ("echo $HOME", "echo $HOME"),
            ("echo $(date)", "echo $$(date)"),
            ("echo $$", "echo $$$"),
            ("echo $$(x) $", "echo $$$$(x) $"),
        ] {
            assert_eq!(literal(text), written);
        }
    }
}
