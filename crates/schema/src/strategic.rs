//! Strategic merge patch: a merge patch that knows from the type which lists are maps, and obeys directives.
//!
//! | in the patch | means |
//! | --- | --- |
//! | `null` | remove the member |
//! | `$patch: replace` / `delete` | in a map: this and nothing else / nothing. In a list of maps: the list, or the item |
//! | `$retainKeys` | remove the members that are not named |
//! | `$deleteFromPrimitiveList/x` | take these out of the list `x` |
//! | `$setElementOrder/x` | the order of the items of `x`; those that it does not name keep their places between |
//!
//! Invariant: a patch that fails changes nothing. Merging takes time that grows with the lists, not with their square.
//! Left out: making patches.
//! Upstream: `apimachinery/pkg/util/strategicpatch/patch.go`, `apimachinery/pkg/util/mergepatch/errors.go`, v1.36.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::form::{Form, ListMerge, Scalar, View};
use crate::go;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Why a patch can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A directive has not the form that it must have.
    #[error("invalid patch format of {0}")]
    Directive(&'static str),
    /// `$patch` says something unknown.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective {
        /// What it says.
        directive: String,
        /// The map that it is in.
        map: String,
    },
    /// `$patch: merge` in an item of a list.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirective,
    /// An item has no merge key.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item.
        map: String,
        /// The key.
        key: String,
    },
    /// A list has items of different kinds.
    #[error("list element types are not identical: {0}")]
    MixedList(String),
    /// A list has lists as items.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// Something else than what must be there.
    #[error("expected a {expected}, but received a {found}")]
    Type {
        /// The Go type that must be there.
        expected: &'static str,
        /// The Go type that is there.
        found: &'static str,
    },
    /// The order of a list contradicts `$setElementOrder`.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    Order {
        /// The list.
        patch: String,
        /// The directive.
        order: String,
    },
    /// Items that are maps, in a list that has no merge key.
    #[error("cannot merge lists without merge key for type struct")]
    NoKeyDeclared,
    /// A directive names a field that there is none of.
    #[error("unable to find api field in struct {of} for the json field {field:?}")]
    UnknownField {
        /// The struct.
        of: String,
        /// The field.
        field: String,
    },
}

type Result<T> = std::result::Result<T, PatchError>;
type Members = Map<String, Value>;

/// What is known about a member that a patch changes.
struct Known {
    form: Form,
    merge: ListMerge,
    replaces: bool,
}

fn known(form: Form, name: &str) -> Option<Known> {
    match form.view_of(None) {
        View::Record { record, .. } => {
            let member = record.member(name)?;
            Some(Known { form: member.form(), merge: member.list_merge(), replaces: member.is_replaced() })
        }
        View::Map { item, .. } => Some(Known { form: item, merge: ListMerge::Replace, replaces: false }),
        _ => Some(Known { form: Form::ANY, merge: ListMerge::Replace, replaces: false }),
    }
}

/// Applies `patch` to `document`, an object of this form.
pub fn apply(form: Form, document: Members, patch: &Members) -> Result<Members> {
    merge_map(document, patch.clone(), form)
}

fn merge_map(mut original: Members, mut patch: Members, form: Form) -> Result<Members> {
    if let Some(directive) = patch.get(PATCH) {
        return match directive.as_str() {
            Some("replace") => {
                patch.remove(PATCH);
                Ok(patch)
            }
            Some("delete") => Ok(Map::new()),
            _ => Err(unknown_directive(directive, &patch)),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, form)?;
    for (name, change) in patch {
        let (name, deletes) = match name.strip_prefix(DELETE_FROM) {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        if change.is_null() {
            original.remove(&name);
            continue;
        }
        let Some(there) = original.get_mut(&name).filter(|there| go::kind(there) == go::kind(&change)) else {
            if !deletes {
                match without_directives(without_nulls(change)) {
                    Some(value) => original.insert(name, value),
                    None => original.remove(&name),
                };
            }
            continue;
        };
        let there = std::mem::take(there);
        let next = match (there, change) {
            (Value::Object(there), Value::Object(change)) => {
                let known = known_field(form, &name)?;
                Value::Object(if known.replaces { change } else { merge_map(there, change, known.form)? })
            }
            (Value::Array(there), Value::Array(change)) => {
                let known = known_field(form, &name)?;
                Value::Array(merge_list(there, change, &known, deletes)?)
            }
            (_, change) => change,
        };
        original.insert(name, next);
    }
    Ok(original)
}

fn known_field(form: Form, name: &str) -> Result<Known> {
    known(form, name).ok_or_else(|| PatchError::UnknownField { of: form.name().to_owned(), field: name.to_owned() })
}

fn retain_keys(original: &mut Members, patch: &mut Members) -> Result<()> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let malformed = PatchError::Directive("retainKeys");
    let Value::Array(retained) = retained else { return Err(malformed) };
    let retains = |name: &str| retained.iter().any(|kept| kept == name);
    for (name, value) in &*patch {
        let directive = name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER);
        if !value.is_null() && !directive && !retains(name) {
            return Err(malformed);
        }
    }
    original.retain(|name, _| retains(name));
    Ok(())
}

