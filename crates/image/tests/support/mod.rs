//! What the tests build: archives down to the byte, images, and servers that answer as they are told.

#![allow(dead_code, missing_docs)] // each test program uses a part of it

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use stint_image::Digest;

/// Whether this process may do what unpacking takes (owners, devices, trusted attributes); says so if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// A tar archive, written member by member without any check.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    /// Any member; `change` may set what it likes in its header.
    pub fn add(mut self, path: &str, kind: u8, link: &str, data: &[u8], change: impl Fn(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_entry_type(tar::EntryType::new(kind));
        if path.len() > 100 {
            self = self.raw("././@LongLink", b'L', &[path.as_bytes(), b"\0"].concat());
        }
        if link.len() > 100 {
            self = self.raw("././@LongLink", b'K', &[link.as_bytes(), b"\0"].concat());
        }
        let old = header.as_old_mut();
        for (to, from) in old.name.iter_mut().zip(path.bytes()) {
            *to = from;
        }
        for (to, from) in old.linkname.iter_mut().zip(link.bytes()) {
            *to = from;
        }
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.data(data)
    }

    pub fn raw(self, path: &str, kind: u8, data: &[u8]) -> Self {
        self.add(path, kind, "", data, |_| {})
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, data: impl AsRef<[u8]>) -> Self {
        self.raw(path, b'0', data.as_ref())
    }

    pub fn folder(self, path: &str) -> Self {
        self.raw(path, b'5', b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, b'2', target, b"", |_| {})
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.add(path, b'1', target, b"", |_| {})
    }

    pub fn device(self, path: &str, kind: u8, major: u32, minor: u32) -> Self {
        self.add(path, kind, "", b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    /// PAX records for the member that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length += 1;
            }
            bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.raw("PaxHeaders/x", b'x', &bytes)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// An image as a registry or layout holds it.
#[derive(Clone, Default)]
pub struct Built {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// Blobs by digest, the manifest included.
    pub blobs: HashMap<String, Vec<u8>>,
    /// The layers' plain archives, the lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl Built {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}

/// How a layer is compressed.
pub type Compress = fn(&[u8]) -> Vec<u8>;

/// A layer's plain archive, and how it is compressed.
pub type Layer = (Vec<u8>, Compress);

/// Names and contents.
pub type Files = Vec<(String, Vec<u8>)>;

pub fn platform() -> (&'static str, Option<&'static str>) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8")),
        other => (other, None),
    }
}

/// An image from layers that are compressed or not, for this machine.
pub fn image(layers: &[Layer]) -> Built {
    image_for(platform().0, layers)
}

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub fn image_for(architecture: &str, layers: &[Layer]) -> Built {
    let mut built = Built::default();
    let mut descriptors = Vec::new();
    let mut diff_ids = Vec::new();
    for (layer, compress) in layers {
        let blob = compress(layer);
        let digest = Digest::of(&blob).to_string();
        diff_ids.push(Digest::of(layer).to_string());
        descriptors.push(
            json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": blob.len()}),
        );
        built.blobs.insert(digest, blob);
        built.layers.push(layer.clone());
    }
    built.config = serde_json::to_vec(&json!({
        "architecture": architecture, "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin", "A=b"], "Cmd": ["/bin/true"], "WorkingDir": "/srv", "User": "app", "StopSignal": "SIGINT", "Volumes": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": [],
    }))
    .unwrap();
    let config = Digest::of(&built.config).to_string();
    built.manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": built.config.len()},
        "layers": descriptors,
    }))
    .unwrap();
    built.blobs.insert(config, built.config.clone());
    built.blobs.insert(built.digest().to_string(), built.manifest.clone());
    built
}

/// A small image with two layers: gzip below, Zstandard above.
pub fn small_image() -> Built {
    let lower = Tar::new()
        .folder("etc/")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/srv:/bin/sh\n")
        .file("etc/group", "root:x:0:\napp:x:1001:\nwheel:x:10:app\n")
        .file("gone", "from below")
        .end();
    let upper = Tar::new().file(".wh.gone", "").file("bin/tool", "#!/bin/sh\n").symlink("bin/sh", "tool").end();
    image(&[(lower, gzip), (upper, zstd)])
}

