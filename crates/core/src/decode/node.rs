//! A document as a tree that keeps what typed decoding reports on: order, repeated members, lines.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::fmt;

use super::DecodeError;

/// One value and the line on which it starts (1-based; 0 if unknown).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) line: usize,
}

/// The values that JSON has. Numbers keep their nature, which decides what they fit into.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX`.
    Large(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// Members in document order, repeated ones included.
    Map(Vec<(String, Node)>),
}

impl Kind {
    /// Go's word for the kind, as type errors use it.
    pub(crate) fn go_name(&self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Bool(_) => "bool",
            Kind::Int(_) | Kind::Large(_) | Kind::Float(_) => "number",
            Kind::Text(_) => "string",
            Kind::List(_) => "array",
            Kind::Map(_) => "object",
        }
    }

    /// A number as its text.
    pub(crate) fn number(&self) -> Option<String> {
        match self {
            Kind::Int(n) => Some(n.to_string()),
            Kind::Large(n) => Some(n.to_string()),
            Kind::Float(n) => Some(n.to_string()),
            _ => None,
        }
    }
}

impl Node {
    /// The last value of a member.
    pub(crate) fn member(&self, name: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(members) => members.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v),
            _ => None,
        }
    }

    /// A member's text, empty when it is absent or no text.
    pub(crate) fn text(&self, name: &str) -> &str {
        match self.member(name).map(|v| &v.kind) {
            Some(Kind::Text(text)) => text,
            _ => "",
        }
    }
}

/// As it came: a map keeps the order of its members and its repeated ones.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.kind {
            Kind::Null => serializer.serialize_unit(),
            Kind::Bool(value) => serializer.serialize_bool(*value),
            Kind::Int(value) => serializer.serialize_i64(*value),
            Kind::Large(value) => serializer.serialize_u64(*value),
            Kind::Float(value) => serializer.serialize_f64(*value),
            Kind::Text(text) => serializer.serialize_str(text),
            Kind::List(items) => serializer.collect_seq(items),
            Kind::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Reads JSON.
pub(crate) fn from_json(json: &[u8]) -> Result<Node, DecodeError> {
    serde_json::from_slice(json).map_err(|why| {
        let text = if why.is_eof() { "unexpected end of JSON input".to_owned() } else { go_syntax_error(json, &why) };
        DecodeError::Syntax(text)
    })
}

/// The tree that reading `value`, written in one line, would give.
pub(crate) fn of_value(value: Value) -> Node {
    let kind = match value {
        Value::Null => Kind::Null,
        Value::Bool(value) => Kind::Bool(value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Kind::Int(number),
            (None, Some(number)) => Kind::Large(number),
            (None, None) => number.as_f64().map_or(Kind::Null, Kind::Float),
        },
        Value::String(text) => Kind::Text(text),
        Value::Array(items) => Kind::List(items.into_iter().map(of_value).collect()),
        Value::Object(members) => Kind::Map(members.into_iter().map(|(name, value)| (name, of_value(value))).collect()),
    };
    Node { kind, line: 0 }
}

/// Go names the character; for the rest its wording and ours differ.
fn go_syntax_error(json: &[u8], why: &serde_json::Error) -> String {
    let line = json.split(|b| *b == b'\n').nth(why.line().saturating_sub(1)).unwrap_or_default();
    let at = line.get(why.column().saturating_sub(1)..).unwrap_or_default();
    match String::from_utf8_lossy(at).chars().next() {
        Some(c) if why.to_string().starts_with("expected value") => {
            format!("invalid character '{c}' looking for beginning of value")
        }
        Some(c) if why.to_string().starts_with("trailing characters") => {
            format!("invalid character '{c}' after top-level value")
        }
        Some(c) => format!("invalid character '{c}': {why}"),
        None => why.to_string(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(|kind| Node { kind, line: 0 })
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(i64::try_from(value).map_or(Kind::Large(value), Kind::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Kind::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Kind::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Kind::Map(members))
    }
}