/// Merges and orders the lists whose order the patch gives, and takes them out of the patch.
fn order_lists(original: &mut Members, patch: &mut Members, form: Form) -> Result<()> {
    let directives: Vec<String> = patch.keys().filter(|name| name.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let name = directive[ELEMENT_ORDER.len()..].to_owned();
        let order = list(patch.remove(&directive).unwrap_or_default())?;
        let live = original.get(&name).cloned().map(list).transpose()?;
        let change = patch.get(&name).cloned().map(list).transpose()?;
        let known = known_field(form, &name)?;
        let key = match known.merge {
            ListMerge::ByKey(key) => Some(key),
            _ => None,
        };
        validate_order(change.as_deref().unwrap_or_default(), &order, key)?;
        let merged = match (live.clone(), change) {
            (None, None) => continue,
            (Some(live), None) => live,
            (None, Some(change)) => change,
            (Some(live), Some(change)) => merge_list(live, change, &known, false)?,
        };
        let both = in_order(merged, &order, live.as_deref().unwrap_or_default(), key)?;
        original.insert(name.clone(), Value::Array(both));
        patch.remove(&name);
    }
    Ok(())
}

fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(PatchError::Type { expected: "[]interface {}", found: go::type_name(&other) }),
    }
}

/// The items of a patch that stay must be in the order that the patch gives.
fn validate_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut left = order.iter();
    for item in patch.iter().filter(|item| !has_directive(item)) {
        let identity = identity(item, key)?;
        let mut found = false;
        for other in left.by_ref() {
            if self::identity(other, key)? == identity {
                found = true;
                break;
            }
        }
        if !found {
            let list = |items: &[Value]| go::print(&Value::Array(items.to_vec()));
            return Err(PatchError::Order { patch: list(patch), order: list(order) });
        }
    }
    Ok(())
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, known: &Known, deletes: bool) -> Result<Vec<Value>> {
    if known.merge == ListMerge::Replace {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let maps = item_kind(&original, &patch)? == "map";
    if !maps {
        if deletes {
            let deleted: HashSet<&Value> = patch.iter().collect();
            return Ok(original.into_iter().filter(|item| !deleted.contains(item)).collect());
        }
        let mut seen = HashSet::with_capacity(original.len() + patch.len());
        let merged = original.iter().chain(&patch).filter(|item| seen.insert(*item)).cloned().collect();
        return in_order(merged, &patch, &original, None);
    }
    let ListMerge::ByKey(key) = known.merge else { return Err(PatchError::NoKeyDeclared) };
    let item_form = match known.form.view_of(None) {
        View::List { item, .. } => item,
        _ => Form::ANY,
    };
    let (original, patch) = special_items(original, patch, key)?;
    let mut merged = original.clone();
    let mut places = HashMap::with_capacity(original.len() + patch.len());
    for (at, item) in original.iter().enumerate() {
        if let Some(name) = item.get(key) {
            places.entry(name).or_insert(at);
        }
    }
    for change in &patch {
        let name = identity(change, Some(key))?;
        let Value::Object(change) = change else { unreachable!("an item with a key is a map") };
        match places.get(name).map(|at| &mut merged[*at]) {
            Some(item) => {
                let Value::Object(there) = std::mem::take(item) else { unreachable!("an item with a key is a map") };
                *item = Value::Object(merge_map(there, change.clone(), item_form)?);
            }
            None => {
                if let Some(new) = without_directives(without_nulls(Value::Object(change.clone()))) {
                    places.insert(name, merged.len());
                    merged.push(new);
                }
            }
        }
    }
    in_order(merged, &patch, &original, Some(key))
}

/// Obeys the items of `patch` that are directives. What is left of both lists.
fn special_items(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replaces = false;
    let mut deleted = HashSet::new();
    for item in patch {
        let Some(directive) = item.get(PATCH) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                deleted.insert(identity(&item, Some(key))?.clone());
            }
            Some("replace") => replaces = true,
            Some("merge") => return Err(PatchError::MergeDirective),
            _ => return Err(unknown_directive(directive, item.as_object().unwrap_or(&Map::new()))),
        }
    }
    original.retain(|item| item.get(key).is_none_or(|name| !deleted.contains(name)));
    Ok(if replaces { (plain, Vec::new()) } else { (original, plain) })
}

