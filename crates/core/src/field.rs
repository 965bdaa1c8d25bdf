//! Field paths and faults: what is wrong with an object, where, in the API server's own words.
//!
//! Invariant: a [`Fault`]'s text is final when it is made. The server copies it into a `metav1::Status`, the command line
//! prints it, and nobody words it again.
//! Left out: which rules there are (see `validate`).
//! Upstream: `staging/src/k8s.io/apimachinery/pkg/util/validation/field` (`Path`, `Error.ErrorBody`, `ErrorList`), v1.36.

use std::collections::HashSet;
use std::fmt::{self, Display, Write as _};

use serde::Serialize;

/// A place in an object, such as `spec.template.spec.containers[0].name`.
///
/// A path borrows its parent and allocates nothing; its text is made only when a fault names it.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    part: Part<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The object itself; its fields print without a leading dot.
    pub const fn root() -> Path<'static> {
        Path { parent: None, part: Part::Root }
    }

    /// The member `name` of this object. A dotted name (`metadata.labels`) prints as it is.
    #[must_use]
    pub const fn field(&'a self, name: &'a str) -> Path<'a> {
        self.child(Part::Field(name))
    }

    /// The item at `index` of this list.
    #[must_use]
    pub const fn index(&'a self, index: usize) -> Path<'a> {
        self.child(Part::Index(index))
    }

    /// The value of `key` in this map, printed in brackets.
    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Path<'a> {
        self.child(Part::Key(key))
    }

    const fn child(&'a self, part: Part<'a>) -> Path<'a> {
        Path { parent: Some(self), part }
    }
}

impl Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            Display::fmt(parent, f)?;
        }
        match self.part {
            Part::Root => Ok(()),
            Part::Field(name) => {
                if !matches!(self.parent.map(|p| p.part), None | Some(Part::Root)) {
                    f.write_char('.')?;
                }
                f.write_str(name)
            }
            Part::Index(index) => write!(f, "[{index}]"),
            Part::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What kind of fault it is; decides the cause reason and the first words of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The field must be set.
    Required,
    /// The value breaks a rule.
    Invalid,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The field may not be set here.
    Forbidden,
    /// The value occurs twice where it must be unique.
    Duplicate,
    /// The value names something that is not there.
    NotFound,
    /// The value has too many bytes.
    TooLong,
    /// The list has too many items.
    TooMany,
}

impl FaultKind {
    /// The `reason` of a `StatusCause`, such as `FieldValueInvalid`.
    pub const fn cause_reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::NotFound => "Not found",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
        }
    }
}

/// The offending value, already in the form in which a message prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(String);

impl Value {
    /// Prints `value` as compact JSON, as Go prints values that are neither strings nor numbers.
    pub fn json(value: &impl Serialize) -> Value {
        Value(serde_json::to_string(value).unwrap_or_default())
    }

    /// Prints `text` without quotes.
    pub fn bare(text: impl Into<String>) -> Value {
        Value(text.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value(quote(text))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Value {
        Value(quote(text))
    }
}

macro_rules! bare_values {
    ($($t:ty),*) => { $(impl From<$t> for Value {
        fn from(value: $t) -> Value { Value(value.to_string()) }
    })* };
}
bare_values!(i32, i64, usize, bool);

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The path of the field, as in `details.causes[].field`.
    pub field: String,
    /// The body, as in `details.causes[].message`: ``Invalid value: "x": must be …``.
    pub message: String,
}

impl Fault {
    /// ``Required value[: detail]``.
    pub fn required(path: &Path<'_>, detail: &str) -> Fault {
        Fault::without_value(FaultKind::Required, path, detail)
    }

    /// ``Forbidden: detail``.
    pub fn forbidden(path: &Path<'_>, detail: &str) -> Fault {
        Fault::without_value(FaultKind::Forbidden, path, detail)
    }

    /// ``Invalid value: value: detail``.
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Display) -> Fault {
        Fault::with_value(FaultKind::Invalid, path, value, detail)
    }

    /// ``Invalid value: detail``, where upstream omits the value.
    pub fn invalid_omitted(path: &Path<'_>, detail: &str) -> Fault {
        Fault::without_value(FaultKind::Invalid, path, detail)
    }

