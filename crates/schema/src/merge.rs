//! Objects as sets of fields: comparing two, merging a configuration into one, and taking fields away.
//!
//! All of it goes by the [`Form`] of the type: members of structs and maps are separate fields, items of lists that are
//! maps or sets are too, and what is atomic is one field however large it is.
//!
//! Invariant: merging keeps every field of the configuration, and what it does not name of the object; merging twice is
//! merging once.
//! Left out: who owns which fields.
//! Upstream: `structured-merge-diff/typed` (`compare.go`, `merge.go`, `remove.go`, `tofieldset.go`, `validate.go`).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::fields::{Element, FieldPath, FieldSet, Node};
use crate::form::{Form, ListRule, Member, Scalar, View};

/// What differs between two objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What only the old one has.
    pub removed: FieldSet,
    /// What both have with different values.
    pub modified: FieldSet,
    /// What only the new one has.
    pub added: FieldSet,
}

impl Comparison {
    /// The comparison without `ignored` and what is below it.
    #[must_use]
    pub fn outside(&self, ignored: &FieldSet) -> Self {
        Self {
            removed: self.removed.outside(ignored),
            modified: self.modified.outside(ignored),
            added: self.added.outside(ignored),
        }
    }

    /// What the new object says that the old one did not.
    pub fn changed(&self) -> FieldSet {
        self.modified.union(&self.added)
    }
}

/// Compares two objects.
pub fn compare(form: Form, old: &Value, new: &Value) -> Comparison {
    let Difference { removed, modified, added } = difference(form, Some(old), Some(new));
    Comparison { removed: removed.below, modified: modified.below, added: added.below }
}

#[derive(Default)]
struct Difference {
    removed: Node,
    modified: Node,
    added: Node,
}

impl Difference {
    fn add(&mut self, element: &Element, other: Self) {
        let put = |set: &mut FieldSet, node: Node| {
            if node != Node::default() {
                set.add(element.clone(), node);
            }
        };
        put(&mut self.removed.below, other.removed);
        put(&mut self.modified.below, other.modified);
        put(&mut self.added.below, other.added);
    }

    fn mark(&mut self, old: bool, new: bool) {
        match (old, new) {
            (false, _) => self.added.member = true,
            (true, false) => self.removed.member = true,
            (true, true) => self.modified.member = true,
        }
    }
}

fn difference(form: Form, old: Option<&Value>, new: Option<&Value>) -> Difference {
    let mut found = Difference::default();
    if old == new {
        return found;
    }
    let leaf = |mut found: Difference| {
        found.mark(old.is_some(), new.is_some());
        found
    };
    match form.view_of(new.or(old)) {
        View::Scalar(_)
        | View::Record { atomic: true, .. }
        | View::Map { atomic: true, .. }
        | View::List { rule: ListRule::Atomic, .. } => return leaf(found),
        view @ (View::Record { .. } | View::Map { .. }) => {
            let (a, b) = (object(old), object(new));
            if a.is_none_or(Map::is_empty) && b.is_none_or(Map::is_empty) {
                return leaf(found);
            }
            let member = |name: &str| match &view {
                View::Record { record, .. } => record.form_of(name),
                View::Map { item, .. } => *item,
                _ => Form::ANY,
            };
            for (name, old) in a.into_iter().flatten() {
                let new = b.and_then(|b| b.get(name));
                found.add(&Element::field(name), difference(member(name), Some(old), new));
            }
            for (name, new) in b.into_iter().flatten() {
                if a.is_none_or(|a| !a.contains_key(name)) {
                    found.add(&Element::field(name), difference(member(name), None, Some(new)));
                }
            }
        }
        View::List { rule, item } => {
            let (a, b) = (list(old), list(new));
            if a.is_empty() && b.is_empty() {
                return leaf(found);
            }
            let (a, b) = (index(rule, item, a), index(rule, item, b));
            let mut elements: Vec<&Element> = a.items.keys().chain(b.items.keys()).collect();
            elements.sort_unstable();
            elements.dedup();
            for element in elements {
                let none = Vec::new();
                let (old, new) = (a.items.get(element).unwrap_or(&none), b.items.get(element).unwrap_or(&none));
                let mut below = Difference::default();
                match (old.as_slice(), new.as_slice()) {
                    ([] | [_], [] | [_]) => {
                        below = difference(item, old.first().copied(), new.first().copied());
                    }
                    // An element that is there more than once is one field.
                    ([_, _, ..], [_, _, ..]) => below.modified.member = old != new,
                    ([_, _, ..], _) => {
                        if let Some(new) = new.first() {
                            below = difference(item, None, Some(new));
                        }
                        below.removed.member = true;
                    }
                    (_, [_, _, ..]) => {
                        if let Some(old) = old.first() {
                            below = difference(item, Some(old), None);
                        }
                        below.added.member = true;
                    }
                }
                found.add(element, below);
            }
        }
    }
    match (old, new) {
        (None, _) => found.added.member = true,
        (_, None) => found.removed.member = true,
        _ => {}
    }
    found
}

