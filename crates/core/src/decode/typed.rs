//! From a tree to k8s-openapi's types, keeping account of where in the object the reading is.
//!
//! Two paths are kept, since upstream prints two: type errors name fields without indexes (`spec.template.spec.containers`),
//! dropped fields with them (`spec.template.spec.containers[0].zed`).

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::{self, Display, Write as _};

use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::node::{Kind, Node};
use super::{DecodeError, Failure, Problem, go_type};
use crate::field::quote;
use crate::quantity;

/// So many dropped fields are told; upstream stops there too.
const MAX_PROBLEMS: usize = 100;

/// Decodes a tree whose root is a map.
pub(super) fn decode<T: DeserializeOwned>(root: &Node) -> Result<(T, Vec<Problem>), Failure> {
    let place = RefCell::new(Place::default());
    let result = T::deserialize(Reader { node: root, place: &place });
    let place = place.into_inner();
    match result {
        Ok(object) => Ok((object, place.problems)),
        Err(Error(error)) => Err(match (error, place.naming) {
            // The only thing that types refuse in these is another kind than theirs.
            (DecodeError::Value(_), Some(line)) => Failure {
                error: DecodeError::OtherKind {
                    api_version: root.text("apiVersion").to_owned(),
                    kind: root.text("kind").to_owned(),
                },
                line,
            },
            (error, _) => Failure { error, line: place.line },
        }),
    }
}

/// What goes wrong while reading.
#[derive(Debug)]
pub(super) struct Error(DecodeError);

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: Display>(text: T) -> Error {
        Error(DecodeError::Value(text.to_string()))
    }
}

/// Where the reading is.
#[derive(Default)]
struct Place {
    /// `spec.template.spec.containers[0]`.
    path: String,
    /// `spec.template.spec.containers`, without indexes and map keys.
    fields: String,
    /// The innermost struct and its field.
    owner: Option<(&'static str, &'static str)>,
    depth: usize,
    line: usize,
    /// The line of the object's `apiVersion` or `kind`, while its type looks at it.
    naming: Option<usize>,
    problems: Vec<Problem>,
    told: HashSet<String>,
}

impl Place {
    fn problem(&mut self, what: &str, name: &str, line: usize) {
        let dot = if self.path.is_empty() { "" } else { "." };
        let text = format!("{what} field \"{}{dot}{name}\"", self.path);
        if self.problems.len() < MAX_PROBLEMS && self.told.insert(text.clone()) {
            self.problems.push(Problem { text, line });
        }
    }
}

fn enter(text: &mut String, name: &str) -> usize {
    let before = text.len();
    if !text.is_empty() {
        text.push('.');
    }
    text.push_str(name);
    before
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    place: &'a RefCell<Place>,
}

