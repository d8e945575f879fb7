use std::path::Path;

use pharos_runtime::types::{ContainerState, ContainerStatus};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::Worker;
use crate::{names, pod_view::PodView};

/// The most of a message file that is told (`MaxContainerTerminationMessageLength`).
const MESSAGE_LIMIT: u64 = 4096;
/// The most of a log that stands in for one (`MaxContainerTerminationMessageLogLength`, `…LogLines`).
const LOG_LIMIT: u64 = 2048;
const LOG_LINES: usize = 80;

impl Worker {
    /// Reads the termination messages of containers that have ended since the last look.
    pub(super) async fn read_messages(&mut self, view: &PodView) {
        self.messages.retain(|id, _| view.containers.iter().any(|container| container.id == *id));
        for container in view.containers.iter().filter(|container| container.state == ContainerState::Exited) {
            if !self.messages.contains_key(&container.id) {
                let text = message(container).await;
                self.messages.insert(container.id.clone(), text);
            }
        }
    }
}

async fn message(container: &ContainerStatus) -> String {
    let mut text = match container.annotations.get(names::TERMINATION_MESSAGE_FILE).map(Path::new) {
        Some(file) => read(file, MESSAGE_LIMIT, true).await,
        None => String::new(),
    };
    let policy = container.annotations.get(names::TERMINATION_MESSAGE_POLICY).map(String::as_str);
    let fall_back = policy == Some("FallbackToLogsOnError") && container.exit_code != 0;
    if text.is_empty() && fall_back && !container.log_path.as_os_str().is_empty() {
        // More than the limit leaves room for the stamps, which are cut.
        let raw = read(&container.log_path, LOG_LIMIT * 4, false).await;
        let lines: Vec<String> = raw.lines().filter_map(content).collect();
        text = lines[lines.len().saturating_sub(LOG_LINES)..].concat();
        let cut = text.len().saturating_sub(LOG_LIMIT as usize);
        let cut = (cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        text.drain(..cut);
    }
    text
}

/// A CRI log line without its stamp, stream and tag; whole lines end in a line feed.
fn content(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_, _, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next().unwrap_or_default());
    Some(if tag.starts_with('F') { format!("{text}\n") } else { text.to_owned() })
}

/// The beginning, or the end, of a file; nothing when it can't be read.
async fn read(path: &Path, limit: u64, beginning: bool) -> String {
    let read = async {
        let mut file = tokio::fs::File::open(path).await?;
        let length = file.metadata().await?.len();
        if !beginning && length > limit {
            file.seek(std::io::SeekFrom::Start(length - limit)).await?;
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read.await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines() {
        assert_eq!(content("2026-01-01T00:00:00Z stderr F a b").as_deref(), Some("a b\n"));
        assert_eq!(content("2026-01-01T00:00:00Z stdout P part").as_deref(), Some("part"));
        assert_eq!(content("cut"), None);
    }
}
