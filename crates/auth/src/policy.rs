//! The RBAC authorizer: stored roles and bindings, indexed by whom they are for.
//!
//! ```text
//!   store ── watch ──▶ Index: subject ─▶ bindings ─▶ role ─▶ rules
//!                        ▲
//!   decide: take in what was written since, then look up the user and each of its groups
//! ```
//!
//! Invariant: a decision knows every write that was answered before it began. A role or binding that can't be read gives
//! nobody anything.
//! Upstream: `plugin/pkg/auth/authorizer/rbac/rbac.go`, `pkg/registry/rbac/validation/rule.go`, v1.36. Aggregated
//! ClusterRoles are put together here and not by a controller, so that they are never behind.
//! Left out: other authorizers (Node, Webhook).

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use stint_store::{Entry, Event, EventKind, Store, Watch};

use crate::attributes::{Attributes, What};
use crate::identity::{MASTERS, User};
use crate::rules;

/// Where roles and bindings are stored.
pub const PREFIX: &str = "rbac.authorization.k8s.io/";

/// What an authorizer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be done.
    pub allowed: bool,
    /// Which binding allows it, or which roles could not be found. Often empty when it is not allowed.
    pub reason: String,
}

/// Decides by the roles and bindings of a store.
pub struct Policy {
    store: Store,
    state: Mutex<State>,
}

struct State {
    /// None: it has expired, or was never begun.
    watch: Option<Watch>,
    index: Arc<Index>,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").finish_non_exhaustive()
    }
}

impl Policy {
    /// The policy in `store`, which is read when first asked.
    pub fn new(store: Store) -> Self {
        Self { store, state: Mutex::new(State { watch: None, index: Arc::default() }) }
    }

    /// Where the roles and bindings are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether `user` may do what is asked.
    pub fn decide(&self, user: &User, asked: &Attributes) -> Verdict {
        if user.is_in(MASTERS) {
            return Verdict { allowed: true, reason: String::new() };
        }
        self.index().decide(user, asked)
    }

    /// The roles and bindings as they are now.
    pub fn index(&self) -> Arc<Index> {
        // A panic while the lock was held can only have left the index behind the watch: start over.
        let mut state = self.state.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut state = poisoned.into_inner();
            state.watch = None;
            self.state.clear_poison();
            state
        });
        let State { watch, index } = &mut *state;
        loop {
            let Some(events) = watch else {
                let listing = self.store.list(PREFIX);
                *index = Arc::new(Index::of(&listing.entries));
                match self.store.watch(PREFIX, listing.revision) {
                    Ok(begun) => *watch = Some(begun),
                    // So many writes in between that the history is gone already: what was listed is of this moment.
                    Err(_) => break,
                }
                continue;
            };
            match events.try_next() {
                None => break,
                Some(Ok(event)) => Arc::make_mut(index).take_in(&event),
                Some(Err(_)) => *watch = None,
            }
        }
        index.clone()
    }
}

/// A role's name, and its namespace; empty for a ClusterRole.
type RoleKey = (String, String);

/// Roles and bindings by whom they are for.
#[derive(Clone, Debug, Default)]
pub struct Index {
    roles: HashMap<RoleKey, Arc<RoleEntry>>,
    bindings: HashMap<Arc<str>, Arc<Binding>>,
    cluster: Subjects,
    namespaces: HashMap<String, Subjects>,
    /// The rules of aggregated ClusterRoles.
    aggregated: HashMap<String, Vec<PolicyRule>>,
}

#[derive(Debug)]
struct RoleEntry {
    rules: Vec<PolicyRule>,
    labels: BTreeMap<String, String>,
    /// Which ClusterRoles it takes its rules from, if it is aggregated.
    aggregates: Option<Vec<LabelSelector>>,
}

