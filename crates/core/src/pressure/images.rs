//! Which images go: those that nobody has used for longest, when their disk fills up, and those that nobody has used for
//! too long.
//!
//! Invariant: an image in use never goes, nor one that has only just come.
//! Upstream: `pkg/kubelet/images/image_gc_manager.go` (`GarbageCollect`, `freeSpace`), v1.36.

use jiff::{SignedDuration, Timestamp};

use super::signal::Amount;

/// When images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImagePolicy {
    /// How full their disk may become, in percent (the kubelet's `imageGCHighThresholdPercent`).
    pub high: u8,
    /// How full it is to be after that (`imageGCLowThresholdPercent`).
    pub low: u8,
    /// How long one that has come stays in any case (`imageMinimumGCAge`).
    pub min_age: SignedDuration,
    /// How long one stays that nobody uses, however empty the disk is (`imageMaximumGCAge`). `None`: for ever.
    pub max_age: Option<SignedDuration>,
}

impl Default for ImagePolicy {
    /// The kubelet's.
    fn default() -> ImagePolicy {
        ImagePolicy { high: 85, low: 80, min_age: SignedDuration::from_mins(2), max_age: None }
    }
}

/// An image, and its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// Its name among the others.
    pub id: String,
    /// Whether somebody uses it now.
    pub is_used: bool,
    /// When it came.
    pub came: Timestamp,
    /// When somebody last began or ended to use it.
    pub last_used: Timestamp,
}

impl ImagePolicy {
    /// How many bytes have to be freed; nothing while there is room.
    pub fn excess(&self, disk: Amount) -> Option<u64> {
        let available = disk.available.min(disk.capacity);
        if disk.capacity == 0 || used_percent(disk) < u64::from(self.high) {
            return None;
        }
        let wanted = u128::from(disk.capacity) * u128::from(100 - self.low.min(100)) / 100;
        Some(u64::try_from(wanted).unwrap_or(u64::MAX).saturating_sub(available))
    }

    /// The images that may go for want of room, the first to go first.
    pub fn order<'a>(&self, images: &'a [ImageUse], now: Timestamp) -> Vec<&'a ImageUse> {
        let may_go = |image: &&ImageUse| !image.is_used && now.duration_since(image.came) >= self.min_age;
        let mut all: Vec<&ImageUse> = images.iter().filter(may_go).collect();
        all.sort_by_key(|image| (image.last_used, image.came, &image.id));
        all
    }

    /// The images that nobody has used for too long.
    pub fn outdated<'a>(&self, images: &'a [ImageUse], now: Timestamp) -> Vec<&'a ImageUse> {
        let Some(max_age) = self.max_age else { return Vec::new() };
        let mut all = self.order(images, now);
        all.retain(|image| now.duration_since(image.last_used) > max_age);
        all
    }
}

/// What is told when images that nobody uses were not enough.
pub fn shortfall(disk: Amount, freed: u64) -> String {
    format!(
        "Insufficient free disk space on the node's image filesystem ({}% of {} used). Failed to free sufficient space by \
         deleting unused images (freed {freed} bytes). Investigate disk usage, as it could be used by active images, logs, \
         volumes, or other data.",
        used_percent(disk),
        size(disk.capacity),
    )
}

fn used_percent(disk: Amount) -> u64 {
    let available = disk.available.min(disk.capacity);
    let free = u128::from(available) * 100 / u128::from(disk.capacity.max(1));
    100 - u64::try_from(free).unwrap_or(100)
}

/// A size for people, as upstream's `formatSize`.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let step = (bytes.ilog2() / 10).min(6);
    #[allow(clippy::cast_precision_loss)] // one digit after the point is shown
    let amount = bytes as f64 / (1_u64 << (10 * step)) as f64;
    format!("{amount:.1} {}", units[step as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GI: u64 = 1 << 30;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    fn image(id: &str, came: i64, last_used: i64) -> ImageUse {
        ImageUse { id: id.to_owned(), is_used: false, came: at(came), last_used: at(last_used) }
    }

    fn ids(images: &[&ImageUse]) -> String {
        images.iter().map(|image| image.id.as_str()).collect()
    }

    #[test]
    fn room_is_made_down_to_the_low_threshold_once_the_high_one_is_reached() {
        let policy = ImagePolicy::default();
        for (available, freed) in [(100, None), (16, None), (15, Some(5 * GI)), (5, Some(15 * GI)), (0, Some(20 * GI))]
        {
            let disk = Amount { available: available * GI, capacity: 100 * GI };
            assert_eq!(policy.excess(disk), freed, "{available}");
        }
        assert_eq!(policy.excess(Amount::default()), None);
        let never = ImagePolicy { high: 100, ..policy };
        assert_eq!(never.excess(Amount { available: GI, capacity: 100 * GI }), None);
    }

    #[test]
    fn the_longest_unused_goes_first_and_neither_one_in_use_nor_one_that_has_just_come() {
        let used = ImageUse { is_used: true, ..image("u", 0, 0) };
        let images = [image("b", 0, 500), image("n", 950, 950), used, image("a", 10, 100), image("o", 0, 100)];
        let policy = ImagePolicy::default();
        assert_eq!(ids(&policy.order(&images, at(1000))), "oab");
        assert_eq!(ids(&policy.order(&images, at(1070))), "oabn");
        assert!(policy.outdated(&images, at(1_000_000)).is_empty());
        let policy = ImagePolicy { max_age: Some(SignedDuration::from_secs(600)), ..policy };
        assert_eq!(ids(&policy.outdated(&images, at(1000))), "oa");
    }

    #[test]
    fn a_disk_that_stays_full_is_told_in_the_words_of_the_kubelet() {
        let told = shortfall(Amount { available: 10 * GI, capacity: 100 * GI }, 42);
        assert!(
            told.starts_with("Insufficient free disk space on the node's image filesystem (90% of 100.0 GiB used). ")
        );
        assert!(told.contains("(freed 42 bytes)"), "{told}");
        assert_eq!([0, 1023, 1024, 28_346_777_600].map(size), ["0 B", "1023 B", "1.0 KiB", "26.4 GiB"]);
    }
}
