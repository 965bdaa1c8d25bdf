//! Who a client is and what it may do: identities, ServiceAccount tokens, RBAC, the audit log. It knows no HTTP server.
//!
//! ```text
//!   Peer, Bearer token ─▶ User ─▶ Attributes ─▶ Policy (roles and bindings, from the store) ─▶ allowed, and why
//! ```

pub mod attributes;
pub mod audit;
pub mod bootstrap;
pub mod escalation;
pub mod identity;
pub mod keys;
pub mod policy;
pub mod rotation;
pub mod rules;
pub mod token;

pub use attributes::{Attributes, Resource, What};
pub use identity::{Peer, User};
pub use policy::{Policy, Verdict};
