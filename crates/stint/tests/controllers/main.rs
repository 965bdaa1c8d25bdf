//! `stint controllers` as a user meets it: the real program before a real daemon's API. The node is played.
//!
//! Left out: containers, which `stint serve` starts by itself.

#[path = "../support/mod.rs"]
mod support;

mod attached;
mod chaos;
mod health;
mod lease;
mod ownership;
mod proxy;
mod rights;
