//! The images of pods: found or pulled by their pull policies, and held for as long as something of the pod needs them.
//!
//! Invariants: a container's image is held from before it starts until it was removed, a volume's until the pod's volumes
//! were, also across crashes of this process; who holds them says so by a name of this agent's own, since others may use
//! the store. What pods held that went unseen is given back when the pods of the node are known.
//! Upstream: `pkg/kubelet/images/image_manager.go`, v1.36.

use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Secret, Volume};
use kube::Api;
use stint_core::pod::{Again, Event, News, Origin, PullPolicy};
use stint_image::{Access, DockerConfig, Image, ImageStore, LayerState, Login, Progress, Reference};

use crate::agent::{AgentConfig, RootfsMode};
use crate::error::Error;
use crate::volumes;
use crate::worker::{Context, blocking, find};

impl AgentConfig {
    /// By which name this agent holds images: that of its cgroup, which is its own on this machine.
    pub(crate) fn holder(&self) -> String {
        let name = self.cgroup_parent.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// Gives back the images that `holder` holds for pods that are not to be kept.
///
/// A failure is told and leaves the image held, until the next agent gives it back.
pub fn release_images(store: &ImageStore, holder: &str, is_kept: impl Fn(&str) -> bool) {
    let owners = match store.leases() {
        Ok(owners) => owners,
        Err(error) => return tracing::warn!(%error, "can't tell which images are held for pods that are gone"),
    };
    for owner in owners {
        let pod = owner.strip_prefix(holder).and_then(|rest| rest.strip_prefix('.'));
        // After the pod's uid comes `_` and a container, or `.` and a volume.
        let Some(uid) = pod.and_then(|rest| rest.split(['_', '.']).next()) else { continue };
        if is_kept(uid) {
            continue;
        }
        match store.release(&owner) {
            Ok(()) => tracing::info!(uid, "an image is given back that was held for a pod that is gone"),
            Err(error) => tracing::warn!(uid, %error, "failed to give back the image of a pod that is gone"),
        }
    }
}

impl Context {
    /// Sees to the container's image, and to those that are its volumes, each by its pull policy.
    pub(crate) async fn find_images(&self, container: String) -> Event {
        let shared = &self.shared;
        let Some(spec) = find(&self.pod, &container) else {
            let message = "the pod has no such container".to_owned();
            return failed(container, "InvalidImageName", message, Again::Never);
        };
        let own = match shared.rootfs(&self.pod) {
            Ok(RootfsMode::Image { store, access }) => {
                let name = spec.image.as_deref().unwrap_or_default();
                let policy = PullPolicy::of(spec.image_pull_policy.as_deref(), name);
                let pulling = || self.send(Event::Pulling { container: container.clone() });
                self.find_image(&container, name, policy, (store, access), pulling).await
            }
            // A pod that may not have what it asks for is told when its container is made; no image is needed for that.
            _ => Ok((None, Origin::Host)),
        };
        let (image, origin) = match own {
            Ok(found) => found,
            Err((reason, message, again)) => return failed(container, reason, message, again),
        };
        for (volume, source) in image_volumes(&self.pod, &spec) {
            let name = source.reference.as_deref().unwrap_or_default();
            let policy = PullPolicy::of(source.pull_policy.as_deref(), name);
            let RootfsMode::Image { store, access } = &shared.config.rootfs else {
                let message = format!("volume {:?}: there are no images on the host's root filesystem", volume.name);
                return failed(container, "ErrImagePull", message, Again::Never);
            };
            let pulling = || self.tell(News::pulling_volume(name));
            match self.find_image(&container, name, policy, (store, access), pulling).await {
                Ok((_, origin)) => {
                    if let Some(news) = News::pulled_volume(name, &origin, shared.clock.now()) {
                        self.tell(news);
                    }
                }
                Err((reason, message, again)) => {
                    let message = format!("volume {:?}: image {name:?}: {message}", volume.name);
                    return failed(container, reason, message, again);
                }
            }
        }
        let image_id = image.map(|image| image.repo_digest().to_string()).unwrap_or_default();
        Event::ImageReady { container, image_id, origin }
    }

    /// Sees to one image by its pull policy; `pulling` is told when it is asked for at its registry.
    async fn find_image(
        &self,
        container: &str,
        image: &str,
        policy: PullPolicy,
        (store, access): (&ImageStore, &Access),
        pulling: impl FnOnce(),
    ) -> Result<(Option<Image>, Origin), (&'static str, String, Again)> {
        let reference: Reference = image.parse().map_err(|fault| {
            let message = format!("Failed to apply default image tag {image:?}: {fault}");
            ("InvalidImageName", message, Again::Never)
        })?;
        let present = {
            let (store, reference) = (store.clone(), reference.clone());
            blocking(move || store.get(&reference).map_err(|error| Error::config(error.to_string()))).await
        };
        match (policy, present) {
            (_, Err(error)) => {
                let message = format!("Failed to inspect image {image:?}: {}", error.chain());
                Err(("ImageInspectError", message, Again::Later))
            }
            (PullPolicy::Never, Ok(None)) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                Err(("ErrImageNeverPull", message, Again::Later))
            }
            (PullPolicy::Never | PullPolicy::IfNotPresent, Ok(Some(image))) => Ok((Some(image), Origin::Present)),
            (PullPolicy::Always, _) | (PullPolicy::IfNotPresent, Ok(None)) => {
                let since = self.shared.clock.now();
                pulling();
                match self.pull(container, store, &reference, access.clone()).await {
                    Ok(image) => {
                        let bytes = image.size;
                        Ok((Some(image), Origin::Pulled { since, bytes }))
                    }
                    Err(message) => Err(("ErrImagePull", message, Again::Later)),
                }
            }
        }
    }

    async fn pull(
        &self,
        container: &str,
        store: &ImageStore,
        reference: &Reference,
        mut access: Access,
    ) -> Result<Image, String> {
        match self.pull_secrets().await {
            Ok(logins) => access.logins.splice(0..0, logins).for_each(drop),
            Err(error) => return Err(error.chain()),
        }
        let layers = Layers { context: self, container };
        store.pull(reference, &access, &layers).await.map_err(|error| error.to_string())
    }

    /// The logins of the pod's `imagePullSecrets`. One that does not exist is skipped, as the kubelet does.
    async fn pull_secrets(&self) -> Result<Vec<(String, Login)>, Error> {
        let mut logins = Vec::new();
        let named = self.pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let api: Api<Secret> = Api::namespaced(self.shared.client.clone(), &self.identity.namespace);
        for reference in named {
            let name = &reference.name;
            let found = api.get_opt(name).await.map_err(Error::api("read the pull secret", name.clone()))?;
            logins.extend(found.iter().flat_map(logins_of));
        }
        Ok(logins)
    }

    /// Mounts the images that are the container's volumes, each held until the pod's volumes are removed.
    pub(crate) async fn show_images(&self, container: &Container) -> Result<(), Error> {
        for (volume, source) in image_volumes(&self.pod, container) {
            let RootfsMode::Image { store, .. } = &self.shared.config.rootfs else {
                return Err(Error::config(format!("volume {:?}: there are no images here", volume.name)));
            };
            let name = source.reference.clone().unwrap_or_default();
            let image = self.lease(name, store, &self.lease_of(volume)).await?;
            let path = self.folder.volume(&volume.name);
            blocking(move || volumes::image::show(&image.layers, &path)).await?;
        }
        Ok(())
    }

    /// An image, held for `user` until it is released.
    pub(crate) async fn lease(&self, name: String, store: &ImageStore, user: &str) -> Result<Image, Error> {
        let (store, owner) = (store.clone(), format!("{}.{user}", self.shared.config.holder()));
        blocking(move || {
            let fault = |error: stint_image::Error| Error::config(error.to_string());
            let reference: Reference =
                name.parse().map_err(|fault| Error::config(format!("image {name:?}: {fault}")))?;
            let image = store.get(&reference).map_err(fault)?;
            let image = image.ok_or_else(|| Error::config(format!("image {name} is no longer on the node")))?;
            store.lease(&image, &owner).map_err(fault)?;
            Ok(image)
        })
        .await
    }

    /// Who uses the image of a volume.
    pub(crate) fn lease_of(&self, volume: &Volume) -> String {
        format!("{}.{}", self.identity.uid, volume.name)
    }

    /// Nobody needs the image any more that is held for `user`.
    pub(crate) async fn release_image(&self, user: &str) {
        let RootfsMode::Image { store, .. } = &self.shared.config.rootfs else { return };
        let (store, owner) = (store.clone(), format!("{}.{user}", self.shared.config.holder()));
        let released = blocking(move || store.release(&owner).map_err(|error| Error::config(error.to_string()))).await;
        if let Err(error) = released {
            tracing::warn!(error = %error.chain(), "failed to release the image of a container");
        }
    }
}

/// Progress of a pull, told with whose it is.
struct Layers<'a> {
    context: &'a Context,
    container: &'a str,
}

