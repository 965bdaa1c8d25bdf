//! Every decision of Stint as pure code: no async, no I/O, no clock, no randomness.
//!
//! Time, ids and random suffixes are arguments; the same inputs always give the same answer.

pub mod admission;
pub mod admit;
pub mod bind;
pub mod check;
pub mod clock;
pub mod columns;
pub mod cronjob;
pub mod crontab;
pub mod decode;
pub mod defaults;
pub mod dns;
pub mod election;
pub mod events;
pub mod export;
pub mod field;
pub mod job;
pub mod json;
pub mod mandate;
pub mod manifest;
pub mod names;
pub mod namespace;
pub mod owners;
pub mod plan;
pub mod pod;
pub mod pressure;
pub mod quantity;
pub mod schedule;
pub mod storage;
pub mod ttl;
pub mod uid;
pub mod unmanaged;
pub mod validate;