impl Reader<'_> {
    /// `json: cannot unmarshal string into Go struct field JobSpec.spec.parallelism of type int32`.
    fn mismatch<T>(self, goal: &str) -> Result<T, Error> {
        let mut place = self.place.borrow_mut();
        place.line = self.node.line;
        let numeric = matches!(goal, "int32" | "int64" | "float64");
        let value = match self.node.kind.number().filter(|_| numeric) {
            Some(number) => format!("number {number}"),
            None => self.node.kind.go_name().to_owned(),
        };
        let text = match place.owner {
            Some((name, field)) => {
                let goal = match goal {
                    "string" => go_type::named_string(name, field).unwrap_or(goal),
                    _ => goal,
                };
                format!("json: cannot unmarshal {value} into Go struct field {name}.{} of type {goal}", place.fields)
            }
            None => format!("json: cannot unmarshal {value} into Go value of type {goal}"),
        };
        Err(Error(DecodeError::Type(text)))
    }

    fn value_error<T>(self, text: String) -> Result<T, Error> {
        self.place.borrow_mut().line = self.node.line;
        Err(Error(DecodeError::Value(text)))
    }

    fn integer(self, goal: &str) -> Result<i64, Error> {
        match self.node.kind {
            Kind::Int(value) => Ok(value),
            Kind::Null => Ok(0),
            _ => self.mismatch(goal),
        }
    }

    fn quantity<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = match &self.node.kind {
            Kind::Null => "0".to_owned(),
            Kind::Text(text) => text.trim().to_owned(),
            other => other.number().unwrap_or_default(),
        };
        match quantity::parse(&text) {
            Ok(amount) => {
                visitor.visit_newtype_struct(IntoDeserializer::<Error>::into_deserializer(amount.to_string()))
            }
            Err(why) => self.value_error(why.to_string()),
        }
    }

    fn time<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Kind::Text(text) = &self.node.kind else {
            let what = self.node.kind.go_name();
            return self.value_error(format!("json: cannot unmarshal {what} into Go value of type string"));
        };
        let is_time = text.parse::<jiff::Timestamp>().is_ok() && text.as_bytes().get(10) == Some(&b'T');
        if !is_time {
            let shown = quote(text);
            return self.value_error(format!(
                "parsing time {shown} as \"2006-01-02T15:04:05Z07:00\": cannot parse {shown} as \"2006\""
            ));
        }
        visitor.visit_newtype_struct(IntoDeserializer::<Error>::into_deserializer(text.as_str()))
    }
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Int(value) => visitor.visit_i64(*value),
            Kind::Large(value) => visitor.visit_u64(*value),
            Kind::Float(value) => visitor.visit_f64(*value),
            Kind::Text(text) => visitor.visit_str(text),
            Kind::List(items) => visitor.visit_seq(ListReader::new(items, self.place)),
            Kind::Map(members) => visitor.visit_map(MapReader::new(members, self.place)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind {
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Null => visitor.visit_bool(false),
            _ => self.mismatch("bool"),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match i32::try_from(self.integer("int32")?) {
            Ok(value) => visitor.visit_i32(value),
            Err(_) => self.mismatch("int32"),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.integer("int64")?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Int(_) | Kind::Large(_) | Kind::Float(_) => self.deserialize_any(visitor),
            _ => self.mismatch("float64"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Text(text) => visitor.visit_str(text),
            Kind::Null => visitor.visit_str(""),
            _ => self.mismatch("string"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::List(items) => visitor.visit_seq(ListReader::new(items, self.place)),
            _ => self.mismatch(&go_type::list(visitor)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Map(members) => visitor.visit_map(MapReader::new(members, self.place)),
            _ => self.mismatch(&go_type::map(visitor)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Map(members) => {
                self.place.borrow_mut().depth += 1;
                let root = self.place.borrow().depth == 1;
                let value = visitor.visit_map(StructReader {
                    name,
                    fields,
                    members: members.iter(),
                    seen: HashSet::new(),
                    value: None,
                    root: root.then_some(self.node),
                    place: self.place,
                })?;
                self.place.borrow_mut().depth -= 1;
                Ok(value)
            }
            // An item that is null is an empty one.
            Kind::Null => visitor.visit_map(MapReader::new(&[], self.place)),
            _ => self.mismatch(&format!("v1.{name}")),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match name {
            "Quantity" => self.quantity(visitor),
            "Time" | "MicroTime" => self.time(visitor),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

struct ListReader<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    place: &'a RefCell<Place>,
}

impl<'a> ListReader<'a> {
    fn new(items: &'a [Node], place: &'a RefCell<Place>) -> ListReader<'a> {
        ListReader { items: items.iter().enumerate(), place }
    }
}

impl<'de> SeqAccess<'de> for ListReader<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let before = {
            let path = &mut self.place.borrow_mut().path;
            let before = path.len();
            let _ = write!(path, "[{index}]");
            before
        };
        let item = seed.deserialize(Reader { node, place: self.place })?;
        self.place.borrow_mut().path.truncate(before);
        Ok(Some(item))
    }
}

struct MapReader<'a> {
    members: std::slice::Iter<'a, (String, Node)>,
    seen: HashSet<&'a str>,
    value: Option<&'a (String, Node)>,
    place: &'a RefCell<Place>,
}

impl<'a> MapReader<'a> {
    fn new(members: &'a [(String, Node)], place: &'a RefCell<Place>) -> MapReader<'a> {
        MapReader { members: members.iter(), seen: HashSet::new(), value: None, place }
    }
}

impl<'de> MapAccess<'de> for MapReader<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(member) = self.members.next() else {
            return Ok(None);
        };
        if !self.seen.insert(&member.0) {
            self.place.borrow_mut().problem("duplicate", &member.0, member.1.line);
        }
        self.value = Some(member);
        let key: de::value::StrDeserializer<'_, Error> = member.0.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (name, node) = self.value.take().expect("serde asks for a key before its value");
        let before = enter(&mut self.place.borrow_mut().path, name);
        let value = seed.deserialize(Reader { node, place: self.place })?;
        self.place.borrow_mut().path.truncate(before);
        Ok(value)
    }
}

struct StructReader<'a> {
    name: &'static str,
    fields: &'static [&'static str],
    members: std::slice::Iter<'a, (String, Node)>,
    seen: HashSet<&'static str>,
    value: Option<(&'static str, &'a Node)>,
    /// The whole document, if this is its outermost struct.
    root: Option<&'a Node>,
    place: &'a RefCell<Place>,
}

impl<'de> MapAccess<'de> for StructReader<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.place.borrow_mut().naming = None;
        for (name, node) in self.members.by_ref() {
            let Some(field) = self.fields.iter().copied().find(|f| f == name) else {
                // An object's own name for its kind is known even to types that do not hold it.
                if self.root.is_none() || !matches!(name.as_str(), "apiVersion" | "kind") {
                    self.place.borrow_mut().problem("unknown", name, node.line);
                }
                continue;
            };
            if !self.seen.insert(field) {
                self.place.borrow_mut().problem("duplicate", name, node.line);
            }
            // Filled in from what is wanted.
            let unsaid = matches!(&node.kind, Kind::Null) || node.kind == Kind::Text(String::new());
            if self.root.is_some() && matches!(field, "apiVersion" | "kind") && unsaid {
                continue;
            }
            self.value = Some((field, node));
            let key: de::value::StrDeserializer<'_, Error> = field.into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (field, node) = self.value.take().expect("serde asks for a key before its value");
        let (path, fields, owner) = {
            let mut place = self.place.borrow_mut();
            let path = enter(&mut place.path, field);
            let fields = enter(&mut place.fields, field);
            (path, fields, place.owner.replace((self.name, field)))
        };
        let value = seed.deserialize(Reader { node, place: self.place })?;
        let mut place = self.place.borrow_mut();
        if self.root.is_some() && matches!(field, "apiVersion" | "kind") {
            place.naming = Some(node.line);
        }
        place.path.truncate(path);
        place.fields.truncate(fields);
        place.owner = owner;
        Ok(value)
    }
}
