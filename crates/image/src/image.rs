//! An image in the store, as a container is started from it.

use std::path::PathBuf;

use oci_spec::image::Config;

use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::Reference;

/// An image whose layers are all unpacked.
///
/// It is a value: it does not keep the layers from being removed. [`crate::ImageStore::lease`] does.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name under which it is in the store.
    pub reference: Reference,
    /// The digest of its manifest. For a multi-platform image that of this platform's manifest.
    pub digest: Digest,
    /// The digest of the index through which a multi-platform image was chosen.
    pub index: Option<Digest>,
    /// The digest of its configuration: the image id.
    pub id: Digest,
    /// Its unpacked layers, the topmost first, as an overlay's `lowerdir` wants them. Empty for an image without layers.
    pub layers: Vec<PathBuf>,
    /// How its containers run by default: environment, entry point, command, user, working directory, stop signal.
    pub config: Config,
    /// The platform that its configuration names.
    pub platform: Platform,
    /// When it was built (RFC 3339), if its configuration says so.
    pub created: Option<String>,
    /// Bytes of its unpacked layers, those shared with other images included.
    pub size: u64,
}

impl Image {
    /// The reference by digest under which a registry serves exactly this image, as Kubernetes reports it in `imageID`.
    pub fn repo_digest(&self) -> Reference {
        self.reference.at(self.index.as_ref().unwrap_or(&self.digest))
    }
}
