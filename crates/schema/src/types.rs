//! The table of types: what every API type is called, which members it has, and how each is described, encoded and
//! merged.
//!
//! The table is text, embedded, and parsed once on first use. Names and descriptions are slices of that text. A line
//! is a type, `NAME SHAPE MARKS DESCRIPTION`, or, after a tab, a member of the type above, `NAME TAG VALUE MARKS
//! DESCRIPTION`, with tabs between.
//!
//! Invariant: every reference leads to a type of the table, and no two members of a type have the same name or the same
//! place on the wire.
//!
//! Left out: the kinds of other API groups, `CustomResourceDefinition`, and the values that an enumeration may have.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The embedded table.
const TEXT: &str = include_str!("../data/types.txt");

/// Every type that the API is made of.
#[derive(Debug)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<&'static str, TypeId>,
    by_kind: HashMap<(&'static str, &'static str), TypeId>,
}

/// The place of a type in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u32);

/// One type.
#[derive(Debug)]
pub struct Type {
    /// Its full name, `io.k8s.api.batch.v1.JobSpec`.
    pub name: &'static str,
    /// What values of it look like.
    pub shape: Shape,
    /// Group/version and kind, if it is an object of its own: `("batch/v1", "Job")`.
    pub kind: Option<(&'static str, &'static str)>,
    /// Merged as one value, never member by member.
    pub atomic: bool,
    fields: Vec<Field>,
    by_name: Vec<u16>,
    by_place: Vec<u16>,
    doc: &'static str,
}

/// What values of a type look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object with the type's members.
    Struct,
    /// `"500m"`: a string, or a number when it is read.
    Quantity,
    /// A number or a string, as `80` or `"80%"`.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// The JSON of a field set.
    FieldsV1,
    /// Any object, with its own kind.
    RawExtension,
    /// Anything; never in protobuf.
    Any,
}

/// One member of a type.
#[derive(Debug)]
pub struct Field {
    /// Its JSON name.
    pub name: &'static str,
    /// Its protobuf field number; 0 if it is in JSON only.
    pub tag: u32,
    /// The field number of the message around it, for a member that Go embeds: `Volume.emptyDir` is in JSON a member of
    /// the volume, and in protobuf of a message in the volume.
    pub via: Option<u32>,
    /// What it holds.
    pub value: Value,
    /// It must be there.
    pub required: bool,
    /// What a zero means.
    pub presence: Presence,
    /// How server-side apply merges it, if it is a list. Lists without a rule are atomic.
    pub list: Option<ListRule>,
    /// Server-side apply takes the whole map or object as one value.
    pub atomic: bool,
    /// How strategic merge patch merges it.
    pub patch: Patch,
    /// Its default as JSON, if the schema tells one.
    pub default: Option<&'static str>,
    doc: &'static str,
}

/// What a member holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A floating point number.
    Double,
    /// Bytes, in JSON as base64.
    Bytes,
    /// A value of another type.
    Object(TypeId),
    /// A list.
    List(Box<Value>),
    /// An object whose keys are free.
    Map(Box<Value>),
}

/// What a zero of a member means: an empty string, 0, false, an empty object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Something else than an absent one: `completions: 0`.
    Pointer,
    /// The same as an absent one, and JSON leaves it out: `hostNetwork: false`.
    Omitted,
    /// The same as an absent one, and JSON always has it: `status: {}`.
    Always,
}

/// How server-side apply merges a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListRule {
    /// As one value.
    Atomic,
    /// As a set of values.
    Set,
    /// By item, items being told apart by these members.
    Map(Vec<&'static str>),
}

/// How strategic merge patch merges a member. By default lists are replaced, and objects merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patch {
    /// A list is merged.
    pub merge: bool,
    /// What tells the items of a merged list apart; `None` for plain values.
    pub key: Option<&'static str>,
    /// The member is replaced and not merged.
    pub replace: bool,
    /// A patch may name the members that stay (`$retainKeys`).
    pub retain_keys: bool,
}

