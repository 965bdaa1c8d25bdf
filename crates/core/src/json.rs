//! Objects from the JSON in which they are stored.
//!
//! One way in for API types, because each way in is compiled once for every type that it reads and all that these hold:
//! about a megabyte of program. It is the way that `kube` reads answers by, so that it costs nothing more.

use serde::de::{DeserializeOwned, Error as _};

/// The object that `json` holds; members that `T` does not have are passed over.
///
/// # Errors
///
/// When it is no JSON in UTF-8, or no `T`.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let text = str::from_utf8(json).map_err(serde_json::Error::custom)?;
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn an_object_is_read_and_what_is_none_is_refused() {
        let object: ConfigMap = read("{\"data\":{\"k\":\"ä\"},\"zed\":1}".as_bytes()).unwrap();
        assert_eq!(object.data.unwrap()["k"], "ä");
        assert!(read::<ConfigMap>(b"{\"data\":{\"k\":\"\xff\"}}").unwrap_err().to_string().contains("utf-8"));
        assert!(read::<ConfigMap>(b"{\"data\":[]}").is_err());
    }
}
