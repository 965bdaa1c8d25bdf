//! Nobody may give away what they do not have.
//!
//! Upstream: `pkg/registry/rbac/{role,clusterrole,rolebinding,clusterrolebinding}/policybased/storage.go`,
//! `pkg/registry/rbac/validation/rule.go` (`ConfirmNoEscalation`), v1.36.

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::identity::{MASTERS, User};
use crate::policy::Index;
use crate::rules;

/// Confirms that `user` holds `rules` in `namespace` (empty: everywhere). The error is what the user is told.
///
/// The user may do it all the same with the right to `escalate` the role or to `bind` it; that is the caller's to ask.
pub fn confirm(index: &Index, user: &User, namespace: &str, rules: &[PolicyRule]) -> Result<(), String> {
    if user.is_in(MASTERS) {
        return Ok(());
    }
    let (held, lost) = index.rules_of(user, namespace);
    let missing = rules::missing(&held, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = rules::compact(missing).iter().map(rules::describe).collect();
    lines.sort_unstable();
    lines.dedup();
    let mut message = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        rules::quoted(&user.groups),
        lines.join("\n")
    );
    if let Some(lost) = lost {
        message.push_str("; resolution errors: ");
        message.push_str(&lost);
    }
    Err(message)
}

/// What an aggregated ClusterRole may come to hold: everything.
pub fn everything() -> [PolicyRule; 2] {
    [rules::rule(&["*"], &["*"], &["*"]), rules::path_rule(&["*"], &["*"])]
}