impl Schema {
    /// The table, parsed at the first call.
    pub fn get() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| Schema::parse(TEXT))
    }

    /// The type of a kind: `kind("batch/v1", "Job")`.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&Type> {
        self.by_kind.get(&(api_version, kind)).map(|id| self.at(*id))
    }

    /// The type of an object as a client names it. Options, `Status` and the like belong to every group.
    pub fn object(&self, api_version: &str, kind: &str) -> Option<&Type> {
        let meta = || self.named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
        let general = |of: &&Type| of.field("kind").is_some() || of.name.ends_with(".WatchEvent");
        self.kind(api_version, kind).or_else(|| meta().filter(general))
    }

    /// A type by its full name.
    pub fn named(&self, name: &str) -> Option<&Type> {
        self.by_name.get(name).map(|id| self.at(*id))
    }

    /// A type that a member refers to.
    pub fn at(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// Every type, by name.
    pub fn types(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }

    fn parse(text: &'static str) -> Schema {
        let names = text.lines().filter(|line| !line.starts_with('\t')).filter_map(|line| line.split('\t').next());
        let by_name: HashMap<_, _> = names.zip(0..).map(|(name, place)| (name, TypeId(place))).collect();
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        for line in text.lines() {
            if let Some(member) = line.strip_prefix('\t') {
                let owner = types.last_mut().expect("the table starts with a type");
                owner.fields.push(Field::parse(member, &by_name));
            } else {
                types.push(Type::parse(line));
            }
        }
        types.iter_mut().for_each(Type::index);
        let kinds = types.iter().zip(0..).filter_map(|(of, place)| Some((of.kind?, TypeId(place))));
        let by_kind = kinds.collect();
        Schema { types, by_name, by_kind }
    }
}

impl Type {
    /// Its description.
    pub fn doc(&self) -> Cow<'static, str> {
        unescape(self.doc)
    }

    /// Its members, in Kubernetes' own order, which is that of its answers.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// A member by its JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let place = self.by_name.binary_search_by(|at| self.fields[usize::from(*at)].name.cmp(name)).ok()?;
        Some(&self.fields[usize::from(self.by_name[place])])
    }

    /// A member by its place on the wire: its number, in the message `via` if it is an embedded one.
    pub fn tagged(&self, via: Option<u32>, tag: u32) -> Option<&Field> {
        let of = |at: &u16| (self.fields[usize::from(*at)].via, self.fields[usize::from(*at)].tag);
        let place = self.by_place.binary_search_by(|at| of(at).cmp(&(via, tag))).ok()?;
        Some(&self.fields[usize::from(self.by_place[place])]).filter(|field| field.tag != 0)
    }

    /// The members that are on the wire, in its order, those of an embedded message together.
    pub fn wire_order(&self) -> impl Iterator<Item = &Field> {
        self.by_place.iter().map(|at| &self.fields[usize::from(*at)]).filter(|field| field.tag != 0)
    }

    /// Whether the message has an embedded one under this number.
    pub fn embeds(&self, tag: u32) -> bool {
        self.fields.iter().any(|field| field.via == Some(tag))
    }

    fn parse(line: &'static str) -> Type {
        let mut parts = line.splitn(4, '\t');
        let mut part = || parts.next().expect("a type has four parts");
        let (name, shape, marks, doc) = (part(), part(), part(), part());
        let shape = match shape {
            "struct" => Shape::Struct,
            "quantity" => Shape::Quantity,
            "intorstring" => Shape::IntOrString,
            "time" => Shape::Time,
            "microtime" => Shape::MicroTime,
            "fields" => Shape::FieldsV1,
            "raw" => Shape::RawExtension,
            "any" => Shape::Any,
            other => panic!("the table has a type of no known shape: {other}"),
        };
        let kind = marks.split(' ').find_map(|mark| mark.strip_prefix("kind=")?.rsplit_once('/'));
        let atomic = marks.split(' ').any(|mark| mark == "atomic");
        Type { name, shape, kind, atomic, fields: Vec::new(), by_name: Vec::new(), by_place: Vec::new(), doc }
    }

    fn index(&mut self) {
        let all = || (0..).zip(&self.fields).map(|(place, _)| place);
        let (mut by_name, mut by_place): (Vec<u16>, Vec<u16>) = (all().collect(), all().collect());
        by_name.sort_by_key(|at| self.fields[usize::from(*at)].name);
        by_place.sort_by_key(|at| (self.fields[usize::from(*at)].via, self.fields[usize::from(*at)].tag));
        (self.by_name, self.by_place) = (by_name, by_place);
    }
}