impl Progress for Layers<'_> {
    fn layer(&self, digest: &str, state: LayerState) {
        self.context.shared.config.observer.layer(&self.context.identity.uid, self.container, digest, state);
    }
}

/// The volumes that the container mounts and that are images.
pub(crate) fn image_volumes<'a>(pod: &'a Pod, container: &Container) -> Vec<(&'a Volume, &'a ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let is_mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    volumes.filter(is_mounted).filter_map(|volume| Some((volume, volume.image.as_ref()?))).collect()
}

fn failed(container: String, reason: &str, message: String, again: Again) -> Event {
    Event::ImageFailed { container, reason: reason.to_owned(), message, again }
}

/// The logins in a secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`. One that can't be read
/// holds none.
fn logins_of(secret: &Secret) -> Vec<(String, Login)> {
    let text = |key: &str| secret.data.as_ref().and_then(|data| data.get(key));
    let config = match (text(".dockerconfigjson"), text(".dockercfg")) {
        (Some(bytes), _) => DockerConfig::parse(&bytes.0),
        (None, Some(bytes)) => DockerConfig::parse_legacy(&bytes.0),
        (None, None) => return Vec::new(),
    };
    match config {
        Ok(config) => config.logins,
        Err(fault) => {
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            tracing::warn!(secret = name, %fault, "a pull secret can't be read");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_secret_holds_logins_by_registry() {
        let auths = serde_json::json!({"auths": {
            "https://a.example/v2/": {"username": "me", "password": "word"}, "b.example:5000": {"username": "nobody"},
        }});
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "data": {".dockerconfigjson": k8s_openapi::ByteString(auths.to_string().into_bytes())},
        }))
        .unwrap();
        let login = Login::Password { username: "me".to_owned(), password: "word".to_owned() };
        assert_eq!(logins_of(&secret), [("a.example".to_owned(), login)]);
        assert_eq!(logins_of(&Secret::default()), []);
    }
}
