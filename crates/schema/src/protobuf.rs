//! Kubernetes' protobuf: objects between their JSON and their wire form, by the table.
//!
//! An object on the wire is `k8s\0` and a `runtime.Unknown` message, which names the kind and holds the object's own
//! message ([`decode_object`], [`encode_object`]). A watch sends frames, each a big-endian length and a `WatchEvent`
//! whose object is again such an envelope ([`watch_frame`]).
//!
//! Go writes every member that is no pointer, zero or not; in JSON such a zero is the same as an absent member. So a
//! decoded zero is dropped unless the member is a pointer (`completions: 0`) or required: the result is what the client
//! would have written as JSON. Unknown members are dropped, as Go does.
//!
//! Invariant: decoding never panics, and allocates in proportion to its input. Left out: strict decoding, which
//! protobuf has none of, and the validity of quantities, which is judged where JSON is read.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use crate::types::{Field, Presence, Schema, Shape, Type, Value};
use crate::wire::{Reader, Writer};

/// What an object on the wire starts with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// How deep objects within objects may be.
const DEPTH: u32 = 32;

const TOO_DEEP: &str = "it is nested too deeply";

/// Why bytes or JSON can't be turned into each other.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no message of the type.
    #[error("reading protobuf of {of}: {why}")]
    Malformed {
        /// The type that was read.
        of: String,
        /// What is wrong with the bytes.
        why: &'static str,
    },
    /// The bytes do not start with `k8s\0`.
    #[error("reading a protobuf object: it does not start with \"k8s\\0\"; is the body JSON?")]
    NoEnvelope,
    /// The envelope names a kind that the table does not have.
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind {
        /// The envelope's apiVersion.
        api_version: String,
        /// The envelope's kind.
        kind: String,
    },
    /// The JSON is not of the type.
    #[error("writing protobuf of {of}: {member} is no {wanted}")]
    Mismatch {
        /// The type that was written.
        of: String,
        /// The member that is wrong, or the type itself.
        member: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The object's apiVersion, perhaps empty.
    pub api_version: &'a str,
    /// The object's kind, perhaps empty.
    pub kind: &'a str,
    /// The object's message.
    pub raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens `k8s\0` and `runtime.Unknown`.
    pub fn open(bytes: &'a [u8]) -> Result<Envelope<'a>, Error> {
        let bytes = bytes.strip_prefix(&MAGIC).ok_or(Error::NoEnvelope)?;
        Envelope::unknown(bytes).map_err(|why| Error::Malformed { of: "runtime.Unknown".into(), why })
    }

    fn unknown(bytes: &'a [u8]) -> Result<Envelope<'a>, &'static str> {
        let mut found = Envelope { api_version: "", kind: "", raw: &[] };
        let mut reader = Reader::new(bytes);
        while let Some((tag, wire)) = reader.key()? {
            match (tag, wire) {
                (1, 2) => {
                    let mut meta = Reader::new(reader.bytes()?);
                    while let Some((tag, wire)) = meta.key()? {
                        match (tag, wire) {
                            (1, 2) => found.api_version = meta.text()?,
                            (2, 2) => found.kind = meta.text()?,
                            _ => meta.skip(tag, wire)?,
                        }
                    }
                }
                (2, 2) => found.raw = reader.bytes()?,
                (3, 2) if !reader.clone().bytes()?.is_empty() => return Err("its contentEncoding is not supported"),
                _ => reader.skip(tag, wire)?,
            }
        }
        Ok(found)
    }
}

/// Reads an object with its envelope; the result has the envelope's `apiVersion` and `kind`.
pub fn decode_object(bytes: &[u8]) -> Result<Json, Error> {
    let envelope = Envelope::open(bytes)?;
    enveloped(&envelope, DEPTH)
}

fn enveloped(envelope: &Envelope<'_>, depth: u32) -> Result<Json, Error> {
    let of = Schema::get().object(envelope.api_version, envelope.kind).ok_or_else(|| Error::UnknownKind {
        api_version: envelope.api_version.to_owned(),
        kind: envelope.kind.to_owned(),
    })?;
    let mut value = nested(of, envelope.raw, depth)?;
    if let Some(members) = value.as_object_mut() {
        members.insert("apiVersion".into(), envelope.api_version.into());
        members.insert("kind".into(), envelope.kind.into());
    }
    Ok(value)
}

/// Reads a message of a type, without envelope.
pub fn decode(of: &Type, bytes: &[u8]) -> Result<Json, Error> {
    nested(of, bytes, DEPTH)
}

fn nested(of: &Type, bytes: &[u8], depth: u32) -> Result<Json, Error> {
    let depth = depth.checked_sub(1).ok_or_else(|| malformed(of, TOO_DEEP))?;
    let why = |why| malformed(of, why);
    match of.shape {
        Shape::Struct => {
            let mut members = Map::new();
            members_of(of, None, bytes, &mut members, depth)?;
            Ok(Json::Object(members))
        }
        Shape::Quantity => quantity(bytes).map_err(why),
        Shape::IntOrString => int_or_string(bytes).map_err(why),
        Shape::Time => time(bytes, "%Y-%m-%dT%H:%M:%SZ").map_err(why),
        Shape::MicroTime => time(bytes, "%Y-%m-%dT%H:%M:%S.%6fZ").map_err(why),
        Shape::FieldsV1 | Shape::RawExtension => raw(of, bytes, depth),
        Shape::Any => Err(malformed(of, "it has no protobuf form")),
    }
}

fn malformed(of: &Type, why: &'static str) -> Error {
    Error::Malformed { of: of.name.to_owned(), why }
}

/// Reads the members of a message, or of one that is embedded in it, into `members`.
fn members_of(
    of: &Type,
    via: Option<u32>,
    bytes: &[u8],
    members: &mut Map<String, Json>,
    depth: u32,
) -> Result<(), Error> {
    let why = |why| malformed(of, why);
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key().map_err(why)? {
        match of.tagged(via, tag) {
            Some(field) => member(of, field, wire, &mut reader, members, depth)?,
            None if via.is_none() && wire == 2 && of.embeds(tag) => {
                members_of(of, Some(tag), reader.bytes().map_err(why)?, members, depth)?;
            }
            None => reader.skip(tag, wire).map_err(why)?,
        }
    }
    Ok(())
}

fn member(
    of: &Type,
    field: &Field,
    wire: u8,
    reader: &mut Reader<'_>,
    members: &mut Map<String, Json>,
    depth: u32,
) -> Result<(), Error> {
    let why = |why| malformed(of, why);
    match &field.value {
        Value::List(item) => {
            let list = members.entry(field.name).or_insert_with(|| Json::Array(Vec::new()));
            let Json::Array(list) = list else { return Err(malformed(of, "a list is none")) };
            if wire == 2 && matches!(**item, Value::Bool | Value::Int32 | Value::Int64) {
                let mut packed = Reader::new(reader.bytes().map_err(why)?);
                while !packed.is_empty() {
                    list.push(scalar(item, 0, &mut packed).map_err(why)?);
                }
            } else {
                list.push(single(of, item, wire, reader, depth)?);
            }
        }
        Value::Map(value) => {
            let mut entry = Reader::new(expect_bytes(wire, reader).map_err(why)?);
            let (mut key, mut found) = ("", None);
            while let Some((tag, wire)) = entry.key().map_err(why)? {
                match tag {
                    1 if wire == 2 => key = entry.text().map_err(why)?,
                    2 => found = Some(single(of, value, wire, &mut entry, depth)?),
                    _ => entry.skip(tag, wire).map_err(why)?,
                }
            }
            let map = members.entry(field.name).or_insert_with(|| Json::Object(Map::new()));
            let Json::Object(map) = map else { return Err(malformed(of, "a map is none")) };
            map.insert(key.to_owned(), found.unwrap_or_else(|| zero(value)));
        }
        Value::Object(id) => {
            let inner = Schema::get().at(*id);
            let bytes = expect_bytes(wire, reader).map_err(why)?;
            let value = if inner.shape == Shape::Struct {
                // A message that comes twice is one, its parts merged.
                let mut merged = match members.remove(field.name) {
                    Some(Json::Object(before)) => before,
                    _ => Map::new(),
                };
                let deeper = depth.checked_sub(1).ok_or_else(|| malformed(of, TOO_DEEP))?;
                members_of(inner, None, bytes, &mut merged, deeper)?;
                Json::Object(merged)
            } else {
                nested(inner, bytes, depth)?
            };
            let nothing = value.is_null() || value.as_object().is_some_and(Map::is_empty);
            if nothing && (value.is_null() || droppable(field)) {
                members.remove(field.name);
            } else {
                members.insert(field.name.to_owned(), value);
            }
        }
        plain => {
            let value = single(of, plain, wire, reader, depth)?;
            if droppable(field) && value == zero(plain) {
                members.remove(field.name);
            } else {
                members.insert(field.name.to_owned(), value);
            }
        }
    }
    Ok(())
}

/// A zero of this member is the same as none.
fn droppable(field: &Field) -> bool {
    field.presence != Presence::Pointer && !field.required
}

fn expect_bytes<'a>(wire: u8, reader: &mut Reader<'a>) -> Result<&'a [u8], &'static str> {
    if wire == 2 { reader.bytes() } else { Err("a member has the wrong wire type") }
}

