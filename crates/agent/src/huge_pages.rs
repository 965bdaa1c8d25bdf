//! Huge pages: which the machine has, as the node tells them, and of which size those of a volume are.
//!
//! They are there when the machine's administrator has set them aside. What containers may use of them is limited where the
//! kernel's controller is there (`hugetlb`); elsewhere the volume is all that a pod gets.
//!
//! Upstream: `pkg/volume/emptydir/empty_dir.go` (`getPageSizeMountOption`), `pkg/kubelet/kuberuntime`
//! (`GetHugepageLimitsFromResources`), v1.36.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use oci_spec::runtime::LinuxHugepageLimit;
use stint_core::quantity::{self, Quantity};

use crate::error::Error;

/// What the names of resources begin with that are huge pages; a size follows.
const RESOURCE: &str = "hugepages-";

/// The bytes that are set aside in huge pages, by resource (`hugepages-2Mi`); 0 of those that there could be.
pub(crate) fn of_machine() -> BTreeMap<String, u64> {
    below(Path::new("/sys/kernel/mm/hugepages"))
}

fn below(folder: &Path) -> BTreeMap<String, u64> {
    let pools = fs::read_dir(folder).into_iter().flatten().flatten();
    let pool = |pool: fs::DirEntry| {
        let name = pool.file_name().into_string().ok()?;
        let size = name.strip_prefix(RESOURCE)?.strip_suffix("kB")?.parse::<u64>().ok()? << 10;
        let count = fs::read_to_string(pool.path().join("nr_hugepages")).ok()?.trim().parse::<u64>().ok()?;
        Some((format!("{RESOURCE}{}", Quantity::binary(size)), count.saturating_mul(size)))
    };
    pools.filter_map(pool).collect()
}

/// How much of each size a container may use, in the words of the runtime spec.
pub(crate) fn limits(wanted: &ResourceRequirements) -> Result<Vec<LinuxHugepageLimit>, Error> {
    let asked = wanted.limits.iter().flatten().filter(|(name, _)| name.starts_with(RESOURCE));
    let limit = |(name, amount): (&String, &k8s_openapi::apimachinery::pkg::api::resource::Quantity)| {
        let amount = parse(name, &amount.0)?;
        let mut limit = LinuxHugepageLimit::default();
        limit.set_page_size(unit(size_of(name)?)).set_limit(i64::try_from(amount).unwrap_or(i64::MAX));
        Ok(limit)
    };
    asked.map(limit).collect()
}

/// Of which size the pages of a volume are, in bytes: `medium` names it, or leaves it to what the containers ask for.
pub(crate) fn page_size(spec: &PodSpec, medium: &str) -> Result<u64, Error> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let wanted = containers.filter_map(|container| container.resources.as_ref());
    let names = wanted.flat_map(|wanted| wanted.requests.iter().chain(&wanted.limits).flatten()).map(|(name, _)| name);
    let asked: BTreeSet<u64> =
        names.filter(|name| name.starts_with(RESOURCE)).map(|name| size_of(name)).collect::<Result<_, _>>()?;
    let named = match medium.strip_prefix("HugePages-") {
        Some(size) => Some(parse(medium, size)?),
        None => None,
    };
    match (named, asked.first()) {
        (Some(size), _) if asked.contains(&size) => Ok(size),
        (Some(_), _) => {
            Err(Error::config(format!("medium {medium:?}: no container of the pod asks for huge pages of this size")))
        }
        (None, Some(size)) if asked.len() == 1 => Ok(*size),
        (None, Some(_)) => Err(Error::config(format!(
            "medium {medium:?}: the containers ask for huge pages of several sizes: name one, like \"HugePages-2Mi\""
        ))),
        (None, None) => Err(Error::config(format!("medium {medium:?}: no container of the pod asks for huge pages"))),
    }
}

/// The size of the pages of a resource, in bytes.
fn size_of(resource: &str) -> Result<u64, Error> {
    parse(resource, resource.strip_prefix(RESOURCE).unwrap_or_default())
}

fn parse(what: &str, amount: &str) -> Result<u64, Error> {
    let amount = quantity::parse(amount).map_err(|fault| Error::config(format!("{what}: {amount:?}: {fault}")))?;
    u64::try_from(amount.value()).map_err(|_| Error::config(format!("{what}: less than nothing")))
}

/// A page's size as the kernel names its files: `2MB`.
fn unit(size: u64) -> String {
    let (mut size, mut step) = (size >> 10, 0);
    while size >= 1024 && size % 1024 == 0 && step < 2 {
        size >>= 10;
        step += 1;
    }
    format!("{size}{}", ["KB", "MB", "GB"][step])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_set_aside_is_told_by_size() {
        let dir = tempfile::tempdir().unwrap();
        for (name, count) in
            [("hugepages-2048kB", "4"), ("hugepages-1048576kB", "0"), ("hugepages-64kB", "1"), ("other", "9")]
        {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), format!("{count}\n")).unwrap();
        }
        let expected = [("hugepages-1Gi", 0), ("hugepages-2Mi", 8 << 20), ("hugepages-64Ki", 64 << 10)];
        assert_eq!(below(dir.path()), expected.map(|(name, bytes)| (name.to_owned(), bytes)).into());
        assert!(below(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn the_size_of_a_volumes_pages_is_named_or_follows_from_the_containers() {
        let size = |medium: &str, asked: &[&str]| {
            let wanted: BTreeMap<_, _> = asked.iter().map(|size| (format!("hugepages-{size}"), "1Gi")).collect();
            let spec = json!({"containers": [{"name": "c", "resources": {"limits": wanted}}]});
            page_size(&serde_json::from_value(spec).unwrap(), medium).map_err(|error| error.chain())
        };
        assert_eq!(size("HugePages", &["2Mi"]), Ok(2 << 20));
        assert_eq!(size("HugePages-1Gi", &["2Mi", "1Gi"]), Ok(1 << 30));
        for (medium, asked, fault) in [
            ("HugePages", &[][..], "no container of the pod asks for huge pages"),
            ("HugePages", &["2Mi", "1Gi"], "of several sizes"),
            ("HugePages-1Gi", &["2Mi"], "of this size"),
            ("HugePages-many", &["2Mi"], "\"many\""),
        ] {
            let told = size(medium, asked).unwrap_err();
            assert!(told.contains(fault) && told.contains(medium), "{told}");
        }
    }

    #[test]
    fn limits_have_the_kernels_names() {
        let wanted =
            json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi", "hugepages-64Ki": "0"}});
        let limits = limits(&serde_json::from_value(wanted).unwrap()).unwrap();
        let shown: Vec<_> = limits.iter().map(|limit| (limit.page_size().as_str(), limit.limit())).collect();
        assert_eq!(shown, [("1GB", 1 << 30), ("2MB", 4 << 20), ("64KB", 0)]);
    }
}