pub fn index_of(images: &[(&str, &Built)]) -> Vec<u8> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|(architecture, built)| {
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": built.digest().to_string(),
                   "size": built.manifest.len(), "platform": {"os": "linux", "architecture": architecture}})
        })
        .collect();
    serde_json::to_vec(
        &json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests}),
    )
    .unwrap()
}

/// The files of an OCI layout.
pub fn layout(images: &[(&str, &Built)]) -> Files {
    let mut files = vec![("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())];
    let mut manifests = Vec::new();
    for (name, built) in images {
        manifests.push(
            json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": built.digest().to_string(),
            "size": built.manifest.len(), "annotations": {"io.containerd.image.name": name}}),
        );
        for (digest, blob) in &built.blobs {
            files.push((format!("blobs/sha256/{}", &digest[7..]), blob.clone()));
        }
    }
    files.push((
        "index.json".to_owned(),
        serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": manifests})).unwrap(),
    ));
    files
}

/// The files of `docker save` before it wrote OCI layouts.
pub fn docker_save(name: &str, built: &Built, compress: Compress) -> Files {
    let id = Digest::of(&built.config).hex().to_owned();
    let mut files = Vec::new();
    let mut layers = Vec::new();
    for (place, layer) in built.layers.iter().enumerate() {
        let path = format!("{place}abc/layer.tar");
        files.push((path.clone(), compress(layer)));
        layers.push(path);
    }
    files.push((format!("{id}.json"), built.config.clone()));
    files.push((
        "manifest.json".to_owned(),
        serde_json::to_vec(&json!([{"Config": format!("{id}.json"), "RepoTags": [name], "Layers": layers}])).unwrap(),
    ));
    files
}

pub fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = Tar::new();
    for (path, bytes) in files {
        tar = tar.file(path, bytes);
    }
    tar.end()
}

pub fn write_folder(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (path, bytes) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A request as the server sees it.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

/// What a server answers.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), cut: None }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A tiny HTTP server on loopback; one request per connection.
pub struct Server {
    pub host: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                thread::spawn(move || drop(serve(stream, &*answer, &log)));
            }
        });
        Self { host, requests }
    }

    /// A registry that serves images by tag, by the rules.
    pub fn registry(images: &[(&str, &Built)]) -> Self {
        let images: Vec<(String, Built)> =
            images.iter().map(|(name, built)| ((*name).to_owned(), (*built).clone())).collect();
        Self::start(move |request| serve_images(&images, request))
    }

    pub fn count(&self, part: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|request| request.path.contains(part)).count()
    }
}

/// `images` by `repository:tag`.
pub fn serve_images(images: &[(String, Built)], request: &Request) -> Answer {
    let path = request.path.split('?').next().unwrap();
    if path == "/v2/" {
        return Answer::new(200, "{}");
    }
    if let Some((_, digest)) = path.split_once("/blobs/") {
        let blob = images.iter().find_map(|(_, built)| built.blobs.get(digest));
        return blob.map_or_else(
            || Answer::new(404, error("BLOB_UNKNOWN", "blob unknown to registry")),
            |blob| ranged(blob, request),
        );
    }
    if let Some((repository, wanted)) = path.trim_start_matches("/v2/").split_once("/manifests/") {
        for (name, built) in images {
            if *name == format!("{repository}:{wanted}") {
                return Answer::new(200, built.manifest.clone())
                    .header("content-type", "application/vnd.oci.image.manifest.v1+json");
            }
            if let Some(manifest) = built.blobs.get(wanted) {
                return Answer::new(200, manifest.clone());
            }
        }
    }
    Answer::new(404, error("MANIFEST_UNKNOWN", "manifest unknown to this test"))
}

pub fn ranged(blob: &[u8], request: &Request) -> Answer {
    let start = request
        .headers
        .get("range")
        .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        Some(start) => Answer::new(206, &blob[start..])
            .header("content-range", format!("bytes {start}-{}/{}", blob.len() - 1, blob.len())),
        None => Answer::new(200, blob),
    }
}

pub fn error(code: &str, message: &str) -> String {
    json!({"errors": [{"code": code, "message": message}]}).to_string()
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Answer, log: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned())).collect();
    let request = Request { path, headers };
    log.lock().unwrap().push(request.clone());
    let Answer { status, headers, body, cut } = answer(&request);
    let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.extend([&name, ": ", &value, "\r\n"]);
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes())?;
    stream.write_all(&body[..cut.unwrap_or(body.len()).min(body.len())])?;
    stream.flush()
}
