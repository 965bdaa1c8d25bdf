//! What merging has to know about each type: which values are one field, and which are several.
//!
//! Invariant: a form is a view of the table of types and costs nothing to make. What the table leaves open merges as
//! plain JSON does.
//! Left out: descriptions, wire tags and formats (see `types`).

use serde_json::{Map, Value as Json, json};

use crate::types::{self, Field, Presence, Schema, Type, Value};

/// A value that has no parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// A string.
    Text,
    /// An integer or a float.
    Number,
    /// A boolean.
    Flag,
    /// Any of these: quantities, times, `IntOrString`.
    Untyped,
}

/// How the items of a list are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListRule {
    /// They aren't: the list is one field.
    Atomic,
    /// By value.
    Set,
    /// By these members.
    Map(&'static [&'static str]),
}

/// What a strategic merge patch does with a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMerge {
    /// The patch's list takes its place.
    Replace,
    /// Items are plain values, each there once.
    ByValue,
    /// Items are maps that this member tells apart.
    ByKey(&'static str),
}

/// A form, as a match sees it.
#[derive(Clone, Copy, Debug)]
pub enum View {
    /// No parts.
    Scalar(Scalar),
    /// A struct.
    Record {
        /// Its members.
        record: Record,
        /// Whether it is one field.
        atomic: bool,
    },
    /// A map from strings.
    Map {
        /// What its values are.
        item: Form,
        /// Whether it is one field.
        atomic: bool,
    },
    /// A list.
    List {
        /// How its items are told apart.
        rule: ListRule,
        /// What its items are.
        item: Form,
    },
}

/// How the values of one type merge.
#[derive(Clone, Copy, Debug)]
pub struct Form(Of);

#[derive(Clone, Copy, Debug)]
enum Of {
    Any,
    Type(&'static Type, bool),
    Value(&'static Value, Option<&'static types::ListRule>, bool),
}

/// The members of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Record(&'static Type);

/// One member of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Member(&'static Field);

impl Form {
    /// What no type is known of.
    pub const ANY: Self = Self(Of::Any);

    /// The form of the type `name`, such as `io.k8s.api.batch.v1.JobSpec`.
    pub fn of(name: &str) -> Option<Self> {
        Schema::get().named(name).map(Self::of_type)
    }

    /// The form of the objects of a kind: `batch/v1` `Job`.
    pub fn of_kind(api_version: &str, kind: &str) -> Option<Self> {
        Schema::get().kind(api_version, kind).map(Self::of_type)
    }

    fn of_type(of: &'static Type) -> Self {
        Self(Of::Type(of, of.atomic))
    }

    /// What it is, for a match. `value` decides where no type is known.
    pub fn view_of(self, value: Option<&Json>) -> View {
        match self.0 {
            Of::Any => match value {
                Some(Json::Object(_)) => View::Map { item: Self::ANY, atomic: false },
                Some(Json::Array(_)) => View::List { rule: ListRule::Atomic, item: Self::ANY },
                _ => View::Scalar(Scalar::Untyped),
            },
            Of::Type(of, atomic) => match of.shape {
                types::Shape::Struct => View::Record { record: Record(of), atomic },
                types::Shape::Quantity | types::Shape::IntOrString | types::Shape::Time | types::Shape::MicroTime => {
                    View::Scalar(Scalar::Untyped)
                }
                types::Shape::FieldsV1 | types::Shape::RawExtension | types::Shape::Any => Self::ANY.view_of(value),
            },
            Of::Value(of, list, atomic) => match of {
                Value::String | Value::Bytes => View::Scalar(Scalar::Text),
                Value::Bool => View::Scalar(Scalar::Flag),
                Value::Int32 | Value::Int64 | Value::Double => View::Scalar(Scalar::Number),
                Value::Object(id) => {
                    let of = Schema::get().at(*id);
                    Self(Of::Type(of, atomic || of.atomic)).view_of(value)
                }
                Value::List(item) => {
                    let rule = match list {
                        None | Some(types::ListRule::Atomic) => ListRule::Atomic,
                        Some(types::ListRule::Set) => ListRule::Set,
                        Some(types::ListRule::Map(keys)) => ListRule::Map(keys),
                    };
                    View::List { rule, item: Self(Of::Value(item, None, false)) }
                }
                Value::Map(item) => View::Map { item: Self(Of::Value(item, None, false)), atomic },
            },
        }
    }

