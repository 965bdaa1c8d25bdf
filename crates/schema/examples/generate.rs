//! Writes `data/types.txt`, the table of API types, from the sources of two crates.
//!
//! `cargo run -p stint-schema --example generate -- K8S_OPENAPI K8S_PB > types.txt`, the arguments being the folders of
//! `k8s-openapi` 0.29 and `k8s-pb` 0.9 (`cargo fetch` unpacks them). The first knows JSON names, types, requirements and
//! descriptions; the second wire tags and the markers for merging. `data/presence.txt` adds what neither says: which
//! members Go keeps behind a pointer, and which it always writes.
//!
//! What it prints to standard error are members without a wire tag: new in the first crate, unknown to the second.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// The groups whose kinds are in the table.
const GROUPS: &[&str] = &[
    "api.admissionregistration.v1",
    "api.apps.v1",
    "api.authentication.v1",
    "api.authorization.v1",
    "api.autoscaling.v1",
    "api.autoscaling.v2",
    "api.batch.v1",
    "api.coordination.v1",
    "api.core.v1",
    "api.discovery.v1",
    "api.events.v1",
    "api.networking.v1",
    "api.node.v1",
    "api.policy.v1",
    "api.rbac.v1",
    "api.scheduling.v1",
    "api.storage.v1",
];

/// Kinds of those groups that are left out: large, and of nothing that runs Jobs.
const LEFT_OUT: &[&str] = &["ValidatingAdmissionPolicy", "MutatingAdmissionPolicy"];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Types that no kind refers to, and that requests and answers are made of.
const META_ROOTS: &[&str] = &[
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListMeta",
    "ListOptions",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
    "Patch",
    "PatchOptions",
    "Status",
    "UpdateOptions",
    "WatchEvent",
];

/// Types that are more than the sum of their members.
const SHAPES: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intorstring"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fields"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "any"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
];

/// Defaults that the markers name by constant.
const CONSTANTS: &[(&str, &str)] =
    &[("ref(AzureDataDiskCachingReadWrite)", "\"ReadWrite\""), ("ref(AzureSharedBlobDisk)", "\"Shared\"")];

/// A message of `k8s-pb`.
#[derive(Default)]
struct Message {
    name: String,
    comment: Vec<String>,
    fields: Vec<Tagged>,
}

struct Tagged {
    name: String,
    tag: u32,
    wire: String,
    reference: Option<String>,
    repeated: bool,
    map: bool,
    comment: Vec<String>,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(openapi), Some(pb)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: generate K8S_OPENAPI_FOLDER K8S_PB_FOLDER > types.txt");
        std::process::exit(2);
    };
    let presence_file = concat!(env!("CARGO_MANIFEST_DIR"), "/data/presence.txt");
    let presence = fs::read_to_string(presence_file).expect("data/presence.txt is there");
    let presence = presences(&presence);
    let messages = messages(&Path::new(&pb).join("src"));
    let (schemas, kinds) = schemas(&Path::new(&openapi).join("src/v1_36"));
    print!("{}", table(&messages, &schemas, &kinds, &presence));
}

fn presences(text: &str) -> HashMap<String, &str> {
    let mut all = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        if let (Some(owner), Some(how)) = (words.next(), words.next()) {
            all.extend(words.map(|member| (format!("{owner}.{member}"), how)));
        }
    }
    all
}

