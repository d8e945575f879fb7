//! The log backend: events as lines of a file that is rotated, or of standard output.
//!
//! Files are named and kept as upstream's (`gopkg.in/natefinch/lumberjack.v2`): `audit.log` is written, and rotated to
//! `audit-2026-11-25T14-00-00.000.log`, which may be compressed to `….log.gz`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use parking_lot::Mutex;
use pharos_telemetry::{Clock, Ctx};
use tokio::sync::Notify;

use super::{LogOptions, event::Event};

/// How a time stands in the name of a rotated file, before its milliseconds.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S";
const MEGABYTE: u64 = 1 << 20;
const GZ: &str = ".gz";

/// Where lines go.
pub(super) struct Log {
    legacy: bool,
    output: Output,
    /// Told when a file was rotated.
    rotated: Notify,
}

enum Output {
    Stdout,
    File(Mutex<Rotated>),
}

/// A file, and those it was before.
struct Rotated {
    names: Names,
    file: File,
    size: u64,
    /// 0: no bound.
    max_size: u64,
    clock: Clock,
}

/// How the files of a log are called, and how long they are kept.
#[derive(Debug, Clone)]
struct Names {
    path: PathBuf,
    compress: bool,
    max_backups: usize,
    max_age_days: i64,
}

impl Log {
    /// Opens the file, and makes it and its folder where they are missing.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub(super) fn open(options: &LogOptions, clock: Clock) -> io::Result<Self> {
        let output = if options.path.as_os_str() == "-" {
            Output::Stdout
        } else {
            let names = Names {
                path: options.path.clone(),
                compress: options.compress,
                max_backups: usize::try_from(options.max_backups).unwrap_or(0),
                max_age_days: options.max_age_days,
            };
            let max_size = u64::try_from(options.max_size_mb).unwrap_or(0).saturating_mul(MEGABYTE);
            Output::File(Mutex::new(Rotated::open(names, max_size, clock)?))
        };
        Ok(Log { legacy: options.format == "legacy", output, rotated: Notify::new() })
    }

    /// An event as this log writes it.
    pub(super) fn line(&self, event: &Event) -> String {
        let mut line = if self.legacy { event.legacy() } else { event.json() };
        line.push('\n');
        line
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(super) fn write(&self, line: &str) -> io::Result<()> {
        match &self.output {
            Output::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Output::File(file) => {
                if file.lock().write(line.as_bytes())? {
                    self.rotated.notify_one();
                }
                Ok(())
            }
        }
    }

    /// Compresses and removes rotated files, at start and whenever one was rotated.
    pub(super) async fn keep(&self, ctx: &Ctx) {
        let names = match &self.output {
            Output::Stdout => return,
            Output::File(file) => file.lock().names.clone(),
        };
        loop {
            let (names, now) = (names.clone(), ctx.clock().now());
            let kept = tokio::task::spawn_blocking(move || names.keep(now)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(error = &error as &dyn std::error::Error, "rotated audit logs cannot be kept in order");
            }
            tokio::select! {
                () = self.rotated.notified() => {}
                () = ctx.stopped() => return,
            }
        }
    }
}

impl Rotated {
    fn open(names: Names, max_size: u64, clock: Clock) -> io::Result<Self> {
        if let Some(folder) = names.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let file = append(&names.path, 0o600)?;
        let size = file.metadata()?.len();
        Ok(Rotated { names, file, size, max_size, clock })
    }

    /// Writes bytes; true if the file was rotated for them.
    fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let length = bytes.len() as u64;
        let full = self.max_size > 0 && self.size > 0 && self.size + length > self.max_size;
        if full {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.size += length;
        Ok(full)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mode = self.file.metadata()?.permissions().mode() & 0o777;
        // Two within a millisecond would be one.
        let mut now = self.clock.now();
        let mut backup = self.names.backup(now);
        while backup.exists() {
            now += jiff::SignedDuration::from_millis(1);
            backup = self.names.backup(now);
        }
        std::fs::rename(&self.names.path, backup)?;
        self.file = append(&self.names.path, mode)?;
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(mode).open(path)
}

impl Names {
    /// The stem and the extension with its point: `audit` and `.log`.
    fn parts(&self) -> (String, String) {
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = self.path.extension().map(|extension| format!(".{}", extension.to_string_lossy()));
        (stem, extension.unwrap_or_default())
    }

    fn backup(&self, time: Timestamp) -> PathBuf {
        let (stem, extension) = self.parts();
        let stamp = time.to_zoned(TimeZone::UTC).strftime(STAMP);
        self.path.with_file_name(format!("{stem}-{stamp}.{:03}{extension}", time.subsec_millisecond()))
    }

    /// When the file of that name was rotated, if it is one of these.
    fn rotated_at(&self, name: &str) -> Option<Timestamp> {
        let (stem, extension) = self.parts();
        let stamp = name.strip_suffix(GZ).unwrap_or(name).strip_suffix(&extension)?.strip_prefix(&stem)?.strip_prefix('-')?;
        let (seconds, millis) = stamp.rsplit_once('.')?;
        let time = DateTime::strptime(STAMP, seconds).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
        Some(time + jiff::SignedDuration::from_millis(millis.parse::<u16>().ok()?.into()))
    }