    /// ``Unsupported value: "x": supported values: "a", "b"``; `supported` is printed in the order given.
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Fault {
        let list = supported.iter().map(|s| quote(s)).collect::<Vec<_>>();
        let detail = format!("supported values: {}", list.join(", "));
        Fault::with_value(FaultKind::NotSupported, path, value, detail)
    }

    /// ``Duplicate value: value``.
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Fault {
        Fault::with_value(FaultKind::Duplicate, path, value, "")
    }

    /// ``Not found: value``.
    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Fault {
        Fault::with_value(FaultKind::NotFound, path, value, "")
    }

    /// ``Too long: may not be more than N bytes``.
    pub fn too_long(path: &Path<'_>, max_bytes: usize) -> Fault {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        let detail = format!("may not be more than {max_bytes} {unit}");
        Fault::without_value(FaultKind::TooLong, path, &detail)
    }

    /// ``Too many: 21: must have at most 20 items``.
    pub fn too_many(path: &Path<'_>, items: usize, max: usize) -> Fault {
        let unit = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {unit}");
        Fault::with_value(FaultKind::TooMany, path, items, detail)
    }

    /// The `reason` of a `StatusCause`, such as `FieldValueInvalid`.
    pub const fn cause_reason(&self) -> &'static str {
        self.kind.cause_reason()
    }

    fn with_value(kind: FaultKind, path: &Path<'_>, value: impl Into<Value>, detail: impl Display) -> Fault {
        let mut message = format!("{}: {}", kind.words(), value.into().0);
        let bare = message.len();
        let _ = write!(message, ": {detail}");
        if message.len() == bare + 2 {
            message.truncate(bare);
        }
        Fault { kind, field: path.to_string(), message }
    }

    fn without_value(kind: FaultKind, path: &Path<'_>, detail: &str) -> Fault {
        let mut message = kind.words().to_owned();
        if !detail.is_empty() {
            let _ = write!(message, ": {detail}");
        }
        Fault { kind, field: path.to_string(), message }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for Fault {}

/// One line for all faults: a single one as it is, several as `[e1, e2]`; repeated ones once.
///
/// This is what follows `Job.batch "a" is invalid: ` in an API server's message.
pub fn aggregate(faults: &[Fault]) -> String {
    let mut seen = HashSet::new();
    let texts: Vec<String> = faults.iter().filter(|fault| seen.insert(*fault)).map(ToString::to_string).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// Quotes `text` as Go's `%q` does.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            // Rust escapes what is not printable, much as Go's strconv.IsPrint would have it.
            c if c.is_ascii() || c.escape_debug().count() == 1 => out.push(c),
            c if (c as u32) < 0x1_0000 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_the_api_server_does() {
        let root = Path::root();
        let spec = root.field("spec");
        let containers = spec.field("containers");
        assert_eq!(containers.index(0).field("name").to_string(), "spec.containers[0].name");
        assert_eq!(spec.field("nodeSelector").key("a/b").to_string(), "spec.nodeSelector[a/b]");
        assert_eq!(root.to_string(), "");
    }

    #[test]
    fn messages_follow_the_kind() {
        let root = Path::root();
        let p = root.field("x");
        assert_eq!(Fault::required(&p, "").to_string(), "x: Required value");
        assert_eq!(Fault::duplicate(&p, 1).to_string(), "x: Duplicate value: 1");
        assert_eq!(
            Fault::not_supported(&p, "Foo", &["A", "B"]).message,
            r#"Unsupported value: "Foo": supported values: "A", "B""#
        );
        assert_eq!(Fault::too_many(&p, 21, 20).message, "Too many: 21: must have at most 20 items");
        assert_eq!(Fault::too_long(&p, 63).message, "Too long: may not be more than 63 bytes");
    }

    #[test]
    fn repeated_faults_are_said_once() {
        let root = Path::root();
        let fault = Fault::invalid(&root.field("x"), -1, "must be positive");
        assert_eq!(aggregate(&[fault.clone(), fault.clone()]), fault.to_string());
        let other = Fault::required(&root.field("y"), "");
        assert_eq!(aggregate(&[fault, other]), "[x: Invalid value: -1: must be positive, y: Required value]");
    }

    #[test]
    fn quoting_is_go_quoting() {
        assert_eq!(quote("a\"b\\\n\u{1}\u{7f}é\u{200b}"), "\"a\\\"b\\\\\\n\\x01\\x7fé\\u200b\"");
    }
}
