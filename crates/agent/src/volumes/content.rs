//! What is to be in a volume, decided from the pod and the objects that it names.
//!
//! Invariants: no path leads out of its volume; a volume that this node can't provide is an error with its name.
//! Upstream: `pkg/volume/{configmap,secret,downwardapi,projected}`, `pkg/volume/util/util.go` (`FsUserFrom`), v1.36.

use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, KeyToPath, PodSpec, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};

use super::Content;
use super::atomic::{self, File};
use crate::claims::Claims;
use crate::downward::Downward;
use crate::error::Error;
use crate::huge_pages;
use crate::sources::{Entries, Sources};
use crate::tokens::Ask;

pub(super) fn of(
    spec: &PodSpec,
    volume: &Volume,
    sources: &Sources,
    claims: &Claims,
    down: Downward<'_>,
) -> Result<Content, Error> {
    let in_volume = |fault: Error| super::in_volume(&volume.name, &fault);
    if let Some(empty) = &volume.empty_dir {
        return match empty.medium.as_deref() {
            None | Some("") => Ok(Content::Empty),
            Some("Memory") => Ok(Content::Memory(size_limit(empty).map_err(in_volume)?)),
            Some(medium) if medium == "HugePages" || medium.starts_with("HugePages-") => {
                let page = huge_pages::page_size(spec, medium).map_err(in_volume)?;
                Ok(Content::HugePages { page, size: size_limit(empty).map_err(in_volume)? })
            }
            Some(medium) => Err(in_volume(Error::config(format!("emptyDir.medium {medium} is not supported")))),
        };
    }
    if let Some(host) = &volume.host_path {
        return Ok(Content::Host(host.clone()));
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return Ok(Content::Claim(claims.get(&volume.name).cloned()));
    }
    if volume.image.is_some() {
        return Ok(Content::Image);
    }
    let mut files = Files { by_path: atomic::Files::new(), mode: None, spec, sources, down };
    files.volume(volume).map_err(in_volume)?;
    Ok(Content::Files(files.by_path))
}

/// The most that it may hold, in bytes.
fn size_limit(empty: &EmptyDirVolumeSource) -> Result<Option<u64>, Error> {
    let limit = empty.size_limit.as_ref().map(|size| stint_core::quantity::parse(&size.0)).transpose();
    let limit = limit.map_err(|fault| Error::config(format!("sizeLimit: {fault}")))?;
    Ok(limit.and_then(|size| u64::try_from(size.value()).ok()).filter(|size| *size > 0))
}

/// Files being gathered from sources.
struct Files<'a> {
    by_path: atomic::Files,
    /// The volume's `defaultMode`.
    mode: Option<i32>,
    spec: &'a PodSpec,
    sources: &'a Sources,
    down: Downward<'a>,
}

