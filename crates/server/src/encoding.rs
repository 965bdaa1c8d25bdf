//! The bytes of a stored object: JSON, made once per revision and sent to everyone as it is.
//!
//! ```text
//! {"apiVersion":"batch/v1","kind":"Job","metadata":{"resourceVersion":"42","name":"pi",…},"spec":…}
//! └────────────── head, one per kind ──────────────┘└──── the splice ────┘└───────── rest ─────────
//! ```
//!
//! Invariant: every stored value starts with its kind's head, followed by the revision of its own write. So the revision
//! is put in by copying bytes, two states are compared without it, and a list item loses `apiVersion` and `kind` by
//! slicing. (k8s-openapi writes members in alphabetical order, so that some kinds have others before `metadata`; those
//! are moved behind it.)
//! Left out: any other form of an object than JSON.

use std::io::{self, Write};

use bytes::{BufMut, Bytes, BytesMut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};
use stint_store::Revision;

use crate::kinds::Kind;

const BEFORE: &[u8] = br#""resourceVersion":""#;
const AFTER: &[u8] = br#"","#;
const METADATA: &[u8] = br#""metadata":{"#;
const ENTRIES: &[u8] = br#""managedFields":"#;
const ENTRIES_NAME: &[u8] = b"managedFields";

/// An object in JSON that still lacks the revision of its write.
#[derive(Clone, Debug)]
pub struct Encoded {
    json: Bytes,
    head: usize,
}

impl Encoded {
    /// Encodes `object`, whose metadata must hold a name and no `resourceVersion`.
    ///
    /// # Panics
    ///
    /// When `object` does not serialize as a Kubernetes object does: `apiVersion` and `kind` first, and `metadata` with
    /// a name somewhere.
    pub fn of<T>(object: &T) -> Self
    where
        T: Serialize + k8s_openapi::Metadata<Ty = ObjectMeta>,
    {
        debug_assert!(object.metadata().resource_version.is_none(), "the store gives the revision");
        let mut json = Vec::with_capacity(2048);
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, GoEscapes(CompactFormatter));
        object.serialize(&mut serializer).expect("API types have string keys and no failing members");
        let head = head_of(T::API_VERSION, T::KIND);
        if !json[..head].ends_with(METADATA) {
            move_metadata_to(head - METADATA.len(), &mut json);
        }
        Self { json: json.into(), head }
    }

    /// The object with `revision` as its `resourceVersion`, in a buffer of the exact size.
    pub fn at(&self, revision: Revision) -> Bytes {
        let digits = revision.to_string();
        let size = self.json.len() + BEFORE.len() + digits.len() + AFTER.len();
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(&self.json[..self.head]);
        out.put_slice(BEFORE);
        out.put_slice(digits.as_bytes());
        out.put_slice(AFTER);
        out.put_slice(&self.json[self.head..]);
        out.freeze()
    }

    /// The object, which has no `metadata.managedFields`, with these, a list in JSON.
    #[must_use]
    pub fn with_entries(self, entries: &[u8]) -> Self {
        if entries.is_empty() {
            return self;
        }
        let mut at = self.head;
        // Members are in alphabetical order, and the last one is not before the name.
        while name_at(&self.json, at) < ENTRIES_NAME {
            at = member_end(&self.json, at) + 1;
        }
        let mut json = Vec::with_capacity(self.json.len() + ENTRIES.len() + entries.len() + 1);
        for piece in [&self.json[..at], ENTRIES, entries, b",".as_slice(), &self.json[at..]] {
            json.extend_from_slice(piece);
        }
        Self { json: json.into(), head: self.head }
    }

    /// The object without a `resourceVersion`, as a dry run answers.
    pub fn unversioned(&self) -> Bytes {
        self.json.clone()
    }

    /// Its bytes.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Whether the stored `value` says the same, whatever its revision.
    pub fn says_the_same_as(&self, value: &[u8]) -> bool {
        let (before, after) = value.split_at_checked(self.head).unwrap_or((value, &[]));
        let rest = after.strip_prefix(BEFORE).and_then(|after| {
            let end = after.iter().position(|byte| *byte == b'"')?;
            after.get(end + AFTER.len()..)
        });
        before == &self.json[..self.head] && rest == Some(&self.json[self.head..])
    }
}

/// Puts the member `metadata` before the other members, which begin at `first`.
fn move_metadata_to(first: usize, json: &mut [u8]) {
    let mut start = first;
    let mut end = member_end(json, start);
    while !json[start..].starts_with(METADATA) {
        assert_eq!(json[end], b',', "every kind has metadata");
        start = end + 1;
        end = member_end(json, start);
    }
    // `before,metadata` becomes `metadatabefore,` and then `metadata,before`.
    json[first..end].rotate_left(start - first);
    json[first + (end - start)..end].rotate_right(1);
}

/// Where the member that begins at `start` ends: at a comma, or at the brace that ends the object.
fn member_end(json: &[u8], start: usize) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0_u32, false, false);
    let end = json[start..].iter().position(|byte| {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b',' | b'}') if depth == 0 => return true,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth -= 1,
            _ => {}
        }
        false
    });
    start + end.expect("serde_json writes whole objects")
}

/// How many bytes come before the members of `metadata`.
pub const fn head_of(api_version: &str, kind: &str) -> usize {
    r#"{"apiVersion":"","kind":"","metadata":{"#.len() + api_version.len() + kind.len()
}

/// The part of a stored value, of which `{` was cut off, that a list of its kind holds: all but `apiVersion` and `kind`.
pub fn list_item(value: &Bytes, head: usize) -> Bytes {
    value.slice(head - METADATA.len()..)
}

