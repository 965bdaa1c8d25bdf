//! Strategic merge patch: a merge patch that knows which lists are maps.
//!
//! Upstream: `apimachinery/pkg/util/strategicpatch/patch.go` and the `patchMergeKey` tags of the API types, v1.36.
//! Left out: `$setElementOrder` (accepted; new items go to the end).

use serde_json::{Map, Value};

use crate::status::{Error, Result};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// How two lists become one.
enum ListRule {
    /// Items are objects with this key.
    Keyed(&'static str),
    /// Items are plain values, each there once.
    Set,
    /// The new list replaces the old one.
    Replace,
}

/// The rule of the list `field`. A field's name tells it apart everywhere in the kinds that we serve.
fn rule(field: &str) -> ListRule {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "volumes"
        | "resourceClaims"
        | "imagePullSecrets"
        | "schedulingGates"
        | "env"
        | "secrets" => ListRule::Keyed("name"),
        "ownerReferences" => ListRule::Keyed("uid"),
        "hostAliases" | "podIPs" | "hostIPs" => ListRule::Keyed("ip"),
        "topologySpreadConstraints" => ListRule::Keyed("topologyKey"),
        "ports" => ListRule::Keyed("containerPort"),
        "volumeMounts" => ListRule::Keyed("mountPath"),
        "volumeDevices" => ListRule::Keyed("devicePath"),
        "conditions" | "addresses" => ListRule::Keyed("type"),
        "finalizers" | "podCIDRs" => ListRule::Set,
        _ => ListRule::Replace,
    }
}

/// Applies `patch` to `document`.
pub(crate) fn merge(document: &mut Value, patch: &Map<String, Value>) -> Result<()> {
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    let Value::Object(members) = document else { unreachable!("made one above") };
    merge_object(members, patch)
}

fn merge_object(members: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    match patch.get(PATCH).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            members.clone_from(patch);
            members.remove(PATCH);
            return Ok(());
        }
        Some(Some("delete")) => {
            members.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = retained.as_array().ok_or_else(|| malformed(RETAIN_KEYS))?;
        members.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (name, items) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM) {
            let items = items.as_array().ok_or_else(|| malformed(DELETE_FROM))?;
            if let Some(Value::Array(list)) = members.get_mut(field) {
                list.retain(|item| !items.contains(item));
            }
        }
    }
    for (name, change) in patch {
        if name == PATCH || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER) {
            continue;
        }
        match change {
            Value::Null => {
                members.remove(name);
            }
            Value::Object(change) => merge(members.entry(name.clone()).or_insert(Value::Null), change)?,
            Value::Array(change) => {
                let list = members.entry(name.clone()).or_insert(Value::Null);
                merge_list(list, change, &rule(name))?;
            }
            plain => {
                members.insert(name.clone(), plain.clone());
            }
        }
    }
    Ok(())
}

fn merge_list(list: &mut Value, change: &[Value], rule: &ListRule) -> Result<()> {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Value::Array(items) = list else { unreachable!("made one above") };
    match rule {
        ListRule::Replace => *items = change.to_vec(),
        ListRule::Set => {
            for item in change {
                if !items.contains(item) {
                    items.push(item.clone());
                }
            }
        }
        ListRule::Keyed(key) => {
            if change.iter().any(|item| item.get(PATCH).is_some_and(|how| how == "replace") && item.get(*key).is_none())
            {
                items.clear();
            }
            for item in change {
                merge_item(items, item, key)?;
            }
        }
    }
    Ok(())
}

fn merge_item(items: &mut Vec<Value>, change: &Value, key: &str) -> Result<()> {
    let Value::Object(members) = change else {
        return Err(Error::BadRequest(format!("map: {change} does not contain declared merge key: {key}")));
    };
    let directive = members.get(PATCH).map(Value::as_str);
    let Some(name) = members.get(key) else {
        if directive == Some(Some("replace")) {
            return Ok(());
        }
        return Err(Error::BadRequest(format!("map: {change} does not contain declared merge key: {key}")));
    };
    let at = items.iter().position(|item| item.get(key) == Some(name));
    match (directive, at) {
        (Some(Some("delete")), _) => items.retain(|item| item.get(key) != Some(name)),
        (_, Some(at)) => merge(&mut items[at], members)?,
        (_, None) => {
            let mut item = Value::Null;
            merge(&mut item, members)?;
            items.push(item);
        }
    }
    Ok(())
}

fn unknown_directive(found: Option<&str>) -> Error {
    Error::BadRequest(format!("Unknown patch type: {}", found.unwrap_or("not a text")))
}

fn malformed(directive: &str) -> Error {
    Error::BadRequest(format!("invalid {directive} in a strategic merge patch: a list is expected"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut document: Value, patch: &Value) -> Value {
        merge(&mut document, patch.as_object().unwrap()).unwrap();
        document
    }

    #[test]
    fn patches_merge() {
        let rows = [
            // (before, patch, after)
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null, "d": 3}}), json!({"a": {"c": 2, "d": 3}})),
            (
                json!({"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "image": "y"}, {"name": "c"}]}),
                json!({"containers": [{"name": "a", "image": "y"}, {"name": "b"}, {"name": "c"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}]}),
            ),
            (
                json!({"containers": [{"name": "a"}, {"name": "b"}]}),
                json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (
                json!({"finalizers": ["x", "batch.kubernetes.io/job-tracking"]}),
                json!({"$deleteFromPrimitiveList/finalizers": ["batch.kubernetes.io/job-tracking"]}),
                json!({"finalizers": ["x"]}),
            ),
            (json!({"finalizers": ["x"]}), json!({"finalizers": ["x", "y"]}), json!({"finalizers": ["x", "y"]})),
            (json!({"args": [1, 2]}), json!({"args": [3]}), json!({"args": [3]})),
            (
                json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
                json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {}}]}),
                json!({"volumes": [{"name": "v", "secret": {}}]}),
            ),
            (json!({"a": {"b": 1}}), json!({"a": {"$patch": "replace", "c": 1}}), json!({"a": {"c": 1}})),
        ];
        for (before, patch, after) in rows {
            assert_eq!(merged(before, &patch), after, "{patch}");
        }
    }
}