/// The fields of an object.
pub fn fields_of(form: Form, value: &Value) -> FieldSet {
    node_of(form, value).below
}

fn node_of(form: Form, value: &Value) -> Node {
    let mut node = Node::default();
    match form.view_of(Some(value)) {
        View::Scalar(_)
        | View::Record { atomic: true, .. }
        | View::Map { atomic: true, .. }
        | View::List { rule: ListRule::Atomic, .. } => node.member = true,
        View::Record { record, .. } => {
            for (name, value) in object(Some(value)).into_iter().flatten() {
                let known = record.member(name);
                let mut below = node_of(known.map_or(Form::ANY, Member::form), value);
                below.member |= known.is_none() || value.is_null() || is_empty_object(value);
                node.below.add(Element::field(name), below);
            }
        }
        View::Map { item, .. } => {
            for (name, value) in object(Some(value)).into_iter().flatten() {
                let below = Node { member: true, ..node_of(item, value) };
                node.below.add(Element::field(name), below);
            }
        }
        View::List { rule, item } => {
            for value in list(Some(value)) {
                if let Ok(element) = element_of(rule, item, value) {
                    let below = Node { member: true, ..node_of(item, value) };
                    node.below.add(element, below);
                }
            }
        }
    }
    node
}

/// Merges `config` into `live`.
pub fn merge(form: Form, live: &Value, config: &Value) -> Value {
    merged(form, Some(live), Some(config)).unwrap_or(Value::Null)
}

fn merged(form: Form, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (Some(_), Some(right)) = (live, config) else { return config.or(live).cloned() };
    match form.view_of(Some(right)) {
        View::Scalar(_)
        | View::Record { atomic: true, .. }
        | View::Map { atomic: true, .. }
        | View::List { rule: ListRule::Atomic, .. } => Some(right.clone()),
        view @ (View::Record { .. } | View::Map { .. }) => {
            let (left, right) = (object(live), object(config));
            let (Some(left), Some(right)) = (left, right) else {
                let empty = left.or(right).is_none_or(Map::is_empty);
                return if empty { config.cloned() } else { left.or(right).cloned().map(Value::Object) };
            };
            let mut out = left.clone();
            for (name, right) in right {
                let member = match &view {
                    View::Record { record, .. } => record.form_of(name),
                    View::Map { item, .. } => *item,
                    _ => Form::ANY,
                };
                if let Some(value) = merged(member, left.get(name), Some(right)) {
                    out.insert(name.clone(), value);
                }
            }
            Some(Value::Object(out))
        }
        View::List { rule, item } => {
            let (left, right) = (list(live), list(config));
            if left.is_empty() && right.is_empty() {
                return config.cloned();
            }
            Some(Value::Array(merged_items(rule, item, left, right)))
        }
    }
}

