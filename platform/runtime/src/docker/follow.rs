//! Writes Docker's logs into CRI log files: one follower for each container, resuming after what the file has.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bollard::Docker as Client;
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptions;
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::embedded::log::{LogWriter, Source};

/// Follows a container's log to its end.
pub(crate) async fn follow(client: Client, id: String, writer: Arc<Mutex<LogWriter>>, after: Option<Timestamp>) {
    let options = LogsOptions {
        follow: true,
        stdout: true,
        stderr: true,
        timestamps: true,
        // Whole seconds; what is known already is left out below.
        since: after.map_or(0, |at| at.as_second() as i32),
        tail: "all".to_owned(),
        ..LogsOptions::default()
    };
    let mut lines = client.logs(&id, Some(options));
    let mut waiting: [Option<(Timestamp, Vec<u8>)>; 2] = [None, None];
    let mut terminal = Vec::new();
    while let Some(item) = lines.next().await {
        let (source, bytes) = match item {
            Ok(LogOutput::StdOut { message }) => (Source::Stdout, message),
            Ok(LogOutput::StdErr { message }) => (Source::Stderr, message),
            Ok(LogOutput::Console { message } | LogOutput::StdIn { message }) => {
                terminal.extend_from_slice(&message);
                while let Some(end) = terminal.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = terminal.drain(..=end).collect();
                    entry(&writer, Source::Stdout, &line, after, &mut waiting);
                }
                continue;
            }
            Err(error) => {
                tracing::warn!(container = id, error = %error, "log of container can't be followed");
                break;
            }
        };
        entry(&writer, source, &bytes, after, &mut waiting);
    }
    if !terminal.is_empty() {
        entry(&writer, Source::Stdout, &terminal, after, &mut waiting);
    }
    for (source, last) in [Source::Stdout, Source::Stderr].into_iter().zip(waiting) {
        if let Some((at, line)) = last {
            writer.lock().line(source, 'P', &line, at);
        }
    }
}

/// Takes one entry, `stamp line`. One without a newline is a part of a line.
fn entry(
    writer: &Mutex<LogWriter>,
    source: Source,
    bytes: &[u8],
    after: Option<Timestamp>,
    waiting: &mut [Option<(Timestamp, Vec<u8>)>; 2],
) {
    let Some(space) = bytes.iter().position(|byte| *byte == b' ') else { return };
    let stamp = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<Timestamp>().ok());
    let Some(at) = stamp else { return };
    if after.is_some_and(|after| at <= after) {
        return;
    }
    let (line, whole) = match bytes[space + 1..].strip_suffix(b"\n") {
        Some(line) => (line, true),
        None => (&bytes[space + 1..], false),
    };
    let mut writer = writer.lock();
    let slot = &mut waiting[source as usize];
    if let Some((earlier, part)) = slot.take() {
        writer.line(source, 'P', &part, earlier);
    }
    if whole {
        writer.line(source, 'F', line, at);
    } else {
        *slot = Some((at, line.to_vec()));
    }
}

/// Time of the last line of a log file.
pub(crate) fn last_stamp(path: &Path) -> Option<Timestamp> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(64 << 10))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().find_map(|line| line.split(' ').next()?.parse().ok())
}
