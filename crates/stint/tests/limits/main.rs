//! What a daemon lets be done to it, through the real program: its limits and their settings, and whoever wants it to
//! stop answering.
//!
//! Left out: what a request's content can do, which the server's own tests try without a daemon.

#[path = "../support/mod.rs"]
mod support;

mod client;
mod connections;
mod frames;
mod http2;
mod quotas;
mod settings;
mod watchers;
