//! Label and field selectors, matched against stored bytes.
//!
//! Invariant: an object is never decoded to be matched; one pass over its bytes picks the values that are asked for.
//! Upstream: `apimachinery/pkg/labels/selector.go`, `apimachinery/pkg/fields/selector.go`, v1.36.
//! Left out: upstream's check of label syntax inside selectors.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::kinds::Kind;
use crate::status::{Error, Result};
use crate::strategy::UnknownField;

/// What a list, a watch or a deletion of a collection is about.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<FieldTerm>,
}

#[derive(Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, PartialEq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

#[derive(Debug)]
struct FieldTerm {
    path: FieldPath,
    absent: &'static str,
    equal: bool,
    value: String,
}

impl Selector {
    pub(crate) fn parse(kind: &Kind, labels: Option<&str>, fields: Option<&str>) -> Result<Self> {
        Ok(Self {
            labels: Labels::parse(labels.unwrap_or_default())?,
            fields: parse_fields(kind, fields.unwrap_or_default())?,
        })
    }

    /// Whether it selects everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that it asks for, if it does.
    pub(crate) fn name(&self) -> Option<&str> {
        let term = self.fields.iter().find(|term| term.equal && term.path == NAME)?;
        Some(&term.value)
    }

    /// Whether it selects the stored object.
    pub(crate) fn matches(&self, value: &[u8]) -> bool {
        (self.labels.is_empty() || self.match_labels(&labels_of(value)))
            && (self.fields.is_empty() || {
                let paths: Vec<_> = self.fields.iter().map(|term| term.path).collect();
                pick(&paths, value).is_some_and(|found| {
                    self.fields.iter().zip(&found).all(|(term, found)| term.accepts(found.as_deref()))
                })
            })
    }

    /// Whether it selects the stored object that has these traits.
    pub(crate) fn selects(&self, traits: &Traits) -> bool {
        self.match_labels(&traits.labels) && self.fields.iter().all(|term| traits.satisfy(term))
    }

    fn match_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|requirement| {
            let label = labels.get(&requirement.key).map(String::as_str);
            match (&requirement.test, label) {
                (Test::In(values), Some(label)) => values.iter().any(|value| value == label),
                (Test::NotIn(values), Some(label)) => values.iter().all(|value| value != label),
                (Test::Exists, label) => label.is_some(),
                (Test::NotIn(_), None) => true,
                (Test::Absent, label) => label.is_none(),
                (Test::Above(bound), Some(label)) => label.parse::<i64>().is_ok_and(|n| n > *bound),
                (Test::Below(bound), Some(label)) => label.parse::<i64>().is_ok_and(|n| n < *bound),
                (Test::In(_) | Test::Above(_) | Test::Below(_), None) => false,
            }
        })
    }
}

impl FieldTerm {
    fn accepts(&self, found: Option<&str>) -> bool {
        (found.unwrap_or(self.absent) == self.value) == self.equal
    }
}

/// All that selectors may ask about a stored object, read once for many of them.
#[derive(Debug)]
pub(crate) struct Traits {
    labels: BTreeMap<String, String>,
    /// The values of the kind's selectable fields. None: the object can't be read, and no field term selects it.
    fields: Option<Vec<(FieldPath, Option<String>)>>,
}

/// Where a field is.
type FieldPath = &'static [&'static str];

impl Traits {
    pub(crate) fn of(kind: &Kind, value: &[u8]) -> Self {
        let paths: Vec<FieldPath> =
            [NAME, NAMESPACE].into_iter().chain(kind.facts.fields.iter().map(|(_, path, _)| *path)).collect();
        let fields = pick(&paths, value).map(|found| paths.iter().copied().zip(found).collect());
        Self { labels: labels_of(value), fields }
    }

    fn satisfy(&self, term: &FieldTerm) -> bool {
        let found = self.fields.as_ref().and_then(|fields| fields.iter().find(|(path, _)| *path == term.path));
        found.is_some_and(|(_, value)| term.accepts(value.as_deref()))
    }
}

fn labels_of(value: &[u8]) -> BTreeMap<String, String> {
    serde_json::from_slice::<Labelled>(value).unwrap_or_default().metadata.labels
}