    fn its_type(self) -> Option<&'static Type> {
        match self.0 {
            Of::Type(of, _) => Some(of),
            Of::Value(Value::Object(id), ..) => Some(Schema::get().at(*id)),
            _ => None,
        }
    }

    /// The last part of its type's name: `JobSpec`.
    pub fn name(self) -> &'static str {
        self.its_type().map_or("", |of| of.name.rsplit('.').next().unwrap_or(of.name))
    }

    /// What Go's `reflect.Kind` is called: `int32`.
    pub fn go_kind(self) -> &'static str {
        match self.0 {
            Of::Any | Of::Type(..) | Of::Value(Value::Object(_), ..) => "struct",
            Of::Value(of, ..) => match of {
                Value::String => "string",
                Value::Bool => "bool",
                Value::Int32 => "int32",
                Value::Int64 => "int64",
                Value::Double => "float64",
                Value::Map(_) => "map",
                Value::Bytes | Value::List(_) | Value::Object(_) => "slice",
            },
        }
    }

    /// What the member `name` is when it is left out, if the type says so.
    pub fn default_of(self, name: &str) -> Option<Json> {
        let field = self.its_type()?.field(name)?;
        match field.default {
            Some(default) => serde_json::from_str(default).ok(),
            None => Some(zero(field)).filter(|zero| field.presence == Presence::Always && !zero.is_null()),
        }
    }
}

impl Record {
    /// The member `name`.
    pub fn member(self, name: &str) -> Option<Member> {
        self.0.field(name).map(Member)
    }

    /// The form of the member `name`.
    pub fn form_of(self, name: &str) -> Form {
        self.member(name).map_or(Form::ANY, Member::form)
    }

    /// The members that Go's struct has even if nothing was set, and what they are then.
    pub fn always(self) -> impl Iterator<Item = (&'static str, Json)> {
        let fields = self.0.fields().iter().filter(|field| field.presence == Presence::Always);
        fields.map(|field| (field.name, zero(field)))
    }
}

impl Member {
    /// Its own form.
    pub fn form(self) -> Form {
        Form(Of::Value(&self.0.value, self.0.list.as_ref(), self.0.atomic))
    }

    /// Whether Go leaves it out where it is zero.
    pub fn is_left_out(self) -> bool {
        self.0.presence == Presence::Omitted
    }

    /// What a strategic merge patch does with this list.
    pub fn list_merge(self) -> ListMerge {
        match (self.0.patch.merge, self.0.patch.key) {
            (false, _) => ListMerge::Replace,
            (true, None) => ListMerge::ByValue,
            (true, Some(key)) => ListMerge::ByKey(key),
        }
    }

    /// Whether a strategic merge patch replaces this map.
    pub fn is_replaced(self) -> bool {
        self.0.patch.replace
    }
}

/// What Go writes for a member that is not set.
fn zero(field: &Field) -> Json {
    match &field.value {
        Value::String => json!(""),
        Value::Bool => json!(false),
        Value::Int32 | Value::Int64 | Value::Double => json!(0),
        Value::Bytes | Value::List(_) | Value::Map(_) => Json::Null,
        Value::Object(id) => match Schema::get().at(*id).shape {
            types::Shape::Struct => Json::Object(Map::new()),
            types::Shape::Quantity => json!("0"),
            types::Shape::IntOrString => json!(0),
            _ => Json::Null,
        },
    }
}