/// What all items of both lists are.
fn item_kind(original: &[Value], patch: &[Value]) -> Result<&'static str> {
    let mut kinds = original.iter().chain(patch).map(|item| match item {
        Value::Number(_) => "number",
        other => go::kind(other),
    });
    let first = kinds.next().unwrap_or("invalid");
    if first == "slice" {
        return Err(PatchError::ListOfLists);
    }
    if kinds.any(|kind| kind != first) {
        let print = |items: &[Value]| go::print(&Value::Array(items.to_vec()));
        return Err(PatchError::MixedList(format!("[{} {}]", print(original), print(patch))));
    }
    Ok(first)
}

/// What tells an item from the others of its list.
fn identity<'v>(item: &'v Value, key: Option<&str>) -> Result<&'v Value> {
    let Some(key) = key else { return Ok(item) };
    match item {
        Value::Object(members) => {
            members.get(key).ok_or_else(|| PatchError::NoMergeKey { map: go::print(item), key: key.to_owned() })
        }
        other => Err(PatchError::Type { expected: "map[string]interface {}", found: go::type_name(other) }),
    }
}

/// Orders `merged`: the items of the patch as the patch has them, the server's own as the live list has them, and each of
/// those before the first of the patch's that comes after it in the live list.
fn in_order(merged: Vec<Value>, patch: &[Value], live: &[Value], key: Option<&str>) -> Result<Vec<Value>> {
    let (in_live, in_patch) = (places(live, key), places(patch, key));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for item in merged {
        let name = identity(&item, key)?;
        let (in_live, in_patch) = (in_live.get(name).copied(), in_patch.get(name).copied());
        match in_patch {
            Some(at) => theirs.push((at, in_live, item)),
            None => ours.push((in_live.unwrap_or(usize::MAX), in_live, item)),
        }
    }
    ours.sort_by_key(|(at, ..)| *at);
    theirs.sort_by_key(|(at, ..)| *at);
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    loop {
        let ours_first = match (ours.peek(), theirs.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (Some((_, Some(a), _)), Some((_, Some(b), _))) => a < b,
            (_, Some(_)) => false,
        };
        let next = if ours_first { ours.next() } else { theirs.next() };
        out.extend(next.map(|(.., item)| item));
    }
}

/// Where in its list each item first is.
fn places<'v>(items: &'v [Value], key: Option<&str>) -> HashMap<&'v Value, usize> {
    let mut places = HashMap::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        if let Ok(name) = identity(item, key) {
            places.entry(name).or_insert(at);
        }
    }
    places
}

fn has_directive(item: &Value) -> bool {
    item.get(PATCH).is_some()
}

fn unknown_directive(directive: &Value, map: &Members) -> PatchError {
    PatchError::UnknownDirective { directive: go::print(directive), map: go::print(&Value::Object(map.clone())) }
}

/// Members of maps that are null say "remove"; there is nothing to remove from where they are new.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name, without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        plain => plain,
    }
}

/// A new value without what only directs. None: all of it does.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(members) if members.contains_key(PATCH) => None,
        Value::Object(members) => Some(Value::Object(
            members
                .into_iter()
                .filter(|(name, _)| {
                    name != RETAIN_KEYS && !name.starts_with(ELEMENT_ORDER) && !name.starts_with(DELETE_FROM)
                })
                .filter_map(|(name, value)| Some((name, without_directives(value)?)))
                .collect(),
        )),
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        plain => Some(plain),
    }
}

/// Why a patched document is no object of this form, as Go's conversion from maps to structs says it:
/// `unrecognized type: int32`, `cannot restore struct from: string`.
pub fn unrestorable(form: Form, value: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    match (form.view_of(None), value) {
        (View::Scalar(Scalar::Untyped), _) | (_, Value::Null) => None,
        (View::Scalar(scalar), value) => {
            let fits = match scalar {
                Scalar::Number => value.is_number(),
                Scalar::Flag => value.is_boolean(),
                _ => value.is_string() || value.is_number(),
            };
            (!fits).then(|| format!("unrecognized type: {}", form.go_kind()))
        }
        (View::Record { record, .. }, Value::Object(members)) => members
            .iter()
            .find_map(|(name, value)| record.member(name).and_then(|member| unrestorable(member.form(), value))),
        (View::Record { .. }, other) => Some(format!("cannot restore struct from: {}", go::kind(other))),
        (View::Map { item, .. }, Value::Object(members)) => {
            members.values().find_map(|value| unrestorable(item, value))
        }
        (View::Map { .. }, other) => Some(format!("cannot restore map from {}", go::kind(other))),
        (View::List { item, .. }, Value::Array(items)) => items.iter().find_map(|value| unrestorable(item, value)),
        (View::List { .. }, other) => Some(format!("cannot restore slice from {}", go::kind(other))),
    }
}
