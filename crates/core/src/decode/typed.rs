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

/// What does not depend on the type that is read stands apart from what does: the latter is compiled once for each of
/// hundreds of types, so that every line of it costs kilobytes.
impl<'a> Reader<'a> {
    /// `json: cannot unmarshal string into Go struct field JobSpec.spec.parallelism of type int32`.
    fn mismatch(self, goal: &str) -> Error {
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
        Error(DecodeError::Type(text))
    }

    fn value_error(self, text: String) -> Error {
        self.place.borrow_mut().line = self.node.line;
        Error(DecodeError::Value(text))
    }

    fn bool(self) -> Result<bool, Error> {
        match self.node.kind {
            Kind::Bool(value) => Ok(value),
            Kind::Null => Ok(false),
            _ => Err(self.mismatch("bool")),
        }
    }

    fn integer(self, goal: &str) -> Result<i64, Error> {
        match self.node.kind {
            Kind::Int(value) => Ok(value),
            Kind::Null => Ok(0),
            _ => Err(self.mismatch(goal)),
        }
    }

    fn text(self) -> Result<&'a str, Error> {
        match &self.node.kind {
            Kind::Text(text) => Ok(text),
            Kind::Null => Ok(""),
            _ => Err(self.mismatch("string")),
        }
    }

    /// A quantity, made canonical.
    fn quantity(self) -> Result<String, Error> {
        let text = match &self.node.kind {
            Kind::Null => "0".to_owned(),
            Kind::Text(text) => text.trim().to_owned(),
            other => other.number().unwrap_or_default(),
        };
        match quantity::parse(&text) {
            Ok(amount) => Ok(amount.to_string()),
            Err(why) => Err(self.value_error(why.to_string())),
        }
    }

    fn time(self) -> Result<&'a str, Error> {
        let Kind::Text(text) = &self.node.kind else {
            let what = self.node.kind.go_name();
            return Err(self.value_error(format!("json: cannot unmarshal {what} into Go value of type string")));
        };
        let is_time = text.parse::<jiff::Timestamp>().is_ok() && text.as_bytes().get(10) == Some(&b'T');
        if !is_time {
            let shown = quote(text);
            return Err(self.value_error(format!(
                "parsing time {shown} as \"2006-01-02T15:04:05Z07:00\": cannot parse {shown} as \"2006\""
            )));
        }
        Ok(text)
    }

    fn items(self) -> Option<Items<'a>> {
        match &self.node.kind {
            Kind::List(items) => Some(Items { items: items.iter().enumerate(), place: self.place }),
            _ => None,
        }
    }

    /// The members of a map; those of a struct when `of` says which.
    fn members(self, of: Option<Struct<'a>>) -> Option<Members<'a>> {
        let members = match &self.node.kind {
            Kind::Map(members) => members.as_slice(),
            // An item that is null is an empty one.
            Kind::Null if of.is_some() => &[],
            _ => return None,
        };
        Some(Members { rest: members.iter(), of, seen: HashSet::new(), value: None, place: self.place })
    }

    fn struct_members(self, name: &'static str, fields: &'static [&'static str]) -> Result<Members<'a>, Error> {
        let root = (self.place.borrow().depth == 0).then_some(self.node);
        let members = self.members(Some(Struct { name, fields, root }));
        self.place.borrow_mut().depth += 1;
        members.ok_or_else(|| self.mismatch(&format!("v1.{name}")))
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
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_bool(self.bool()?)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match i32::try_from(self.integer("int32")?) {
            Ok(value) => visitor.visit_i32(value),
            Err(_) => Err(self.mismatch("int32")),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_i64(self.integer("int64")?)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.kind {
            Kind::Int(_) | Kind::Large(_) | Kind::Float(_) => self.deserialize_any(visitor),
            _ => Err(self.mismatch("float64")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.text()?)
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
        match self.items() {
            Some(items) => visitor.visit_seq(items),
            None => Err(self.mismatch(&go_type::list(visitor))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.members(None) {
            Some(members) => visitor.visit_map(members),
            None => Err(self.mismatch(&go_type::map(visitor))),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let value = visitor.visit_map(self.struct_members(name, fields)?)?;
        self.place.borrow_mut().depth -= 1;
        Ok(value)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Error> {
        match name {
            "Quantity" => visitor.visit_newtype_struct(self.quantity()?.into_deserializer()),
            "Time" | "MicroTime" => visitor.visit_newtype_struct(self.time()?.into_deserializer()),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 u8 u16 u32 u64 f32 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    place: &'a RefCell<Place>,
}

impl<'a> Items<'a> {
    /// The next item, and the length of the path without it.
    fn enter(&mut self) -> Option<(Reader<'a>, usize)> {
        let (index, node) = self.items.next()?;
        let path = &mut self.place.borrow_mut().path;
        let before = path.len();
        let _ = write!(path, "[{index}]");
        Some((Reader { node, place: self.place }, before))
    }
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((item, before)) = self.enter() else { return Ok(None) };
        let item = seed.deserialize(item)?;
        self.place.borrow_mut().path.truncate(before);
        Ok(Some(item))
    }
}

/// What is read from a map.
#[derive(Clone, Copy)]
struct Struct<'a> {
    name: &'static str,
    fields: &'static [&'static str],
    /// The whole document, if this is its outermost struct.
    root: Option<&'a Node>,
}

/// The members of a map, or the fields of a struct: one type for both, so that types are compiled against one.
struct Members<'a> {
    rest: std::slice::Iter<'a, (String, Node)>,
    /// The struct, unless it is a plain map.
    of: Option<Struct<'a>>,
    seen: HashSet<&'a str>,
    value: Option<(&'a str, &'a Node)>,
    place: &'a RefCell<Place>,
}

/// Whether a member says what kind the whole object is.
fn names_kind(of: Option<Struct<'_>>, name: &str) -> bool {
    of.is_some_and(|of| of.root.is_some()) && matches!(name, "apiVersion" | "kind")
}

/// Where the reading was before it entered a member.
struct Before {
    path: usize,
    fields: usize,
    owner: Option<(&'static str, &'static str)>,
}

impl<'a> Members<'a> {
    fn key(&mut self) -> Option<&'a str> {
        self.place.borrow_mut().naming = None;
        for (name, node) in self.rest.by_ref() {
            if self.of.is_some_and(|of| !of.fields.contains(&name.as_str())) {
                // An object's own name for its kind is known even to types that do not hold it.
                if !names_kind(self.of, name) {
                    self.place.borrow_mut().problem("unknown", name, node.line);
                }
                continue;
            }
            if !self.seen.insert(name) {
                self.place.borrow_mut().problem("duplicate", name, node.line);
            }
            // Filled in from what is wanted.
            let unsaid = matches!(&node.kind, Kind::Null) || node.kind == Kind::Text(String::new());
            if names_kind(self.of, name) && unsaid {
                continue;
            }
            self.value = Some((name, node));
            return Some(name);
        }
        None
    }

    fn enter(&mut self) -> (Reader<'a>, Before) {
        let (name, node) = self.value.expect("serde asks for a key before its value");
        let mut place = self.place.borrow_mut();
        let mut before = Before { path: enter(&mut place.path, name), fields: place.fields.len(), owner: place.owner };
        if let Some(of) = self.of {
            let field = of.fields.iter().copied().find(|field| *field == name).expect("a key of a struct is a field");
            before.fields = enter(&mut place.fields, field);
            place.owner = Some((of.name, field));
        }
        (Reader { node, place: self.place }, before)
    }

    fn leave(&mut self, before: &Before) {
        let (name, node) = self.value.take().expect("a value that was entered is left");
        let mut place = self.place.borrow_mut();
        if names_kind(self.of, name) {
            place.naming = Some(node.line);
        }
        place.path.truncate(before.path);
        place.fields.truncate(before.fields);
        place.owner = before.owner;
    }
}

impl<'de> MapAccess<'de> for Members<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(key) = self.key() else { return Ok(None) };
        let key: de::value::StrDeserializer<'_, Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (value, before) = self.enter();
        let value = seed.deserialize(value)?;
        self.leave(&before);
        Ok(value)
    }
}
