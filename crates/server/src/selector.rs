//! Label and field selectors, matched against stored bytes.
//!
//! Invariant: an object is never decoded to be matched; one pass over its bytes picks the values that are asked for.
//! Upstream: `apimachinery/pkg/labels/selector.go`, `apimachinery/pkg/fields/selector.go`, v1.36. Its words for what can't
//! be read are kept, with their uneven commas.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use stint_core::field::{self, Fault, Path};
use stint_core::names;

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
        (self.labels.is_empty() || self.match_labels(traits.labels()))
            && self.fields.iter().all(|term| traits.satisfy(term))
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
    value: Bytes,
    /// Read when they are first asked for: hardly any watch selects by labels.
    labels: OnceLock<BTreeMap<String, String>>,
    /// The values of the kind's selectable fields. None: the object can't be read, and no field term selects it.
    fields: Option<Vec<(FieldPath, Option<String>)>>,
}

/// Where a field is.
type FieldPath = &'static [&'static str];

impl Traits {
    pub(crate) fn of(kind: &Kind, value: &Bytes) -> Self {
        let own = kind.facts.fields.iter().map(|(_, path, _)| *path);
        let paths: Vec<FieldPath> = [NAME, NAMESPACE].into_iter().chain(own).collect();
        let fields = pick(&paths, value).map(|found| paths.iter().copied().zip(found).collect());
        Self { value: value.clone(), labels: OnceLock::new(), fields }
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        self.labels.get_or_init(|| labels_of(&self.value))
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
        while let Some(below) = map.next_key_seed(Below { pick: &self })? {
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

/// Which of the active paths go on below a member's name.
struct Below<'a, 'b> {
    pick: &'a Pick<'b>,
}

impl<'de> DeserializeSeed<'de> for Below<'_, '_> {
    type Value = Vec<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Vec<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Below<'_, '_> {
    type Value = Vec<usize>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> std::result::Result<Vec<usize>, E> {
        let Pick { paths, active, depth, .. } = self.pick;
        Ok(active.iter().copied().filter(|at| paths[*at][*depth] == name).collect())
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

/// Reads a label selector from left to right, one token ahead.
struct Labels<'a> {
    rest: &'a str,
}

/// What sets two words of a selector apart.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];
/// What stands for itself; longer ones first.
const SYMBOLS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

impl<'a> Labels<'a> {
    fn parse(text: &'a str) -> Result<Vec<Requirement>> {
        let mut labels = Labels { rest: text };
        let mut requirements = Vec::new();
        if labels.peek().is_empty() {
            return Ok(requirements);
        }
        if !labels.begins_requirement() {
            return Err(expected(labels.peek(), ", expected: !, identifier, or 'end of string'"));
        }
        loop {
            let requirement = labels.requirement();
            requirements.push(requirement.map_err(|why| {
                let Why(why) = why;
                Error::BadRequest(format!("unable to parse requirement: {why}"))
            })?);
            match labels.next() {
                "" => return Ok(requirements),
                "," if labels.begins_requirement() => {}
                "," => return Err(expected(labels.peek(), ", expected: identifier after ','")),
                other => return Err(expected(other, ", expected: ',' or 'end of string'")),
            }
        }
    }

    /// The next token; nothing at the end.
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start_matches(BLANKS);
        if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            return &rest[..symbol.len()];
        }
        let end = rest.find(|c| BLANKS.contains(&c) || is_symbol(c)).unwrap_or(rest.len());
        &rest[..end]
    }

    /// Takes the next token.
    fn next(&mut self) -> &'a str {
        let token = self.peek();
        self.rest = &self.rest.trim_start_matches(BLANKS)[token.len()..];
        token
    }

    fn begins_requirement(&self) -> bool {
        let token = self.peek();
        token == "!" || is_word(token)
    }

    fn requirement(&mut self) -> std::result::Result<Requirement, Why> {
        let absent = self.peek() == "!";
        if absent {
            self.next();
        }
        let key = self.word()?.to_owned();
        let reasons = names::qualified_name(&key);
        if !reasons.is_empty() {
            // Upstream has no path here, which Go prints like this.
            let fault = Fault::invalid(&Path::root().field("<nil>"), &key, reasons.join("; "));
            return Err(Why(fault.to_string()));
        }
        if absent {
            return Ok(Requirement { key, test: Test::Absent });
        }
        if matches!(self.peek(), "" | ",") {
            return Ok(Requirement { key, test: Test::Exists });
        }
        let test = match self.next() {
            "in" => Test::In(checked(&key, self.set()?)?),
            "notin" => Test::NotIn(checked(&key, self.set()?)?),
            "=" | "==" => Test::In(checked(&key, vec![self.value()?])?),
            "!=" => Test::NotIn(checked(&key, vec![self.value()?])?),
            ">" => Test::Above(integer(&key, &self.value()?)?),
            "<" => Test::Below(integer(&key, &self.value()?)?),
            other => return Err(Why::expected(other, ", expected: in, notin, =, ==, !=, gt, lt")),
        };
        Ok(Requirement { key, test })
    }

    fn word(&mut self) -> std::result::Result<&'a str, Why> {
        match self.next() {
            word if is_word(word) => Ok(word),
            other => Err(Why::expected(other, ", expected: identifier")),
        }
    }

    /// One value, which may be left out.
    fn value(&mut self) -> std::result::Result<String, Why> {
        if matches!(self.peek(), "" | ",") { Ok(String::new()) } else { self.word().map(str::to_owned) }
    }

    /// Values in parentheses, any of which may be left out; sorted, each once.
    fn set(&mut self) -> std::result::Result<Vec<String>, Why> {
        match self.next() {
            "(" => {}
            other => return Err(Why::expected(other, " expected: '('")),
        }
        if !matches!(self.peek(), ")" | ",") && !is_word(self.peek()) {
            return Err(Why::expected(self.peek(), ", expected: ',', ')' or identifier"));
        }
        let mut values = BTreeSet::new();
        loop {
            if is_word(self.peek()) {
                values.insert(self.next().to_owned());
                if !matches!(self.peek(), "," | ")") {
                    return Err(Why::expected(self.peek(), ", expected: ',' or ')'"));
                }
            } else if matches!(self.peek(), "," | ")") {
                values.insert(String::new());
            }
            match self.next() {
                ")" => return Ok(values.into_iter().collect()),
                "," => {}
                other => return Err(Why::expected(other, ", expected: ',', or identifier")),
            }
        }
    }
}

fn is_symbol(c: char) -> bool {
    "=!(),><".contains(c)
}

fn is_word(token: &str) -> bool {
    !token.is_empty() && !token.starts_with(is_symbol)
}

/// Why a requirement can't be read.
struct Why(String);

impl Why {
    fn expected(found: &str, what: &str) -> Self {
        Self(format!("found '{found}'{what}"))
    }

