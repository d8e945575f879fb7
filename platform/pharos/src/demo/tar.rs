//! `tar` in the demo image, which has no other programs: this binary called by that name. It does what `kubectl cp` asks of a
//! container, `tar cf - PATH…` and `tar xmf - -C FOLDER`, and refuses everything else.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read, Write},
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};

/// The exit code if this program was called `tar`.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter();
    if Path::new(&arguments.next()?).file_name() != Some(OsStr::new("tar")) {
        return None;
    }
    let done = Work::parse(arguments).and_then(|work| work.run(io::stdin().lock(), io::stdout().lock()));
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::commands::complain(&format!("tar: {error:#}"));
            ExitCode::from(2) // As GNU tar's fatal errors.
        }
    })
}

#[derive(Debug, PartialEq)]
enum Work {
    Create { paths: Vec<PathBuf> },
    Extract { folder: PathBuf, keep_times: bool },
}

impl Work {
    fn parse(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Self> {
        let mut arguments = arguments.into_iter().enumerate();
        let (mut letters, mut file, mut folder, mut paths) = (String::new(), None, PathBuf::from("."), Vec::new());
        while let Some((index, argument)) = arguments.next() {
            let text = argument.to_str().unwrap_or_default();
            match text {
                "-C" => folder = arguments.next().context("option -C wants a folder")?.1.into(),
                // Neither is kept in any case: files are the user's who runs this, and the umask counts.
                "--no-same-permissions" | "--no-same-owner" => {}
                _ if text.starts_with("--") => bail!("unknown option {text}"),
                _ if index == 0 || (text.starts_with('-') && text.len() > 1) => {
                    let group = text.trim_start_matches('-');
                    if group.contains('f') {
                        file = Some(arguments.next().context("option -f wants a file")?.1);
                    }
                    letters.push_str(group);
                }
                _ => paths.push(PathBuf::from(argument)),
            }
        }
        if let Some(unknown) = letters.chars().find(|letter| !"cxfm".contains(*letter)) {
            bail!("unknown option -{unknown}");
        }
        ensure!(file.is_some_and(|file| file == "-"), "only archives on standard input and output, -f -, are known");
        match (letters.contains('c'), letters.contains('x')) {
            (true, false) if paths.is_empty() => bail!("cowardly refusing to create an empty archive"),
            (true, false) => Ok(Self::Create { paths: paths.into_iter().map(|path| folder.join(path)).collect() }),
            (false, true) if paths.is_empty() => Ok(Self::Extract { folder, keep_times: !letters.contains('m') }),
            (false, true) => bail!("members can't be chosen"),
            _ => bail!("say one of -c and -x"),
        }
    }

    fn run(self, input: impl Read, output: impl Write) -> anyhow::Result<()> {
        match self {
            Self::Create { paths } => {
                let mut archive = tar::Builder::new(output);
                archive.follow_symlinks(false);
                for path in paths {
                    // Names in an archive are relative, as GNU tar makes them.
                    let plain = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
                    let name: PathBuf = path.components().filter(plain).collect();
                    let name = if name.as_os_str().is_empty() { Path::new(".") } else { &name };
                    let about = || path.display().to_string();
                    if path.symlink_metadata().with_context(about)?.is_dir() {
                        archive.append_dir_all(name, &path).with_context(about)?;
                    } else {
                        archive.append_path_with_name(&path, name).with_context(about)?;
                    }
                }
                archive.into_inner()?.flush()?;
            }
            Self::Extract { folder, keep_times } => {
                let mut archive = tar::Archive::new(input);
                archive.set_preserve_mtime(keep_times);
                archive.unpack(&folder).with_context(|| folder.display().to_string())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> anyhow::Result<Work> {
        Work::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_kubectl_cp_says() {
        let create = |path: &str| Work::Create { paths: vec![path.into()] };
        assert_eq!(parse("cf - /tmp/tree").unwrap(), create("/tmp/tree"));
        let extract = |folder: &str| Work::Extract { folder: folder.into(), keep_times: false };
        assert_eq!(parse("-xmf - -C /tmp").unwrap(), extract("/tmp"));
        assert_eq!(parse("--no-same-permissions --no-same-owner -xmf - -C /tmp").unwrap(), extract("/tmp"));
        for wrong in ["", "cf -", "czf - x", "cf file x", "xf", "cxf - x", "--list -f -", "xf - -C", "xf - member"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("from/deep")).unwrap();
        std::fs::create_dir(folder.path().join("to")).unwrap();
        std::fs::write(folder.path().join("from/deep/file"), "text").unwrap();
        std::os::unix::fs::symlink("deep/file", folder.path().join("from/link")).unwrap();
        let mut bytes = Vec::new();
        Work::Create { paths: vec![folder.path().join("from")] }.run(io::empty(), &mut bytes).unwrap();
        let to = folder.path().join("to");
        Work::Extract { folder: to.clone(), keep_times: false }.run(bytes.as_slice(), io::sink()).unwrap();
        let there = to.join(folder.path().strip_prefix("/").unwrap()).join("from");
        assert_eq!(std::fs::read_to_string(there.join("link")).unwrap(), "text");
        assert!(there.join("link").is_symlink());
    }
}
