//! Network configurations: lists of plugins, as files.
//!
//! Invariant: a configuration that is not understood in full is refused, not used in part.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;

/// The versions of the specification that are spoken.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network's plugins, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct List {
    /// The network's name.
    pub(super) name: String,
    /// The version of the specification that its plugins are spoken to in.
    #[serde(rename = "cniVersion")]
    pub(super) version: String,
    pub(super) plugins: Vec<Plugin>,
}

/// A plugin, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Plugin(Map<String, Value>);

impl List {
    /// The list in the first file of a folder by name; `None` where there is no file.
    pub(super) fn first_in(folder: &Path) -> Result<Option<List>, Error> {
        let failed = || Error::failed(format!("look for CNI configurations in {}", folder.display()));
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries.map_err(failed())?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed())?.path();
            let kind = path.extension().and_then(|kind| kind.to_str());
            if matches!(kind, Some("conf" | "conflist" | "json")) && path.is_file() {
                files.push(path);
            }
        }
        let Some(first) = files.into_iter().min() else { return Ok(None) };
        let bytes = fs::read(&first).map_err(Error::failed(format!("read {}", first.display())))?;
        let refused = |fault| Error::Configuration { file: first.clone(), fault };
        List::parse(&bytes).map(Some).map_err(refused)
    }

    /// Reads a list, or one plugin alone, which is a list of one.
    pub(super) fn parse(bytes: &[u8]) -> Result<List, String> {
        let mut all: Map<String, Value> = serde_json::from_slice(bytes).map_err(|fault| fault.to_string())?;
        let text = |key: &str| all.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = text("name").unwrap_or_default();
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.bytes().all(is_plain) {
            return Err(format!("its name {name:?} is not one: letters, digits, `.`, `_` and `-`"));
        }
        let version = text("cniVersion").unwrap_or_default();
        if !VERSIONS.contains(&version.as_str()) {
            return Err(format!("its cniVersion {version:?} is not spoken here: write one of {}", VERSIONS.join(", ")));
        }
        let plugins = match all.remove("plugins") {
            Some(Value::Array(plugins)) => plugins,
            Some(_) => return Err("its plugins are no list".to_owned()),
            None => vec![Value::Object(all)],
        };
        let plugins = plugins.into_iter().map(Plugin::new).collect::<Result<Vec<_>, _>>()?;
        if plugins.is_empty() {
            return Err("it has no plugins".to_owned());
        }
        Ok(List { name, version, plugins })
    }

    /// Whether some plugin says that it can do this.
    pub(super) fn has_capability(&self, name: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.has_capability(name))
    }

    /// Whether plugins are told in DEL what ADD came to.
    pub(super) fn has_result_in_del(&self) -> bool {
        !self.version.starts_with("0.3.")
    }
}

impl Plugin {
    fn new(value: Value) -> Result<Plugin, String> {
        let Value::Object(plugin) = value else { return Err("a plugin is no object".to_owned()) };
        match plugin.get("type").and_then(Value::as_str) {
            // It is looked up in folders of plugins, and nowhere else.
            Some(kind) if !kind.is_empty() && !kind.contains('/') && !kind.starts_with('.') => Ok(Plugin(plugin)),
            _ => Err("a plugin has no type, which is the name of its program".to_owned()),
        }
    }

    /// The name of its program.
    pub(super) fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    fn has_capability(&self, name: &str) -> bool {
        self.0.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true))
    }

    /// What the plugin is told on its standard input.
    pub(super) fn config(&self, list: &List, capabilities: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let mut config = self.0.clone();
        config.insert("name".to_owned(), list.name.clone().into());
        config.insert("cniVersion".to_owned(), list.version.clone().into());
        let asked = capabilities.iter().filter(|(name, _)| self.has_capability(name));
        let asked: Map<String, Value> = asked.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !asked.is_empty() {
            config.insert("runtimeConfig".to_owned(), asked.into());
        }
        if let Some(previous) = previous {
            config.insert("prevResult".to_owned(), previous.clone());
        }
        config.into()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_file_by_name_counts_and_a_broken_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(List::first_in(&folder.path().join("none")).unwrap(), None);
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("00-readme.txt", "not one");
        assert_eq!(List::first_in(folder.path()).unwrap(), None);
        write("20-b.conflist", r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#);
        assert_eq!(List::first_in(folder.path()).unwrap().unwrap().plugins.len(), 2);
        write("10-a.conf", r#"{"cniVersion":"0.4.0","name":"a","type":"ptp","mtu":1400}"#);
        let list = List::first_in(folder.path()).unwrap().unwrap();
        assert_eq!((list.name.as_str(), list.plugins[0].kind()), ("a", "ptp"));
        write("05-c.conflist", "{");
        let error = List::first_in(folder.path()).unwrap_err().to_string();
        assert!(error.contains("05-c.conflist"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, told) in [
            ("[]", "invalid type"),
            (r#"{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}"#, "its name \"\""),
            (r#"{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"a"}]}"#, "its name"),
            (r#"{"name":"a","plugins":[{"type":"a"}]}"#, "cniVersion \"\""),
            (r#"{"cniVersion":"9.0.0","name":"a","plugins":[{"type":"a"}]}"#, "not spoken here"),
            (r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#, "no plugins"),
            (r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../../bin/sh"}]}"#, "no type"),
            (r#"{"cniVersion":"1.0.0","name":"a","plugins":{}}"#, "no list"),
        ] {
            let error = List::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_plugin_is_told_what_it_can_do_and_what_was_done_before_it() {
        let list = json!({"cniVersion": "1.1.0", "name": "n", "plugins": [
            {"type": "bridge", "mtu": 1400}, {"type": "portmap", "capabilities": {"portMappings": true, "other": false}},
        ]});
        let list = List::parse(list.to_string().as_bytes()).unwrap();
        let asked = json!({"portMappings": [1], "bandwidth": {}});
        let asked = asked.as_object().unwrap();
        let first = list.plugins[0].config(&list, asked, None);
        assert_eq!(first, json!({"type": "bridge", "mtu": 1400, "name": "n", "cniVersion": "1.1.0"}));
        let second = list.plugins[1].config(&list, asked, Some(&json!({"ips": []})));
        assert_eq!(second["runtimeConfig"], json!({"portMappings": [1]}));
        assert_eq!(second["prevResult"], json!({"ips": []}));
        assert!(
            list.has_capability("portMappings") && !list.has_capability("other") && !list.has_capability("bandwidth")
        );
    }
}
