//! Version 2 of the document as protobuf, `openapi.v2.Document`: what kubectl before 1.29 asks for.
//!
//! Field numbers are those of the public message definitions of `openapi.v2`. Left out: members that our documents do
//! not have.

use serde_json::{Map, Value as Json};

use crate::wire::Writer;

/// The document as bytes.
pub fn document(document: &Json) -> Vec<u8> {
    let mut out = Writer::default();
    text(&mut out, 1, &document["swagger"]);
    out.message(2, |out| {
        text(out, 1, &document["info"]["title"]);
        text(out, 2, &document["info"]["version"]);
    });
    out.message(8, |out| named(out, 2, &document["paths"], path_item));
    out.message(9, |out| named(out, 1, &document["definitions"], schema));
    out.into_bytes()
}

fn text(out: &mut Writer, tag: u32, value: &Json) {
    if let Some(text) = value.as_str() {
        out.bytes(tag, text.as_bytes());
    }
}

fn texts(out: &mut Writer, tag: u32, values: &Json) {
    values.as_array().into_iter().flatten().for_each(|value| text(out, tag, value));
}

fn flag(out: &mut Writer, tag: u32, value: &Json) {
    if let Some(set) = value.as_bool() {
        out.varint(tag, set.into());
    }
}

/// A map: messages of a name and a value.
fn named(out: &mut Writer, tag: u32, members: &Json, write: fn(&mut Writer, &Json)) {
    for (name, value) in members.as_object().into_iter().flatten() {
        out.message(tag, |out| {
            out.bytes(1, name.as_bytes());
            out.message(2, |out| write(out, value));
        });
    }
}

/// Members `x-…`, each a name and a value as YAML.
fn extensions(out: &mut Writer, tag: u32, members: &Json) {
    let members = members.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    for (name, value) in members {
        out.message(tag, |out| {
            out.bytes(1, name.as_bytes());
            out.message(2, |out| any(out, value));
        });
    }
}

/// A value as YAML, of which JSON is a part.
fn any(out: &mut Writer, value: &Json) {
    out.bytes(2, value.to_string().as_bytes());
}

fn path_item(out: &mut Writer, item: &Json) {
    for (tag, verb) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        if item[verb].is_object() {
            out.message(tag, |out| operation(out, &item[verb]));
        }
    }
    parameters(out, 9, &item["parameters"]);
}

fn operation(out: &mut Writer, operation: &Json) {
    texts(out, 1, &operation["tags"]);
    text(out, 3, &operation["description"]);
    text(out, 5, &operation["operationId"]);
    texts(out, 6, &operation["produces"]);
    texts(out, 7, &operation["consumes"]);
    parameters(out, 8, &operation["parameters"]);
    out.message(9, |out| {
        for (code, response) in operation["responses"].as_object().into_iter().flatten() {
            out.message(1, |out| {
                out.bytes(1, code.as_bytes());
                out.message(2, |out| {
                    out.message(1, |out| {
                        text(out, 1, &response["description"]);
                        if response["schema"].is_object() {
                            out.message(2, |out| out.message(1, |out| schema(out, &response["schema"])));
                        }
                    });
                });
            });
        }
    });
    texts(out, 10, &operation["schemes"]);
    extensions(out, 13, operation);
}

fn parameters(out: &mut Writer, tag: u32, all: &Json) {
    for parameter in all.as_array().into_iter().flatten() {
        out.message(tag, |out| {
            out.message(1, |out| match parameter["in"].as_str() {
                Some("body") => out.message(1, |out| {
                    text(out, 2, &parameter["name"]);
                    text(out, 3, &parameter["in"]);
                    flag(out, 4, &parameter["required"]);
                    out.message(5, |out| schema(out, &parameter["schema"]));
                }),
                Some("path") => out.message(2, |out| out.message(4, |out| plain_parameter(out, 5, parameter))),
                _ => out.message(2, |out| out.message(3, |out| plain_parameter(out, 6, parameter))),
            });
        });
    }
}

fn plain_parameter(out: &mut Writer, kind: u32, parameter: &Json) {
    flag(out, 1, &parameter["required"]);
    text(out, 2, &parameter["in"]);
    text(out, 3, &parameter["description"]);
    text(out, 4, &parameter["name"]);
    text(out, kind, &parameter["type"]);
}

fn schema(out: &mut Writer, of: &Json) {
    text(out, 1, &of["$ref"]);
    text(out, 2, &of["format"]);
    text(out, 4, &of["description"]);
    if let Some(default) = of.get("default") {
        out.message(5, |out| any(out, default));
    }
    texts(out, 19, &of["required"]);
    if of["additionalProperties"].is_object() {
        out.message(21, |out| out.message(1, |out| schema(out, &of["additionalProperties"])));
    }
    if of["type"].is_string() {
        out.message(22, |out| text(out, 1, &of["type"]));
    }
    if of["items"].is_object() {
        out.message(23, |out| out.message(1, |out| schema(out, &of["items"])));
    }
    if of["properties"].as_object().is_some_and(|all: &Map<_, _>| !all.is_empty()) {
        out.message(25, |out| named(out, 1, &of["properties"], schema));
    }
    extensions(out, 31, of);
}
