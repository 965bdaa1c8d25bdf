//! What a kind decides about itself, in a typed trait; and the untyped view of it that the verbs work with.
//!
//! Invariant: verbs see an [`Object`] and never a Job or a Pod; a strategy never sees a request or the store.
//! Left out: the rules that hold for every kind (see `rules.rs`).

use std::any::Any;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stint_core::decode::{DecodeError, Decoded, Tree};
use stint_core::field::Fault;
use stint_core::json;
use stint_core::validate::{self, NameRule};

use crate::encoding::Encoded;

/// How deleting an object of a kind goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// At once, when no finalizer holds it.
    Immediate,
    /// After this many seconds, unless the client names another period; the node's agent ends it earlier.
    Graceful(i64),
}

/// A field that a `fieldSelector` may name: its label, the path of the value in the object, and what an absent one means.
pub type SelectableField = (&'static str, &'static [&'static str], &'static str);

/// What an API server says about a field that can't be selected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownField {
    /// `"x" is not a known field selector: only "metadata.name", "metadata.namespace"`.
    OnlyNames,
    /// `field label not supported: x`.
    Plain,
    /// `field label "x" not supported for Job`.
    OfKind,
}

/// What a kind decides about itself. Every method has the answer of the plainest kind as its default.
pub trait Strategy:
    k8s_openapi::Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
    /// Whether `metadata.generation` counts the changes of what [`desired`](Self::desired) returns.
    const GENERATION: bool = false;
    /// What names may look like.
    const NAMES: NameRule = NameRule::DnsSubdomain;
    /// For kinds whose dependents stay when a deletion names no propagation policy: what the client is warned of.
    const ORPHANS_BY_DEFAULT: Option<&'static str> = None;
    /// Whether an immediate deletion answers with the object, not with a Status.
    const DELETION_RETURNS_OBJECT: bool = false;
    /// The fields that writing the status subresource leaves as they are, whatever the request says.
    const STATUS_RESETS: &'static [&'static str] = &["spec"];
    /// What can be selected by, besides name and namespace.
    const FIELDS: &'static [SelectableField] = &[];
    /// What is said about any other field.
    const UNKNOWN_FIELD: UnknownField = UnknownField::OnlyNames;

    /// The group under which its objects are stored. Another than its own: they are stored as objects of that group's
    /// kind of the same name, and [`encode`](Self::encode), [`load`](Self::load) and [`SHOW`](Self::SHOW) convert them.
    const STORAGE_GROUP: &'static str = Self::GROUP;
    /// Makes this kind's bytes of stored ones, where they differ.
    const SHOW: Option<fn(&[u8]) -> Bytes> = None;
    /// Whether a `PUT` of an object that is not there makes it.
    const CREATE_ON_UPDATE: bool = false;
    /// Whether a `PUT` may leave out which state it replaces.
    const UNCONDITIONAL_UPDATE: bool = true;

    /// The object as it is stored.
    fn encode(&self) -> Encoded {
        Encoded::of(self)
    }

    /// Whether what is encoded of it reads as itself.
    fn reads_back(&self) -> bool {
        true
    }

    /// The object of what was stored.
    ///
    /// # Errors
    ///
    /// When the bytes are none of its kind.
    fn load(stored: &[u8]) -> serde_json::Result<Self> {
        json::read(stored)
    }

    /// Names of objects that may not be deleted.
    const UNDELETABLE: &'static [&'static str] = &[];

    /// Fills in what was left out. Runs on everything that a client sends.
    fn default_fields(&mut self) {}

    /// Drops what a client may not decide at creation, and generates what depends on `uid`.
    fn prepare_create(&mut self, _uid: &str) {}

    /// What is wrong with a new object.
    fn create_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta(self.metadata(), Self::NAMES, &mut faults);
        faults
    }

    /// What the creating client should know.
    fn create_warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Takes back from `old` what the main resource may not change (the status, mostly).
    fn prepare_update(&mut self, _old: &Self) {}

    /// What is wrong with replacing `old`.
    fn update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta_update(old.metadata(), self.metadata(), &mut faults);
        faults
    }

    /// Takes back from `old` what the status subresource may not change (the spec, mostly).
    fn prepare_status_update(&mut self, _old: &Self) {}

    /// What is wrong with replacing the status of `old`.
    fn status_update_faults(&self, old: &Self) -> Vec<Fault> {
        let mut faults = Vec::new();
        validate::object_meta_update(old.metadata(), self.metadata(), &mut faults);
        faults
    }

    /// Of its metadata, as [`outline_of`] makes it, and its status a copy of what is not the same in `other`. None: objects
    /// of this kind are only looked at whole.
    fn outline(&self, _other: &Self) -> Option<Self> {
        None
    }

    /// Takes the status of `other`. False: objects of this kind are only read and changed whole.
    fn take_status(&mut self, _other: &mut Self) -> bool {
        false
    }

    /// Takes back from `old` what the subresource of ephemeral containers may not change. False: the kind has none.
    fn prepare_ephemeral_update(&mut self, _old: &Self) -> bool {
        false
    }

    /// What is wrong with replacing the ephemeral containers of `old`.
    fn ephemeral_update_faults(&self, _old: &Self) -> Vec<Fault> {
        Vec::new()
    }

    /// The part whose changes `metadata.generation` counts.
    fn desired(&self) -> Value {
        Value::Null
    }

    /// Whether that part is the same, if that is quickly seen.
    fn has_same_spec(&self, _old: &Self) -> bool {
        false
    }

    /// Takes back from `old` what the finalize subresource may not change. False: the kind has no such subresource.
    fn prepare_finalize(&mut self, _old: &Self) -> bool {
        false
    }

    /// How deleting it goes.
    fn deletion(&self) -> Deletion {
        Deletion::Immediate
    }

    /// Whether something besides its finalizers keeps it when it is deleted.
    fn is_held(&self) -> bool {
        false
    }

    /// Says in the object itself that it is being deleted, where its metadata is not enough.
    fn mark_deleted(&mut self) {}

    /// Says in the object's status that it is evicted. False: objects of this kind aren't evicted.
    fn evict(&mut self, _now: jiff::Timestamp) -> bool {
        false
    }

    /// Does what `POST …/binding` to `node` does. None: objects of this kind aren't bound.
    fn bind(&mut self, _node: &str, _now: jiff::Timestamp) -> Option<Result<(), String>> {
        None
    }
}