fn single(of: &Type, value: &Value, wire: u8, reader: &mut Reader<'_>, depth: u32) -> Result<Json, Error> {
    let why = |why| malformed(of, why);
    match value {
        Value::Object(id) => nested(Schema::get().at(*id), expect_bytes(wire, reader).map_err(why)?, depth),
        // A list in a map is a message with the list as its first member.
        Value::List(item) => {
            let mut inner = Reader::new(expect_bytes(wire, reader).map_err(why)?);
            let mut list = Vec::new();
            while let Some((tag, wire)) = inner.key().map_err(why)? {
                if tag == 1 {
                    list.push(single(of, item, wire, &mut inner, depth)?);
                } else {
                    inner.skip(tag, wire).map_err(why)?;
                }
            }
            Ok(Json::Array(list))
        }
        Value::Map(_) => Err(malformed(of, "a map is no item")),
        plain => scalar(plain, wire, reader).map_err(why),
    }
}

fn scalar(value: &Value, wire: u8, reader: &mut Reader<'_>) -> Result<Json, &'static str> {
    Ok(match (value, wire) {
        (Value::String, 2) => reader.text()?.into(),
        (Value::Bytes, 2) => STANDARD.encode(reader.bytes()?).into(),
        (Value::Bool, 0) => (reader.varint()? != 0).into(),
        // As Go does: an int32 is the low half of the number.
        (Value::Int32, 0) => low_half(reader.varint()?).into(),
        (Value::Int64, 0) => reader.varint()?.cast_signed().into(),
        (Value::Double, 1) => {
            let number = f64::from_bits(u64::from_le_bytes(reader.fixed()?));
            serde_json::Number::from_f64(number).ok_or("a number is not finite")?.into()
        }
        _ => return Err("a member has the wrong wire type"),
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is meant")]
fn low_half(number: u64) -> i32 {
    number as i32
}

fn zero(value: &Value) -> Json {
    match value {
        Value::String | Value::Bytes => "".into(),
        Value::Bool => false.into(),
        Value::Int32 | Value::Int64 => 0.into(),
        Value::Double => 0.0.into(),
        Value::List(_) => Json::Array(Vec::new()),
        Value::Map(_) => Json::Object(Map::new()),
        Value::Object(id) => match Schema::get().at(*id).shape {
            Shape::Struct => Json::Object(Map::new()),
            Shape::Quantity => "0".into(),
            Shape::IntOrString => 0.into(),
            _ => Json::Null,
        },
    }
}

fn quantity(bytes: &[u8]) -> Result<Json, &'static str> {
    let mut text = "0";
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match (tag, wire) {
            (1, 2) => text = reader.text()?,
            _ => reader.skip(tag, wire)?,
        }
    }
    Ok(text.into())
}

fn int_or_string(bytes: &[u8]) -> Result<Json, &'static str> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match (tag, wire) {
            (1, 0) => is_text = reader.varint()? == 1,
            (2, 0) => number = low_half(reader.varint()?),
            (3, 2) => text = reader.text()?,
            _ => reader.skip(tag, wire)?,
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// The first second of the year 0.
const YEAR_0: i64 = -62_167_219_200;

const BAD: &str = "a time is outside the years 0 to 9999";

/// A point in time; `null` for Go's zero time, which is an empty message.
fn time(bytes: &[u8], format: &str) -> Result<Json, &'static str> {
    if bytes.is_empty() {
        return Ok(Json::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match (tag, wire) {
            (1, 0) => seconds = reader.varint()?.cast_signed(),
            (2, 0) => nanos = low_half(reader.varint()?),
            _ => reader.skip(tag, wire)?,
        }
    }
    if seconds < YEAR_0 || nanos < 0 {
        return Err(BAD);
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| BAD)?;
    Ok(time.strftime(format).to_string().into())
}

/// JSON as bytes, or for an extension an object with its own envelope.
fn raw(of: &Type, bytes: &[u8], depth: u32) -> Result<Json, Error> {
    let why = |why| malformed(of, why);
    let mut content: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key().map_err(why)? {
        match (tag, wire) {
            (1, 2) => content = reader.bytes().map_err(why)?,
            _ => reader.skip(tag, wire).map_err(why)?,
        }
    }
    if content.is_empty() {
        return Ok(Json::Null);
    }
    if of.shape == Shape::RawExtension && content.starts_with(&MAGIC) {
        return enveloped(&Envelope::open(content)?, depth);
    }
    serde_json::from_slice(content).map_err(|_| malformed(of, "it holds no JSON"))
}

/// Writes an object with its envelope. `apiVersion` and `kind` of the object say what it is.
pub fn encode_object(object: &Json) -> Result<Vec<u8>, Error> {
    let text = |member: &str| object[member].as_str().unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let of = Schema::get()
        .object(api_version, kind)
        .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })?;
    let mut out = Writer::from(MAGIC.to_vec());
    envelope_head(&mut out, api_version, kind);
    out.try_message(2, |out| write(of, object, out))?;
    Ok(envelope_tail(out))
}

