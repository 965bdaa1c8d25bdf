//! Sets of fields: which parts of an object somebody owns, as `metadata.managedFields` says it.
//!
//! A set is a tree of [`Element`]s. A node can be owned itself (a *member*), have owned nodes below it, or both; the root
//! is the object and no member. In `FieldsV1` a member that also has nodes below shows as `".":{}`.
//!
//! Invariant: elements are in order, each is there once, and no node is empty, so equal sets are equal values and have
//! one form in JSON.
//! Left out: where the sets of an object come from (see `merge`).
//! Upstream: `structured-merge-diff/fieldpath` (`Set`, `PathElement`, `serialize-pe.go`).

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::{self, Display};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// A member of a struct or a map: `f:name`.
    Field(Cow<'static, str>),
    /// An item of a list that is a map, by its keys in canonical JSON: `k:{"name":"c"}`.
    Key(Box<str>),
    /// An item of a set, in canonical JSON: `v:"x"`.
    Value(Box<str>),
    /// An item by its place: `i:0`.
    Index(u64),
}

impl Element {
    /// A member of a struct or a map.
    pub fn field(name: &str) -> Self {
        Self::Field(Cow::Owned(name.to_owned()))
    }

    /// An item of a list that is a map.
    pub fn key(keys: &Map<String, Value>) -> Self {
        // `serde_json` keeps members in alphabetical order, which is the canonical one.
        Self::Key(Value::Object(keys.clone()).to_string().into())
    }

    /// An item of a set.
    pub fn value(item: &Value) -> Self {
        Self::Value(item.to_string().into())
    }

    fn from_name(name: &str) -> Option<Self> {
        let (kind, rest) = name.split_once(':')?;
        match kind {
            "f" => Some(Self::field(rest)),
            "k" => Some(Self::key(serde_json::from_str::<Value>(rest).ok()?.as_object()?)),
            "v" => Some(Self::value(&serde_json::from_str(rest).ok()?)),
            "i" => Some(Self::Index(rest.parse().ok()?)),
            _ => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(keys) => format!("k:{keys}"),
            Self::Value(item) => format!("v:{item}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }
}

impl Display for Element {
    /// As conflicts name it: `.name`, `[name="c"]`, `[="x"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(item) => write!(f, "[={item}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path from the object's root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(pub Vec<Element>);

impl Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|element| Display::fmt(element, f))
    }
}

/// What is known about one element of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Whether the element itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub below: FieldSet,
}

impl Node {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet(Vec<(Element, Node)>);

impl FieldSet {
    /// The set with nothing in it.
    pub const EMPTY: Self = Self(Vec::new());

    /// The set of these dotted paths of struct fields, such as `metadata.name`.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let elements: Vec<Element> = path.split('.').map(Element::field).collect();
            set.insert(&elements);
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node of `element`, if it or something below it is in the set.
    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.0.binary_search_by(|(other, _)| other.cmp(element)).ok().map(|at| &self.0[at].1)
    }