/// Any object, as the verbs see it. All methods but the first few are those of its [`Strategy`].
#[allow(missing_docs)]
pub trait Object: Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn encode(&self) -> Encoded;
    fn reads_back(&self) -> bool;
    fn to_value(&self) -> Value;
    fn duplicate(&self) -> Box<dyn Object>;
    fn outline(&self, other: &dyn Object) -> Option<Box<dyn Object>>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;

    fn default_fields(&mut self);
    fn prepare_create(&mut self, uid: &str);
    fn create_faults(&self) -> Vec<Fault>;
    fn create_warnings(&self) -> Vec<String>;
    fn prepare_update(&mut self, old: &dyn Object);
    fn update_faults(&self, old: &dyn Object) -> Vec<Fault>;
    fn prepare_status_update(&mut self, old: &dyn Object);
    fn status_update_faults(&self, old: &dyn Object) -> Vec<Fault>;
    fn take_status(&mut self, other: &mut dyn Object) -> bool;
    fn has_same_spec(&self, old: &dyn Object) -> bool;
    fn prepare_ephemeral_update(&mut self, old: &dyn Object) -> bool;
    fn ephemeral_update_faults(&self, old: &dyn Object) -> Vec<Fault>;
    fn desires_the_same_as(&self, old: &dyn Object) -> bool;
    fn prepare_finalize(&mut self, old: &dyn Object) -> bool;
    fn deletion(&self) -> Deletion;
    fn is_held(&self) -> bool;
    fn mark_deleted(&mut self);
    fn evict(&mut self, now: jiff::Timestamp) -> bool;
    fn bind(&mut self, node: &str, now: jiff::Timestamp) -> Option<Result<(), String>>;
}