/// Puts a message that is already encoded into an envelope.
pub fn envelop(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut out = Writer::from(Vec::with_capacity(message.len() + api_version.len() + kind.len() + 32));
    out.raw(&MAGIC);
    envelope_head(&mut out, api_version, kind);
    out.bytes(2, message);
    envelope_tail(out)
}

fn envelope_head(out: &mut Writer, api_version: &str, kind: &str) {
    out.message(1, |meta| {
        meta.bytes(1, api_version.as_bytes());
        meta.bytes(2, kind.as_bytes());
    });
}

fn envelope_tail(mut out: Writer) -> Vec<u8> {
    out.bytes(3, b"");
    out.bytes(4, b"");
    out.into_bytes()
}

/// One frame of a watch: the length of an event and the event, whose object is an envelope.
pub fn watch_frame(event: &str, envelope: &[u8]) -> Vec<u8> {
    let mut out = Writer::from(Vec::with_capacity(envelope.len() + event.len() + 32));
    out.raw(&[0; 4]);
    out.bytes(1, event.as_bytes());
    out.message(2, |object| object.bytes(1, envelope));
    let mut frame = out.into_bytes();
    // Requests and so objects are far smaller than what a length can't say.
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Writes the message of a list type from its metadata and items whose messages are already encoded.
pub fn encode_list<'a>(
    of: &Type,
    metadata: &Json,
    items: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, Error> {
    let mut out = Writer::default();
    let list = Map::from_iter([("metadata".to_owned(), metadata.clone())]);
    write(of, &Json::Object(list), &mut out)?;
    let tag = of.field("items").map_or(2, |field| field.tag);
    items.into_iter().for_each(|item| out.bytes(tag, item));
    Ok(out.into_bytes())
}

/// Writes the message of a type, without envelope.
pub fn encode(of: &Type, value: &Json) -> Result<Vec<u8>, Error> {
    let mut out = Writer::default();
    write(of, value, &mut out)?;
    Ok(out.into_bytes())
}

fn write(of: &Type, value: &Json, out: &mut Writer) -> Result<(), Error> {
    let mismatch = |wanted| Error::Mismatch { of: of.name.to_owned(), member: "it".into(), wanted };
    match of.shape {
        Shape::Struct => {
            let members = value.as_object().ok_or_else(|| mismatch("object"))?;
            let mut fields = of.wire_order().peekable();
            while let Some(field) = fields.next() {
                let Some(via) = field.via else {
                    write_member(of, field, members, out)?;
                    continue;
                };
                out.try_message(via, |out| {
                    write_member(of, field, members, out)?;
                    while let Some(field) = fields.next_if(|field| field.via == Some(via)) {
                        write_member(of, field, members, out)?;
                    }
                    Ok(())
                })?;
            }
        }
        Shape::Quantity => match value {
            Json::String(text) => out.bytes(1, text.as_bytes()),
            Json::Number(number) => out.bytes(1, number.to_string().as_bytes()),
            _ => return Err(mismatch("quantity")),
        },
        Shape::IntOrString => match value {
            Json::String(text) => {
                out.varint(1, 1);
                out.bytes(3, text.as_bytes());
            }
            other => {
                let number = other.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| mismatch("number"))?;
                out.varint(1, 0);
                out.varint(2, i64::from(number).cast_unsigned());
            }
        },
        Shape::Time | Shape::MicroTime => {
            let time: Option<Timestamp> = value.as_str().and_then(|text| text.parse().ok());
            let time = time.ok_or_else(|| mismatch("time"))?;
            // Rounded down: before 1970 the fraction is still counted forward.
            let seconds = time.as_nanosecond().div_euclid(1_000_000_000);
            let nanos = time.as_nanosecond().rem_euclid(1_000_000_000);
            out.varint(1, i64::try_from(seconds).map_err(|_| mismatch("time"))?.cast_unsigned());
            let nanos = if of.shape == Shape::Time { 0 } else { nanos };
            out.varint(2, u64::try_from(nanos).map_err(|_| mismatch("time"))?);
        }
        Shape::FieldsV1 | Shape::RawExtension => {
            let text = serde_json::to_vec(value).map_err(|_| mismatch("JSON"))?;
            out.bytes(1, &text);
        }
        Shape::Any => return Err(mismatch("type with a protobuf form")),
    }
    Ok(())
}