fn table(
    messages: &BTreeMap<String, Message>,
    schemas: &BTreeMap<String, Value>,
    kinds: &BTreeMap<String, (String, String)>,
    presence: &HashMap<String, &str>,
) -> String {
    let mut todo: Vec<String> = META_ROOTS.iter().map(|name| format!("{META}.{name}")).collect();
    let mut kinds = kinds.clone();
    for (name, (version, kind)) in kinds.clone() {
        let group = name.trim_start_matches("io.k8s.").rsplit_once('.').map_or("", |(group, _)| group);
        if !GROUPS.contains(&group) || LEFT_OUT.iter().any(|out| kind.starts_with(out)) {
            continue;
        }
        let list = format!("{name}List");
        if messages.contains_key(&list.to_lowercase()) {
            kinds.insert(list.clone(), (version, format!("{kind}List")));
            todo.push(list);
        }
        todo.push(name);
    }
    let mut done = BTreeSet::new();
    let mut out = BTreeMap::new();
    while let Some(name) = todo.pop() {
        if !done.insert(name.clone()) {
            continue;
        }
        let mut text = String::new();
        let message = messages.get(&name.to_lowercase());
        let schema = schemas.get(&name).cloned().unwrap_or_else(|| {
            from_message(
                message.unwrap_or_else(|| panic!("{name} is in neither crate")),
                kinds.contains_key(&name),
                schemas,
                messages,
            )
        });
        let shape = SHAPES.iter().find(|(n, _)| *n == name).map_or("struct", |(_, shape)| *shape);
        let mut marks = Vec::new();
        if let Some((version, kind)) = kinds.get(&name) {
            marks.push(format!("kind={version}/{kind}"));
        }
        let comment = message.map_or(&[][..], |m| &m.comment);
        if marker(comment, "structType").as_deref() == Some("atomic") {
            marks.push("atomic".into());
        }
        let doc = schema["description"].as_str().unwrap_or_default();
        let _ = writeln!(text, "{name}\t{shape}\t{}\t{}", marks.join(" "), escape(doc));
        if shape == "struct" {
            members(&mut text, &name, &schema, messages, presence, &mut todo);
        }
        out.insert(name, text);
    }
    out.into_values().collect()
}

/// Writes the members of one type, in the order of the wire's definition.
fn members(
    text: &mut String,
    name: &str,
    schema: &Value,
    messages: &BTreeMap<String, Message>,
    presence: &HashMap<String, &str>,
    todo: &mut Vec<String>,
) {
    let empty = Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(|m| *m != "metadata")
        .collect();
    // The first crate requires `metadata`, which Kubernetes does not.
    let mut left: BTreeMap<String, &String> = properties.keys().map(|key| (plain(key), key)).collect();
    let mut found: Vec<(&String, Option<u32>, &Tagged, String)> = Vec::new();
    for tagged in messages.get(&name.to_lowercase()).map_or(&[][..], |m| &m.fields) {
        if let Some(key) = left.remove(&plain(&tagged.name)) {
            found.push((key, None, tagged, name.to_owned()));
        } else if let Some(inner) = tagged.reference.as_ref() {
            for member in &messages[inner].fields {
                if let Some(key) = left.remove(&plain(&member.name)) {
                    found.push((key, Some(tagged.tag), member, messages[inner].name.clone()));
                }
            }
        }
    }
    for key in left.into_values() {
        let property = &properties[key];
        if key != "kind" && key != "apiVersion" {
            eprintln!("no tag: {name}.{key}");
        }
        let mut marks = if required.contains(&key.as_str()) { vec!["required"] } else { Vec::new() };
        marks.extend(presence.get(&format!("{name}.{key}")));
        let marks = marks.join(" ");
        let doc = property["description"].as_str().unwrap_or_default();
        let _ = writeln!(text, "\t{key}\t0\t{}\t{marks}\t{}", value(property, todo), escape(doc));
    }
    for (key, via, tagged, owner) in found {
        let property = &properties[key];
        let mut marks: Vec<String> = Vec::new();
        let default = marker(&tagged.comment, "default");
        // The first crate requires what has an empty default, which Kubernetes does not.
        if required.contains(&key.as_str()) && default.as_deref() != Some("\"\"") {
            marks.push("required".into());
        }
        if let Some(how) = presence.get(&format!("{owner}.{key}")) {
            marks.push((*how).to_owned());
        }
        if let Some(via) = via {
            marks.push(format!("via={via}"));
        }
        if let Some(kind) = marker(&tagged.comment, "listType") {
            let keys = markers(&tagged.comment, "listMapKey").join(",");
            marks.push(if kind == "map" { format!("list=map:{keys}") } else { format!("list={kind}") });
        }
        if let Some("atomic") = marker(&tagged.comment, "mapType").as_deref() {
            marks.push("map=atomic".into());
        }
        if let Some("atomic") = marker(&tagged.comment, "structType").as_deref() {
            marks.push("map=atomic".into());
        }
        if let Some(strategy) = marker(&tagged.comment, "patchStrategy") {
            marks.push(format!("patch={strategy}"));
        }
        if let Some(key) = marker(&tagged.comment, "patchMergeKey") {
            marks.push(format!("key={key}"));
        }
        if let Some(default) = default {
            let constant = CONSTANTS.iter().find(|(name, _)| *name == default).map(|(_, value)| (*value).to_owned());
            marks.push(format!("default={}", constant.unwrap_or(default)));
        }
        if tagged.wire == "bytes" && value(property, &mut Vec::new()) != "bytes" && !tagged.map {
            eprintln!("bytes on the wire: {name}.{key}");
        }
        let doc = property["description"].as_str().unwrap_or_default();
        let written = value(property, todo);
        let _ = writeln!(text, "\t{key}\t{}\t{written}\t{}\t{}", tagged.tag, marks.join(" "), escape(doc));
    }
}