    /// Its elements and what is known about each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.0.iter().map(|(element, node)| (element, node))
    }

    /// Whether `path` itself is in the set.
    pub fn contains(&self, path: &[Element]) -> bool {
        match path {
            [] => false,
            [last] => self.get(last).is_some_and(|node| node.member),
            [first, rest @ ..] => self.get(first).is_some_and(|node| node.below.contains(rest)),
        }
    }

    /// Puts `path` in the set.
    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => self.add_member(last.clone()),
            [first, rest @ ..] => self.node(first.clone()).below.insert(rest),
        }
    }

    /// Puts one element in.
    pub fn add_member(&mut self, element: Element) {
        self.node(element).member = true;
    }

    /// Puts a node in, unless it is empty.
    pub fn add(&mut self, element: Element, node: Node) {
        if node.is_empty() {
            return;
        }
        let there = self.node(element);
        there.member |= node.member;
        if there.below.is_empty() {
            there.below = node.below;
        } else {
            there.below = there.below.union(&node.below);
        }
    }

    fn node(&mut self, element: Element) -> &mut Node {
        // Objects are walked in order, so the place is nearly always the end.
        let at = match self.0.last() {
            Some((last, _)) if *last < element => Err(self.0.len()),
            _ => self.0.binary_search_by(|(other, _)| other.cmp(&element)),
        };
        let at = at.unwrap_or_else(|at| {
            self.0.insert(at, (element, Node::default()));
            at
        });
        &mut self.0[at].1
    }

    /// Whether something is in both.
    pub fn meets(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.0.as_slice(), other.0.as_slice());
        while let ([(a, node), more @ ..], [(b, other), others @ ..]) = (left, right) {
            match a.cmp(b) {
                Ordering::Less => left = more,
                Ordering::Greater => right = others,
                Ordering::Equal if (node.member && other.member) || node.below.meets(&other.below) => return true,
                Ordering::Equal => (left, right) = (more, others),
            }
        }
        false
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        if self.is_empty() {
            return other.clone();
        }
        self.zip(other, |a, b| match (a, b) {
            (Some(a), Some(b)) => Node { member: a.member || b.member, below: a.below.union(&b.below) },
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Node::default(),
        })
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |a, b| match (a, b) {
            (Some(a), Some(b)) => Node { member: a.member && b.member, below: a.below.intersection(&b.below) },
            _ => Node::default(),
        })
    }

    /// What is in this and not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, |a, b| match (a, b) {
            (Some(a), Some(b)) => Node { member: a.member && !b.member, below: a.below.difference(&b.below) },
            (Some(a), None) => a.clone(),
            (None, _) => Node::default(),
        })
    }

    /// What is in this and neither in `other` nor below a member of it.
    #[must_use]
    pub fn outside(&self, other: &Self) -> Self {
        self.zip(other, |a, b| match (a, b) {
            (Some(_), Some(b)) if b.member => Node::default(),
            (Some(a), Some(b)) => Node { member: a.member, below: a.below.outside(&b.below) },
            (Some(a), None) => a.clone(),
            (None, _) => Node::default(),
        })
    }

    fn zip(&self, other: &Self, join: impl Fn(Option<&Node>, Option<&Node>) -> Node) -> Self {
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut nodes = Vec::with_capacity(self.0.len());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Self(nodes),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let a = if order.is_le() { left.next() } else { None };
            let b = if order.is_ge() { right.next() } else { None };
            let node = join(a.map(|(_, node)| node), b.map(|(_, node)| node));
            if !node.is_empty() {
                let (element, _) = a.or(b).expect("one of both was there");
                nodes.push((element.clone(), node));
            }
        }
    }

    /// Every path in the set: on each level its members first, then what is below.
    pub fn paths(&self) -> Vec<FieldPath> {
        let mut paths = Vec::new();
        self.collect(&mut Vec::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut Vec<Element>, paths: &mut Vec<FieldPath>) {
        for (element, node) in &self.0 {
            if node.member {
                let mut path = prefix.clone();
                path.push(element.clone());
                paths.push(FieldPath(path));
            }
        }
        for (element, node) in &self.0 {
            prefix.push(element.clone());
            node.below.collect(prefix, paths);
            prefix.pop();
        }
    }

    /// As `FieldsV1`.
    pub fn to_json(&self) -> Value {
        Value::Object(
            self.0
                .iter()
                .map(|(element, node)| {
                    let mut below = node.below.to_json();
                    if node.member
                        && !node.below.is_empty()
                        && let Value::Object(below) = &mut below
                    {
                        below.insert(".".to_owned(), Value::Object(Map::new()));
                    }
                    (element.name(), below)
                })
                .collect(),
        )
    }

    /// From `FieldsV1`. None: it is none.
    pub fn from_json(json: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (name, below) in json.as_object()? {
            if name == "." {
                continue; // said of the node above
            }
            let members = below.as_object()?;
            let member = members.is_empty() || members.contains_key(".");
            set.add(Element::from_name(name)?, Node { member, below: Self::from_json(below)? });
        }
        Some(set)
    }
}

/// As `FieldsV1`: the text of [`FieldSet::to_json`].
impl Serialize for FieldSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Written { set: self, is_member: false }.serialize(serializer)
    }
}

/// A set below an element.
struct Written<'a> {
    set: &'a FieldSet,
    /// Whether the element itself is in the set.
    is_member: bool,
}

impl<'a> Written<'a> {
    fn of(node: &'a Node) -> Self {
        Self { set: &node.below, is_member: node.member }
    }
}

impl Serialize for Written<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let all = &self.set.0;
        let mut map = serializer.serialize_map(None)?;
        if self.is_member && !all.is_empty() {
            map.serialize_entry(".", &Map::new())?;
        }
        // In alphabetical order: places come after fields, and as texts.
        let (fields, rest) = all.split_at(all.partition_point(|(element, _)| matches!(element, Element::Field(_))));
        let (items, places) = rest.split_at(rest.partition_point(|(element, _)| !matches!(element, Element::Index(_))));
        let mut places: Vec<_> = places.iter().map(|(element, node)| (element.name(), node)).collect();
        places.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (element, node) in fields {
            map.serialize_entry(&element.name(), &Written::of(node))?;
        }
        for (name, node) in places {
            map.serialize_entry(&name, &Written::of(node))?;
        }
        for (element, node) in items {
            map.serialize_entry(&element.name(), &Written::of(node))?;
        }
        map.end()
    }
}

/// From `FieldsV1`: the set that [`FieldSet::from_json`] makes of it.
impl<'de> Deserialize<'de> for FieldSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FieldSet, D::Error> {
        Node::deserialize(deserializer).map(|node| node.below)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_map(ReadNode)
    }
}

struct ReadNode;