fn same_kind<T: 'static>(object: &dyn Object) -> &T {
    object.as_any().downcast_ref().expect("a key's prefix names its kind, so old and new are of the same")
}

impl<T: Strategy> Object for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    fn encode(&self) -> Encoded {
        Strategy::encode(self)
    }
    fn reads_back(&self) -> bool {
        Strategy::reads_back(self)
    }
    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("API types have string keys and no failing members")
    }
    fn duplicate(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn outline(&self, other: &dyn Object) -> Option<Box<dyn Object>> {
        Some(Box::new(Strategy::outline(self, same_kind(other))?))
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn default_fields(&mut self) {
        Strategy::default_fields(self);
    }
    fn prepare_create(&mut self, uid: &str) {
        Strategy::prepare_create(self, uid);
    }
    fn create_faults(&self) -> Vec<Fault> {
        Strategy::create_faults(self)
    }
    fn create_warnings(&self) -> Vec<String> {
        Strategy::create_warnings(self)
    }
    fn prepare_update(&mut self, old: &dyn Object) {
        Strategy::prepare_update(self, same_kind(old));
    }
    fn update_faults(&self, old: &dyn Object) -> Vec<Fault> {
        Strategy::update_faults(self, same_kind(old))
    }
    fn prepare_status_update(&mut self, old: &dyn Object) {
        Strategy::prepare_status_update(self, same_kind(old));
    }
    fn status_update_faults(&self, old: &dyn Object) -> Vec<Fault> {
        Strategy::status_update_faults(self, same_kind(old))
    }
    fn take_status(&mut self, other: &mut dyn Object) -> bool {
        let other = other.as_any_mut().downcast_mut();
        Strategy::take_status(self, other.expect("both are of the kind that the request names"))
    }
    fn has_same_spec(&self, old: &dyn Object) -> bool {
        Strategy::has_same_spec(self, same_kind(old))
    }
    fn prepare_ephemeral_update(&mut self, old: &dyn Object) -> bool {
        Strategy::prepare_ephemeral_update(self, same_kind(old))
    }
    fn ephemeral_update_faults(&self, old: &dyn Object) -> Vec<Fault> {
        Strategy::ephemeral_update_faults(self, same_kind(old))
    }
    fn desires_the_same_as(&self, old: &dyn Object) -> bool {
        let old: &T = same_kind(old);
        !T::GENERATION
            || Strategy::has_same_spec(self, old)
            || without_empty_lists(self.desired()) == without_empty_lists(old.desired())
    }
    fn prepare_finalize(&mut self, old: &dyn Object) -> bool {
        Strategy::prepare_finalize(self, same_kind(old))
    }
    fn deletion(&self) -> Deletion {
        Strategy::deletion(self)
    }
    fn is_held(&self) -> bool {
        Strategy::is_held(self)
    }
    fn mark_deleted(&mut self) {
        Strategy::mark_deleted(self);
    }
    fn evict(&mut self, now: jiff::Timestamp) -> bool {
        Strategy::evict(self, now)
    }
    fn bind(&mut self, node: &str, now: jiff::Timestamp) -> Option<Result<(), String>> {
        Strategy::bind(self, node, now)
    }
}

/// Metadata with no more than what is not the same in `other`, but for revisions.
pub(crate) fn outline_of(meta: &ObjectMeta, other: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        annotations: differing(meta.annotations.as_ref(), other.annotations.as_ref()),
        creation_timestamp: differing(meta.creation_timestamp.as_ref(), other.creation_timestamp.as_ref()),
        deletion_grace_period_seconds: meta.deletion_grace_period_seconds,
        deletion_timestamp: differing(meta.deletion_timestamp.as_ref(), other.deletion_timestamp.as_ref()),
        finalizers: differing(meta.finalizers.as_ref(), other.finalizers.as_ref()),
        generate_name: differing(meta.generate_name.as_ref(), other.generate_name.as_ref()),
        generation: meta.generation,
        labels: differing(meta.labels.as_ref(), other.labels.as_ref()),
        managed_fields: None,
        name: differing(meta.name.as_ref(), other.name.as_ref()),
        namespace: differing(meta.namespace.as_ref(), other.namespace.as_ref()),
        owner_references: differing(meta.owner_references.as_ref(), other.owner_references.as_ref()),
        resource_version: None,
        self_link: differing(meta.self_link.as_ref(), other.self_link.as_ref()),
        uid: differing(meta.uid.as_ref(), other.uid.as_ref()),
    }
}

