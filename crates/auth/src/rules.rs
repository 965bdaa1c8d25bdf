//! RBAC rules: what one allows, what a set of them covers, how one is written down.
//!
//! Upstream: `plugin/pkg/auth/authorizer/rbac/rbac.go` (`RuleAllows`), `pkg/apis/rbac/v1/evaluation_helpers.go`,
//! `component-helpers/auth/rbac/validation/policy_comparator.go` (`Covers`),
//! `pkg/registry/rbac/validation/policy_compact.go`, v1.36.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::attributes::{Attributes, Resource, What};

const ALL: &str = "*";

/// Whether the rule allows what is asked for.
pub fn allows(rule: &PolicyRule, asked: &Attributes) -> bool {
    has(&rule.verbs, &asked.verb)
        && match &asked.what {
            What::Path(path) => list(rule.non_resource_urls.as_ref()).iter().any(|pattern| path_matches(pattern, path)),
            What::Resource(resource) => {
                has(list(rule.api_groups.as_ref()), &resource.group)
                    && list(rule.resources.as_ref()).iter().any(|pattern| resource_matches(pattern, resource))
                    && name_matches(list(rule.resource_names.as_ref()), &resource.name)
            }
        }
}

fn list(list: Option<&Vec<String>>) -> &[String] {
    list.map(Vec::as_slice).unwrap_or_default()
}

/// Whether a list holds an entry or `*`.
fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == ALL || entry == wanted)
}

fn resource_matches(pattern: &str, asked: &Resource) -> bool {
    if pattern == ALL {
        return true;
    }
    match (pattern.split_once('/'), asked.subresource.as_str()) {
        (None, "") => pattern == asked.resource,
        (Some((resource, subresource)), asked_subresource) if !asked_subresource.is_empty() => {
            (resource == ALL || resource == asked.resource) && subresource == asked_subresource
        }
        _ => false,
    }
}

/// A rule for certain names does not allow what has no name: no list, and no creation.
fn name_matches(names: &[String], asked: &str) -> bool {
    names.is_empty() || names.iter().any(|name| name == asked)
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path || pattern.strip_suffix('*').is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

/// What of `wanted` nothing in `held` covers, in rules of one verb, one resource and one name each.
pub fn missing(held: &[&PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(break_down).filter(|piece| !held.iter().any(|rule| covers(rule, piece))).collect()
}

fn break_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| Some(vec![text.clone()]);
    let mut pieces = Vec::new();
    for verb in &rule.verbs {
        let verbs = vec![verb.clone()];
        for group in list(rule.api_groups.as_ref()) {
            for resource in list(rule.resources.as_ref()) {
                let piece = PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: verbs.clone(),
                    ..PolicyRule::default()
                };
                match list(rule.resource_names.as_ref()) {
                    [] => pieces.push(piece),
                    names => {
                        pieces
                            .extend(names.iter().map(|name| PolicyRule { resource_names: one(name), ..piece.clone() }));
                    }
                }
            }
        }
        for path in list(rule.non_resource_urls.as_ref()) {
            pieces.push(PolicyRule { non_resource_urls: one(path), verbs: verbs.clone(), ..PolicyRule::default() });
        }
    }
    pieces
}

/// Whether a rule covers a piece that [`break_down`] made.
fn covers(rule: &PolicyRule, piece: &PolicyRule) -> bool {
    let all = |held: &[String], wanted: &[String]| wanted.iter().all(|entry| has(held, entry));
    let resource = |wanted: &String| {
        let held = list(rule.resources.as_ref());
        let of_any = wanted.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        has(held, wanted) || of_any.is_some_and(|pattern| held.contains(&pattern))
    };
    let names = match (list(rule.resource_names.as_ref()), list(piece.resource_names.as_ref())) {
        ([], _) => true,
        (_, []) => false,
        (held, wanted) => wanted.iter().all(|name| held.contains(name)),
    };
    let path = |wanted: &String| list(rule.non_resource_urls.as_ref()).iter().any(|held| path_matches(held, wanted));
    all(&rule.verbs, &piece.verbs)
        && all(list(rule.api_groups.as_ref()), list(piece.api_groups.as_ref()))
        && list(piece.resources.as_ref()).iter().all(resource)
        && names
        && list(piece.non_resource_urls.as_ref()).iter().all(path)
}

/// Rules of one resource each that differ in their verbs only become one.
pub fn compact(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut compacted = Vec::new();
    let mut simple: BTreeMap<(String, String), PolicyRule> = BTreeMap::new();
    for rule in rules {
        match (list(rule.api_groups.as_ref()), list(rule.resources.as_ref()), &rule.resource_names) {
            ([group], [resource], None) => {
                let verbs = rule.verbs.clone();
                simple
                    .entry((group.clone(), resource.clone()))
                    .and_modify(|known| known.verbs.extend(verbs))
                    .or_insert(rule);
            }
            _ => compacted.push(rule),
        }
    }
    compacted.extend(simple.into_values());
    compacted
}

/// A rule in one line, as messages show it: `{APIGroups:["batch"], Resources:["jobs"], Verbs:["get"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let members = [
        ("APIGroups", list(rule.api_groups.as_ref())),
        ("Resources", list(rule.resources.as_ref())),
        ("NonResourceURLs", list(rule.non_resource_urls.as_ref())),
        ("ResourceNames", list(rule.resource_names.as_ref())),
        ("Verbs", &rule.verbs),
    ];
    let members: Vec<String> = members
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| format!("{name}:{}", quoted(values)))
        .collect();
    format!("{{{}}}", members.join(", "))
}

