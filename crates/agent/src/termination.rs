//! A container's last words: the termination message, from its file or from the end of its log.
//!
//! Upstream: `pkg/kubelet/kuberuntime/kuberuntime_container.go`, `getTerminationMessage`; at most the last 4096 bytes of
//! the file, or 2048 bytes or 80 lines of the log.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;
use stint_core::pod::Attempt;

use crate::folder::PodFolder;
use crate::logs;

const FROM_FILE: u64 = 4096;
const FROM_LOG: usize = 2048;
const LINES_FROM_LOG: usize = 80;

/// What the container said, if anything.
pub(crate) fn message(folder: &PodFolder, container: &Container, attempt: Attempt, code: i32) -> Option<String> {
    let file = folder.termination_log(&container.name, attempt);
    let said = end(&file, FROM_FILE).filter(|text| !text.is_empty());
    let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if said.is_some() || !from_log || code == 0 {
        return said;
    }
    tail(&folder.log(&container.name, attempt)).filter(|text| !text.is_empty())
}

fn end(path: &Path, most: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(most))).ok()?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(path: &Path) -> Option<String> {
    // Each line carries a time and more; four times the text is enough for most, and what is cut is the oldest.
    const WINDOW: u64 = 16 * 1024;
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let from = size.saturating_sub(WINDOW);
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut bytes = Vec::new();
    file.take(WINDOW).read_to_end(&mut bytes).ok()?;
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').skip(usize::from(from > 0)).collect();
    let mut text = Vec::new();
    for line in lines.iter().rev().take(LINES_FROM_LOG).rev() {
        if let Some(line) = logs::parse(line.strip_suffix(b"\n").unwrap_or(line)) {
            text.extend_from_slice(&line.bytes);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    let start = text.len().saturating_sub(FROM_LOG);
    Some(String::from_utf8_lossy(&text[start..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folders;

    #[test]
    fn the_file_wins_over_the_log_and_both_are_bounded() {
        let data = tempfile::tempdir().unwrap();
        let folder = PodFolder::new(&Folders::within(data.path()), "u").unwrap();
        folder.make_container("c", Attempt(0)).unwrap();
        let mut container = Container { name: "c".into(), ..Container::default() };
        let line = |n: usize| format!("2026-01-01T00:00:00.000000000Z stdout F line {n}\n");
        std::fs::write(folder.log("c", Attempt(0)), (0..5000).map(line).collect::<String>()).unwrap();
        let file = folder.termination_log("c", Attempt(0));
        std::fs::write(&file, "").unwrap();
        assert_eq!(message(&folder, &container, Attempt(0), 1), None);
        container.termination_message_policy = Some("FallbackToLogsOnError".into());
        assert_eq!(message(&folder, &container, Attempt(0), 0), None);
        let said = message(&folder, &container, Attempt(0), 1).unwrap();
        assert!(said.ends_with("line 4998\nline 4999\n") && said.lines().count() == LINES_FROM_LOG, "{said}");
        std::fs::write(&file, format!("{}the end", "x".repeat(5000))).unwrap();
        let said = message(&folder, &container, Attempt(0), 1).unwrap();
        assert!(said.len() == 4096 && said.ends_with("the end"), "{said}");
    }
}