    /// Compresses and removes rotated files as the settings want it.
    fn keep(&self, now: Timestamp) -> io::Result<()> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut backups = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            if let Some(time) = self.rotated_at(&entry.file_name().to_string_lossy()) {
                backups.push((time, entry.path()));
            }
        }
        backups.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        let too_old = |time: Timestamp| self.max_age_days > 0 && now.duration_since(time).as_secs() / 86_400 >= self.max_age_days;
        for (at, (time, path)) in backups.into_iter().enumerate() {
            if (self.max_backups > 0 && at >= self.max_backups) || too_old(time) {
                std::fs::remove_file(path)?;
            } else if self.compress && path.extension().is_none_or(|extension| extension != "gz") {
                compress(&path)?;
            }
        }
        Ok(())
    }
}

/// Replaces a file by its compressed self.
fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(GZ);
    let target = PathBuf::from(target);
    let half_done = target.with_extension("gz.tmp");
    let mut source = File::open(path)?;
    let mode = source.metadata()?.permissions().mode() & 0o777;
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&half_done)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::rename(half_done, target)?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, sync::Arc};

    use super::*;

    fn clock(seconds: &Arc<std::sync::atomic::AtomicI64>) -> Clock {
        let seconds = seconds.clone();
        Clock::from_fn(move || Timestamp::from_second(seconds.load(std::sync::atomic::Ordering::Relaxed)).unwrap())
    }

    fn names(dir: &Path) -> Names {
        Names { path: dir.join("audit.log"), compress: false, max_backups: 0, max_age_days: 0 }
    }

    fn listed(dir: &Path) -> Vec<String> {
        let mut found: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        found
    }

    #[test]
    fn a_full_file_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let seconds = Arc::new(std::sync::atomic::AtomicI64::new(1_764_079_200));
        let mut log = Rotated::open(names(&dir.path().join("made")), 10, clock(&seconds)).unwrap();
        assert!(!log.write(b"12345\n").unwrap());
        assert!(log.write(b"67890\n").unwrap(), "the second line does not fit");
        assert!(log.write(b"a line that is longer than a file may be\n").unwrap());
        assert!(log.write(b"end\n").unwrap());
        let dir = dir.path().join("made");
        let files = listed(&dir);
        assert_eq!(files[0], "audit-2025-11-25T14-00-00.000.log");
        assert_eq!((files.len(), files[3].as_str()), (4, "audit.log"));
        assert_eq!(std::fs::read_to_string(dir.join("audit.log")).unwrap(), "end\n");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("audit.log"))), (0o700, 0o600));
        // What is there is appended to.
        let again = Rotated::open(names(&dir), 10, clock(&seconds)).unwrap();
        assert_eq!(again.size, 4);
    }

    #[test]
    fn rotated_files_are_told_by_their_names() {
        let names = names(Path::new("/var/log"));
        let time: Timestamp = "2026-11-25T14:00:00.25Z".parse().unwrap();
        assert_eq!(names.backup(time), Path::new("/var/log/audit-2026-11-25T14-00-00.250.log"));
        for (name, want) in [
            ("audit-2026-11-25T14-00-00.250.log", Some(time)),
            ("audit-2026-11-25T14-00-00.250.log.gz", Some(time)),
            ("audit.log", None),
            ("audit-old.log", None),
            ("other-2026-11-25T14-00-00.250.log", None),
            ("audit-2026-11-25T14-00-00.250.txt", None),
        ] {
            assert_eq!(names.rotated_at(name), want, "{name}");
        }
    }

    #[test]
    fn old_files_go_and_others_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        for day in 20..=24 {
            std::fs::write(dir.path().join(format!("audit-2026-11-{day}T14-00-00.000.log")), "line\n").unwrap();
        }
        std::fs::write(dir.path().join("audit.log"), "now\n").unwrap();
        std::fs::write(dir.path().join("other.log"), "not ours\n").unwrap();
        let now = "2026-11-25T15:00:00Z".parse().unwrap();
        let mut names = names(dir.path());
        names.max_age_days = 4;
        names.keep(now).unwrap();
        assert_eq!(listed(dir.path()).len(), 5, "those of the 20th and 21st are four days old: {:?}", listed(dir.path()));
        names.max_backups = 2;
        names.compress = true;
        names.keep(now).unwrap();
        let want = ["audit-2026-11-23T14-00-00.000.log.gz", "audit-2026-11-24T14-00-00.000.log.gz", "audit.log", "other.log"];
        assert_eq!(listed(dir.path()), want);
        let mut text = String::new();
        let file = File::open(dir.path().join(want[0])).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "line\n");
        names.keep(now).unwrap();
        assert_eq!(listed(dir.path()), want);
    }
}
