//! Who a client is and what it may do: identities, ServiceAccount tokens, RBAC, the audit log. It knows no HTTP server.
//!
//! ```text
//!   Peer, Bearer token ─▶ User ─▶ Attributes ─▶ Policy (roles and bindings, from the store) ─▶ allowed, and why
//! ```

pub mod identity;

pub use identity::{Peer, User};