/// The member `metadata` of a stored value, its name included.
pub fn metadata(value: &[u8], head: usize) -> &[u8] {
    let start = head - METADATA.len();
    &value[start..member_end(value, start)]
}

/// The name of the member that begins at `start`.
fn name_at(json: &[u8], start: usize) -> &[u8] {
    let name = json.get(start + 1..).unwrap_or_default();
    // The names of metadata's own members need no escapes.
    &name[..name.iter().position(|byte| *byte == b'"').unwrap_or(name.len())]
}

/// A stored value in two: without `metadata.managedFields`, and these, a list in JSON. None: it has none.
pub(crate) fn without_entries(value: &Bytes) -> Option<(Vec<u8>, Bytes)> {
    let metadata = value.windows(METADATA.len()).position(|bytes| bytes == METADATA)? + METADATA.len();
    let mut start = metadata;
    loop {
        let (name, end) = (name_at(value, start), member_end(value, start));
        if name == ENTRIES_NAME {
            // Behind it comes at least the object's name.
            let rest = value.get(end..)?.strip_prefix(b",")?;
            return Some(([&value[..start], rest].concat(), value.slice(start + ENTRIES.len()..end)));
        }
        // All members but the first, the revision, are in alphabetical order.
        if value[end] == b'}' || (name > ENTRIES_NAME && start > metadata) {
            return None;
        }
        start = end + 1;
    }
}

/// A value in JSON, as it stands in a stored one.
pub(crate) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    let mut json = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut json, GoEscapes(CompactFormatter));
    value.serialize(&mut serializer).expect("it has string keys and no failing members");
    json
}

/// The revision of the write of a stored value.
pub(crate) fn revision_of(value: &[u8], head: usize) -> Option<Revision> {
    let digits = value.get(head..)?.strip_prefix(BEFORE)?;
    let end = digits.iter().position(|byte| *byte == b'"')?;
    str::from_utf8(&digits[..end]).ok()?.parse().ok().map(Revision)
}

/// Whether an answer's bytes are an object of `kind`, as it is stored.
pub(crate) fn is_of(value: &[u8], kind: &Kind) -> bool {
    let before = value.get(..kind.head()).unwrap_or_default();
    let named =
        before.strip_prefix(br#"{"apiVersion":""#).and_then(|rest| rest.strip_prefix(kind.api_version.as_bytes()));
    named
        .and_then(|rest| rest.strip_prefix(br#"","kind":""#))
        .is_some_and(|rest| rest.starts_with(kind.kind.as_bytes()))
}

/// Escapes `<`, `>`, `&`, U+2028 and U+2029 as Go's encoder does, so that JSON can stand inside HTML.
struct GoEscapes(CompactFormatter);

impl Formatter for GoEscapes {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let special = |c: char| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}');
        let mut rest = fragment;
        while let Some(at) = rest.find(special) {
            let c = rest[at..].chars().next().expect("found there");
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        self.0.write_char_escape(writer, escape)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn config_map(text: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([("resourceVersion".to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn the_revision_is_spliced_into_the_metadata_only() {
        let value = Encoded::of(&config_map("")).at(Revision(42));
        assert_eq!(revision_of(&value, head_of("v1", "ConfigMap")), Some(Revision(42)));
        let back: ConfigMap = serde_json::from_slice(&value).unwrap();
        assert_eq!(back.metadata.resource_version.as_deref(), Some("42"));
        assert_eq!(back.data, config_map("").data);
    }

    #[test]
    fn states_are_compared_without_their_revision() {
        let value = Encoded::of(&config_map("x")).at(Revision(7));
        assert!(Encoded::of(&config_map("x")).says_the_same_as(&value));
        assert!(!Encoded::of(&config_map("y")).says_the_same_as(&value));
        assert!(!Encoded::of(&config_map("x")).says_the_same_as(b"{}"));
    }

    #[test]
    fn a_list_item_has_neither_kind_nor_api_version() {
        let value = Encoded::of(&config_map("x")).at(Revision(7));
        let item = [b"{".as_slice(), &list_item(&value, head_of("v1", "ConfigMap"))].concat();
        let back: serde_json::Value = serde_json::from_slice(&item).unwrap();
        assert_eq!(back["metadata"]["resourceVersion"], "7");
        assert!(back.get("kind").is_none() && back.get("apiVersion").is_none());
    }

    #[test]
    fn entries_are_taken_out_and_put_back_where_they_were() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
        for labels in [None, Some(BTreeMap::from([("a,}".to_owned(), "\"managedFields\":[{}]".to_owned())]))] {
            let entry = |manager: &str| ManagedFieldsEntry { manager: Some(manager.to_owned()), ..Default::default() };
            let mut object = config_map("x");
            object.metadata.labels = labels;
            let without = Encoded::of(&object);
            object.metadata.managed_fields = Some(vec![entry("m]"), entry("<n>")]);
            let with = Encoded::of(&object);
            let (rest, entries) = without_entries(&with.at(Revision(7))).unwrap();
            assert_eq!(rest, without.at(Revision(7)));
            assert_eq!(entries, to_json(&object.metadata.managed_fields));
            assert_eq!(without.clone().with_entries(&entries).at(Revision(8)), with.at(Revision(8)));
            assert_eq!(without_entries(&without.at(Revision(7))), None);
        }
    }

    #[test]
    fn html_is_escaped_as_go_does() {
        let text = "a<b>&\u{2028}\"\\\n\u{1}é";
        let value = Encoded::of(&config_map(text)).unversioned();
        let json = std::str::from_utf8(&value).unwrap();
        assert!(json.contains(r#"a\u003cb\u003e\u0026\u2028\"\\\n\u0001é"#), "{json}");
        let back: ConfigMap = serde_json::from_slice(&value).unwrap();
        assert_eq!(back.data, config_map(text).data);
    }
}