#[derive(Debug)]
struct Binding {
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// Bindings by subject, each with the subject's place in it.
#[derive(Clone, Debug, Default)]
struct Subjects {
    /// By user name; ServiceAccounts have one, too.
    users: BySubject,
    groups: BySubject,
}

type BySubject = HashMap<String, Vec<(Arc<Binding>, usize)>>;

/// Where a rule comes from, for [`Verdict::reason`].
#[derive(Clone, Copy, Debug)]
pub struct Source<'a>(&'a Binding, usize);

impl Index {
    /// That of these entries.
    pub fn of(entries: &[Entry]) -> Self {
        let mut index = Self::default();
        for entry in entries {
            index.put(&entry.key, &entry.value);
        }
        index.aggregate();
        index
    }

    fn take_in(&mut self, event: &Event) {
        match event.kind {
            EventKind::Created | EventKind::Updated => self.put(&event.key, &event.value),
            EventKind::Deleted => self.remove(&event.key),
        }
        if event.key[PREFIX.len()..].starts_with("clusterroles/") {
            self.aggregate();
        }
    }

    fn put(&mut self, key: &Arc<str>, value: &[u8]) {
        self.remove(key);
        let Some((plural, _)) = key[PREFIX.len()..].split_once('/') else { return };
        let read = match plural {
            "clusterroles" => serde_json::from_slice(value).map(|role: ClusterRole| {
                let aggregates = role.aggregation_rule.map(|rule| rule.cluster_role_selectors.unwrap_or_default());
                self.put_role(role.metadata, role.rules, aggregates);
            }),
            "roles" => serde_json::from_slice(value).map(|role: Role| self.put_role(role.metadata, role.rules, None)),
            "clusterrolebindings" => serde_json::from_slice(value).map(|binding: ClusterRoleBinding| {
                self.put_binding(key, binding.metadata, binding.role_ref, binding.subjects);
            }),
            "rolebindings" => serde_json::from_slice(value).map(|binding: RoleBinding| {
                self.put_binding(key, binding.metadata, binding.role_ref, binding.subjects);
            }),
            _ => return,
        };
        if let Err(error) = read {
            tracing::error!(%key, %error, "cannot read a stored role or binding; it gives nobody anything");
        }
    }

    fn put_role(&mut self, meta: ObjectMeta, rules: Option<Vec<PolicyRule>>, aggregates: Option<Vec<LabelSelector>>) {
        let key = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        let labels = meta.labels.unwrap_or_default();
        let role = RoleEntry { rules: rules.unwrap_or_default(), labels, aggregates };
        self.roles.insert(key, Arc::new(role));
    }

    fn put_binding(&mut self, key: &Arc<str>, meta: ObjectMeta, role: RoleRef, subjects: Option<Vec<Subject>>) {
        let binding = Arc::new(Binding {
            namespace: meta.namespace.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
            role,
            subjects: subjects.unwrap_or_default(),
        });
        let place = if binding.namespace.is_empty() {
            &mut self.cluster
        } else {
            self.namespaces.entry(binding.namespace.clone()).or_default()
        };
        for (at, subject) in binding.subjects.iter().enumerate() {
            if let Some((by, name)) = place.key(subject, &binding.namespace) {
                by.entry(name).or_default().push((binding.clone(), at));
            }
        }
        self.bindings.insert(key.clone(), binding);
    }

    fn remove(&mut self, key: &str) {
        let Some((plural, rest)) = key[PREFIX.len()..].split_once('/') else { return };
        match plural {
            "clusterroles" => drop(self.roles.remove(&(String::new(), rest.to_owned()))),
            "roles" => {
                if let Some((namespace, name)) = rest.split_once('/') {
                    self.roles.remove(&(namespace.to_owned(), name.to_owned()));
                }
            }
            _ => {
                let Some(binding) = self.bindings.remove(key) else { return };
                let place = match binding.namespace.as_str() {
                    "" => Some(&mut self.cluster),
                    namespace => self.namespaces.get_mut(namespace),
                };
                let Some(place) = place else { return };
                for subject in &binding.subjects {
                    let Some((by, name)) = place.key(subject, &binding.namespace) else { continue };
                    if let Some(bindings) = by.get_mut(&name) {
                        bindings.retain(|(other, _)| !Arc::ptr_eq(other, &binding));
                        if bindings.is_empty() {
                            by.remove(&name);
                        }
                    }
                }
                if place.users.is_empty() && place.groups.is_empty() {
                    self.namespaces.remove(&binding.namespace);
                }
            }
        }
    }

