//! The image store: container images on disk, from a registry or an archive to the folders that an overlay mounts.
//!
//! It knows nothing of Kubernetes and runs nothing. It keeps three promises:
//!
//! - **Content decides the name.** A layer's folder is named by the digest of what was unpacked into it (the *diff id*),
//!   a manifest and a configuration by the digest of their bytes. Everything is verified while it streams in; two images
//!   with a common layer share its folder.
//! - **Whole or absent.** A layer is unpacked in a work folder, flushed, then renamed; a reference is a small record
//!   written the same way, last. A process killed anywhere leaves nothing that is half there and usable, and the next
//!   [`ImageStore::open`] removes its leftovers. Several processes may use one store at once.
//! - **An image writes inside its layer's folder and nowhere else.** See `unpack`.
//!
//! What it leaves out: pushing, building, signatures, and deciding when to pull or to collect.

mod access;
mod archive;
mod compression;
mod credentials;
mod digest;
mod error;
mod folder;
mod image;
mod import;
mod manifest;
mod member;
mod merged;
mod platform;
mod progress;
mod pull;
mod reference;
mod registry;
mod store;
mod sweep;
mod unpack;
mod usage;
mod user;

pub use access::{Access, Login};
pub use credentials::DockerConfig;
pub use digest::{Digest, InvalidDigest};
pub use error::{Error, PullError};
pub use image::Image;
pub use import::{Import, Source};
pub use platform::Platform;
pub use progress::{LayerState, NoProgress, Progress};
pub use reference::{InvalidReference, Reference};
pub use registry::choose_crypto;
pub use store::{ImageStore, Removed};
pub use unpack::{Limits, Note, UnpackError, Unpacked, unpack};
pub use usage::Usage;
pub use user::User;

/// What [`Image::config`] is: the run parameters of an image, in the OCI image specification's own type.
pub use oci_spec::image::Config;