/// The value part of a member: `string`, `[]int32`, `{}#io.k8s.…`.
fn value(property: &Value, todo: &mut Vec<String>) -> String {
    if let Some(reference) = property["$ref"].as_str() {
        todo.push(reference.to_owned());
        return format!("#{reference}");
    }
    match (property["type"].as_str().unwrap_or_default(), property["format"].as_str().unwrap_or_default()) {
        ("array", _) => format!("[]{}", value(&property["items"], todo)),
        ("object", _) => format!("{{}}{}", value(&property["additionalProperties"], todo)),
        ("string", "byte") => "bytes".into(),
        ("integer", format) => format.into(),
        ("number", _) => "double".into(),
        ("boolean", _) => "bool".into(),
        ("string", _) => "string".into(),
        other => panic!("no value for {other:?}: {property}"),
    }
}

/// A schema for a type that only the wire's definition has: lists and options.
fn from_message(
    message: &Message,
    kind: bool,
    schemas: &BTreeMap<String, Value>,
    messages: &BTreeMap<String, Message>,
) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &message.fields {
        let name = camel(&field.name);
        let inner = match (&field.reference, field.wire.as_str()) {
            (Some(reference), _) => {
                let name = schemas.keys().find(|name| name.to_lowercase() == *reference);
                json!({ "$ref": name.unwrap_or(&messages[reference].name) })
            }
            (None, "bool") => json!({ "type": "boolean" }),
            (None, number @ ("int32" | "int64")) => json!({ "type": "integer", "format": number }),
            (None, "string") => json!({ "type": "string" }),
            (None, other) => panic!("no schema for {other}"),
        };
        let mut property = if field.repeated { json!({ "type": "array", "items": inner }) } else { inner };
        property["description"] = prose(&field.comment).into();
        if name == "items" {
            required.push(name.clone());
        }
        properties.insert(name, property);
    }
    if kind || properties.contains_key("metadata") || properties.contains_key("dryRun") {
        properties.insert("apiVersion".into(), json!({ "type": "string", "description": "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources" }));
        properties.insert("kind".into(), json!({ "type": "string", "description": "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds" }));
    }
    json!({ "description": prose(&message.comment), "properties": properties, "required": required })
}

fn marker(comment: &[String], name: &str) -> Option<String> {
    markers(comment, name).into_iter().next()
}

fn markers(comment: &[String], name: &str) -> Vec<String> {
    let start = format!("+{name}=");
    comment.iter().filter_map(|line| line.trim().strip_prefix(&start)).map(|v| v.trim().to_owned()).collect()
}