/// A list as Go's `%q` shows it: `["a" "b"]`.
pub fn quoted(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", values.join(" "))
}

/// A rule about resources.
pub fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> PolicyRule {
    PolicyRule {
        verbs: owned(verbs),
        api_groups: Some(owned(groups)),
        resources: Some(owned(resources)),
        ..PolicyRule::default()
    }
}

/// A rule about paths.
pub fn path_rule(verbs: &[&str], paths: &[&str]) -> PolicyRule {
    PolicyRule { verbs: owned(verbs), non_resource_urls: Some(owned(paths)), ..PolicyRule::default() }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: &str, group: &str, combined: &str, name: &str) -> Attributes {
        let (resource, subresource) = combined.split_once('/').unwrap_or((combined, ""));
        let resource = Resource {
            group: group.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            namespace: "n".into(),
            ..Resource::default()
        };
        Attributes::resource(verb, resource)
    }

    #[test]
    fn a_rule_allows_what_its_lists_name_and_nothing_else() {
        let named =
            PolicyRule { resource_names: Some(vec!["a".into()]), ..rule(&["get", "list", "create"], &[""], &["pods"]) };
        let rows: &[(&PolicyRule, Attributes, bool)] = &[
            (&rule(&["get"], &["batch"], &["jobs"]), asked("get", "batch", "jobs", "a"), true),
            (&rule(&["get"], &["batch"], &["jobs"]), asked("list", "batch", "jobs", ""), false),
            (&rule(&["get"], &["batch"], &["jobs"]), asked("get", "", "jobs", "a"), false),
            (&rule(&["get"], &["batch"], &["jobs"]), asked("get", "batch", "jobs/status", "a"), false),
            (&rule(&["get"], &["batch"], &["jobs/status"]), asked("get", "batch", "jobs", "a"), false),
            (&rule(&["get"], &[""], &["pods/log"]), asked("get", "", "pods/log", "a"), true),
            (&rule(&["get"], &[""], &["pods/log"]), asked("get", "", "pods/exec", "a"), false),
            (&rule(&["get"], &["*"], &["*/scale"]), asked("get", "apps", "deployments/scale", "a"), true),
            (&rule(&["get"], &["*"], &["*/scale"]), asked("get", "apps", "deployments", "a"), false),
            (&rule(&["get"], &["*"], &["*/scale"]), asked("get", "", "scale", "a"), false),
            (&rule(&["get"], &["*"], &["pods/*"]), asked("get", "", "pods/log", "a"), false),
            (&rule(&["*"], &["*"], &["*"]), asked("impersonate", "x", "y/z", ""), true),
            (&rule(&[], &["*"], &["*"]), asked("get", "", "pods", ""), false),
            (&named, asked("get", "", "pods", "a"), true),
            (&named, asked("get", "", "pods", "b"), false),
            (&named, asked("list", "", "pods", ""), false),
            (&named, asked("list", "", "pods", "a"), true),
            (&named, asked("create", "", "pods", ""), false),
            (&path_rule(&["get"], &["/healthz"]), Attributes::path("get", "/healthz"), true),
            (&path_rule(&["get"], &["/healthz"]), Attributes::path("get", "/healthz/"), false),
            (&path_rule(&["get"], &["/healthz/*"]), Attributes::path("get", "/healthz/etcd"), true),
            (&path_rule(&["get"], &["/healthz/*"]), Attributes::path("get", "/healthz"), false),
            (&path_rule(&["get"], &["*"]), Attributes::path("get", "/metrics"), true),
            (&path_rule(&["get"], &["/m*s"]), Attributes::path("get", "/metrics"), false),
            (&path_rule(&["*"], &["*"]), asked("get", "", "pods", ""), false),
            (&rule(&["*"], &["*"], &["*"]), Attributes::path("get", "/metrics"), false),
        ];
        for (rule, asked, expected) in rows {
            assert_eq!(allows(rule, asked), *expected, "{} for {asked:?}", describe(rule));
        }
    }

    #[test]
    fn what_is_missing_is_found_piece_by_piece() {
        let held = [rule(&["get", "list"], &["batch"], &["jobs"]), rule(&["get"], &[""], &["*/log"])];
        let held: Vec<&PolicyRule> = held.iter().collect();
        let texts = |wanted: &PolicyRule| -> Vec<String> {
            compact(missing(&held, std::slice::from_ref(wanted))).iter().map(describe).collect()
        };
        assert!(texts(&rule(&["get"], &["batch"], &["jobs"])).is_empty());
        assert!(texts(&rule(&["get"], &[""], &["pods/log"])).is_empty());
        let named = PolicyRule { resource_names: Some(vec!["a".into()]), ..rule(&["get"], &["batch"], &["jobs"]) };
        assert!(texts(&named).is_empty());
        assert_eq!(
            texts(&rule(&["get", "create", "delete"], &["batch"], &["jobs"])),
            [r#"{APIGroups:["batch"], Resources:["jobs"], Verbs:["create" "delete"]}"#]
        );
        assert_eq!(texts(&rule(&["*"], &["*"], &["*"])), [r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#]);
        assert_eq!(texts(&path_rule(&["get"], &["/a"])), [r#"{NonResourceURLs:["/a"], Verbs:["get"]}"#]);
    }

    #[test]
    fn a_rule_for_names_does_not_cover_one_for_all() {
        let named = PolicyRule { resource_names: Some(vec!["a".into()]), ..rule(&["get"], &[""], &["pods"]) };
        assert_eq!(missing(&[&named], &[rule(&["get"], &[""], &["pods"])]).len(), 1);
    }
}
