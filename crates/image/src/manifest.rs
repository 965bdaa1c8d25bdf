//! Manifests, indexes and configurations: the JSON documents that tie an image together.
//!
//! Only what the store needs is read; everything else in them is kept as bytes. Each is bounded in size before it is
//! parsed.

use std::collections::HashMap;

use oci_spec::image::Config;
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::Error;
use crate::platform::Platform;

/// Bytes that one document may have: the limit that registries set, doubled.
pub(crate) const LARGEST_DOCUMENT: u64 = 8 << 20;

/// What a document points to.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<HashMap<String, String>>,
}

impl Descriptor {
    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// A manifest or an index.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image: its configuration and its layers, the lowest first.
    Manifest { config: Descriptor, layers: Vec<Descriptor> },
    /// Several images for several platforms.
    Index(Vec<Descriptor>),
}

impl Document {
    pub(crate) fn parse(what: &str, bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(rename = "schemaVersion")]
            schema_version: Option<u32>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
            manifests: Option<Vec<Descriptor>>,
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|fault| Error::malformed(what, fault))?;
        match raw {
            Raw { schema_version: Some(version), .. } if version != 2 => {
                Err(Error::malformed(what, format!("schema version {version} is not supported, only 2 is")))
            }
            // A document that is both reads differently to different programs.
            Raw { manifests: Some(_), config: None, layers: Some(_), .. }
            | Raw { manifests: Some(_), config: Some(_), .. } => {
                Err(Error::malformed(what, "it is a manifest and an index at once"))
            }
            Raw { manifests: Some(manifests), .. } => Ok(Self::Index(manifests)),
            Raw { config: Some(config), layers, .. } => {
                Ok(Self::Manifest { config, layers: layers.unwrap_or_default() })
            }
            _ => Err(Error::malformed(what, "it is neither a manifest nor an index")),
        }
    }
}

/// Chooses the image for a platform from an index.
pub(crate) fn choose<'a>(what: &str, index: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor, Error> {
    // Build attestations stand in indexes as images of an unknown platform.
    let images: Vec<_> = index.iter().filter(|d| d.annotation("vnd.docker.reference.type").is_none()).collect();
    // One without a platform is taken when it is the only one: its configuration is checked later.
    if let [only] = images.as_slice()
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let known: Vec<_> = images.iter().filter(|d| d.platform.is_some()).collect();
    let platforms: Vec<_> = known.iter().filter_map(|d| d.platform.clone()).collect();
    wanted.choose(&platforms).map(|place| *known[place]).ok_or_else(|| no_platform(what, wanted, &platforms))
}

fn no_platform(what: &str, wanted: &Platform, available: &[Platform]) -> Error {
    let texts: Vec<_> = available.iter().map(ToString::to_string).collect();
    let available = if texts.is_empty() { "none".to_owned() } else { texts.join(", ") };
    Error::NoPlatform { what: what.to_owned(), wanted: wanted.to_string(), available }
}

/// One layer, as manifest and configuration together describe it.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    /// The digest of the blob, compressed as it may be.
    pub(crate) blob: Digest,
    /// The blob's size in bytes.
    pub(crate) size: u64,
    /// The digest of the plain archive.
    pub(crate) diff_id: Digest,
}

/// All about an image but the contents of its layers.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) digest: Digest,
    pub(crate) manifest: Vec<u8>,
    pub(crate) id: Digest,
    pub(crate) configuration: Vec<u8>,
    /// The lowest first.
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Config,
    pub(crate) platform: Platform,
    pub(crate) created: Option<String>,
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(flatten)]
    platform: Platform,
    created: Option<String>,
    config: Option<Config>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

impl Plan {
    /// Reads manifest and configuration, which the caller has verified by their digests.
    pub(crate) fn new(what: &str, manifest: Vec<u8>, configuration: Vec<u8>, wanted: &Platform) -> Result<Self, Error> {
        let Document::Manifest { config: descriptor, layers } = Document::parse(what, &manifest)? else {
            return Err(Error::malformed(what, "an index stands where a manifest should"));
        };
        if let Some(odd) = layers.iter().find(|layer| !is_layer_type(&layer.media_type)) {
            let fault = format!("layer {} is {:?}, no container layer", odd.digest, odd.media_type);
            return Err(Error::malformed(what, fault));
        }
        let read: Configuration = serde_json::from_slice(&configuration)
            .map_err(|fault| Error::malformed(format!("the configuration of {what}"), fault))?;
        if !read.platform.architecture.is_empty() && wanted.choose(std::slice::from_ref(&read.platform)).is_none() {
            return Err(no_platform(what, wanted, &[read.platform]));
        }
        let diff_ids = read.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers.len() {
            let fault = format!("its manifest has {} layers, its configuration {}", layers.len(), diff_ids.len());
            return Err(Error::malformed(what, fault));
        }
        let layers = layers
            .into_iter()
            .zip(diff_ids)
            .map(|(layer, diff_id)| Layer { blob: layer.digest, size: layer.size, diff_id })
            .collect();
        Ok(Self {
            digest: Digest::of(&manifest),
            manifest,
            id: descriptor.digest,
            configuration,
            layers,
            config: read.config.unwrap_or_default(),
            platform: read.platform,
            created: read.created,
        })
    }
}

/// The diff ids of a configuration's layers: all that a sweep needs.
pub(crate) fn diff_ids(configuration: &[u8]) -> Option<Vec<Digest>> {
    serde_json::from_slice::<Configuration>(configuration).ok().map(|c| c.rootfs.diff_ids.unwrap_or_default())
}

fn is_layer_type(media_type: &str) -> bool {
    let is_tar = media_type.contains("image.layer") || media_type.contains("image.rootfs");
    media_type.is_empty() || (is_tar && media_type.contains("tar") && !media_type.contains("encrypted"))
}