impl Files<'_> {
    fn volume(&mut self, volume: &Volume) -> Result<(), Error> {
        if let Some(map) = &volume.config_map {
            self.mode = map.default_mode;
            self.config_map(&map.name, map.items.as_deref(), map.optional)
        } else if let Some(secret) = &volume.secret {
            self.mode = secret.default_mode;
            self.secret(secret.secret_name.as_deref().unwrap_or_default(), secret.items.as_deref(), secret.optional)
        } else if let Some(downward) = &volume.downward_api {
            self.mode = downward.default_mode;
            self.downward(downward.items.as_deref())
        } else if let Some(projected) = &volume.projected {
            self.mode = projected.default_mode;
            projected.sources.iter().flatten().try_for_each(|source| self.projection(source))
        } else {
            Err(Error::config(
                "this kind of volume is not supported; use emptyDir, hostPath, persistentVolumeClaim, ephemeral, image, \
                 configMap, secret, downwardAPI or projected",
            ))
        }
    }

    fn projection(&mut self, source: &VolumeProjection) -> Result<(), Error> {
        if let Some(map) = &source.config_map {
            self.config_map(&map.name, map.items.as_deref(), map.optional)
        } else if let Some(secret) = &source.secret {
            self.secret(&secret.name, secret.items.as_deref(), secret.optional)
        } else if let Some(downward) = &source.downward_api {
            self.downward(downward.items.as_deref())
        } else if let Some(token) = &source.service_account_token {
            self.token(token)
        } else {
            let known = "configMap, secret, downwardAPI and serviceAccountToken";
            Err(Error::config(format!("projected: only {known} sources are supported yet")))
        }
    }

    fn config_map(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), Error> {
        let entries = self.sources.config_map(name);
        self.entries(entries, &format!("configmap \"{name}\""), items, optional)
    }

    fn secret(&mut self, name: &str, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<(), Error> {
        let entries = self.sources.secret(name);
        self.entries(entries, &format!("secret \"{name}\""), items, optional)
    }

    fn entries(
        &mut self,
        entries: Option<Entries<'_>>,
        what: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), Error> {
        let optional = optional == Some(true);
        let Some(entries) = entries else {
            return if optional { Ok(()) } else { Err(Error::config(format!("{what} not found"))) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return entries.into_iter().try_for_each(|(key, bytes)| self.add(key, bytes.to_vec(), None));
        };
        for item in items {
            match entries.get(item.key.as_str()) {
                Some(bytes) => self.add(&item.path, bytes.to_vec(), item.mode)?,
                None if optional => {}
                None => {
                    let key = &item.key;
                    return Err(Error::config(format!("{what} references non-existent config key: {key}")));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<(), Error> {
        for item in items.into_iter().flatten() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => self.down.field(field)?,
                (None, Some(resource)) => self.down.resource(resource, None)?,
                (None, None) => return Err(Error::config(format!("{:?} names no field", item.path))),
            };
            self.add(&item.path, text.into_bytes(), item.mode)?;
        }
        Ok(())
    }

    /// A token is for those who need it: the one user of all containers, else the pod's group, else everybody.
    fn token(&mut self, token: &ServiceAccountTokenProjection) -> Result<(), Error> {
        let text = self.sources.token(&Ask::of(token))?.as_bytes().to_vec();
        let user = only_user(self.spec);
        let group = self.spec.security_context.as_ref().and_then(|context| context.fs_group);
        self.add(&token.path, text, (user.is_some() || group.is_some()).then_some(0o600))?;
        if let Some(file) = self.by_path.get_mut(&token.path) {
            file.user = user;
        }
        Ok(())
    }

    fn add(&mut self, path: &str, bytes: Vec<u8>, own: Option<i32>) -> Result<(), Error> {
        let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if path.is_empty() || !plain || path.starts_with("..") || path.contains('\0') {
            return Err(Error::config(format!("the path {path:?} must be relative and must not contain '..'")));
        }
        let mode = own.or(self.mode).unwrap_or(0o644);
        let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
        self.by_path.insert(path.to_owned(), File { bytes, mode, user: None });
        Ok(())
    }
}

/// The user as whom every container runs by the pod's own word, if that is one and the same.
fn only_user(spec: &PodSpec) -> Option<u32> {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let of =
        |container: &Container| container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod);
    let mut users = spec.init_containers.iter().flatten().chain(&spec.containers).map(of);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value)] // `json!` reads best by value
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_token_is_for_the_one_user_of_all_containers_or_for_the_group() {
        let run_as = |user: i64| json!({"name": "c", "securityContext": {"runAsUser": user}});
        let plain = json!({"name": "c"});
        let cases = [
            (json!({"containers": [plain]}), None, 0o644),
            (json!({"containers": [run_as(7)]}), Some(7), 0o600),
            (json!({"containers": [run_as(7), run_as(7)], "initContainers": [run_as(7)]}), Some(7), 0o600),
            (json!({"containers": [run_as(7), run_as(8)]}), None, 0o644),
            (json!({"containers": [run_as(7), plain]}), None, 0o644),
            (json!({"containers": [run_as(0)]}), Some(0), 0o600),
            (json!({"securityContext": {"runAsUser": 7}, "containers": [plain, plain]}), Some(7), 0o600),
            (json!({"securityContext": {"runAsUser": 7}, "containers": [plain, run_as(8)]}), None, 0o644),
            (json!({"securityContext": {"fsGroup": 9}, "containers": [plain]}), None, 0o600),
        ];
        for (spec, user, mode) in cases {
            let (found, _) = token_file(spec.clone());
            assert_eq!((found.user, found.mode), (user, mode), "{spec}");
            assert_eq!(found.bytes, b"the token");
        }
    }

    /// The file that a token becomes, and the ConfigMap's beside it.
    fn token_file(mut spec: Value) -> (File, File) {
        spec["volumes"] = json!([{"name": "v", "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"path": "token", "audience": "a", "expirationSeconds": 600}},
            {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}]);
        let pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let pod: k8s_openapi::api::core::v1::Pod = pod;
        let spec = pod.spec.as_ref().unwrap();
        let ask = Ask { audience: "a".into(), seconds: 600 };
        let sources = Sources { tokens: [(ask, "the token".to_owned())].into(), ..Sources::default() };
        let node = crate::Machine::of_tests();
        let down = Downward { pod: &pod, node: &node, addresses: &[] };
        let volume = &spec.volumes.as_ref().unwrap()[0];
        let Content::Files(files) = of(spec, volume, &sources, &Claims::new(), down).unwrap() else {
            panic!("it holds files")
        };
        let name = files["name"].clone();
        assert_eq!((name.user, name.mode), (None, 0o644), "only the token is given away");
        (files["token"].clone(), name)
    }
}