    fn invalid(faults: &[Fault]) -> Self {
        Self(field::aggregate(faults))
    }
}

fn expected(found: &str, what: &str) -> Error {
    let Why(why) = Why::expected(found, what);
    Error::BadRequest(why)
}

/// The values, each of which could be a label's.
fn checked(key: &str, values: Vec<String>) -> std::result::Result<Vec<String>, Why> {
    let mut faults = Vec::new();
    for (at, value) in values.iter().enumerate() {
        label_value(key, at, value, &mut faults);
    }
    if faults.is_empty() { Ok(values) } else { Err(Why::invalid(&faults)) }
}

fn label_value(key: &str, at: usize, value: &str, faults: &mut Vec<Fault>) {
    let reasons = names::label_value(value);
    if !reasons.is_empty() {
        let root = Path::root();
        let path = root.field("values");
        let path = path.index(at);
        faults.push(Fault::invalid(&path.key(key), value, reasons.join("; ")));
    }
}

fn integer(key: &str, value: &str) -> std::result::Result<i64, Why> {
    let mut faults = Vec::new();
    let number = value.parse();
    if number.is_err() {
        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
        faults.push(Fault::invalid(&Path::root().field("values").index(0), value, detail));
    }
    label_value(key, 0, value, &mut faults);
    match number {
        Ok(number) if faults.is_empty() => Ok(number),
        _ => Err(Why::invalid(&faults)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(labels: &str, fields: &str) -> bool {
        let kind = Kind::at("", "v1", "pods").unwrap();
        let value = br#"{"metadata":{"name":"a","namespace":"n","labels":{"app":"web","n":"5"}},
            "spec":{"containers":[{"name":"x"}],"nodeName":"local"},"status":{"phase":"Running"}}"#;
        let value = Bytes::from_static(value);
        let selector = Selector::parse(kind, Some(labels), Some(fields)).unwrap();
        let selects = selector.matches(&value);
        assert_eq!(selector.selects(&Traits::of(kind, &value)), selects, "{labels} {fields}: lists and watches agree");
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
        assert_eq!(message("pods", "", "", "abc"), "invalid selector: 'abc'; can't understand 'abc'");
        assert_eq!(message("pods", "", "", "spec.foo=1"), "field label not supported: spec.foo");
        assert_eq!(message("jobs", "batch", "", "spec.x=1"), "field label \"spec.x\" not supported for Job");
        assert_eq!(
            message("configmaps", "", "", "spec.x=1"),
            "\"spec.x\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        );
    }

    #[test]
    fn label_selectors_that_cannot_be_read_are_refused_in_upstreams_words() {
        let kind = Kind::at("", "v1", "pods").unwrap();
        for (labels, message) in [
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            (",", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a,=b", "found '=', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("!a=b", "found '=', expected: ',' or 'end of string'"),
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a,!", "unable to parse requirement: found '', expected: identifier"),
            ("!!a", "unable to parse requirement: found '!', expected: identifier"),
            ("a=)", "unable to parse requirement: found ')', expected: identifier"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
            ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
            ("a in (b,=)", "unable to parse requirement: found '=', expected: ',', or identifier"),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "a=-b",
                "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            ("a!", "unable to parse requirement: found '!', expected: in, notin, =, ==, !=, gt, lt"),
            ("/a", "unable to parse requirement: <nil>: Invalid value: \"/a\": prefix part must be non-empty"),
        ] {
            let refusal = Selector::parse(kind, Some(labels), None).unwrap_err().to_string();
            assert_eq!(refusal, message, "{labels}");
        }
        let long = format!("a in (b,{},-)", "x".repeat(64));
        let refusal = Selector::parse(kind, Some(&long), None).unwrap_err().to_string();
        assert!(refusal.starts_with("unable to parse requirement: [values[0][a]: Invalid value: \"-\": "), "{refusal}");
        assert!(refusal.ends_with("must be no more than 63 bytes]"), "{refusal}");
    }

    #[test]
    fn words_that_are_operators_can_be_keys_and_values() {
        for (labels, requirement) in [
            ("in in (in)", ("in", Test::In(vec!["in".into()]))),
            ("notin=in", ("notin", Test::In(vec!["in".into()]))),
            ("a notin (,)", ("a", Test::NotIn(vec![String::new()]))),
            ("a in (c,b,c)", ("a", Test::In(vec!["b".into(), "c".into()]))),
            ("\ta\n!=", ("a", Test::NotIn(vec![String::new()]))),
        ] {
            let (key, test) = requirement;
            assert_eq!(Labels::parse(labels).unwrap(), [Requirement { key: key.into(), test }], "{labels}");
        }
        assert!(Labels::parse("a<-1").is_err(), "no label's value begins with a dash");
    }
}