/// A member, unless it is the same in the other object.
pub(crate) fn differing<T: Clone + PartialEq>(one: Option<&T>, other: Option<&T>) -> Option<T> {
    one.filter(|_| one != other).cloned()
}

/// Reads an object of one kind that a client sent.
pub type Decode = fn(&Tree) -> Result<Decoded<Box<dyn Object>>, DecodeError>;

/// The functions and constants of a kind that need no object, for its row in the table.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a kind's answers to questions that have nothing to do with each other"
)]
pub struct Facts {
    pub generation: bool,
    pub orphans_by_default: Option<&'static str>,
    pub deletion_returns_object: bool,
    pub storage_group: &'static str,
    pub show: Option<fn(&[u8]) -> Bytes>,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    pub status_resets: &'static [&'static str],
    pub undeletable: &'static [&'static str],
    pub fields: &'static [SelectableField],
    pub unknown_field: UnknownField,
    /// Reads what a client sent.
    pub decode: Decode,
    /// Reads what was stored.
    pub load: fn(&[u8]) -> serde_json::Result<Box<dyn Object>>,
}

impl Facts {
    /// Those of `T`.
    pub const fn of<T: Strategy>() -> Self {
        Self {
            generation: T::GENERATION,
            orphans_by_default: T::ORPHANS_BY_DEFAULT,
            deletion_returns_object: T::DELETION_RETURNS_OBJECT,
            storage_group: T::STORAGE_GROUP,
            show: T::SHOW,
            create_on_update: T::CREATE_ON_UPDATE,
            unconditional_update: T::UNCONDITIONAL_UPDATE,
            status_resets: T::STATUS_RESETS,
            undeletable: T::UNDELETABLE,
            fields: T::FIELDS,
            unknown_field: T::UNKNOWN_FIELD,
            decode: |tree| {
                let Decoded { object, unknown } = tree.decode::<T>()?;
                Ok(Decoded { object: Box::new(object), unknown })
            },
            load: |json| Ok(Box::new(T::load(json)?)),
        }
    }

    /// Those of a kind in `group` that has no objects.
    pub const fn of_nothing(group: &'static str) -> Self {
        Self {
            generation: false,
            orphans_by_default: None,
            deletion_returns_object: false,
            storage_group: group,
            show: None,
            create_on_update: false,
            unconditional_update: true,
            status_resets: &[],
            undeletable: &[],
            fields: &[],
            unknown_field: UnknownField::OnlyNames,
            decode: |_| Err(DecodeError::Value("objects of this kind can only be read".into())),
            load: |_| Err(serde::de::Error::custom("objects of this kind are never stored")),
        }
    }
}

/// `[]` equals absent, as in `apimachinery/pkg/api/equality.Semantic`.
pub(crate) fn without_empty_lists(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, member)| !member.as_array().is_some_and(Vec::is_empty))
                .map(|(name, member)| (name, without_empty_lists(member)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_empty_lists).collect()),
        other => other,
    }
}