impl Field {
    /// Its description.
    pub fn doc(&self) -> Cow<'static, str> {
        unescape(self.doc)
    }

    fn parse(line: &'static str, types: &HashMap<&'static str, TypeId>) -> Field {
        let mut parts = line.splitn(5, '\t');
        let mut part = || parts.next().expect("a member has five parts");
        let (name, tag, value, marks, doc) = (part(), part(), part(), part(), part());
        let mut field = Field {
            name,
            tag: tag.parse().expect("a tag is a number"),
            via: None,
            value: Value::parse(value, types),
            required: false,
            presence: Presence::Omitted,
            list: None,
            atomic: false,
            patch: Patch::default(),
            default: None,
            doc,
        };
        for mark in marks.split(' ').filter(|mark| !mark.is_empty()) {
            match mark.split_once('=').unwrap_or((mark, "")) {
                ("required", _) => field.required = true,
                ("pointer", _) => field.presence = Presence::Pointer,
                ("always", _) => field.presence = Presence::Always,
                ("via", tag) => field.via = tag.parse().ok(),
                ("list", "atomic") => field.list = Some(ListRule::Atomic),
                ("list", "set") => field.list = Some(ListRule::Set),
                ("list", rule) => {
                    let keys = rule.strip_prefix("map:").expect("a list is atomic, a set or a map");
                    field.list = Some(ListRule::Map(keys.split(',').collect()));
                }
                ("map", _) => field.atomic = true,
                ("patch", strategies) => {
                    for strategy in strategies.split(',') {
                        match strategy {
                            "merge" => field.patch.merge = true,
                            "replace" => field.patch.replace = true,
                            "retainKeys" => field.patch.retain_keys = true,
                            other => panic!("the table has an unknown patch strategy: {other}"),
                        }
                    }
                }
                ("key", key) => field.patch.key = Some(key),
                ("default", json) => field.default = Some(json),
                (other, _) => panic!("the table has an unknown mark: {other}"),
            }
        }
        field
    }
}

impl Value {
    fn parse(text: &'static str, types: &HashMap<&'static str, TypeId>) -> Value {
        match text {
            "string" => Value::String,
            "bool" => Value::Bool,
            "int32" => Value::Int32,
            "int64" => Value::Int64,
            "double" => Value::Double,
            "bytes" => Value::Bytes,
            _ => {
                if let Some(of) = text.strip_prefix("[]") {
                    Value::List(Box::new(Value::parse(of, types)))
                } else if let Some(of) = text.strip_prefix("{}") {
                    Value::Map(Box::new(Value::parse(of, types)))
                } else {
                    let name = text.strip_prefix('#').expect("a value is plain, a list, a map or a reference");
                    Value::Object(*types.get(name).expect("a reference leads to a type of the table"))
                }
            }
        }
    }
}

/// Descriptions have `\n`, `\t` and `\\` for what would end the line or the part.
fn unescape(text: &'static str) -> Cow<'static, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        plain.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                other => other.unwrap_or('\\'),
            },
            other => other,
        });
    }
    Cow::Owned(plain)
}