impl<'de> Visitor<'de> for ReadNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of FieldsV1")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        let mut is_empty = true;
        while let Some(Name(element)) = map.next_key()? {
            is_empty = false;
            match element {
                None => {
                    map.next_value::<IgnoredAny>()?;
                    node.member = true;
                }
                Some(element) => node.below.add(element, map.next_value()?),
            }
        }
        node.member |= is_empty;
        Ok(node)
    }
}

/// What stands for an element; none for the node above.
struct Name(Option<Element>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        deserializer.deserialize_str(ReadName)
    }
}

struct ReadName;

impl Visitor<'_> for ReadName {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an element of FieldsV1")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
        if name == "." {
            return Ok(Name(None));
        }
        Element::from_name(name).map(|element| Name(Some(element))).ok_or_else(|| E::custom("no element of FieldsV1"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn set(json: &Value) -> FieldSet {
        FieldSet::from_json(json).unwrap()
    }

    #[test]
    fn fields_v1_is_read_and_written_alike() {
        let json = json!({
            "f:metadata": {"f:finalizers": {".": {}, "v:\"a\"": {}}},
            "f:spec": {
                "f:containers": {
                    "k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:ports": {
                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:protocol": {}},
                    }},
                },
                "f:list": {"i:3": {}},
            },
        });
        assert_eq!(set(&json).to_json(), json);
        let spaced = json!({"f:ports": {"k:{\"protocol\": \"TCP\", \"containerPort\": 80}": {}}});
        assert_eq!(set(&spaced).to_json(), json!({"f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {}}}));
    }

    #[test]
    fn what_is_no_fields_v1_is_refused() {
        for json in [json!(1), json!({"f:a": 1}), json!({"x:a": {}}), json!({"k:[1]": {}}), json!({"i:x": {}})] {
            assert_eq!(FieldSet::from_json(&json), None, "{json}");
            assert!(serde_json::from_str::<FieldSet>(&json.to_string()).is_err(), "{json}");
        }
    }

    #[test]
    fn paths_are_named_as_conflicts_name_them() {
        let json = json!({"f:spec": {
            "f:a": {"f:b": {}},
            "f:c": {},
            "f:containers": {"k:{\"containerPort\":80,\"name\":\"c\"}": {"f:image": {}}},
            "f:set": {"v:\"x\"": {}, "v:3": {}},
            "f:zlist": {"i:0": {}},
        }});
        let paths: Vec<String> = set(&json).paths().iter().map(ToString::to_string).collect();
        let expected = [
            ".spec.c",
            ".spec.a.b",
            ".spec.containers[containerPort=80,name=\"c\"].image",
            ".spec.set[=\"x\"]",
            ".spec.set[=3]",
            ".spec.zlist[0]",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn outside_leaves_out_what_is_below_a_member() {
        let all = set(&json!({"f:spec": {"f:a": {}, "f:b": {"f:c": {}}}, "f:status": {".": {}, "f:x": {"f:y": {}}}}));
        let ignored = FieldSet::of_fields(&["status", "spec.b"]);
        assert_eq!(all.outside(&ignored).to_json(), json!({"f:spec": {"f:a": {}}}));
        assert_eq!(
            all.difference(&ignored).to_json(),
            json!({"f:spec": {"f:a": {}, "f:b": {"f:c": {}}}, "f:status": {"f:x": {"f:y": {}}}})
        );
    }

    fn element() -> impl Strategy<Value = Element> {
        prop_oneof![
            "[a-d]".prop_map(|name| Element::field(&name)),
            "[a-c]".prop_map(|name| Element::key(json!({ "name": name }).as_object().unwrap())),
            (0..3).prop_map(|item| Element::value(&json!(item))),
            (0..12_u64).prop_map(Element::Index),
        ]
    }

    fn sets() -> impl Strategy<Value = FieldSet> {
        prop::collection::vec(prop::collection::vec(element(), 1..4), 0..12).prop_map(|paths| {
            let mut set = FieldSet::default();
            for path in &paths {
                set.insert(path);
            }
            set
        })
    }

    proptest! {
        #[test]
        fn every_set_survives_json(set in sets()) {
            let text = set.to_json().to_string();
            prop_assert_eq!(FieldSet::from_json(&set.to_json()), Some(set.clone()));
            prop_assert_eq!(&serde_json::to_string(&set).unwrap(), &text);
            prop_assert_eq!(serde_json::from_str::<FieldSet>(&text).unwrap(), set);
        }

        #[test]
        fn sets_obey_the_laws_of_sets(a in sets(), b in sets()) {
            let both = a.intersection(&b);
            prop_assert_eq!(a.meets(&b), !both.is_empty());
            prop_assert_eq!(&a.difference(&b).union(&both), &a);
            prop_assert_eq!(&a.union(&b), &b.union(&a));
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            for path in a.union(&b).paths() {
                prop_assert!(a.contains(&path.0) || b.contains(&path.0));
            }
            for path in both.paths() {
                prop_assert!(a.contains(&path.0) && b.contains(&path.0));
            }
            prop_assert!(a.outside(&a).is_empty());
        }
    }
}