    /// Puts the rules of aggregated ClusterRoles together. One may select another, so this goes on until nothing is new.
    fn aggregate(&mut self) {
        self.aggregated.clear();
        let mut cluster_roles: Vec<(&str, &RoleEntry)> = self
            .roles
            .iter()
            .filter(|((namespace, _), _)| namespace.is_empty())
            .map(|((_, name), role)| (name.as_str(), role.as_ref()))
            .collect();
        cluster_roles.sort_unstable_by_key(|(name, _)| *name);
        let aggregating: Vec<(&str, &[LabelSelector])> =
            cluster_roles.iter().filter_map(|(name, role)| Some((*name, role.aggregates.as_deref()?))).collect();
        for _ in 0..=aggregating.len() {
            let mut changed = false;
            for (name, selectors) in &aggregating {
                let mut rules: Vec<PolicyRule> = Vec::new();
                for (other, role) in &cluster_roles {
                    if other == name || !selectors.iter().any(|selector| selects(selector, &role.labels)) {
                        continue;
                    }
                    let theirs = if role.aggregates.is_some() {
                        self.aggregated.get(*other).map_or(&[][..], Vec::as_slice)
                    } else {
                        &role.rules
                    };
                    for rule in theirs {
                        if !rules.contains(rule) {
                            rules.push(rule.clone());
                        }
                    }
                }
                if self.aggregated.get(*name) != Some(&rules) {
                    self.aggregated.insert((*name).to_owned(), rules);
                    changed = true;
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// The rules of an aggregated ClusterRole, as its `rules` should say. None: it is none.
    pub fn aggregated(&self, cluster_role: &str) -> Option<&[PolicyRule]> {
        self.aggregated.get(cluster_role).map(Vec::as_slice)
    }

    /// The names of all aggregated ClusterRoles.
    pub fn aggregated_names(&self) -> impl Iterator<Item = &str> {
        self.aggregated.keys().map(String::as_str)
    }

    /// Whether `user` may do what is asked, by the roles alone.
    pub fn decide(&self, user: &User, asked: &Attributes) -> Verdict {
        let namespace = match &asked.what {
            What::Resource(resource) => resource.namespace.as_str(),
            What::Path(_) => "",
        };
        let mut lost = Vec::new();
        let found = self.visit(user, namespace, |source, rules| match rules {
            Ok(rules) if rules.iter().any(|rule| rules::allows(rule, asked)) => ControlFlow::Break(source),
            Ok(_) => ControlFlow::Continue(()),
            Err(missing) => {
                lost.push(missing);
                ControlFlow::Continue(())
            }
        });
        match found {
            Some(source) => Verdict { allowed: true, reason: format!("RBAC: allowed by {source}") },
            None => Verdict {
                allowed: false,
                reason: lost_roles(lost).map(|lost| format!("RBAC: {lost}")).unwrap_or_default(),
            },
        }
    }

    /// Every rule that `user` has in `namespace` (empty: everywhere), and which roles could not be found.
    pub fn rules_of(&self, user: &User, namespace: &str) -> (Vec<&PolicyRule>, Option<String>) {
        let (mut all, mut lost) = (Vec::new(), Vec::new());
        let _: Option<()> = self.visit(user, namespace, |_, rules| {
            match rules {
                Ok(rules) => all.extend(rules),
                Err(missing) => lost.push(missing),
            }
            ControlFlow::Continue(())
        });
        (all, lost_roles(lost))
    }

    /// The rules of the role that a binding in `namespace` (empty: a ClusterRoleBinding) refers to.
    ///
    /// The error says which role is missing: `clusterrole.rbac.authorization.k8s.io "x" not found`.
    pub fn role(&self, role: &RoleRef, namespace: &str) -> Result<&[PolicyRule], String> {
        let key = match role.kind.as_str() {
            "Role" => (namespace.to_owned(), role.name.clone()),
            "ClusterRole" => {
                if let Some(rules) = self.aggregated.get(&role.name) {
                    return Ok(rules);
                }
                (String::new(), role.name.clone())
            }
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        let missing = || {
            let kind = role.kind.to_ascii_lowercase();
            format!("{kind}.rbac.authorization.k8s.io {:?} not found", role.name)
        };
        self.roles.get(&key).map(|found| found.rules.as_slice()).ok_or_else(missing)
    }

    /// Shows `visitor` the rules of every binding that applies to `user`, until it has seen enough.
    fn visit<'a, B>(
        &'a self,
        user: &User,
        namespace: &str,
        mut visitor: impl FnMut(Source<'a>, Result<&'a [PolicyRule], String>) -> ControlFlow<B>,
    ) -> Option<B> {
        let places = [Some(&self.cluster), self.namespaces.get(namespace)];
        for place in places.into_iter().flatten() {
            let groups = user.groups.iter().filter_map(|group| place.groups.get(group));
            for (binding, at) in place.users.get(&user.name).into_iter().chain(groups).flatten() {
                let rules = self.role(&binding.role, &binding.namespace);
                if let ControlFlow::Break(seen) = visitor(Source(binding, *at), rules) {
                    return Some(seen);
                }
            }
        }
        None
    }
}

/// The message for roles that bindings name and that are not there.
fn lost_roles(mut lost: Vec<String>) -> Option<String> {
    lost.sort_unstable();
    lost.dedup();
    match lost.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        more => Some(format!("[{}]", more.join(", "))),
    }
}

impl Subjects {
    /// Where bindings of this subject are kept. None: it stands for nobody.
    fn key(&mut self, subject: &Subject, namespace: &str) -> Option<(&mut BySubject, String)> {
        match subject.kind.as_str() {
            "User" => Some((&mut self.users, subject.name.clone())),
            "Group" => Some((&mut self.groups, subject.name.clone())),
            "ServiceAccount" => {
                let namespace = subject.namespace.as_deref().filter(|given| !given.is_empty()).unwrap_or(namespace);
                (!namespace.is_empty()).then(|| (&mut self.users, User::service_account(namespace, &subject.name).name))
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(binding, at) = self;
        let RoleRef { kind, name: role, .. } = &binding.role;
        if binding.namespace.is_empty() {
            write!(f, "ClusterRoleBinding {:?} of {kind} {role:?} to ", binding.name)?;
        } else {
            let name = format!("{}/{}", binding.name, binding.namespace);
            write!(f, "RoleBinding {name:?} of {kind} {role:?} to ")?;
        }
        let subject = &binding.subjects[*at];
        if subject.kind == "ServiceAccount" {
            let namespace = subject.namespace.as_deref().filter(|given| !given.is_empty());
            let name = format!("{}/{}", subject.name, namespace.unwrap_or(&binding.namespace));
            write!(f, "ServiceAccount {name:?}")
        } else {
            write!(f, "{} {:?}", subject.kind, subject.name)
        }
    }
}

/// Whether a label selector selects these labels. An operator that is not known selects nothing.
fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let label = labels.get(&requirement.key);
            let values = requirement.values.as_deref().unwrap_or_default();
            match requirement.operator.as_str() {
                "In" => label.is_some_and(|label| values.contains(label)),
                "NotIn" => label.is_none_or(|label| !values.contains(label)),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}