/// The values of the fields at `paths`. None: `value` is no JSON object.
fn pick(paths: &[FieldPath], value: &[u8]) -> Option<Vec<Option<String>>> {
    let mut found = vec![None; paths.len()];
    let pick = Pick { paths, active: (0..paths.len()).collect(), depth: 0, found: &mut found };
    pick.deserialize(&mut serde_json::Deserializer::from_slice(value)).ok()?;
    Some(found)
}

const NAME: &[&str] = &["metadata", "name"];
const NAMESPACE: &[&str] = &["metadata", "namespace"];

#[derive(Default, Deserialize)]
struct Labelled {
    metadata: LabelledMeta,
}

#[derive(Default, Deserialize)]
struct LabelledMeta {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Descends to the wanted paths only, and skips everything else.
struct Pick<'a> {
    paths: &'a [FieldPath],
    active: Vec<usize>,
    depth: usize,
    found: &'a mut [Option<String>],
}

impl<'de> DeserializeSeed<'de> for Pick<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            let below: Vec<usize> =
                self.active.iter().copied().filter(|at| self.paths[*at][self.depth] == name).collect();
            let Some(first) = below.first() else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if self.paths[*first].len() == self.depth + 1 {
                let text = match map.next_value::<serde_json::Value>()? {
                    serde_json::Value::String(text) => Some(text),
                    serde_json::Value::Null => None,
                    other => Some(other.to_string()),
                };
                for at in below {
                    self.found[at].clone_from(&text);
                }
            } else {
                let (paths, depth) = (self.paths, self.depth + 1);
                map.next_value_seed(Pick { paths, active: below, depth, found: &mut *self.found })?;
            }
        }
        Ok(())
    }
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<FieldTerm>> {
    let mut terms = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (label, equal, value) = if let Some((label, value)) = part.split_once("!=") {
            (label, false, value)
        } else if let Some((label, value)) = part.split_once("==") {
            (label, true, value)
        } else if let Some((label, value)) = part.split_once('=') {
            (label, true, value)
        } else {
            let message = format!("invalid selector: '{text}'; can't understand '{part}'");
            return Err(Error::BadRequest(message));
        };
        let (path, absent) = match label {
            "metadata.name" => (NAME, ""),
            "metadata.namespace" => (NAMESPACE, ""),
            _ => {
                let known = kind.facts.fields.iter().find(|(known, _, _)| *known == label);
                let (_, path, absent) = known.ok_or_else(|| unknown_field(kind, label))?;
                (*path, *absent)
            }
        };
        terms.push(FieldTerm { path, absent, equal, value: value.to_owned() });
    }
    Ok(terms)
}