/// Items that only the live list has keep their places among those that both have; the configuration's items are in its
/// order.
fn merged_items(rule: ListRule, item: Form, live: &[Value], config: &[Value]) -> Vec<Value> {
    let (left, right) = (index(rule, item, live), index(rule, item, config));
    let merge = |element: &Element| {
        let one = |index: &Index<'_>| match index.items.get(element).map(Vec::as_slice) {
            Some([only]) => Some((*only).clone()),
            _ => None,
        };
        let new = right.items.get(element).and_then(|items| items.first().copied());
        merged(item, one(&left).as_ref(), new)
    };
    let mut shared = right.order.iter().filter(|element| left.items.contains_key(element)).peekable();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut taken: HashSet<&Element> = HashSet::new();
    let (mut l, mut r) = (0, 0);
    while l < left.order.len() || r < right.order.len() {
        if let (Some(here), Some(there)) = (left.order.get(l), right.order.get(r)) {
            if here == there {
                out.extend(merge(here));
                taken.insert(here);
                (l, r) = (l + 1, r + 1);
                shared.next();
                continue;
            }
            if right.items.contains_key(here) && shared.peek().is_some_and(|next| *next != here) {
                l += 1; // it comes when the configuration has it
                continue;
            }
        }
        if let Some(here) = left.order.get(l) {
            if !right.items.contains_key(here) {
                out.push(left.values[l].clone());
                l += 1;
                continue;
            }
            if taken.contains(here) {
                l += 1;
            }
        }
        if let Some(there) = right.order.get(r) {
            out.extend(merge(there));
            taken.insert(there);
            r += 1;
            if shared.peek() == Some(&there) {
                shared.next();
            }
        }
    }
    out
}

