//! Version 2 of the document, made from those of version 3.
//!
//! Invariant: what version 2 can't say is left out, never said otherwise. Left out: alternatives of a schema
//! (`oneOf`), for which the type is a string.

use serde_json::{Map, Value as Json, json};

/// One document of version 2 from those of version 3.
pub fn document(documents: &[Json], release: &str) -> Json {
    let mut paths = Map::new();
    let mut definitions = Map::new();
    for document in documents {
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            paths.insert(path.clone(), path_item(item));
        }
        for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
            let schema = converted(schema);
            // Options and events of a watch have a kind in every group.
            let kinds = "x-kubernetes-group-version-kind";
            match definitions.get_mut(name).and_then(|before: &mut Json| before.get_mut(kinds)?.as_array_mut()) {
                Some(before) => {
                    let new = schema[kinds].as_array().into_iter().flatten();
                    let new: Vec<_> = new.filter(|kind| !before.contains(kind)).cloned().collect();
                    before.extend(new);
                }
                None => {
                    definitions.insert(name.clone(), schema);
                }
            }
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": release },
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        } },
        "security": [{ "BearerToken": [] }],
    })
}

fn path_item(item: &Json) -> Json {
    let mut converted = Map::new();
    for (verb, operation) in item.as_object().into_iter().flatten() {
        let value = if verb == "parameters" { parameters(operation).into() } else { self::operation(operation) };
        converted.insert(verb.clone(), value);
    }
    Json::Object(converted)
}

fn operation(operation: &Json) -> Json {
    let mut made = Map::new();
    let mut all = parameters(&operation["parameters"]);
    for (name, member) in operation.as_object().into_iter().flatten() {
        match name.as_str() {
            "parameters" => {}
            "requestBody" => {
                let bodies = member["content"].as_object();
                let media: Vec<&String> = bodies.into_iter().flat_map(Map::keys).collect();
                let schema = bodies.and_then(|bodies| bodies.values().next()).map(|body| converted(&body["schema"]));
                let mut body = json!({ "name": "body", "in": "body", "schema": schema });
                if member["required"] == true {
                    body["required"] = true.into();
                }
                all.insert(0, body);
                made.insert("consumes".into(), json!(media));
            }
            "responses" => {
                let mut responses = Map::new();
                for (code, response) in member.as_object().into_iter().flatten() {
                    let mut plain = json!({ "description": response["description"] });
                    if let Some(content) = response["content"].as_object() {
                        made.insert("produces".into(), json!(content.keys().collect::<Vec<_>>()));
                        if let Some(first) = content.values().next() {
                            plain["schema"] = converted(&first["schema"]);
                        }
                    }
                    responses.insert(code.clone(), plain);
                }
                made.insert("responses".into(), responses.into());
                made.insert("schemes".into(), json!(["https"]));
            }
            _ => {
                made.insert(name.clone(), member.clone());
            }
        }
    }
    if !all.is_empty() {
        made.insert("parameters".into(), all.into());
    }
    Json::Object(made)
}

fn parameters(all: &Json) -> Vec<Json> {
    let plain = |parameter: &Json| {
        let mut plain = parameter.clone();
        if let Some(members) = plain.as_object_mut()
            && let Some(Json::Object(schema)) = members.remove("schema")
        {
            members.extend(schema);
        }
        plain
    };
    all.as_array().into_iter().flatten().map(plain).collect()
}

/// A schema without what version 2 does not have.
fn converted(schema: &Json) -> Json {
    match schema {
        Json::Object(members) => {
            let mut made = Map::new();
            for (name, member) in members {
                match name.as_str() {
                    // Only references are wrapped so, and in version 2 a description may stand beside one.
                    "allOf" => made.extend(converted(&member[0]).as_object().cloned().into_iter().flatten()),
                    "oneOf" => {
                        made.insert("type".into(), "string".into());
                    }
                    "default" if members.contains_key("allOf") => {}
                    "$ref" => {
                        let name = member.as_str().unwrap_or_default().replace(super::SCHEMAS, "#/definitions/");
                        made.insert("$ref".into(), name.into());
                    }
                    // Names of members, which may be any of the words above.
                    "properties" => {
                        let all = member.as_object().into_iter().flatten();
                        let all: Map<_, _> = all.map(|(name, schema)| (name.clone(), converted(schema))).collect();
                        made.insert("properties".into(), all.into());
                    }
                    "items" | "additionalProperties" => {
                        made.insert(name.clone(), converted(member));
                    }
                    _ => {
                        made.insert(name.clone(), member.clone());
                    }
                }
            }
            Json::Object(made)
        }
        other => other.clone(),
    }
}
