//! What the Kubernetes API types look like.
//!
//! One table of types, their members, descriptions, wire tags and merge rules ([`Schema`]), from which everything that
//! depends on the form of an object follows: its protobuf encoding ([`protobuf`]), the OpenAPI documents, strategic
//! merge and server-side apply.
//!
//! Invariant: nothing here knows a kind by name. What a kind looks like is in the table, which
//! `examples/generate.rs` writes; how a kind behaves is the server's.

pub mod fields;
pub mod form;
pub mod go;
pub mod merge;
pub mod openapi;
pub mod protobuf;
pub mod strategic;
pub mod types;
mod wire;

pub use types::{Field, ListRule, Patch, Presence, Schema, Shape, Type, TypeId, Value};
