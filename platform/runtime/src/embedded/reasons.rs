//! Why a container did not start, where libcontainer says so only in its trace.
//!
//! Its init process tells the shim no more than which step failed ("failed to prepare rootfs"); the cause goes to an error event in
//! a process that is gone afterwards. So those events go to a file that both processes have open.

use std::fmt::{Debug, Write as _};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The most of a cause that is shown, in bytes; libcontainer's go down to each path component.
const MAX_BYTES: usize = 1024;

/// The file with the causes.
pub(crate) struct Reasons(PathBuf);

impl Reasons {
    /// Keeps this process' and its children's error events of libcontainer from now on. Once in a process.
    pub(crate) fn keep(file: &Path) -> io::Result<Self> {
        let recorder = Recorder(File::options().create(true).append(true).open(file)?);
        // Only fails if there is one already.
        let _ = tracing::subscriber::set_global_default(recorder);
        Ok(Self(file.to_owned()))
    }

    /// The first cause, which is the innermost, if one was told.
    pub(crate) fn first(&self) -> Option<String> {
        let text = fs::read_to_string(&self.0).ok()?;
        let mut line = text.lines().next()?.to_owned();
        line.truncate(line.floor_char_boundary(MAX_BYTES));
        (!line.is_empty()).then_some(line)
    }
}

impl Drop for Reasons {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

struct Recorder(File);

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR && metadata.target().starts_with("libcontainer")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        // Whoever cannot write here starts without a cause being told.
        let _ = (&self.0).write_all(format!("{}\n", line.0.replace('\n', " ")).as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_of_libcontainer_is_the_cause() {
        let reasons = Reasons(std::env::temp_dir().join(format!("pharos-reasons-{}", std::process::id())));
        let recorder = Recorder(File::options().create(true).append(true).open(&reasons.0).unwrap());
        assert_eq!(reasons.first(), None);
        tracing::subscriber::with_default(recorder, || {
            tracing::error!(target: "elsewhere", "no");
            tracing::warn!(target: "libcontainer::rootfs", "no");
            tracing::error!(target: "libcontainer::rootfs", err = ?io::Error::other("a\nb"), "failed to mount");
            tracing::error!(target: "libcontainer", "later");
        });
        assert_eq!(reasons.first().unwrap(), r#"failed to mount err=Custom { kind: Other, error: "a\nb" }"#);
    }
}