/// The object without the fields in `set`, and without what is below them.
pub fn remove(form: Form, value: &Value, set: &FieldSet) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    match form.view_of(Some(value)) {
        View::Scalar(_) => value.clone(),
        View::Record { atomic: true, .. }
        | View::Map { atomic: true, .. }
        | View::List { rule: ListRule::Atomic, .. } => Value::Null,
        view @ (View::Record { .. } | View::Map { .. }) => {
            let mut kept = Map::new();
            for (name, value) in object(Some(value)).into_iter().flatten() {
                let node = set.get(&Element::field(name));
                if node.is_some_and(|node| node.member) {
                    continue;
                }
                let member = match &view {
                    View::Record { record, .. } => record.form_of(name),
                    View::Map { item, .. } => *item,
                    _ => Form::ANY,
                };
                kept.insert(
                    name.clone(),
                    node.map_or_else(|| value.clone(), |node| remove(member, value, &node.below)),
                );
            }
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        View::List { rule, item } => {
            let mut kept = Vec::new();
            for value in list(Some(value)) {
                let node = element_of(rule, item, value).ok().and_then(|element| set.get(&element));
                match node {
                    Some(node) if node.member => {}
                    Some(node) => kept.push(remove(item, value, &node.below)),
                    None => kept.push(value.clone()),
                }
            }
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
    }
}

/// The set with every struct field that has something below it as a member.
#[must_use]
pub fn with_named_fields(form: Form, set: &FieldSet) -> FieldSet {
    let mut out = FieldSet::default();
    let view = form.view_of(None);
    for (element, node) in set.iter() {
        let (below, named) = match (&view, element) {
            (View::Record { record, .. }, Element::Field(name)) => {
                let member = record.member(name);
                (member.map_or(Form::ANY, Member::form), member.is_some())
            }
            (View::Map { item, .. } | View::List { item, .. }, _) => (*item, false),
            _ => (Form::ANY, false),
        };
        let member = node.member || (named && !node.below.is_empty());
        out.add(element.clone(), Node { member, below: with_named_fields(below, &node.below) });
    }
    out
}

/// What is wrong with `value` as a configuration of this form, each as `.path: why`.
pub fn faults(form: Form, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(form, value, &mut FieldPath::default(), &mut faults);
    faults
}

fn check(form: Form, value: &Value, path: &mut FieldPath, faults: &mut Vec<String>) {
    let mut refuse = |path: &FieldPath, why: String| {
        faults.push(if path.0.is_empty() { why } else { format!("{path}: {why}") });
    };
    if value.is_null() {
        return;
    }
    match form.view_of(Some(value)) {
        View::Scalar(scalar) => {
            if let Some(why) = wrong_scalar(scalar, value) {
                refuse(path, why);
            }
        }
        View::Map { item, .. } => match value {
            Value::Object(members) => {
                for (name, value) in members {
                    path.0.push(Element::field(name));
                    check(item, value, path, faults);
                    path.0.pop();
                }
            }
            other => refuse(path, format!("expected map, got &{{{}}}", crate::go::print(other))),
        },
        View::Record { record, .. } => match value {
            Value::Object(members) => {
                for (name, value) in members {
                    path.0.push(Element::field(name));
                    let Some(member) = record.member(name) else {
                        faults.push(format!("{path}: field not declared in schema"));
                        path.0.pop();
                        break;
                    };
                    check(member.form(), value, path, faults);
                    path.0.pop();
                }
            }
            other => refuse(path, format!("expected map, got &{{{}}}", crate::go::print(other))),
        },
        View::List { rule, item } => match value {
            Value::Array(items) => {
                let mut seen = HashSet::new();
                for (at, value) in items.iter().enumerate() {
                    let element = match rule {
                        ListRule::Atomic => Element::Index(at as u64),
                        _ => match element_of(rule, item, value) {
                            Ok(element) => element,
                            Err(why) => {
                                faults.push(format!("{path}: element {at}: {why}"));
                                break;
                            }
                        },
                    };
                    if !seen.insert(element.clone()) {
                        faults.push(format!("{path}: duplicate entries for key {element}"));
                    }
                    path.0.push(element);
                    check(item, value, path, faults);
                    path.0.pop();
                }
            }
            other => refuse(path, format!("expected list, got &{{{}}}", crate::go::print(other))),
        },
    }
}

fn wrong_scalar(scalar: Scalar, value: &Value) -> Option<String> {
    let fits = match scalar {
        Scalar::Text => value.is_string(),
        Scalar::Number => value.is_number(),
        Scalar::Flag => value.is_boolean(),
        Scalar::Untyped => !value.is_array() && !value.is_object(),
    };
    let go = || crate::go::print(value);
    (!fits).then(|| match scalar {
        Scalar::Text => format!("expected string, got &value.valueUnstructured{{Value:{}}}", crate::go::literal(value)),
        Scalar::Number => format!("expected numeric (int or float), got {}", crate::go::type_name(value)),
        Scalar::Flag => format!("expected boolean, got &{{{}}}", go()),
        Scalar::Untyped => format!("expected any scalar, got &{{{}}}", go()),
    })
}

/// Gives `value` the members that Go's structs always have, structs and times that are held by value, and takes those
/// that Go leaves out: empty texts, lists and maps, zeros.
///
/// A real server compares Go objects; this makes what is compared here the same.
pub fn complete(form: Form, value: &mut Value) {
    match (form.view_of(Some(value)), value) {
        (View::Record { record, .. }, Value::Object(members)) => {
            members.retain(|name, value| !is_zero(value) || !record.member(name).is_some_and(Member::is_left_out));
            for (name, presence) in record.always() {
                if !members.contains_key(name) {
                    members.insert(name.to_owned(), presence);
                }
            }
            for (name, value) in members {
                if (value.is_object() || value.is_array())
                    && let Some(member) = record.member(name)
                {
                    complete(member.form(), value);
                }
            }
        }
        (View::Map { item, .. }, Value::Object(members)) => {
            members.values_mut().for_each(|value| complete(item, value));
        }
        (View::List { item, .. }, Value::Array(items)) => items.iter_mut().for_each(|value| complete(item, value)),
        _ => {}
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty)
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value?.as_object()
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The items of a list by element.
struct Index<'v> {
    /// One for each of `values`.
    order: Vec<Element>,
    values: Vec<&'v Value>,
    items: HashMap<Element, Vec<&'v Value>>,
}

fn index(rule: ListRule, item: Form, values: &[Value]) -> Index<'_> {
    let mut index = Index { order: Vec::with_capacity(values.len()), values: Vec::new(), items: HashMap::new() };
    for value in values {
        // What has no key can't be told apart; validation has refused it.
        if let Ok(element) = element_of(rule, item, value) {
            index.order.push(element.clone());
            index.values.push(value);
            index.items.entry(element).or_default().push(value);
        }
    }
    index
}

/// Which element of its list an item is.
fn element_of(rule: ListRule, item: Form, value: &Value) -> Result<Element, String> {
    match rule {
        ListRule::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        ListRule::Set => match value {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            plain => Ok(Element::value(plain)),
        },
        ListRule::Map(keys) => {
            let members = match value {
                Value::Object(members) => members,
                Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
                _ => return Err("associative list with keys may not have non-map elements".to_owned()),
            };
            let mut found = Map::new();
            for key in keys {
                let value = members.get(*key).cloned().or_else(|| item.default_of(key)).ok_or_else(|| {
                    format!("associative list with keys has an element that omits key field {key:?} (and doesn't have default value)")
                })?;
                found.insert((*key).to_owned(), value);
            }
            Ok(Element::key(&found))
        }
    }
}
