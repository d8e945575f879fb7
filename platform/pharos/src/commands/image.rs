//! `pharos image`: the images of a running node, and the image of this very program.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use pharos_runtime::{image, types::ImageConfig};

use crate::{
    cli::{ImageCommand, ImageOptions},
    commands::say,
    files::Layout,
    image_socket::{Answer, Ask, Row},
    socket::ask,
};

pub async fn run(command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::Load { archives, options } => {
            for archive in archives {
                load(&archive, &options).await?;
            }
        }
        ImageCommand::Ls { options, quiet } => {
            let rows = images(&options, &Ask::List).await?;
            if !quiet {
                say(&format!("{:<56} {:<14} {:>10}", "IMAGE", "ID", "SIZE"));
            }
            for row in rows {
                let id = row.id.trim_start_matches("sha256:");
                for name in if row.names.is_empty() { vec!["<none>".to_owned()] } else { row.names } {
                    if quiet {
                        say(&name);
                    } else {
                        say(&format!("{name:<56} {:<14} {:>10}", &id[..id.len().min(12)], size(row.size_bytes)));
                    }
                }
            }
        }
        ImageCommand::Rm { images, options } => {
            for name in images {
                let answer = ask(&socket(&options.data_dir)?, &Ask::Remove(name.clone())).await;
                match answer.with_context(|| name.clone())? {
                    Answer::Removed => say(&format!("removed {name}")),
                    Answer::Images(_) => bail!("the node answered something else"),
                }
            }
        }
        ImageCommand::BuildDemo { output, tag } => {
            let tag_ = tag.clone();
            tokio::task::spawn_blocking(move || build_demo(&output, tag_)).await??;
            say(&format!("built {tag}"));
        }
    }
    Ok(())
}

async fn load(archive: &Path, options: &ImageOptions) -> anyhow::Result<()> {
    // The node reads the archive itself, so it must be a file.
    let standard_input =
        (archive == Path::new("-")).then(|| std::env::temp_dir().join(format!("pharos-load-{}", std::process::id())));
    if let Some(copy) = &standard_input {
        std::io::copy(&mut std::io::stdin().lock(), &mut std::fs::File::create(copy)?).context("copy standard input")?;
    }
    let path = standard_input.clone().unwrap_or_else(|| archive.to_owned());
    let path: PathBuf = path.canonicalize().with_context(|| format!("read {}", archive.display()))?;
    let loaded = images(options, &Ask::Load(path)).await;
    if let Some(copy) = standard_input {
        let _ = std::fs::remove_file(copy);
    }
    for row in loaded? {
        say(&format!("loaded {}", if row.names.is_empty() { row.id } else { row.names.join(" ") }));
    }
    Ok(())
}

/// Where the node listens whose state is in a folder.
fn socket(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let socket = Layout(data_dir.to_owned()).image_socket();
    socket.with_context(|| {
        format!("does a server or an agent run with the data folder {}? (--data-dir names another)", data_dir.display())
    })
}

async fn images(options: &ImageOptions, what: &Ask) -> anyhow::Result<Vec<Row>> {
    match ask(&socket(&options.data_dir)?, what).await? {
        Answer::Images(rows) => Ok(rows),
        Answer::Removed => bail!("the node answered something else"),
    }
}

/// An image of this program and the libraries that it needs, whose entry point is the demo.
fn build_demo(output: &Path, tag: String) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("find this program")?;
    let text = |items: &[&str]| items.iter().map(|i| (*i).to_owned()).collect();
    let mut build = image::BuildImage {
        name: tag,
        files: vec![
            image::BuildFile::Content {
                to: "/etc/passwd".into(),
                bytes: b"root:x:0:0:root:/:/pharos\nnobody:x:65534:65534:nobody:/:/pharos\n".to_vec(),
                mode: 0o644,
            },
            image::BuildFile::Content { to: "/etc/group".into(), bytes: b"root:x:0:\nnogroup:x:65534:\n".to_vec(), mode: 0o644 },
            image::BuildFile::Content { to: "/etc/nsswitch.conf".into(), bytes: b"hosts: files dns\n".to_vec(), mode: 0o644 },
            image::BuildFile::Directory { at: "/tmp".into(), mode: 0o1777 },
            image::BuildFile::Link { at: "/bin/tar".into(), target: "/pharos".into() }, // For `kubectl cp`.
        ],
        config: ImageConfig {
            entrypoint: text(&["/pharos", "demo"]),
            exposed_ports: text(&["8080/tcp"]),
            user: "65534:65534".into(),
            working_dir: "/".into(),
            ..ImageConfig::default()
        },
    };
    build.add_program(&program, Path::new("/pharos"))?;
    image::build(&build, output).with_context(|| format!("write {}", output.display()))
}

fn size(bytes: u64) -> String {
    let mebibytes = bytes as f64 / (1 << 20) as f64;
    if mebibytes >= 1024.0 { format!("{:.1} GiB", mebibytes / 1024.0) } else { format!("{mebibytes:.1} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_node() {
        let error = format!("{:#}", socket(Path::new("/nosuch")).unwrap_err());
        assert!(error.contains("run with the data folder /nosuch?") && error.contains("--data-dir"), "{error}");
    }
}
