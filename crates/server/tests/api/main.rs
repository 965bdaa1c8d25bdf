//! The API as a client sees it: one program of tests, since linking one costs more than running it.

mod admission;
mod answers;
mod apply;
mod auth;
mod compatibility;
mod discovery;
mod fields;
mod forms;
mod kinds;
mod kubectl;
mod kubectl_apply;
mod logs;
mod managed;
mod objects;
mod openapi;
mod paging;
mod python;
mod recorded;
mod replay;
mod tables;
mod watching;
mod websocket;

#[path = "../support/node.rs"]
mod node;
#[path = "../support/shown.rs"]
mod shown;
#[path = "../support/mod.rs"]
mod support;