/// A comment as the documents have it: without markers, a line per paragraph, and indented lines as they are.
fn prose(comment: &[String]) -> String {
    let mut text = String::new();
    for line in comment {
        let line = line.strip_prefix(' ').unwrap_or(line);
        if line.trim().is_empty() {
            text.truncate(text.trim_end().len());
            text += "\n\n";
        } else if line.starts_with(' ') {
            text.pop();
            text.extend(["\n", line, "\n"]);
        } else if !line.starts_with('+') {
            text.extend([line, " "]);
        }
    }
    let mut plain = text.trim().replace("\\[", "[").replace("\\]", "]");
    // Links are in angle brackets.
    while let Some(start) = plain.find("<http") {
        plain.remove(start);
        if let Some(end) = plain[start..].find('>') {
            plain.remove(start + end);
        }
    }
    plain
}

fn plain(name: &str) -> String {
    name.trim_start_matches("r#").replace('_', "").to_lowercase()
}

fn camel(name: &str) -> String {
    let mut words = name.trim_start_matches("r#").split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |mut name, word| {
        let (head, tail) = word.split_at(1);
        name += &head.to_uppercase();
        name += tail;
        name
    })
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("reading {}: {e}", folder.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Every message of `k8s-pb`, by the full name of its type in small letters: it has `AwsElasticBlockStore…`, where
/// Kubernetes has `AWSElasticBlockStore…`.
fn messages(root: &Path) -> BTreeMap<String, Message> {
    let mut all = BTreeMap::new();
    for file in sources(root) {
        let folder = file.parent().and_then(|p| p.strip_prefix(root).ok()).expect("a source is below the root");
        let module: Vec<String> = folder.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        let text = fs::read_to_string(&file).expect("a source is text");
        let mut comment: Vec<String> = Vec::new();
        let mut current: Option<(String, Message)> = None;
        let mut attribute = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let line = line.trim();
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.to_owned());
            } else if let Some(rest) = line.strip_prefix("pub struct ") {
                let name = rest.trim_end_matches([' ', '{', '}']).to_owned();
                let message = Message {
                    name: full_name(&module, &name),
                    comment: std::mem::take(&mut comment),
                    fields: Vec::new(),
                };
                if line.ends_with("{}") {
                    all.insert(full_name(&module, &name).to_lowercase(), message);
                } else {
                    current = Some((name, message));
                }
            } else if line == "}" {
                if let Some((name, message)) = current.take() {
                    all.insert(full_name(&module, &name).to_lowercase(), message);
                }
                comment.clear();
            } else if line.starts_with("#[prost(") {
                line.clone_into(&mut attribute);
                while !attribute.ends_with(']') {
                    attribute += lines.next().expect("an attribute ends").trim();
                }
            } else if let (Some(rest), Some((_, message))) = (line.strip_prefix("pub "), current.as_mut()) {
                let mut rest = rest.to_owned();
                while !rest.ends_with(',') {
                    rest += lines.next().expect("a member ends").trim();
                }
                let (name, of) = rest.split_once(':').expect("a member has a type");
                message.fields.push(tagged(&module, name, of, &attribute, std::mem::take(&mut comment)));
            } else if !line.starts_with("#[") {
                comment.clear();
            }
        }
    }
    all
}

fn tagged(module: &[String], name: &str, of: &str, attribute: &str, comment: Vec<String>) -> Tagged {
    let tag = attribute.rsplit_once("tag = \"").or_else(|| attribute.rsplit_once("tag= \"")).expect("a tag").1;
    let tag = tag.split('"').next().and_then(|t| t.parse().ok()).expect("a tag is a number");
    let inside = attribute.trim_start_matches("#[prost(");
    let wire = inside.split([',', ' ', '=']).next().unwrap_or_default().to_owned();
    let map = wire == "map" || wire == "btree_map";
    let reference = (wire == "message").then(|| {
        let path = of.rsplit('<').next().unwrap_or(of).trim_matches([' ', '>', ',']);
        let mut at = module.to_vec();
        let mut parts: Vec<&str> = path.split("::").collect();
        let last = parts.pop().expect("a path has an end");
        for part in parts {
            if part == "super" {
                at.pop();
            } else {
                at.push(part.to_owned());
            }
        }
        full_name(&at, last).to_lowercase()
    });
    Tagged {
        name: name.trim().to_owned(),
        tag,
        wire,
        reference,
        repeated: attribute.contains("repeated"),
        map,
        comment,
    }
}

