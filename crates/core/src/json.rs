//! Objects from the JSON in which they are stored, and what makes one object of another.
//!
//! One way in for API types, because each way in is compiled once for every type that it reads and all that these hold:
//! about a megabyte of program. It is the way that `kube` reads answers by, so that it costs nothing more.

use serde::de::{DeserializeOwned, Error as _};
use serde_json::{Map, Value};

/// The object that `json` holds; members that `T` does not have are passed over.
///
/// # Errors
///
/// When it is no JSON in UTF-8, or no `T`.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let text = str::from_utf8(json).map_err(serde_json::Error::custom)?;
    serde_json::from_str(text)
}

/// The merge patch (RFC 7386) that makes `new` of `old`: members that differ, and null for those that are gone. What a newer
/// API has beside them, and neither shows, it leaves alone. Lists are replaced whole.
pub fn merge_patch(old: &Value, new: &Value) -> Value {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return new.clone() };
    let mut patch = Map::new();
    for (name, value) in new {
        match old.get(name) {
            Some(before) if before == value => {}
            Some(before) => {
                patch.insert(name.clone(), merge_patch(before, value));
            }
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    patch.extend(gone.map(|name| (name.clone(), Value::Null)));
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_makes_the_new_object_of_the_old_one_and_leaves_alone_what_neither_shows() {
        let old = json!({ "active": 1, "lists": { "a": [1, 2], "b": [3] }, "same": { "x": 1 }, "gone": true });
        let new = json!({ "active": 2, "lists": { "b": [4] }, "same": { "x": 1 }, "more": {} });
        let patch = merge_patch(&old, &new);
        let expected = json!({ "active": 2, "lists": { "a": null, "b": [4] }, "more": {}, "gone": null });
        assert_eq!(patch, expected);
        let mut newer = old.clone();
        (newer["unheardOf"], newer["lists"]["unheardOf"]) = (json!(1), json!(2));
        json_patch::merge(&mut newer, &patch);
        let mut wanted = new.clone();
        (wanted["unheardOf"], wanted["lists"]["unheardOf"]) = (json!(1), json!(2));
        assert_eq!(newer, wanted);
        assert_eq!(merge_patch(&new, &new), json!({}));
    }

    #[test]
    fn an_object_is_read_and_what_is_none_is_refused() {
        let object: ConfigMap = read("{\"data\":{\"k\":\"ä\"},\"zed\":1}".as_bytes()).unwrap();
        assert_eq!(object.data.unwrap()["k"], "ä");
        assert!(read::<ConfigMap>(b"{\"data\":{\"k\":\"\xff\"}}").unwrap_err().to_string().contains("utf-8"));
        assert!(read::<ConfigMap>(b"{\"data\":[]}").is_err());
    }
}