fn write_member(of: &Type, field: &Field, members: &Map<String, Json>, out: &mut Writer) -> Result<(), Error> {
    let Some(value) = members.get(field.name).filter(|value| !value.is_null()) else { return Ok(()) };
    let mismatch = |wanted| Error::Mismatch { of: of.name.to_owned(), member: field.name.to_owned(), wanted };
    match &field.value {
        Value::List(item) => {
            for value in value.as_array().ok_or_else(|| mismatch("list"))? {
                write_single(of, field, item, value, field.tag, out)?;
            }
        }
        Value::Map(item) => {
            for (key, value) in value.as_object().ok_or_else(|| mismatch("map"))? {
                out.try_message(field.tag, |entry| {
                    entry.bytes(1, key.as_bytes());
                    write_single(of, field, item, value, 2, entry)
                })?;
            }
        }
        plain => write_single(of, field, plain, value, field.tag, out)?,
    }
    Ok(())
}

fn write_single(of: &Type, field: &Field, value: &Value, json: &Json, tag: u32, out: &mut Writer) -> Result<(), Error> {
    let mismatch = |wanted| Error::Mismatch { of: of.name.to_owned(), member: field.name.to_owned(), wanted };
    match value {
        Value::String => out.bytes(tag, json.as_str().ok_or_else(|| mismatch("string"))?.as_bytes()),
        Value::Bool => out.varint(tag, json.as_bool().ok_or_else(|| mismatch("boolean"))?.into()),
        Value::Int32 => {
            let number = json.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or_else(|| mismatch("32-bit integer"))?;
            out.varint(tag, i64::from(number).cast_unsigned());
        }
        Value::Int64 => out.varint(tag, json.as_i64().ok_or_else(|| mismatch("integer"))?.cast_unsigned()),
        Value::Double => out.double(tag, json.as_f64().ok_or_else(|| mismatch("number"))?),
        Value::Bytes => {
            let text = json.as_str().ok_or_else(|| mismatch("base64"))?;
            out.bytes(tag, &STANDARD.decode(text).map_err(|_| mismatch("base64"))?);
        }
        // A null item is a zero one.
        Value::Object(_) if json.is_null() => out.bytes(tag, b""),
        Value::Object(id) => {
            let inner = Schema::get().at(*id);
            out.try_message(tag, |out| write(inner, json, out))?;
        }
        Value::List(item) => {
            let items = json.as_array().ok_or_else(|| mismatch("list"))?;
            out.try_message(tag, |out| items.iter().try_for_each(|json| write_single(of, field, item, json, 1, out)))?;
        }
        Value::Map(_) => return Err(mismatch("item")),
    }
    Ok(())
}