fn full_name(module: &[String], name: &str) -> String {
    format!("io.k8s.{}.{name}", module.join(".")).replace('_', "-")
}

type Kinds = BTreeMap<String, (String, String)>;

/// Every schema of `k8s-openapi` by name, and group/version and kind of those that are objects.
fn schemas(root: &Path) -> (BTreeMap<String, Value>, Kinds) {
    let mut all = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for file in sources(root) {
        let text = fs::read_to_string(&file).expect("a source is text");
        let Some(name) = text.lines().next().and_then(|l| l.strip_prefix("// Generated from definition ")) else {
            continue;
        };
        let name = name.trim();
        if name.contains("apiextensions") {
            continue; // CustomResourceDefinitions are not served.
        }
        let Some((_, block)) = text.split_once("json_schema!(") else { continue };
        let mut reader = Reader { text: block.as_bytes(), at: 0 };
        all.insert(name.to_owned(), reader.value());
        let constant = |of: &str| {
            let (_, rest) = text.split_once(&format!("const {of}: &'static str = \""))?;
            rest.split('"').next().map(str::to_owned)
        };
        if let (Some(version), Some(kind)) = (constant("API_VERSION"), constant("KIND")) {
            kinds.insert(name.to_owned(), (version, kind));
        }
    }
    (all, kinds)
}

/// Reads the literal that `json_schema!` takes: JSON with Rust expressions in parentheses.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn space(&mut self) -> u8 {
        while self.text[self.at].is_ascii_whitespace() || self.text[self.at] == b',' {
            self.at += 1;
        }
        self.text[self.at]
    }

    fn value(&mut self) -> Value {
        match self.space() {
            b'{' => {
                self.at += 1;
                let mut members = Map::new();
                while self.space() != b'}' {
                    let key = self.string();
                    assert_eq!(self.space(), b':');
                    self.at += 1;
                    members.insert(key, self.value());
                }
                self.at += 1;
                Value::Object(members)
            }
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while self.space() != b']' {
                    items.push(self.value());
                }
                self.at += 1;
                Value::Array(items)
            }
            b'"' => Value::String(self.string()),
            b'(' | b'_' => self.expression(),
            _ => {
                let start = self.at;
                while self.text[self.at].is_ascii_alphanumeric() {
                    self.at += 1;
                }
                Value::Bool(&self.text[start..self.at] == b"true")
            }
        }
    }

    fn string(&mut self) -> String {
        assert_eq!(self.space(), b'"');
        let start = self.at;
        self.at += 1;
        while self.text[self.at] != b'"' {
            self.at += if self.text[self.at] == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        let literal = std::str::from_utf8(&self.text[start..self.at]).expect("a source is UTF-8");
        serde_json::from_str(&literal.replace("\\'", "'")).unwrap_or_else(|e| panic!("{literal}: {e}"))
    }

    /// `__gen.subschema_for::<crate::…>()`, or the same in parentheses with a description.
    fn expression(&mut self) -> Value {
        let start = self.at;
        let mut depth = 0;
        while self.text[self.at] != b'(' {
            self.at += 1;
        }
        loop {
            match self.text[self.at] {
                b'"' => {
                    self.string();
                    continue;
                }
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                break;
            }
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).expect("a source is UTF-8");
        let (_, path) = text.split_once("subschema_for::<crate::").expect("an expression refers to a type");
        let path = path.split('>').next().unwrap_or_default();
        let mut value = json!({ "$ref": format!("io.k8s.{}", path.replace("::", ".").replace('_', "-")) });
        if let Some((_, rest)) = text.split_once("\"description\".into(), ") {
            value["description"] = Reader { text: rest.as_bytes(), at: 0 }.string().into();
        }
        value
    }
}