fn unknown_field(kind: &Kind, label: &str) -> Error {
    Error::BadRequest(match kind.facts.unknown_field {
        UnknownField::OnlyNames => {
            format!("{label:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
        UnknownField::Plain => format!("field label not supported: {label}"),
        UnknownField::OfKind => format!("field label {label:?} not supported for {}", kind.kind),
    })
}

/// Reads a label selector from left to right.
struct Labels<'a> {
    rest: &'a str,
}

impl<'a> Labels<'a> {
    fn parse(text: &'a str) -> Result<Vec<Requirement>> {
        let mut labels = Labels { rest: text.trim() };
        let mut requirements = Vec::new();
        while !labels.rest.is_empty() {
            requirements.push(labels.requirement()?);
            labels.rest = labels.rest.trim_start();
            if labels.rest.is_empty() {
                break;
            }
            if !labels.take(",") {
                return Err(labels.expected("',' or 'end of string'"));
            }
            if labels.rest.trim_start().is_empty() {
                return Err(labels.expected("identifier after ','"));
            }
        }
        Ok(requirements)
    }

    fn requirement(&mut self) -> Result<Requirement> {
        if self.take("!") {
            let key = self.word()?;
            return Ok(Requirement { key, test: Test::Absent });
        }
        let key = self.word()?;
        self.rest = self.rest.trim_start();
        let test = if self.rest.is_empty() || self.rest.starts_with(',') {
            Test::Exists
        } else if self.take("!=") {
            Test::NotIn(vec![self.value()])
        } else if self.take("==") || self.take("=") {
            Test::In(vec![self.value()])
        } else if self.take(">") {
            Test::Above(self.integer()?)
        } else if self.take("<") {
            Test::Below(self.integer()?)
        } else {
            match self.word()?.as_str() {
                "in" => Test::In(self.set()?),
                "notin" => Test::NotIn(self.set()?),
                other => {
                    return Err(unparsable(&format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")));
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        let taken = rest.strip_prefix(token);
        self.rest = taken.unwrap_or(rest);
        taken.is_some()
    }

    fn value(&mut self) -> String {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|c: char| c.is_whitespace() || "=!<>(),".contains(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word.to_owned()
    }

    fn word(&mut self) -> Result<String> {
        let word = self.value();
        if word.is_empty() { Err(self.expected("identifier")) } else { Ok(word) }
    }

    fn integer(&mut self) -> Result<i64> {
        let text = self.value();
        text.parse()
            .map_err(|_| unparsable(&format!("for 'Gt', 'Lt' operators, the value must be an integer, found '{text}'")))
    }

    fn set(&mut self) -> Result<Vec<String>> {
        if !self.take("(") {
            return Err(self.expected("'('"));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value());
            if self.take(")") {
                return Ok(values);
            }
            if !self.take(",") {
                return Err(self.expected("',' or ')'"));
            }
        }
    }

    fn expected(&self, what: &str) -> Error {
        let found: String = self.rest.trim_start().chars().take(1).collect();
        unparsable(&format!("found '{found}', expected: {what}"))
    }
}

fn unparsable(why: &str) -> Error {
    Error::BadRequest(format!("unable to parse requirement: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(labels: &str, fields: &str) -> bool {
        let kind = Kind::at("", "v1", "pods").unwrap();
        let value = br#"{"metadata":{"name":"a","namespace":"n","labels":{"app":"web","n":"5"}},
            "spec":{"containers":[{"name":"x"}],"nodeName":"local"},"status":{"phase":"Running"}}"#;
        let selector = Selector::parse(kind, Some(labels), Some(fields)).unwrap();
        let selects = selector.matches(value);
        assert_eq!(selector.selects(&Traits::of(kind, value)), selects, "{labels} {fields}: lists and watches agree");
        selects
    }

    #[test]
    fn label_selectors_select() {
        for yes in [
            "",
            "app",
            "app=web",
            "app==web",
            "app!=db",
            "!gone",
            "gone!=x",
            "app in (db, web)",
            "gone notin (a)",
            "app notin (db),n>4,n<6",
            " app = web , n ",
            "app in (web),!gone",
        ] {
            assert!(selects(yes, ""), "{yes}");
        }
        for no in ["gone", "app=db", "app!=web", "!app", "app in (db)", "app notin (web)", "n>5", "n<5", "gone in ()"] {
            assert!(!selects(no, ""), "{no}");
        }
    }

    #[test]
    fn field_selectors_select() {
        for yes in [
            "",
            "metadata.name=a",
            "metadata.namespace==n,spec.nodeName=local",
            "status.phase!=Failed",
            "spec.hostNetwork=false",
            "status.podIP=",
            "spec.nodeName!=",
        ] {
            assert!(selects("", yes), "{yes}");
        }
        for no in ["metadata.name=b", "spec.nodeName=", "status.phase!=Running", "metadata.name=a,metadata.name!=a"] {
            assert!(!selects("", no), "{no}");
        }
    }

    #[test]
    fn selectors_that_make_no_sense_are_refused_in_upstreams_words() {
        let message = |plural: &str, group: &str, labels: &str, fields: &str| {
            let kind = Kind::at(group, "v1", plural).unwrap();
            Selector::parse(kind, Some(labels), Some(fields)).unwrap_err().to_string()
        };
        assert_eq!(message("pods", "", "=a", ""), "unable to parse requirement: found '=', expected: identifier");
        assert_eq!(message("pods", "", "", "abc"), "invalid selector: 'abc'; can't understand 'abc'");
        assert_eq!(message("pods", "", "", "spec.foo=1"), "field label not supported: spec.foo");
        assert_eq!(message("jobs", "batch", "", "spec.x=1"), "field label \"spec.x\" not supported for Job");
        assert_eq!(
            message("configmaps", "", "", "spec.x=1"),
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }
}
